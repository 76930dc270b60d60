"""The safe image reader and the deterministic preprocessing. Training and prediction both use them."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pneumo.data import dicom, formats, levels
from pneumo.data.limits import MAX_BYTES as MAX_BYTES
from pneumo.data.limits import MAX_PIXELS, BadImage, Grey, check_file, check_rule, check_scans, check_size

COLOUR_GRID = 256  # pixels per side in the check for colour
COLOUR_LEVELS = 32  # difference between a pixel's channels; JPEG's rounding adds a few levels to a grey image

UNKNOWN = "not a JPEG, PNG, TIFF, BMP, WebP or DICOM file, whatever its name says"

NEARLY_BLACK = 4  # of 255: scanners and JPEG leave borders that are not exactly 0
_SEEN = [0] * (NEARLY_BLACK + 1) + [255] * (255 - NEARLY_BLACK)

Result = TypeVar("Result")
Box = tuple[int, int, int, int]


def read(path: str | Path, *, pixels: int = 1, white: int | None = None) -> Grey:
    """Read a JPEG, PNG, TIFF, BMP, WebP or DICOM file as grey levels, uint8 [H, W].

    The content decides the format, not the name. 16-bit PNGs and TIFFs are scaled to 8 bits, transparent
    pixels get a black background, and the EXIF orientation is applied. Sizes are checked before anything is
    decoded. Raises BadImage with path and reason. How DICOM is read is in pneumo.data.dicom.

    `pixels` is the pixel rule for 16-bit grey values. Rule 1 divides them by 257. Rule 2 scales them by the
    range that the file declares (sBIT). If it declares none, `white` becomes 255. Without `white`, the file's
    largest value decides. DICOM declares its range and does not use `white`.

    A 16-bit PNG or TIFF with colour or an alpha channel is read as its upper 8 bits, under both rules:
    Pillow has no mode with several channels of 16 bits. A 12-bit film that was not scaled to 16 bits keeps
    16 levels that way, so such a film must be stored as grey.
    """
    return np.asarray(read_image(path, pixels=pixels, white=white))


def read_image(path: str | Path, *, pixels: int = 1, white: int | None = None) -> Image.Image:
    """Like `read`, but a Pillow image of mode L: converting to an array and back costs 1 ms at full size."""
    return read_with_colour(path, pixels=pixels, white=white, colour=False)[0]


def read_with_colour(
    path: str | Path,
    *,
    pixels: int = 1,
    white: int | None = None,
    colour: bool = True,
    window: dicom.Window = dicom.FILE,
) -> tuple[Image.Image, float]:
    """Like `read_image`, plus the share of the original's pixels that have colour: about 0 for an X-ray.

    `window` is that of `dicom.read`.
    """
    check_rule(pixels)
    kind = format_of(path)
    if kind == "DICOM":
        return Image.fromarray(dicom.read(path, pixels=pixels, window=window)), 0.0
    tiff = formats.check_tiff(path) if kind == "TIFF" else None

    def use(image: Image.Image) -> tuple[Image.Image, float]:
        share = _colour_share(image) if colour else 0.0
        if kind != "TIFF":  # Pillow has turned it already
            ImageOps.exif_transpose(image, in_place=True)  # not in place, it would copy an upright image
        if not image.mode.startswith("I"):
            return _to_grey(image), share
        grey = _scaled(np.asarray(image), significant_bits(path), white) if pixels > 1 else _to_grey(image)
        # Pillow inverts a TIFF whose 0 is white only up to 8 bits.
        return (ImageOps.invert(grey) if tiff and tiff.is_negative else grey), share

    return _decoded(path, kind, use)


def format_of(path: str | Path) -> str | None:
    """The format of a regular file within the size limit, by its content; None if it is not one of ours."""
    check_file(path)
    try:
        return formats.of(formats.start_of(path))
    except OSError as error:
        raise BadImage(path, f"cannot be opened: {error.strerror}") from None


def is_undeclared(path: str | Path) -> bool:
    """True for a 16-bit grey PNG or TIFF that does not declare how many of its bits are used.

    Nothing is decoded. A 16-bit file with colour or an alpha channel is not one: only its upper 8 bits are
    read.
    """
    kind = format_of(path)
    if kind == "TIFF":
        tiff = formats.check_tiff(path)
        return tiff.is_deep_grey and tiff.bits == 16
    sixteen_bits_one_channel = b"\x10\0"
    is_deep = kind == "PNG" and formats.start_of(path)[24:26] == sixteen_bits_one_channel
    return is_deep and significant_bits(path) is None


def largest_undeclared(path: str | Path) -> int | None:
    """The largest value of a file that `is_undeclared`; None for other files, which are not decoded.

    If it is above the `white` of a trained model, the film is brighter than all its training images.
    """
    if not is_undeclared(path):
        return None
    return _decoded(path, format_of(path), lambda image: int(np.asarray(image).max(initial=0)))


def significant_bits(path: str | Path) -> int | None:
    """How many bits of a file's grey values are used; None if it does not declare that.

    A PNG declares it in its sBIT chunk. A TIFF does so only if it stores fewer than 16.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        start = file.read(8)
        if formats.of(start) == "TIFF":
            tiff_bits = formats.check_tiff(path).bits
            return tiff_bits if tiff_bits < 16 else None
        if start != formats.PNG_START:
            return None
        for _ in range(formats.MAX_CHUNKS):
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


