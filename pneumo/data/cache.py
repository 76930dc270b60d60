"""Images -> content-keyed uint8 memmap, built once in parallel and shared by all runs.

A cache is a folder `<cache_dir>/<key>`. The key is a hash of the images' contents and the preprocessing
settings, so a run never uses a stale cache, and a copied data set uses the cache of its original. A complete
cache appears by one rename. A killed build leaves only a temporary folder, which the next build removes.
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pneumo import UserError
from pneumo.data import dicom, phantom, unreadable
from pneumo.data.images import is_undeclared
from pneumo.data.levels import white_above
from pneumo.data.limits import BadImage, check_file
from pneumo.data.manifest import (
    Manifest,
    class_line,
    content_problems,
    digests,
    keep_copies_together,
    problems,
)
from pneumo.data.settings import DataSettings
from pneumo.data.workers import Load, fill, largest_below, processes, read_below, worker_count
from pneumo.data.workers import unreadable as read_chunk
from pneumo.files import DISK_FULL, Busy, locked, sync, write_atomically

VERSION = 1  # of the folder's format; the key contains the pixel rule separately
Task = Callable[[tuple[int, list[str]]], dict[int, str]]
CHUNK = 32  # images per task: small enough for a smooth progress bar, large enough to cost nothing


@dataclass
class ImageCache:
    """The prepared images of a manifest.

    `images` is uint8 [N, S, S]; `rows` gives the index in it for each manifest row. `digest` identifies the
    data (splits, labels, patients and contents, but not their location). `bad` lists the images left out.
    `problems` lists what forbids training on the data. `copies` counts the files that repeat another file's
    bytes. `preprocess` holds the arguments of images.preprocess. `white` is the 16-bit value that became 255
    in files that do not declare their range; None if there is no such file. `digests` identifies parts of the
    data (manifest.digests); no fingerprint contains them. `hashes` has the SHA-256 of each file's bytes by
    path.
    """

    manifest: Manifest
    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    digest: str
    bad: list[BadImage]
    problems: list[str]
    copies: int
    preprocess: dict[str, Any] = field(default_factory=dict)
    white: int | None = None
    digests: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


class BadImages(UserError):
    """Several unreadable images, all in one report, by reason. A long report is in `file`."""

    def __init__(self, bad: Sequence[BadImage], file: Path | None = None) -> None:
        self.bad = list(bad)
        lines = "\n".join(f"  {line}" for line in unreadable.lines(self.bad, file))
        super().__init__(
            f"{len(self.bad)} images cannot be read:\n{lines}\n"
            "Replace or remove them, or leave them out with data.on_bad_image=skip."
        )


def prepare(manifest: Manifest, settings: DataSettings, *, white: int | None = None) -> ImageCache:
    """The manifest's preprocessed images, read from the cache. A missing cache is built first.

    `white` is the 16-bit value that becomes 255 in files that do not declare their range: that of a model
    which is given these images. None takes the set's own.

    Raises BadImages with all unreadable files; with data.on_bad_image=skip they leave the manifest instead.
    Raises UserError for identical bytes in two splits or a cache folder that cannot be written.
    """
    data = inspect(manifest, settings, white=white)
    messages = data.problems + (problems(manifest) if data.bad else [])
    if messages and data.bad:
        messages.append(f"{len(data.bad):,} unreadable images were left out (data.on_bad_image=skip):")
        messages += [f"  {line}" for line in unreadable.lines(data.bad, bad_file(manifest, settings))]
    if messages:
        raise UserError("\n".join(messages))
    return data


def bad_file(manifest: Manifest, settings: DataSettings) -> Path:
    """Where a long list of unreadable images is written: in data.cache_dir, one file for each root."""
    cache_dir = Path(settings.cache_dir or ".cache").expanduser()
    return cache_dir / f"unreadable-{_sha256(str(manifest.root))[:16]}.txt"


def inspect(
    manifest: Manifest, settings: DataSettings, *, keep: bool = True, white: int | None = None
) -> ImageCache:
    """Like `prepare`, but accepts a data set that has `problems`.

    Without `keep`, a missing cache is not built: the images are read to find the bad ones, and `images` is
    empty.
    """
    cache_dir = Path(settings.cache_dir or ".cache").expanduser()
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        return _prepare(manifest, settings, cache_dir, keep, white)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"data.cache_dir={cache_dir}: the disk is full ({error.strerror}); the incomplete cache "
                "was removed. Free some space or set data.cache_dir to another disk."
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"data.cache_dir={cache_dir} cannot be written ({error.strerror}); set data.cache_dir=DIR."
            ) from None
        raise


def _prepare(
    manifest: Manifest, settings: DataSettings, cache_dir: Path, keep: bool, given: int | None
) -> ImageCache:
    paths = manifest.table["path"].tolist()
    load: Load
    root: str | None = None
    if settings.name == "phantom":
        base = phantom.digest(settings.phantom)
        hashes = {path: hashlib.sha256(f"{base} {path}".encode()).hexdigest() for path in paths}
        missing: list[BadImage] = []
        load = partial(phantom.render, settings=settings.phantom)
    else:
        hashes, missing = _hashes_of(manifest, paths, cache_dir)
        root = str(manifest.root)
        load = partial(read_below, root, settings.pixel_rule)
    # Decodes identical files once.
    sources = {content: manifest.file_of(path) for path, content in reversed(hashes.items())}
    order = sorted(sources)
    pixels: dict[str, Any] = {
        "image_size": settings.image_size,
        "crop_black": settings.crop_black,
        "equalize": settings.equalize,
    }
    if settings.pixel_rule > 1:  # version 0.1's caches keep their keys
        pixels["pixels"] = settings.pixel_rule
    rule = [VERSION, pixels] if given is None else [VERSION, pixels, given]
    folder = cache_dir / _sha256(json.dumps(rule), *order)[:32]
    images, reasons = np.zeros((0, settings.image_size, settings.image_size), np.uint8), {}
    white = None
    if order:
        if folder.is_dir() and _left_out_in_vain(folder):
            with _build_lock(folder.with_suffix(".lock")):
                _remove(folder)
        files = [sources[content] for content in order]
        if not folder.is_dir() and not keep:
            reasons = _in_chunks(partial(read_chunk, load), files, "Read images", settings.num_workers)
        elif not folder.is_dir():
            strict = settings.on_bad_image == "error"
            reasons = _build(
                folder, files, load, pixels, settings.num_workers, strict, bool(missing), root, given
            )
        if folder.is_dir():
            images, reasons, white = _open(folder, len(order))
    damaged = {order[row]: reason for row, reason in reasons.items()}
    bad = missing + [BadImage(path, damaged[hashes[path]]) for path in paths if hashes.get(path) in damaged]
    if bad and settings.on_bad_image == "error":
        raise BadImages(bad, bad_file(manifest, settings))
    if bad:
        left_out = {image.path for image in bad}
        manifest.table = manifest.table[~manifest.table["path"].isin(left_out)].reset_index(drop=True)
    keep_copies_together(manifest, hashes, settings)
    rows = {content: row for row, content in enumerate(order)}
    return ImageCache(
        manifest,
        images,
        np.array([rows[hashes[path]] for path in manifest.table["path"].tolist()], dtype=np.int64),
        _digest(manifest, hashes),
        bad,
        content_problems(manifest, hashes),
        copies=len(hashes) - len(sources),
        preprocess=pixels,
        white=white,
        digests=digests(manifest, hashes),
        hashes=hashes,
    )


def _hashes_of(
    manifest: Manifest, paths: list[str], cache_dir: Path
) -> tuple[dict[str, str], list[BadImage]]:
    """Like `content_hashes`, by the set's own paths. Raises UserError if every image is missing."""
    by_file, bad_files = content_hashes(
        manifest.root, list(dict.fromkeys(map(manifest.file_of, paths))), cache_dir
    )
    reasons = {image.path: image.reason for image in bad_files}
    hashes = {path: by_file[file] for path in paths if (file := manifest.file_of(path)) in by_file}
    bad = [BadImage(path, reasons[file]) for path in paths if (file := manifest.file_of(path)) in reasons]
    if message := unreadable.all_missing(manifest.root, paths, bad):
        raise UserError(message)
    return hashes, bad


