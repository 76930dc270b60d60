"""Generated images and data sets, and PNG files written by hand."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(label: int, seed: int, height: int = 48, width: int = 60) -> np.ndarray:
    """A grey image whose class shows in its grain: level stripes for NORMAL, upright ones for PNEUMONIA."""
    rng = np.random.default_rng(seed)
    period, phase = rng.uniform(6, 9), rng.uniform(0, 6)
    place = np.arange(width)[None, :] if label else np.arange(height)[:, None]
    stripes = 60 * np.sin(2 * np.pi * (place + phase) / period)
    return np.clip(128 + stripes + rng.normal(0, 20, (height, width)), 1, 255).astype(np.uint8)


def textured(seed: int, side: int = 160) -> np.ndarray:
    """A picture with structure of all sizes, uint8 [side, side]."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side))
    for cells in (4, 8, 16, 32, 64):
        noise = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        picture += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) / cells**0.5
    low, high = np.quantile(picture, (0.01, 0.99))
    return ((picture - low) / (high - low) * 235 + 20).clip(20, 255).astype(np.uint8)


def save(image: np.ndarray | Image.Image, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, format="PNG" if file.suffix == ".png" else "JPEG")
    return file


def make_kaggle(root: Path, patients: int = 10, images: int = 2, test_patients: int = 4) -> Path:
    """A generated, learnable set in the Kaggle layout: `patients` of each class in train, `images` each."""
    seed = 0
    for split, count in (("train", patients), ("val", 1), ("test", test_patients)):
        offset = {"train": 0, "val": 500, "test": 700}[split]
        for number in range(offset + 1, offset + count + 1):
            for k in range(images):
                seed += 1
                name = f"NORMAL/IM-{number:04d}-{k + 1:04d}.jpeg"
                save(picture(0, seed), root / split / name)
                subtype = ("bacteria", "virus")[number % 2]
                name = f"PNEUMONIA/person{number}_{subtype}_{1000 + k}.jpeg"
                save(picture(1, seed + 100_000), root / split / name)
    return root


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand, so that Pillow's writer does not choose for us."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(tags: dict[int, tuple[int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF written by hand: tag -> (type, count, value or place), then `body`.

    The directory is at byte 8, so `body` begins at 14 + 12 * len(tags).
    """
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + body


def grey_tiff(pixels: np.ndarray, photometric: int = 1, **changes: tuple[int, int, int]) -> bytes:
    """An uncompressed grey TIFF of 8 or 16 bits; `changes` by the tag's number, as t322=(4, 1, 16)."""
    height, width = pixels.shape
    content = pixels.astype(f"<u{pixels.itemsize}").tobytes()
    tags = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8 * pixels.itemsize), 259: (3, 1, 1),
        262: (3, 1, photometric), 273: (4, 1, 0), 277: (3, 1, 1), 278: (4, 1, height),
        279: (4, 1, len(content)),
    }  # fmt: skip
    tags |= {int(name[1:]): change for name, change in changes.items()}
    tags[273] = (4, 1, 14 + 12 * len(tags))
    return tiff(tags, content)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GREY = Image.fromarray(picture(1, seed=3))