def _scaled(values: NDArray[np.integer], bits: int | None, white: int | None) -> Image.Image:
    """16-bit grey values as 8 bits, by pixel rule 2."""
    values = values.clip(0, 65535).astype(np.uint16)
    largest = int(values.max(initial=0))
    if bits is not None:
        white = levels.declared_range(bits)[1]
        if largest > white:  # the writer scaled to 16 bits, as the PNG standard requires
            white = 65535
    return Image.fromarray(levels.table(white or levels.white_above(largest))[values])


def _decoded(path: str | Path, kind: str | None, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` returns for the decoded image of a file of the format `kind`."""
    if kind is None:
        raise BadImage(path, UNKNOWN)
    try:
        if kind == "WEBP":
            formats.check_webp(path, formats.start_of(path))
        elif kind == "BMP":
            formats.check_bmp(path, formats.start_of(path))
        elif kind == "TIFF":
            formats.check_tiff(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own pixel limit is stricter than Pillow's
            # By name, Pillow would map an uncompressed TIFF, and mix up the sides of one that is turned.
            with open(path, "rb") as file, Image.open(file, formats=(kind,)) as image:  # noqa: PTH123
                width, height = image.size
                check_size(path, width, height)
                if _may_have_scans(image, kind):
                    check_scans(path, _content(path), width, height)
                image.load()
                return use(image)
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(path, f"more pixels than the limit of {MAX_PIXELS:,}") from None
    except Image.UnidentifiedImageError:
        raise BadImage(path, f"damaged, or a {kind} file of an unsupported kind") from None
    except Exception as error:  # a hostile file can raise nearly anything from a decoder
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadImage(path, f"damaged: {reason}") from None


def _may_have_scans(image: Image.Image, kind: str) -> bool:
    """False except for some JPEGs: libjpeg refuses a second scan of one sequential channel."""
    return kind == "JPEG" and (image.mode != "L" or "progressive" in image.info)


def _content(path: str | Path) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow's convert("L") would clip 16 bits to two levels
        levels = np.asarray(image).astype(np.int32).clip(0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image).convert("RGB")
    return image if image.mode == "L" else image.convert("L")  # convert would copy an image of mode L


def _colour_share(image: Image.Image) -> float:
    if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"):
        return 0.0
    width, height = (min(side, COLOUR_GRID) for side in image.size)
    grid = image.convert("RGB") if image.mode in ("P", "PA") else image  # a palette index is not a colour
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
    """Crop the black border, equalise the histogram, resize with the same aspect, pad with zeros to a square.

    `grey` is uint8 [H, W] or the result of `read_image`. The result is uint8 [image_size, image_size]. These
    are the seed report's Pillow operations with its rounding (with odd padding, the extra pixel is on the
    right and at the bottom). Equalising before resizing costs more, but the other order gives other pixels.

    `pixels` is the pixel rule of the crop. Under rule 1 the border has level 0 only; under rule 2 it has any
    level up to NEARLY_BLACK.
    """
    check_rule(pixels)
    image = grey if isinstance(grey, Image.Image) else Image.fromarray(np.ascontiguousarray(grey))
    at = placement(image, image_size=image_size, crop_black=crop_black, pixels=pixels)
    if at.crop != (0, 0, *image.size):  # a crop to the full size would copy
        image = image.crop(at.crop)
    if equalize:
        image = ImageOps.equalize(image)
    left, top, right, bottom = at.place
    square = Image.new("L", (image_size, image_size))
    square.paste(image.resize((right - left, bottom - top), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(square)


@dataclass(frozen=True)
class Placement:
    """Which part of an image is where in its prepared square; boxes are left, top, right, bottom.

    `crop` is in pixels of the image, whose `size` is width and height, and `place` in pixels of the square.
    """

    crop: Box
    place: Box
    size: tuple[int, int]

    def in_pixels(self, width: int, height: int) -> Box:
        """The crop in the same image at another size."""
        across, down = width / self.size[0], height / self.size[1]
        left, top, right, bottom = self.crop
        x, y = min(round(left * across), width - 1), min(round(top * down), height - 1)
        return x, y, max(round(right * across), x + 1), max(round(bottom * down), y + 1)


def placement(image: Image.Image, *, image_size: int, crop_black: bool, pixels: int) -> Placement:
    """Where `preprocess` places a grey image."""
    box: Box | None = None
    if crop_black:
        seen = image if pixels == 1 else image.point(_SEEN)
        box = seen.getbbox()
    crop = box or (0, 0, *image.size)
    wide, high = crop[2] - crop[0], crop[3] - crop[1]
    scale = image_size / max(wide, high)
    width, height = (max(1, round(side * scale)) for side in (wide, high))
    left, top = (image_size - width) // 2, (image_size - height) // 2
    return Placement(crop, (left, top, left + width, top + height), image.size)
