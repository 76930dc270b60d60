"""Files that several processes share: written whole or not at all, locked by one, read up to a limit."""

import errno
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pneumo import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK_WAIT_S = 60.0  # how long a command waits for another one's short work
MAX_MODEL_BYTES = 2**30  # of any file that belongs to a model; a resume state of ResNet-50 has 0.4 GB
_LOOK_AGAIN_S = 0.05


class Busy(Exception):
    """Another process holds the lock."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either all of it or what it held before; UserError if full.

    The content is written aside, synced and renamed, so a kill or a power cut leaves what was there before.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # two machines may write
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"the disk is full: {path} was not written ({len(content):,} bytes). What was there before "
                "is intact; free some space and give the same command again to continue."
            ) from None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync(path.parent)


def sha256(path: Path) -> str:
    """The hash of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until the file or folder `path` is on the disk: a power cut loses nothing of it after that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on `path`; raise Busy if another process holds it for longer than `wait_s`.

    The system gives the lock back when its holder dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(f"another process holds {path}") from None
                time.sleep(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not by closing alone: a forked worker may hold a copy


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; UserError for anything else."""
    try:
        if not path.is_file():  # reading a pipe would block for ever
            raise UserError(f"{path} is missing or is not a file.")
        if (size := path.stat().st_size) > limit:
            raise UserError(f"{path} has {size:,} bytes, more than the limit of {limit:,}.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def local_folder(uri: str) -> Path | None:
    """The folder of a run's artifacts, if it is on this machine."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    folder = Path(unquote(parts.path))
    return folder if folder.is_dir() else None
