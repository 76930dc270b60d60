"""What the cache folder holds, what of it can go, and removing that.

Everything in it can be made again: prepared images from the images, fetched models from the tracking server.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumo.files import Busy, locked
from pneumo.names import FETCHED_MODELS
from pneumo.versions import PIXELS

IMAGES, MODEL, RECORD, LEFTOVER = "images", "model", "record", "leftover"
RECORDS = {"hashes-": "hashes of files", "copies-": "near-copies", "unreadable-": "unreadable files"}
DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """One thing in the cache folder.

    `kind` is one of IMAGES (prepared images of one data set), MODEL (fetched from a tracking server), RECORD
    (hashes and near-copies that were found) and LEFTOVER (of a killed process). `used` is when it was last
    used, in seconds since 1970. `orphaned` says why nothing new uses it; empty if something may.
    """

    path: Path
    kind: str
    size_bytes: int
    used: float
    detail: str = ""
    orphaned: str = ""

    @property
    def age_days(self) -> float:
        return max(0.0, (time.time() - self.used) / DAY_S)


def entries(cache_dir: Path) -> list[CacheEntry]:
    """Everything in the folder that this package made, the largest first. Other files are not listed."""
    if not cache_dir.is_dir():
        return []
    found = [entry for path in cache_dir.iterdir() for entry in _entry(path)]
    models = cache_dir / FETCHED_MODELS
    if models.is_dir():
        found += [entry for path in models.iterdir() for entry in _model(path)]
    return sorted(found, key=lambda entry: (-entry.size_bytes, entry.path))


def removable(found: Iterable[CacheEntry], unused_days: float | None) -> list[CacheEntry]:
    """Those that are orphaned, and with `unused_days` those that were not used for so long."""
    return [
        entry
        for entry in found
        if entry.orphaned or (unused_days is not None and entry.age_days >= unused_days)
    ]


def remove(entry: CacheEntry) -> bool:
    """Remove it unless a process is building it; False if it is still there."""
    if entry.path.is_file():
        entry.path.unlink(missing_ok=True)
        return True
    if entry.kind == MODEL or entry.path.name.startswith(".fetch-"):
        shutil.rmtree(entry.path, ignore_errors=True)
        return not entry.path.exists()
    try:
        with locked(entry.path.with_suffix(".lock")):
            # Renamed first: a run that looks for it finds all of it or nothing. Open images stay readable.
            aside = entry.path.with_suffix(".tmp-removed")
            with suppress(FileNotFoundError):
                entry.path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
    except Busy:
        return False
    return not entry.path.exists()


def _entry(path: Path) -> Iterator[CacheEntry]:
    name = path.name
    if path.is_dir() and len(path.stem) == 32 and path.suffix.startswith(".tmp"):
        yield _made(path, LEFTOVER, "unfinished", orphaned=_abandoned(path))
    elif path.is_dir() and (path / "index.json").is_file() and (path / "images.npy").is_file():
        index = _index(path)
        pixels = index.get("pixels", {})
        rule, side = pixels.get("pixels", 1), pixels.get("image_size", "?")
        steps = [step for step in ("crop_black", "equalize") if pixels.get(step)]
        orphaned = "" if rule == PIXELS else f"made by pixel rule {rule}; the newest is {PIXELS}"
        if not pixels:
            orphaned = "damaged"
        words = [f"{side} px", f"pixel rule {rule}", *steps]
        yield _made(path, IMAGES, ", ".join(words), orphaned=orphaned)
    elif path.is_file() and name.startswith(tuple(RECORDS)):
        yield _made(path, RECORD, RECORDS[f"{name.partition('-')[0]}-"])
    elif (
        path.is_file() and name.startswith(tuple(f".{start}" for start in RECORDS)) and name.endswith(".tmp")
    ):
        yield _made(path, LEFTOVER, "unfinished", orphaned="its process ended")


def _model(path: Path) -> Iterator[CacheEntry]:
    if path.is_dir() and path.name.startswith(".fetch-"):
        old = time.time() - path.stat().st_mtime > DAY_S  # a download may run now
        yield _made(path, LEFTOVER, "unfinished", orphaned="a day old" if old else "")
    elif path.is_dir() and len(path.name) == 32:
        yield _made(path, MODEL, "fetched model")


def _made(path: Path, kind: str, detail: str, orphaned: str = "") -> CacheEntry:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = 0
    for file in files:
        with suppress(OSError):
            size += file.stat().st_blocks * 512  # what it takes on the disk
    return CacheEntry(
        path=path, kind=kind, size_bytes=size, used=path.stat().st_mtime, detail=detail, orphaned=orphaned
    )


def _abandoned(path: Path) -> str:
    """Why an unfinished folder is left over; empty if a process may be filling it now."""
    try:
        with locked(path.with_suffix(".lock")):
            return "its process ended"
    except Busy:
        return ""


def _index(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "index.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("pixels"), dict) else {}
