"""`pneumo data fetch|check|cache`: get the images, check them, prepare them before training."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pneumo import UserError, config
from pneumo.config import Config
from pneumo.data import cache, manifest, unreadable
from pneumo.text import first_line

MOST_PREPARED = 30_000  # images that a check prepares; 112,120 take 5.3 GiB at 224 px
KAGGLE_HANDLE = "paultimothymooney/chest-xray-pneumonia"


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
    table = manifest.describe(settings)
    few = len(table.table) <= MOST_PREPARED
    data = cache.inspect(table, replace(settings, on_bad_image="skip"), keep=few)
    found = manifest.problems(table) + data.problems
    print(f"{settings.name} in {table.root}, validation by data.val_protocol={settings.val_protocol}")
    if table.columns:
        print("columns: " + ", ".join(f"{role} {column!r}" for role, column in table.columns.items()))
    for split, counts in table.counts().items():
        if not sum(counts.values()):
            continue
        kinds = table.table.loc[table.table["split"] == split, "subtype"].fillna("unknown").value_counts()
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        text += " (" + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) + ")"
        print(f"{split:<5}  {sum(counts.values()):6d} images of {table.patients()[split]} patients: {text}")
    print(f"identical bytes: {data.copies} files repeat another one")
    print(f"unreadable files: {len(data.bad)}")
    for line in unreadable.lines(data.bad, cache.bad_file(table, settings)):
        print(f"  {line}")
    for note in table.notes:
        print(f"note: {note}")
    print(f"digest: {data.digest}")
    for problem in found:
        print(f"problem: {problem}", file=sys.stderr)
    if data.bad and settings.on_bad_image == "error":
        found.append("unreadable files")
        print("problem: unreadable files stop training unless data.on_bad_image=skip", file=sys.stderr)
    print("result: " + (f"{len(found)} problems" if found else "ready to train on"))
    return 1 if found else 0


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
}

if __name__ == "__main__":
    main()