def content_hashes(root: Path, paths: list[str], cache_dir: Path) -> tuple[dict[str, str], list[BadImage]]:
    """SHA-256 of each file's bytes by path, and the files that cannot be opened.

    A file is not read again if its size and its times of change are the same as last time.
    """
    hash_file = cache_dir / f"hashes-{_sha256(str(root))[:16]}.json"
    try:
        known = dict(json.loads(hash_file.read_text()))
    except (OSError, ValueError, TypeError):
        known = {}
    base = str(root)
    records: dict[str, list] = {}  # size, two times and, once it is known, the hash
    bad: dict[str, str] = {}
    for path in tqdm(paths, "Look at images", disable=None, leave=False):  # threads would wait for each other
        try:
            info = check_file(os.path.join(base, path))  # noqa: PTH118 - strings: 100,000 Paths cost a second
        except BadImage as error:
            bad[path] = error.reason
            continue
        # ctime too: a copy that keeps the modification time (cp -p, rsync -t) would look like the old file.
        current = [info.st_size, info.st_mtime_ns, info.st_ctime_ns]
        old = known.get(path)
        records[path] = old if isinstance(old, list) and old[:3] == current else current
    unread = [path for path, record in records.items() if len(record) == 3]

    def hash_from(start: int) -> list[str | OSError]:
        return [_file_hash(os.path.join(base, path)) for path in unread[start : start + CHUNK]]  # noqa: PTH118

    with ThreadPoolExecutor(worker_count(None)) as pool:  # a future per file would cost more than small files
        outcomes = chain.from_iterable(pool.map(hash_from, range(0, len(unread), CHUNK)))
        for path, outcome in zip(
            tqdm(unread, "Hash images", disable=None, leave=False), outcomes, strict=True
        ):
            if isinstance(outcome, OSError):
                del records[path]
                bad[path] = outcome.strerror or str(outcome)
            else:
                records[path] = [*records[path], outcome]
    if records != known:
        # On a full or read-only disk: the file only saves time, and an existing cache still works.
        with suppress(OSError, UserError):
            write_atomically(hash_file, json.dumps(records).encode())
    hashes = {path: record[-1] for path, record in records.items()}
    return hashes, [BadImage(path, bad[path]) for path in paths if path in bad]


