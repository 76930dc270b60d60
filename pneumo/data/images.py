"""The one safe image reader and the deterministic preprocessing, for training and prediction alike."""

import os
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pneumo import UserError
from pneumo.data import levels
from pneumo.versions import PIXEL_RULES

MAX_BYTES = 128 * 2**20
# The largest X-ray detectors give about 20 megapixels; with transparency, 50 take 1 GB while they are read.
MAX_PIXELS = 50_000_000
# Each scan of a JPEG passes over every pixel, and can be a hundred bytes long: usual are at most 12 scans.
MAX_SCANNED_PIXELS = 12 * MAX_PIXELS
FORMATS = ("JPEG", "PNG")
COLOUR_GRID = 256  # pixels a side that are looked at for colour
COLOUR_LEVELS = 32  # between a pixel's channels: JPEG's rounding makes a few in a grey image

PNG_START = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 1000  # of a PNG, before its pixels: usual are fewer than ten

NEARLY_BLACK = 4  # of 255: scanners and JPEG leave a border of such levels, which pure black does not match
_SEEN = [0] * (NEARLY_BLACK + 1) + [255] * (255 - NEARLY_BLACK)

Grey = NDArray[np.uint8]
Result = TypeVar("Result")


class BadImage(UserError):
    """A file that cannot be read as an X-ray; `path` and `reason` say which and why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        return BadImage, (self.path, self.reason)


def read(path: str | Path, *, pixels: int = 1, white: int | None = None) -> Grey:
    """Read a JPEG or PNG, told apart by content, as grey levels, uint8 [H, W].

    16-bit PNGs are scaled to 8 bits, transparency is laid on black, EXIF orientation is applied.
    Sizes are bounded before anything is decoded. Raises BadImage with path and reason.

    `pixels` is the pixel rule. 1 divides 16-bit values by 257. 2 scales them by what the file declares
    (sBIT), else so that `white` becomes 255; without `white` it follows from the file's own largest value.
    """
    return np.asarray(read_image(path, pixels=pixels, white=white))


def read_image(path: str | Path, *, pixels: int = 1, white: int | None = None) -> Image.Image:
    """As `read`, as a Pillow image of mode L: the way to an array and back costs 1 ms at full size."""
    return read_with_colour(path, pixels=pixels, white=white, colour=False)[0]


def read_with_colour(
    path: str | Path, *, pixels: int = 1, white: int | None = None, colour: bool = True
) -> tuple[Image.Image, float]:
    """As `read_image`, and the share of the original's pixels that have colour: of an X-ray, about 0."""
    check_rule(pixels)

    def use(image: Image.Image) -> tuple[Image.Image, float]:
        share = _colour_share(image) if colour else 0.0
        ImageOps.exif_transpose(image, in_place=True)  # else an upright image is copied
        if pixels > 1 and image.mode.startswith("I"):
            return _scaled(np.asarray(image), significant_bits(path), white), share
        return _to_grey(image), share

    return _decoded(path, use)


def is_undeclared(path: str | Path) -> bool:
    """True for a 16-bit grey PNG that does not declare how many of its bits are used; nothing is decoded.

    Of colour or transparency in 16 bits, Pillow keeps the upper 8 alone.
    """
    check_file(path)
    with open(path, "rb") as file:  # noqa: PTH123
        start = file.read(26)
    sixteen_bits_one_channel = b"\x10\0"
    is_deep = start[:8] == PNG_START and start[24:26] == sixteen_bits_one_channel
    return is_deep and significant_bits(path) is None


def largest_undeclared(path: str | Path) -> int | None:
    """The largest value of a file that `is_undeclared`; None for other files, which are not decoded.

    A value above the `white` of a trained model means that the model never saw so bright a film.
    """
    if not is_undeclared(path):
        return None
    return _decoded(path, lambda image: int(np.asarray(image).max(initial=0)))


def significant_bits(path: str | Path) -> int | None:
    """How many bits of a PNG's grey values are used, as its sBIT chunk says; None where it says nothing."""
    with open(path, "rb") as file:  # noqa: PTH123
        if file.read(8) != PNG_START:
            return None
        for _ in range(MAX_CHUNKS):
            head = file.read(8)
            kind = head[4:]
            if len(head) < 8 or kind in (b"IDAT", b"IEND"):  # sBIT comes before the pixels
                return None
            size = int.from_bytes(head[:4], "big")
            if kind == b"sBIT":
                bits = file.read(min(size, 1))
                return bits[0] if bits and 1 <= bits[0] <= 16 else None
            file.seek(size + 4, os.SEEK_CUR)
    return None


