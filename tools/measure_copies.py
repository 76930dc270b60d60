"""How well near-copies are found: planted copies, and false alarms among images that are not copies.

    python tools/measure_copies.py SHARED [--copies 200]

SHARED/data holds chest_xray (the public set), nih_adult and native (originals). For each of them, random
images are saved again: cropped by 2 to 5 % (of a side in all, or at each edge), resized to 50 to 150 %, JPEG
quality 30 to 95. Printed: the share that is found as a certain or an uncertain copy among all images of the
set. Then the false alarms: pairs across the splits and labels of the public set, and all pairs of nih_adult.
Copies with the same bytes do not count.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pneumo.data import copies
from pneumo.data.images import preprocess, read_image

Crop = Callable[[np.random.Generator], tuple[float, float, float, float]]  # left, top, right, bottom
PIXELS = 2


def _in_all(rng: np.random.Generator) -> tuple[float, float, float, float]:
    (across, down), (left, top) = rng.uniform(0.02, 0.05, 2), rng.random(2)
    return across * left, down * top, across * (1 - left), down * (1 - top)


def _each_edge(rng: np.random.Generator) -> tuple[float, float, float, float]:
    left, top, right, bottom = rng.uniform(0.02, 0.05, 4)
    return left, top, right, bottom


CROPS: dict[str, Crop] = {
    "none": lambda rng: (0, 0, 0, 0),
    "2-5 % of a side": _in_all,
    "2-5 % at each edge": _each_edge,
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The shares of planted copies that are found as certain, and as certain or uncertain."""

    certain: float
    any: float


def saved_again(image: Image.Image, rng: np.random.Generator, crop: Crop) -> Image.Image:
    """`image` cropped, resized to 50 to 150 % and saved as JPEG of quality 30 to 95."""
    left, top, right, bottom = crop(rng)
    width, height = image.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    image = image.crop(tuple(round(side) for side in box))  # type: ignore[arg-type]
    scale = rng.uniform(0.5, 1.5)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=int(rng.integers(30, 96)))
    return Image.open(buffer).convert("L")


def planted(files: Sequence[Path], squares: np.ndarray, count: int, crop: Crop, seed: int = 0) -> Found:
    """Copies of `count` of the `files` are looked for among all of them, prepared as `squares` [N, S, S]."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(files), count, replace=count > len(files))
    again = [saved_again(read_image(files[place], pixels=PIXELS), rng, crop) for place in chosen]
    prepared = np.stack([preprocess(image, pixels=PIXELS) for image in again])
    both = np.concatenate([prepared, squares])
    groups = np.repeat([0, 1], [count, len(squares)])
    best = dict.fromkeys(range(count), 0.0)
    for first, second, correlation in copies.find(both, np.arange(len(both)), groups):
        if second == count + chosen[first]:
            best[first] = max(best[first], correlation)
    scores = np.array(list(best.values()))
    return Found(
        certain=float((scores >= copies.CERTAIN).mean()), any=float((scores >= copies.UNCERTAIN).mean())
    )


def prepared(files: Sequence[Path]) -> np.ndarray:
    return np.stack([preprocess(read_image(file, pixels=PIXELS), pixels=PIXELS) for file in files])


def contents(files: Sequence[Path]) -> np.ndarray:
    """A row for each file, the first one with the same bytes: such copies are found by hashing."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(file.read_bytes(), row) for row, file in enumerate(files)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--copies", type=int, default=200)
    args = parser.parse_args()
    data = args.shared / "data"
    sets = {
        "chest_xray": sorted((data / "chest_xray").rglob("*.jpeg")),
        "nih_adult": sorted((data / "nih_adult" / "images").iterdir()),
        "native": sorted((data / "native").rglob("*.jpeg")),
    }
    squares = {name: prepared(files) for name, files in sets.items()}
    for name, files in sets.items():
        for words, crop in CROPS.items():
            found = planted(files, squares[name], args.copies, crop)
            print(
                f"{name}, crop {words}: {found.certain:.1%} certain, {found.any:.1%} with the uncertain ones",
                flush=True,
            )
    for name, files in sets.items():
        if name == "native":  # its images are in chest_xray, squashed
            continue
        if name == "chest_xray":
            parts = [(file.parts[-3] == "test") * 2 + (file.parts[-2] == "NORMAL") for file in files]
            sizes = np.bincount(parts)
            groups = np.argsort(np.argsort(sizes))[parts]
        else:
            groups = np.arange(len(files))
        started = time.process_time()
        pairs = copies.find(squares[name], contents(files), groups)
        print(f"{name}: {len(pairs)} pairs of {len(files)} images, {time.process_time() - started:.0f} s")
        for first, second, correlation in pairs:
            print(f"  {files[first].name} {files[second].name} {correlation:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
