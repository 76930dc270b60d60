"""The one safe image reader and the deterministic preprocessing, for training and prediction alike."""

import os
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pneumo import UserError

MAX_BYTES = 128 * 2**20
# The largest X-ray detectors give about 20 megapixels; with transparency, 50 take 1 GB while they are read.
MAX_PIXELS = 50_000_000
# Each scan of a JPEG passes over every pixel, and can be a hundred bytes long: usual are at most 12 scans.
MAX_SCANNED_PIXELS = 12 * MAX_PIXELS
FORMATS = ("JPEG", "PNG")
COLOUR_GRID = 256  # pixels a side that are looked at for colour
COLOUR_LEVELS = 32  # between a pixel's channels: JPEG's rounding makes a few in a grey image

Grey = NDArray[np.uint8]


class BadImage(UserError):
    """A file that cannot be read as an X-ray; `path` and `reason` say which and why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        return BadImage, (self.path, self.reason)


def read(path: str | Path) -> Grey:
    """Read a JPEG or PNG, told apart by content, as grey levels, uint8 [H, W].

    16-bit PNGs are scaled to 8 bits, transparency is laid on black, EXIF orientation is applied.
    Sizes are bounded before anything is decoded. Raises BadImage with path and reason.
    """
    return np.asarray(read_image(path))


def read_image(path: str | Path) -> Image.Image:
    """As `read`, as a Pillow image of mode L: the way to an array and back costs 1 ms at full size."""
    return _read(path)[0]


def read_with_colour(path: str | Path) -> tuple[Image.Image, float]:
    """As `read_image`, and the share of the original's pixels that have colour: of an X-ray, about 0."""
    return _read(path, _colour_share)


def _read(
    path: str | Path, measure: Callable[[Image.Image], float] = lambda _: 0.0
) -> tuple[Image.Image, float]:
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own pixel limit is stricter than the one warned of
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadImage(path, f"{width} x {height} pixels, more than the limit of {MAX_PIXELS:,}")
                scans = _scans(path) if _may_have_scans(image) else 1
                if scans * width * height > MAX_SCANNED_PIXELS:
                    raise BadImage(path, f"{scans} scans of {width} x {height} pixels would take too long")
                image.load()
                colour_share = measure(image)
                ImageOps.exif_transpose(image, in_place=True)  # else an upright image is copied
                return _to_grey(image), colour_share
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
    grey: Grey | Image.Image, *, image_size: int = 224, crop_black: bool = True, equalize: bool = True
) -> Grey:
    """Crop the black border, equalise the histogram, resize keeping the aspect, pad with zeros to a square.

    `grey` is uint8 [H, W] or what `read_image` gives, the result uint8 [image_size, image_size]. These are
    the seed report's Pillow operations with its rounding (odd padding: the spare pixel goes right and below);
    equalising before resizing costs more, but the other order gives other pixels.
    """
    image = grey if isinstance(grey, Image.Image) else Image.fromarray(np.ascontiguousarray(grey))
    if crop_black and (box := image.getbbox()) not in (None, (0, 0, *image.size)):  # else a copy
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
