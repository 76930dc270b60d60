"""How often a model withholds its decision, and what that changes, as Markdown tables.

    python tools/abstain_rates.py MODEL ROOT [--nih FOLDER] [--native FOLDER]

MODEL is a trained model's folder, ROOT the public set in the Kaggle layout, NATIVE a folder of originals, and
NIH has images/ and labels.csv of NIH ChestX-ray14. Pictures without a chest are those that scikit-image,
scikit-learn, matplotlib and pydicom ship, of those that are installed. All are read as grey, so that the
check for colour finds none of them. Broken X-rays are test images that we damaged.
"""

import argparse
import csv
import importlib.util
import io
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import odd_files

from pneumo.data import images
from pneumo.data.limits import BadImage
from pneumo.inference import model_folder
from pneumo.inference.predictor import Predictor

BATCH = 64
DAMAGED = 200  # test images that are damaged
SHIPPED = {
    "scikit-image": ("skimage", "data"),
    "scikit-learn": ("sklearn", "datasets/images"),
    "matplotlib": ("matplotlib", "mpl-data/sample_data"),
}


class Answers:
    """What the two checks and the model say about the images of one set."""

    def __init__(self, predictor: Predictor, squares: Sequence[np.ndarray]) -> None:
        old, new, rows, raws = [], [], [], []
        assert predictor.detector and predictor.neighbours and predictor.penultimate
        for start in range(0, len(squares), BATCH):
            part = np.stack(squares[start : start + BATCH])
            raw = predictor.bundle.probabilities(part, predictor.network)
            new += [bool(one) for one in predictor.neighbours.reasons(predictor.penultimate.last())]
            old += [bool(predictor.detector.doubts(square).reasons) for square in part]
            rows += [predictor._of_two(one) for one in raw]
            raws += raw.tolist()
        self.old, self.new = np.array(old), np.array(new)
        self.withheld = self.old | self.new
        self.called = np.array([row.decision == predictor.bundle.class_names[1] for row in rows])
        self.sets = [row.prediction_set or [] for row in rows]

    def row(self, name: str) -> None:
        """Print the rates of the set."""
        shares = (self.old.mean(), self.new.mean(), self.withheld.mean(), self.called.mean())
        cells = " | ".join(f"{share:.1%}" for share in (*shares, (self.called & ~self.withheld).mean()))
        print(f"| {name} | {len(self.old)} | {cells} |", flush=True)

    def scores(self, name: str, labels: np.ndarray, names: Sequence[str]) -> None:
        """Print sensitivity and specificity of all images, and of those that get a decision."""
        for word, kept in (("all", np.ones(len(labels), dtype=bool)), ("with a decision", ~self.withheld)):
            ill, well = kept & (labels == 1), kept & (labels == 0)
            inside = np.array([names[k] in one for one, k in zip(self.sets, labels, strict=True)])
            cells = [f"{share:.1%}" for share in (self.called[ill].mean(), 1 - self.called[well].mean())]
            cells += [f"{share:.1%}" for share in (inside[ill].mean(), inside[well].mean())]
            both = np.array([len(one) > 1 for one in self.sets])[kept].mean()
            print(f"| {name}, {word} | {kept.sum()} | {' | '.join(cells)} | {both:.1%} |", flush=True)


def squares_of(predictor: Predictor, pictures: Iterable[Image.Image]) -> list[np.ndarray]:
    preprocess = predictor.bundle.preprocess
    return [images.preprocess(np.asarray(picture.convert("L")), **preprocess) for picture in pictures]


