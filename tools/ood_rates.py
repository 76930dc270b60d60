"""How often images of each kind get an out-of-distribution warning, as a Markdown table.

    python tools/ood_rates.py ROOT [NATIVE]

ROOT is the public set in the Kaggle layout, NATIVE a folder of originals. As in a run, the reference is
fitted on the training images and its limits on the validation images. The test images are only counted.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import odd_files

from pneumo.data import cache, images, manifest
from pneumo.data.patients import parse_name
from pneumo.data.settings import DataSettings
from pneumo.inference.ood import OodDetector, fit, fit_split

SIZE = 64
FOLDS = 5
CAUSES = {"unlike": "unlike", "seems": "pose", "width": "shape", "colour": "colour", "blank": "blank"}
POSED = ("rotated 90 degrees", "rotated 270 degrees", "upside down", "inverted", "mirrored")


def square(picture: Image.Image) -> np.ndarray:
    return images.preprocess(np.asarray(picture.convert("L")), image_size=SIZE)


def print_row(name: str, warn: Callable[[], Iterable[list[str]]]) -> None:
    """Print a row of the table. `warn` returns the warnings of each image."""
    causes_of = [{CAUSES[warning.split()[0].rstrip(":")] for warning in warnings} for warnings in warn()]
    counts = Counter(cause for causes in causes_of for cause in causes)
    shares = " | ".join(f"{counts[cause] / len(causes_of):.1%}" for cause in CAUSES.values())
    print(f"| {name} | {len(causes_of)} | {sum(map(bool, causes_of)) / len(causes_of):.1%} | {shares} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("native", nargs="?")
    args = parser.parse_args()
    settings = DataSettings(
        name="chest_xray", root=args.root, image_size=SIZE, cache_dir=os.environ.get("PNEUMO_CACHE")
    )
    data = cache.prepare(manifest.build(settings), settings)
    splits = data.manifest.table["split"].to_numpy()
    detector = OodDetector(fit_split(data.images, data.rows, splits))
    test = data.manifest.table.loc[splits == "test", "path"].tolist()
    opened = [Image.fromarray(images.read(data.manifest.root / path)) for path in test]
    print("| images | number | warned | " + " | ".join(CAUSES.values()) + " |")
    print("|---|" + "---:|" * (2 + len(CAUSES)))
    for split in ("val", "test"):
        rows = data.rows[splits == split]
        print_row(f"X-rays, {split}", lambda rows=rows: [detector.warnings(data.images[row]) for row in rows])  # type: ignore[misc]
    rng = np.random.default_rng(0)
    for kind in POSED:
        turned = [odd_files.strange(kind, picture, rng) for picture in opened]
        print_row(f"X-rays, test, {kind}", partial(warned, detector, turned))
    originals = sorted(Path(args.native).rglob("*.jpeg")) if args.native else []
    if originals:
        print_row(
            "originals, not squashed as this copy of the set", partial(warned_files, detector, originals)
        )
        print_row("originals, a reference of originals (other patients)", partial(folded, originals))
    print_row("phantom (synthetic)", partial(warned, detector, odd_files.phantoms(150)))
    for kind in ("colour photo", "CT-like slice", "lateral-like view", "noise", "blank", "checkerboard"):
        drawn = [odd_files.strange(kind, opened[0], rng) for _ in range(50)]
        print_row(f"{kind} (synthetic)", partial(warned, detector, drawn))


def warned(detector: OodDetector, pictures: list[Image.Image]) -> list[list[str]]:
    return [detector.warnings(square(picture), images._colour_share(picture)) for picture in pictures]


def warned_files(detector: OodDetector, files: list[Path]) -> list[list[str]]:
    both = [images.read_with_colour(file) for file in files]
    return [detector.warnings(images.preprocess(grey, image_size=SIZE), colour) for grey, colour in both]


def folded(files: list[Path]) -> list[list[str]]:
    """Warnings for each file, with a reference of other patients' files; a quarter of those set limits."""
    patients = sorted({(parse_name(file.name) or ("",))[0] for file in files})
    place = {patient: number % FOLDS for number, patient in enumerate(patients)}
    folds = [place[(parse_name(file.name) or ("",))[0]] for file in files]
    squares = [images.preprocess(images.read(file), image_size=SIZE) for file in files]
    warnings = []
    for fold in range(FOLDS):
        limits = (fold + 1) % FOLDS
        train = [image for image, where in zip(squares, folds, strict=True) if where not in (fold, limits)]
        val = [image for image, where in zip(squares, folds, strict=True) if where == limits]
        detector = OodDetector(fit(train, val))
        warnings += [
            detector.warnings(image) for image, where in zip(squares, folds, strict=True) if where == fold
        ]
    return warnings


if __name__ == "__main__":
    main()