def _file_hash(path: str) -> str | OSError:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error


def _open(folder: Path, count: int) -> tuple[NDArray[np.uint8], dict[int, str], int | None]:
    """The images of a complete cache, the reason for each row that could not be read, and its white value."""
    try:
        index = json.loads((folder / "index.json").read_text())
        reasons, white = index["bad"], index.get("white")
        images = np.load(folder / "images.npy", mmap_mode="r")
        if len(images) != count:
            raise ValueError(f"{len(images)} images instead of {count}")
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"the cache {folder} is damaged ({error}). Remove the folder; the next run builds it again."
        ) from None
    with suppress(OSError):
        os.utime(folder)  # when it was last used, for `pneumo data cache list`
    return images, {int(row): reason for row, reason in reasons.items()}, white


# The reason for every file that was neither, before TIFF, BMP, WebP and DICOM were read.
_TWO_FORMATS = "neither a JPEG nor a PNG file"


def _left_out_in_vain(folder: Path) -> bool:
    """True for a complete cache that lacks files which can be read now: an older version could not read their
    format, or pydicom is installed by now."""
    try:
        reasons = json.loads((folder / "index.json").read_text())["bad"].values()
    except (OSError, ValueError, KeyError, AttributeError):
        return False  # `_open` reports the damage
    return any(
        reason.startswith(_TWO_FORMATS) or (dicom.NEEDS in reason and dicom.is_readable())
        for reason in reasons
    )