def shipped(package: str, folder: str) -> list[Image.Image]:
    """The pictures that an installed package has in `folder`."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return []
    pictures = []
    for file in sorted((Path(found.origin).parent / folder).iterdir()):
        if file.suffix.lower() in (".png", ".jpg", ".jpeg"):
            try:
                pictures.append(images.read_image(file, pixels=2))
            except BadImage:
                continue
    return pictures


def shipped_dicom() -> list[Image.Image]:
    """The images of pydicom's test files, none of which is a chest X-ray: CT, MR, dose, scans, colour."""
    import pydicom

    pictures = []
    warnings.simplefilter("ignore")
    for file in sorted((Path(pydicom.__file__).parent / "data/test_files").glob("*.dcm")):
        try:
            values = pydicom.dcmread(file, force=True).pixel_array.astype(float)
        except Exception:  # many of them are broken on purpose, or have no pixels
            continue
        while values.ndim > 2 and values.shape[-1] != 3:
            values = values[0]
        values = values.mean(-1) if values.ndim == 3 else values
        if min(values.shape) >= 32 and np.ptp(values) > 0:
            grey = (values - values.min()) / np.ptp(values) * 255
            pictures.append(Image.fromarray(grey.astype(np.uint8)))
    return pictures


def damaged(kind: str, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    grey = np.asarray(picture).copy()
    if kind == "lower half lost":
        grey[len(grey) // 2 :] = 128
    elif kind == "every second row lost":
        grey[::2] = 0
    elif kind == "saturated":
        grey = np.where(grey > np.median(grey), 255, 0).astype(np.uint8)
    else:  # bytes of the JPEG changed, as far as it still decodes
        content = bytearray(odd_files.encoded(picture, "JPEG", quality=90))
        for place in rng.integers(len(content) // 2, len(content) - 2, 5):
            content[place] = rng.integers(0, 255)
        try:
            with Image.open(io.BytesIO(bytes(content))) as opened:
                return opened.convert("L")
        except OSError:
            return picture
    return Image.fromarray(grey)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("root", type=Path)
    parser.add_argument("--nih", type=Path)
    parser.add_argument("--native", type=Path)
    args = parser.parse_args()
    predictor = Predictor(model_folder.read(args.model))
    names = predictor.bundle.class_names
    print("| images | number | old check | features | withheld | PNEUMONIA | PNEUMONIA and not withheld |")
    print("|---|" + "---:|" * 6)
    tested = sorted((args.root / "test").rglob("*.jpeg"))
    sets: dict[str, tuple[Answers, np.ndarray]] = {}

    def known(name: str, files: Sequence[Path], labels: Sequence[int]) -> None:
        answers = Answers(predictor, [predictor.prepare(file).square for file in files])
        answers.row(name)
        sets[name] = answers, np.array(labels)

    known("test images", tested, [int(file.parent.name == names[1]) for file in tested])
    if args.nih:
        with (args.nih / "labels.csv").open() as opened:
            rows = list(csv.DictReader(opened))
        files = [args.nih / "images" / row["Image Index"] for row in rows]
        known("NIH, adults", files, [int("Pneumonia" in row["Finding Labels"]) for row in rows])
    if args.native:
        files = sorted(args.native.rglob("*.jpeg"))
        known("originals", files, [int(file.parent.name == names[1]) for file in files])
    for package, (module, folder) in SHIPPED.items():
        if pictures := shipped(module, folder):
            Answers(predictor, squares_of(predictor, pictures)).row(f"pictures of {package}")
    Answers(predictor, squares_of(predictor, shipped_dicom())).row("DICOM files of pydicom")
    rng = np.random.default_rng(0)
    opened_tests = [images.read_image(file, pixels=2) for file in tested[:: len(tested) // DAMAGED]]
    for kind in ("lower half lost", "every second row lost", "saturated", "bytes of the JPEG changed"):
        pictures = [damaged(kind, picture, rng) for picture in opened_tests]
        Answers(predictor, squares_of(predictor, pictures)).row(f"test images, {kind}")
    for kind in ("upside down", "inverted", "cut to a corner", "two side by side"):
        pictures = [odd_files.strange(kind, picture, rng) for picture in opened_tests]
        Answers(predictor, squares_of(predictor, pictures)).row(f"test images, {kind}")
    print("\n| images | number | sensitivity | specificity | in set, ill | in set, normal | sets of both |")
    print("|---|" + "---:|" * 6)
    for name, (answers, labels) in sets.items():
        answers.scores(name, labels, names)


if __name__ == "__main__":
    main()
