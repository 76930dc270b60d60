"""`pneumo data ...`: get the images, check them, prepare them before training, look after the cache."""

import csv
import io
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pneumo import UserError, config
from pneumo.config import Config
from pneumo.data import cache, cache_contents, manifest, unreadable
from pneumo.data.settings import DataSettings
from pneumo.files import write_atomically
from pneumo.names import CLASS_NAMES
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
    if settings.name != "chest_xray":
        raise UserError(f"fetch gets data=chest_xray, not data={settings.name}.")
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
    found += _check_copies(data, settings)
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


def _check_copies(data: cache.ImageCache, settings: DataSettings) -> list[str]:
    """Print the near-copies across splits or labels; the problems that they are."""
    from pneumo.data import copies

    if settings.name == "phantom":
        return []
    if settings.image_size < copies.LEAST_SIDE:
        print(f"near-copies: not looked for below data.image_size={copies.LEAST_SIDE}")
        return []
    if (count := len(data.rows)) > copies.MOST_IMAGES:
        print(
            f"near-copies: not looked for among {count} images, which takes long; `pneumo data copies` does"
        )
        return []
    pairs = copies.near_copies(data, Path(settings.cache_dir or ".cache").expanduser())
    certain = [pair for pair in pairs if pair.is_certain]
    doubtful = [pair for pair in pairs if not pair.is_certain]
    print(f"near-copies across splits or labels: {len(certain)} certain, {len(doubtful)} uncertain")
    for line in copies.described(doubtful):
        print(f"  uncertain: {line}")
    if not certain:
        return []
    if settings.near_copies == "allow":
        for line in copies.described(certain):
            print(f"  certain: {line}")
        return []
    return [
        f"{len(certain)} pairs of images show the same picture in two splits or under two labels: "
        f"{'; '.join(copies.described(certain))}. Remove one of each pair, or put both into one split under "
        "one label. `pneumo data copies` lists all; data.near_copies=allow accepts them."
    ]


def find_copies(run: CopiesConfig) -> int:
    """Write the pairs of near-copies; the exit code does not depend on them."""
    from pneumo.data import copies

    settings = run.data
    if settings.image_size < copies.LEAST_SIDE:
        raise UserError(
            f"data.image_size={settings.image_size} is too small; give {copies.LEAST_SIDE} or more."
        )
    described = manifest.describe(settings)
    data = cache.inspect(described, replace(settings, on_bad_image="skip"))
    pairs = copies.near_copies(data, Path(settings.cache_dir or ".cache").expanduser())
    rows: list[list[object]] = [["first", "second", "split", "other_split", "label", "other_label",
                                 "correlation", "certain"]]  # fmt: skip
    rows += [
        [
            *(pair.first, pair.second, *pair.splits, *(CLASS_NAMES[label] for label in pair.labels)),
            *(f"{pair.correlation:.4f}", str(pair.is_certain).lower()),
        ]
        for pair in pairs
    ]
    _write_csv(run.output, rows)
    certain = sum(pair.is_certain for pair in pairs)
    print(f"{certain} certain and {len(pairs) - certain} uncertain near-copies across splits or labels")
    print(f"written to {run.output}")
    return 0


def rank_labels(run: LabelsConfig) -> int:
    """Write all images ranked by how suspect their label is."""
    from pneumo.data import suspect_labels

    settings = run.data
    described = manifest.describe(settings)
    data = cache.inspect(described, replace(settings, on_bad_image="skip"))
    ranked = suspect_labels.rank(data, CLASS_NAMES)
    rows = [list(ranked.table.columns), *ranked.table.astype(object).to_numpy().tolist()]
    _write_csv(run.output, [[_plain(value) for value in row] for row in rows])
    print(f"{ranked.count} of {len(ranked.table)} labels are suspect; the first ones:")
    shown = ranked.table.head(10)[["path", "label", "suggested", "p_label"]]
    first = [{str(key): value for key, value in row.items()} for row in shown.to_dict("records")]
    print(table(first, shutil.get_terminal_size().columns))
    print(
        f"written to {run.output}. Look at the images before you change a label: a small model ranked them."
    )
    return 0


def _plain(value: object) -> object:
    """A cell of a CSV file: true or false, and nothing for an unknown patient."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value != value else value


def probe_shortcuts(run: Config) -> int:
    """Print how well the label can be predicted from how the files were made."""
    from pneumo.data import shortcuts
    from pneumo.evaluation import statistics
    from pneumo.evaluation.metrics import all_scores

    settings = run.data
    if settings.name == "phantom":
        raise UserError("data=phantom has no files; give a data set of images, such as data=chest_xray.")
    found = shortcuts.find(manifest.describe(settings), settings.pixel_rule, settings.num_workers)
    weights = statistics.resample(found.labels, found.patients)
    counts = statistics.PatientCounts.of(found.labels, found.patients)
    rows: list[dict[str, object]] = []
    for probe in found.probes:
        draws = statistics.resampled_scores(found.labels, probe.chances, weights, parts=("areas",))["auroc"]
        auroc = all_scores(found.labels, probe.chances)["auroc"]
        low, high = statistics.interval("auroc", auroc, draws, counts)
        rows.append({"from": probe.name, "auroc": auroc, "low": low, "high": high})
    print(f"the label of {len(found.labels)} images of {counts.all} patients, predicted from other patients:")
    print(table(rows))
    print(
        "AUROC with a 95 % interval over patients; 0.5 is chance. What is far above it is a shortcut: a "
        "network can use it instead of the disease, and a test set of the same source does not show that."
    )
    return 0


def _write_csv(output: str, rows: list[list[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    file = Path(output).expanduser()
    try:
        write_atomically(file, text.getvalue().encode(errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from None


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
