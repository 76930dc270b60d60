"""`pneumo data ...`: get the images, check them, prepare them before training, look after the cache."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pneumo import UserError, config
from pneumo.config import Config
from pneumo.data import cache, cache_contents, manifest, unreadable
from pneumo.data.settings import DataSettings
from pneumo.text import first_line, table

MOST_PREPARED = 30_000  # images that a check prepares; 112,120 take 5.3 GiB at 224 px
KAGGLE_HANDLE = "paultimothymooney/chest-xray-pneumonia"


@dataclass(kw_only=True)
class CopiesConfig:
    data: DataSettings = field(default_factory=DataSettings)
    output: str = "near_copies.csv"


@dataclass(kw_only=True)
class LabelsConfig:
    data: DataSettings = field(default_factory=DataSettings)
    output: str = "suspect_labels.csv"


@dataclass(kw_only=True)
class CacheListConfig:
    cache_dir: str | None = None


@dataclass(kw_only=True)
class CachePruneConfig:
    cache_dir: str | None = None
    dry_run: bool = True
    unused_days: float | None = None

    def __post_init__(self) -> None:
        if self.unused_days is not None and self.unused_days < 0:
            raise UserError(f"unused_days={self.unused_days} must not be negative; for example 30.")


def main() -> None:
    """Run the sub-command; the exit code is 0 done, 1 failed, 2 wrong usage."""
    sys.exit(config.run_action("data", ACTIONS))


def fetch(run: Config) -> int:
    """Download the Kaggle set into data.root unless it is there, and check it."""
    settings = run.data
    if settings.name not in ("chest_xray", "kermany3"):
        raise UserError(f"fetch gets data=chest_xray and data=kermany3, not data={settings.name}.")
    root = Path(settings.root or "data/chest_xray").expanduser()
    try:
        found = manifest.find_root(settings)
        print(f"the images are in {found} already")
    except UserError:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(
                f"data.root={root} exists and holds something else; name an empty folder."
            ) from None
        download(root)
    return check(run)


def download(root: Path) -> None:
    """Let kagglehub download the set (it shows progress and resumes) and move it to `root`."""
    try:
        import kagglehub
    except ImportError:
        raise UserError(
            "fetching needs kagglehub: pip install 'pneumo[fetch]'. Or download "
            f"kaggle.com/datasets/{KAGGLE_HANDLE} by hand and unpack it into {root}."
        ) from None
    # kagglehub continues a broken download only in its own cache (its output_dir must be empty). So the
    # cache is beside the root: on the same disk, where moving 1.2 GB is one rename.
    partial = root.absolute().with_name(f".{root.name}.part")
    os.environ["KAGGLEHUB_CACHE"] = str(partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        found = Path(kagglehub.dataset_download(KAGGLE_HANDLE))
    except Exception as error:  # network, account, quota: kagglehub has no common class for them
        reason = first_line(error)
        raise UserError(
            f"the download of {KAGGLE_HANDLE} failed ({reason}). What arrived is kept in {partial}, and the "
            f"same command continues from there; or download it by hand and unpack it into {root}."
        ) from None
    if not found.is_relative_to(partial):  # on Kaggle and Colab the set is mounted, not downloaded
        raise UserError(f"the images are in {found} on this machine: give data.root={found}.")
    try:
        if root.is_dir():
            root.rmdir()
        found.rename(root)
    except OSError as error:
        raise UserError(f"the images were downloaded to {found} but not moved to {root}: {error}") from None
    shutil.rmtree(partial, ignore_errors=True)


def check(run: Config) -> int:
    """Print everything that is known about the data set; 1 if it has a problem."""
    settings = run.data
    described = manifest.describe(settings)
    few = len(described.table) <= MOST_PREPARED
    data = cache.inspect(described, replace(settings, on_bad_image="skip"), keep=few)
    found = manifest.problems(described) + data.problems
    print(f"{settings.name} in {described.root}, validation by data.val_protocol={settings.val_protocol}")
    if described.columns:
        print("columns: " + ", ".join(f"{role} {column!r}" for role, column in described.columns.items()))
    for split, counts in described.counts().items():
        if not sum(counts.values()):
            continue
        kinds = (
            described.table.loc[described.table["split"] == split, "subtype"].fillna("unknown").value_counts()
        )
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        text += " (" + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) + ")"
        print(
            f"{split:<5}  {sum(counts.values()):6d} images of {described.patients()[split]} patients: {text}"
        )
    print(f"identical bytes: {data.copies} files repeat another one")
    print(f"unreadable files: {len(data.bad)}")
    for line in unreadable.lines(data.bad, cache.bad_file(described, settings)):
        print(f"  {line}")
    found += _checks().near_copies(data, settings)
    for note in described.notes:
        print(f"note: {note}")
    print(f"digest: {data.digest}")
    for problem in found:
        print(f"problem: {problem}", file=sys.stderr)
    if data.bad and settings.on_bad_image == "error":
        found.append("unreadable files")
        print("problem: unreadable files stop training unless data.on_bad_image=skip", file=sys.stderr)
    print("result: " + (f"{len(found)} problems" if found else "ready to train on"))
    return 1 if found else 0


def _checks() -> ModuleType:
    """The checks that compare or learn: scikit-learn takes a second to load, and --help needs none of it."""
    from pneumo import data_checks

    return data_checks


def find_copies(run: CopiesConfig) -> int:
    """Write the pairs of near-copies; the exit code does not depend on them."""
    _checks().find_copies(run.data, run.output)
    return 0


def rank_labels(run: LabelsConfig) -> int:
    """Write all images ranked by how suspect their label is."""
    _checks().rank_labels(run.data, run.output)
    return 0


def probe_shortcuts(run: Config) -> int:
    """Print how well the label can be predicted from how the files were made."""
    _checks().probe_shortcuts(run.data)
    return 0


def list_cache(settings: CacheListConfig) -> int:
    """Print everything in the cache folder."""
    folder = Path(settings.cache_dir or ".cache").expanduser()
    found = cache_contents.entries(folder)
    if not found:
        print(f"{folder} holds nothing")
        return 0
    _print_entries(found)
    orphaned = [entry for entry in found if entry.orphaned]
    print(f"{folder}: {_megabytes(found)} MB, of which nothing new uses {_megabytes(orphaned)} MB")
    if orphaned:
        print("`pneumo data cache prune` lists what it would remove.")
    return 0


def prune_cache(settings: CachePruneConfig) -> int:
    """Remove what nothing new uses, or print it."""
    folder = Path(settings.cache_dir or ".cache").expanduser()
    chosen = cache_contents.removable(cache_contents.entries(folder), settings.unused_days)
    if not chosen:
        print(f"nothing to remove in {folder}")
        return 0
    _print_entries(chosen)
    if settings.dry_run:
        print(f"dry_run=false would remove these {len(chosen)} entries: {_megabytes(chosen)} MB")
        return 0
    kept = [entry for entry in chosen if not cache_contents.remove(entry)]
    gone = [entry for entry in chosen if entry not in kept]
    print(f"removed {len(gone)} entries: {_megabytes(gone)} MB")
    for entry in kept:
        print(f"kept {entry.path.name}: another process uses it, or it cannot be removed")
    return 1 if kept else 0


def _print_entries(entries: list[cache_contents.CacheEntry]) -> None:
    rows = [
        {
            "name": entry.path.name,
            "kind": entry.kind,
            "MB": f"{entry.size_bytes / 2**20:.1f}",
            "unused days": f"{entry.age_days:.1f}",
            "what": "; ".join(filter(None, (entry.detail, entry.orphaned))),
        }
        for entry in entries
    ]
    print(table(rows))


def _megabytes(entries: list[cache_contents.CacheEntry]) -> str:
    return f"{sum(entry.size_bytes for entry in entries) / 2**20:.1f}"


def build(run: Config) -> int:
    """Prepare the images now."""
    settings = run.data
    data = cache.prepare(manifest.build(settings), settings)
    print(f"{len(data.rows)} images of {settings.image_size} px are ready in {settings.cache_dir}")
    return 0


ACTIONS: Mapping[str, tuple[Callable[[Any], int], type]] = {
    "fetch": (fetch, Config),
    "check": (check, Config),
    "cache": (build, Config),
    "cache list": (list_cache, CacheListConfig),
    "cache prune": (prune_cache, CachePruneConfig),
    "copies": (find_copies, CopiesConfig),
    "labels": (rank_labels, LabelsConfig),
    "shortcuts": (probe_shortcuts, Config),
}

if __name__ == "__main__":
    main()