def _remove(folder: Path) -> None:
    """Remove a complete cache. A run that has its images open keeps them."""
    aside = folder.with_suffix(f".tmp{os.getpid()}")
    with suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _build(
    folder: Path,
    sources: list[str],
    load: Load,
    pixels: dict,
    workers: int | None,
    strict: bool,
    incomplete: bool,
    root: str | None,
    given: int | None,
) -> dict[int, str]:
    """Write `folder` by one rename and return the reason for each bad row. A failure leaves nothing behind.

    With `strict`, a bad row is a failure. So is a set that was `incomplete` before the build. `root` is the
    folder of the sources; None if they are drawn. `given` is the white value; None takes that of the sources.
    """
    with _build_lock(folder.with_suffix(".lock")):
        if folder.is_dir():  # another run built it while we waited
            return {}
        _remove_leftovers(folder)
        temporary = folder.with_suffix(f".tmp{os.getpid()}")
        temporary.mkdir()
        try:
            index: dict[str, Any] = {"version": VERSION, "pixels": pixels}
            if root and pixels.get("pixels", 1) > 1:
                index["white"] = _white(root, sources, workers) if given is None else given
                load = partial(read_below, root, pixels["pixels"], white=index["white"])
            bad = _fill(temporary / "images.npy", sources, load, pixels, workers)
            if strict and (bad or incomplete):
                return bad
            index["bad"] = {str(row): bad[row] for row in sorted(bad)}
            (temporary / "index.json").write_text(json.dumps(index, indent=1))
            sync(temporary / "index.json")
            sync(temporary / "images.npy")
            temporary.rename(folder)
            return bad
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _white(root: str, sources: list[str], workers: int | None) -> int | None:
    """The white value of the 16-bit files that do not declare their range. Their largest value decides it.

    The whole set counts, including test images, so that two films from one detector get the same scale.
    """
    deep = []
    for source in sources:
        with suppress(BadImage):  # reported when the images are prepared
            if is_undeclared(os.path.join(root, source)):  # noqa: PTH118
                deep.append(source)
    if not deep:
        return None
    chunks = [deep[start : start + CHUNK] for start in range(0, len(deep), CHUNK)]
    with processes(min(worker_count(workers), len(chunks))) as pool:
        return white_above(max(pool.map(partial(largest_below, root), chunks)))


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed builds left: of `folder`, whose lock we hold, and of caches that nobody builds."""
    for leftover in folder.parent.glob("*.tmp*"):
        if not leftover.is_dir():
            continue
        if leftover.stem == folder.name:
            shutil.rmtree(leftover, ignore_errors=True)
            continue
        with suppress(Busy), locked(leftover.with_suffix(".lock")):
            shutil.rmtree(leftover, ignore_errors=True)


def _fill(
    file: Path,
    sources: list[str],
    load: Load,
    pixels: dict,
    workers: int | None,
) -> dict[int, str]:
    """Preprocess every source into its row of `file`; return the reason for each bad row."""
    shape = (len(sources), pixels["image_size"], pixels["image_size"])
    np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    with file.open("r+b") as handle:
        # Without this, a full disk would cause a bus error in the middle of the build.
        os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return _in_chunks(partial(fill, file, load, pixels), sources, "Prepare images", workers)


def _in_chunks(task: Task, sources: list[str], words: str, workers: int | None) -> dict[int, str]:
    """Give `task` all sources in chunks, each with its first row, in several processes; the bad rows."""
    chunks = [(start, sources[start : start + CHUNK]) for start in range(0, len(sources), CHUNK)]
    bad: dict[int, str] = {}
    bar = tqdm(total=len(sources), desc=words, unit="image", disable=None)
    try:
        with bar, processes(min(worker_count(workers), len(chunks))) as pool:
            for done in pool.map(task, chunks):
                bad |= done
                bar.update(min(CHUNK, bar.total - bar.n))
    except BrokenProcessPool:
        raise UserError(
            "a process that prepares images was killed; the system does this when memory runs out. "
            "The incomplete cache was removed. Try again with data.num_workers=1."
        ) from None
    return bad


@contextmanager
def _build_lock(file: Path) -> Iterator[None]:
    """Hold the lock of one cache. If another run builds it, wait however long that takes."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(file))
        except Busy:
            print("another run is preparing these images; waiting for it")
            stack.enter_context(locked(file, wait_s=math.inf))
        yield


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def _digest(manifest: Manifest, hashes: dict[str, str]) -> str:
    names = ("split", "path", *manifest.label_columns, "patient")
    rows = sorted(zip(*(manifest.table[name].tolist() for name in names), strict=True))
    return _sha256(
        *class_line(manifest.class_names),
        *("\t".join([*map(str, row), hashes[row[1]]]) for row in rows),
    )
