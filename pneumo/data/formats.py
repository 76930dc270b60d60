"""Which format a file has by its content, and what its header says before a decoder sees it.

The checks here are for what Pillow does not bound in every supported version: the tags of a TIFF, several
pages or frames, and codecs whose cost the size of the picture does not limit.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pneumo.data.limits import MAX_PIXELS, BadImage, check_size

# File names that count as images in a folder. The content then decides how a file is read.
SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp"),
    *(".dcm", ".dicom"),
)
UNREAD = ".gif", ".jp2", ".heic"  # images of formats that are refused, each with a reason

PNG_START = b"\x89PNG\r\n\x1a\n"
DICOM_MARK = slice(128, 132)
START_BYTES = 132  # as many as `of` looks at

MAX_CHUNKS = 1000  # of a PNG, before its pixels; usually fewer than ten
MAX_TAGS = 1000  # of a TIFF, in all its directories; usually about twenty
# A strip of a TIFF usually has one or more rows: 50,000 rows have 400 kB of places and sizes.
MAX_TAG_BYTES = 16 * 2**20
TIFF_COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits"}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _STRIP_ROWS, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 277, 278, 322, 323, 339
_READ_TAGS = (
    *(_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES),
    *(_STRIP_ROWS, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT),
)
_INNER_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability: Pillow loads them too


def of(start: bytes) -> str | None:
    """The format of a file that begins with `start` (START_BYTES); None if it is not one that is read."""
    if start[DICOM_MARK] == b"DICM":
        return "DICOM"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(PNG_START):
        return "PNG"
    if start.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith(b"BM"):
        return "BMP"
    return "DICOM" if _is_bare_dicom(start) else None


def _is_bare_dicom(start: bytes) -> bool:
    """Without the preamble: the first element is of group 2 or 8, with a type or a short length.

    Real files begin with the length of a group, the SOP class, the character set or the image type.
    """
    group, element = struct.unpack_from("<HH", start.ljust(8, b"\0"))
    if group not in (2, 8) or element not in (0, 1, 2, 5, 8, 0x16, 0x18):
        return False
    implicit_length = int.from_bytes(start[4:8], "little")
    return start[4:6] in (b"UL", b"OB", b"CS", b"UI") or (group == 8 and 0 < implicit_length <= 64)


def start_of(path: str | Path) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read(START_BYTES)


@dataclass(frozen=True, kw_only=True)
class TiffHeader:
    """What decides how the pixels of a TIFF are read. `bits` are those of a sample."""

    width: int
    height: int
    bits: int
    samples: int
    photometric: int

    @property
    def is_deep_grey(self) -> bool:
        """True for one channel of more than 8 bits."""
        return self.samples == 1 and self.bits > 8

    @property
    def is_negative(self) -> bool:
        """True where 0 is white."""
        return self.photometric == 0


def check_tiff(path: str | Path) -> TiffHeader:
    """The header of a TIFF that can be read within the limits; BadImage for another one."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            tags, pages = _tiff_tags(path, file)
    except struct.error:
        raise BadImage(path, "damaged: the TIFF header is cut short") from None
    if pages > 1:
        raise BadImage(path, "TIFF: several pages; only single images are read")
    width, height = _first(tags, _WIDTH), _first(tags, _LENGTH)
    if width < 1 or height < 1:
        raise BadImage(path, "damaged: the TIFF has no width or no height")
    check_size(path, width, height)
    if (compression := _first(tags, _COMPRESSION, 1)) not in TIFF_COMPRESSIONS:
        known = ", ".join(dict.fromkeys(TIFF_COMPRESSIONS.values()))
        raise BadImage(path, f"TIFF: compression {compression} is not read; those read are {known}")
    # libtiff decodes a whole tile or strip, also for a picture of one pixel.
    tile = _first(tags, _TILE_WIDTH) * _first(tags, _TILE_LENGTH)
    if tile > MAX_PIXELS or width * min(_first(tags, _STRIP_ROWS, height), height) > MAX_PIXELS:
        raise BadImage(path, f"TIFF: a tile of more pixels than the limit of {MAX_PIXELS:,}")
    bits = max(tags.get(_BITS, (1,)))
    if bits > 16 or any(kind != 1 for kind in tags.get(_SAMPLE_FORMAT, ())):
        raise BadImage(path, "TIFF: not whole numbers of 16 or fewer bits from 0")
    return TiffHeader(
        width=width,
        height=height,
        bits=bits,
        samples=_first(tags, _SAMPLES, 1),
        photometric=_first(tags, _PHOTOMETRIC, 1),
    )


