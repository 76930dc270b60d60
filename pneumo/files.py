"""Small files: written so that they appear whole, and read up to a limit.

A kill, a power cut or a full disk leaves what was there before.
"""

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path

from pneumo import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either all of it or what it held before; UserError if full."""
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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
