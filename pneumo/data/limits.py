"""What a file must keep to before a reader opens it, and the error for one that cannot be read.

All readers share these limits: images.read, dicom.read and the checks of each format.
"""

import os
import re
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumo import UserError
from pneumo.versions import PIXEL_RULES

MAX_BYTES = 128 * 2**20
# The largest X-ray detectors give about 20 megapixels. Reading 50 megapixels with transparency takes 1 GB.
MAX_PIXELS = 50_000_000

# Decoding a scan of a JPEG visits every pixel, and a scan can be a hundred bytes. Usual files have up to 12.
MAX_SCANNED_PIXELS = 12 * MAX_PIXELS

Grey = NDArray[np.uint8]


class BadImage(UserError):
    """A file that cannot be read as an X-ray: its `path` and the `reason`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, ...]]:
        return BadImage, (self.path, self.reason)


class NotAnXray(BadImage):
    """A DICOM file that is not a radiograph; `kind` is what it is: CT, SR, DICOMDIR."""

    def __init__(self, path: str | Path, reason: str, kind: str) -> None:
        super().__init__(path, reason)
        self.kind = kind

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, ...]]:
        return NotAnXray, (self.path, self.reason, self.kind)


def check_rule(pixels: int) -> None:
    if pixels not in PIXEL_RULES:
        raise UserError(f"pixels={pixels} is not a pixel rule; the rules are 1 and 2.")


def check_size(path: str | Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(path, f"{width} x {height} pixels, more than the limit of {MAX_PIXELS:,}")


def check_scans(path: str | Path, stream: bytes, width: int, height: int) -> None:
    """Raise BadImage for a JPEG `stream` whose scans would take too long to decode."""
    # The marker that starts a scan; it cannot occur inside one. bytes.count takes three times as long.
    scans = sum(1 for _ in re.finditer(b"\xff\xda", stream))
    if scans * width * height > MAX_SCANNED_PIXELS:
        raise BadImage(path, f"{scans} scans of {width} x {height} pixels would take too long")


def check_file(path: str | Path) -> os.stat_result:
    """The stat result of a regular file within the size limit; BadImage for anything else.

    It does not open the file: opening a named pipe would wait for ever.
    """
    try:
        info = os.stat(path)  # noqa: PTH116 - strings: 100,000 Path objects cost a second
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise BadImage(path, getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(info.st_mode):
        raise BadImage(path, "not a regular file")
    if info.st_size == 0:
        raise BadImage(path, "the file is empty (0 bytes)")
    if info.st_size > MAX_BYTES:
        raise BadImage(path, f"{info.st_size:,} bytes, more than the limit of {MAX_BYTES:,}")
    return info