def check_rule(pixels: int) -> None:
    if pixels not in PIXEL_RULES:
        raise UserError(f"pixels={pixels} is not a pixel rule; the rules are 1 and 2.")


def _scaled(values: NDArray[np.integer], bits: int | None, white: int | None) -> Image.Image:
    """16-bit grey values as 8 bits, by pixel rule 2."""
    values = values.clip(0, 65535).astype(np.uint16)
    largest = int(values.max(initial=0))
    if bits is not None:
        white = levels.declared_range(bits)[1]
        if largest > white:  # scaled to 16 bits, as the PNG standard asks of a writer
            white = 65535
    return Image.fromarray(levels.table(white or levels.white_above(largest))[values])


def _decoded(path: str | Path, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` makes of a decoded image."""
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own pixel limit is stricter than Pillow's
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadImage(path, f"{width} x {height} pixels, more than the limit of {MAX_PIXELS:,}")
                scans = _scans(path) if _may_have_scans(image) else 1
                if scans * width * height > MAX_SCANNED_PIXELS:
                    raise BadImage(path, f"{scans} scans of {width} x {height} pixels would take too long")
                image.load()
                return use(image)
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(path, f"more pixels than the limit of {MAX_PIXELS:,}") from None
    except Image.UnidentifiedImageError:
        raise BadImage(path, "neither a JPEG nor a PNG file, whatever its name says") from None
    except Exception as error:  # a hostile file can raise nearly anything from a decoder
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadImage(path, f"damaged: {reason}") from None


def check_file(path: str | Path) -> os.stat_result:
    """What the system knows of a regular file of a bearable size; BadImage for anything else.

    Nothing is opened: a named pipe would wait for ever.
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


def _may_have_scans(image: Image.Image) -> bool:
    """False for a PNG, and for the usual X-ray: libjpeg refuses a second scan of one sequential channel."""
    return image.format != "PNG" and (image.mode != "L" or "progressive" in image.info)


def _scans(path: str | Path) -> int:
    with open(path, "rb") as file:  # noqa: PTH123
        # A scan's start, which cannot stand inside one. bytes.count would take three times as long.
        return sum(1 for _ in re.finditer(b"\xff\xda", file.read()))


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow's convert("L") would clip 16 bits to two levels
        levels = np.asarray(image).astype(np.int32).clip(0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image).convert("RGB")
    return image if image.mode == "L" else image.convert("L")  # the first would be a copy


def _colour_share(image: Image.Image) -> float:
    if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"):
        return 0.0
    width, height = (min(side, COLOUR_GRID) for side in image.size)
    grid = image.convert("RGB") if image.mode in ("P", "PA") else image  # indices have no nearest colour
    pixels = np.asarray(grid.resize((width, height), Image.Resampling.NEAREST).convert("RGB")).astype(
        np.int16
    )
    return float((pixels.max(2) - pixels.min(2) > COLOUR_LEVELS).mean())


def preprocess(
    grey: Grey | Image.Image,
    *,
    image_size: int = 224,
    crop_black: bool = True,
    equalize: bool = True,
    pixels: int = 1,
) -> Grey:
    """Crop the black border, equalise the histogram, resize keeping the aspect, pad with zeros to a square.

    `grey` is uint8 [H, W] or what `read_image` gives, the result uint8 [image_size, image_size]. These are
    the seed report's Pillow operations with its rounding (odd padding: the spare pixel goes right and below);
    equalising before resizing costs more, but the other order gives other pixels.

    `pixels` is the pixel rule of the crop. Under 1 the border is level 0 alone, under 2 all levels up to
    NEARLY_BLACK.
    """
    check_rule(pixels)
    image = grey if isinstance(grey, Image.Image) else Image.fromarray(np.ascontiguousarray(grey))
    if crop_black:
        seen = image if pixels == 1 else image.point(_SEEN)
        if (box := seen.getbbox()) not in (None, (0, 0, *image.size)):  # else a copy
            image = image.crop(box)
    if equalize:
        image = ImageOps.equalize(image)
    scale = image_size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("L", (image_size, image_size))
    square.paste(
        image.resize((width, height), Image.Resampling.BILINEAR),
        ((image_size - width) // 2, (image_size - height) // 2),
    )
    return np.asarray(square)