def _tiff_tags(path: str | Path, file: IO[bytes]) -> tuple[dict[int, tuple[int, ...]], int]:
    """Those values of the first directory that decide the reading, and the number of pages (2: several).

    It also checks how much a decoder would load for the other values: the directory gives a place and a size
    for each, and a thousand of them can name the same 100 MB.
    """
    head = file.read(8)
    order = "<" if head[:2] == b"II" else ">"
    (place,) = struct.unpack_from(f"{order}I", head, 4)
    tags: dict[int, tuple[int, ...]] = {}
    directories, seen, total_bytes, pages = [place], 0, 0, 1
    while directories:
        file.seek(directories.pop(0))
        (count,) = struct.unpack(f"{order}H", file.read(2))
        entries = file.read(12 * count)
        following = file.read(4)
        first, seen = not tags, seen + count
        if first and len(following) == 4 and struct.unpack(f"{order}I", following)[0]:
            pages = 2
        for index in range(count):
            tag, kind, number = struct.unpack_from(f"{order}HHI", entries, 12 * index)
            size = number * _TYPE_BYTES.get(kind, 1)
            total_bytes += size
            if first and tag in _READ_TAGS:
                tags[tag] = _values(file, entries, 12 * index + 8, order, kind, number)
            elif tag in _INNER_DIRECTORIES:
                directories += struct.unpack_from(f"{order}I", entries, 12 * index + 8)
        if seen > MAX_TAGS or total_bytes > MAX_TAG_BYTES or len(directories) > len(_INNER_DIRECTORIES):
            raise BadImage(path, f"TIFF: more than {MAX_TAGS:,} tags, or {MAX_TAG_BYTES:,} bytes of them")
        if not tags:
            break  # nothing to go by: an inner directory must not pass for the first one
    return tags, pages


def _values(file: IO[bytes], entries: bytes, at: int, order: str, kind: int, number: int) -> tuple[int, ...]:
    """The first whole numbers of a tag, at most 8; all 0 where it holds others."""
    letter = {1: "B", 3: "H", 4: "I"}.get(kind)
    if letter is None or number < 1:
        return (0,)
    number, place = min(number, 8), at
    if number * _TYPE_BYTES[kind] <= 4:
        return struct.unpack_from(f"{order}{number}{letter}", entries, place)
    (place,) = struct.unpack_from(f"{order}I", entries, at)
    file.seek(place)
    return struct.unpack(f"{order}{number}{letter}", file.read(number * _TYPE_BYTES[kind]))


def _first(tags: Mapping[int, tuple[int, ...]], tag: int, default: int = 0) -> int:
    return tags[tag][0] if tag in tags else default


def check_webp(path: str | Path, start: bytes) -> None:
    """BadImage for an animation or one with too many pixels. Pillow's decoder allocates all of them first."""
    kind, width, height = start[12:16], 0, 0
    if kind == b"VP8X":
        if start[20] & 2:
            raise BadImage(path, "WebP: an animation; only single images are read")
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        packed = int.from_bytes(start[21:25], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    if width < 1 or height < 1:
        raise BadImage(path, "damaged: the WebP header is cut short")
    check_size(path, width, height)


def check_bmp(path: str | Path, start: bytes) -> None:
    """BadImage for a compressed BMP: Pillow decodes it in Python, a minute for 50 megapixels."""
    header = int.from_bytes(start[14:18], "little")
    raw_or_bitfields = (0, 3)
    if header >= 40 and int.from_bytes(start[30:34], "little") not in raw_or_bitfields:
        raise BadImage(path, "BMP: compressed; only uncompressed ones are read")
