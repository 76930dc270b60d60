"""The built-in synthetic set: chest-like radiographs with a known label, drawn from a seed.

With it, every command runs without a download, and a test can check whether training learns anything.
Exposure, pose, noise, anatomy, leads and soft shadows vary equally in both classes; only opacities differ.
With data.phantom.classes above 2, each class but NORMAL has an opacity of a height, a texture and an extent.

Measured on the default set at VERSION 1 (train on train, score on test, black border cropped, equalised,
test majority 0.625): logistic regression on standardised pixels, C of 1 to 1e-4, has accuracy 0.60-0.64 at
32 px and 0.64-0.65 at 64 px (AUROC 0.60-0.68). torchvision's resnet18 at 64 px, AdamW 1e-3, batch 32, has
AUROC 0.83, 0.92, 0.94, 0.96, 0.94, 0.94 after epochs 1-6; its accuracy at threshold 0.5 varies from 0.65 to
0.86, because the test split is shifted. One image takes 6.5-9 ms of one busy 2.8 GHz Xeon thread.
"""

import hashlib
import json
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pneumo import UserError
from pneumo.data.settings import PhantomSettings
from pneumo.fingerprint import without_neutral

VERSION = 1  # raise it whenever a pixel or a row changes: it is part of `digest`, and so of the cache's key

NORMAL_SHARE = {"train": 2 / 7, "test": 3 / 8}  # of the patients; the real set's balance
BACTERIA_SHARE = 0.6  # of the patients with pneumonia
TRAPPED = 0.8  # share of the replaced air that moves to the rest of the lungs
MAX_IMAGES = 4  # of one patient
LEAST_PATIENTS = {"train": 10, "test": 8}  # fewer leave a subtype without a patient
LEAST_PER_CLASS = {"train": 4, "test": 3}  # patients, where there are more than two classes
NORMAL_WEIGHT = 2  # of the patients there, against 1 of each other class
PATTERN_HEIGHTS = (-0.5, -0.27, -0.04, 0.19, 0.42)  # on the canvas, from the apex down

# Mean and deviation of each image's draws. The test images come from another machine: that is the shift.
ACQUISITION = {
    "exposure": {"train": (0.0, 0.10), "test": (0.09, 0.10)},  # added attenuation
    "contrast": {"train": (1.0, 0.12), "test": (0.84, 0.12)},  # slope of the tone curve
    "blur": {"train": (0.5, 0.25), "test": (1.1, 0.3)},  # radius of the box, pixels
    "scale": {"train": (1.0, 0.05), "test": (0.95, 0.06)},
    "noise": {"train": (5.0, 1.5), "test": (8.0, 2.0)},  # deviation, grey levels of 255
}

_PATH = re.compile(
    r"(train|test)/(NORMAL|PNEUMONIA|PATTERN_\d+)/(\1\d+)_(normal|bacteria|virus|pattern\d+)_\d+\.png"
)
_CANVAS = (132, 156)  # rows, columns of the patient's canvas; the image is cut out of it and enlarged
# A column and a row, so that a term of only x or y costs almost nothing. The picture shows about [-1, 1].
_Y = np.linspace(-1.25, 1.25, _CANVAS[0], dtype=np.float32)[:, None]
_X = np.linspace(-1.25, 1.25, _CANVAS[1], dtype=np.float32)[None, :]

Field = NDArray[np.floating[Any]]


def table(settings: PhantomSettings) -> pd.DataFrame:
    """One row per image: path (virtual), label (by settings.class_names), patient, subtype, split.

    Raises UserError if the set would be too small to contain all classes and all subtypes.
    """
    _check(settings)
    rows: list[tuple[str, int, str, str, str]] = []
    for split, num_patients in (("train", settings.train_patients), ("test", settings.test_patients)):
        if settings.classes == 2:
            subtypes = _subtypes(num_patients, NORMAL_SHARE[split])
        else:
            subtypes = _patterns(num_patients, settings.classes)
        order = _rng(settings.seed, "table", split).permutation(num_patients)
        # Counts cycle through 1-4 within the sorted subtypes, so images have the same balance as patients.
        for number, which in enumerate(order):
            patient, subtype = f"{split}{number:04d}", subtypes[which]
            folder = _folder_of(subtype)
            label = settings.class_names.index(folder)
            for index in range(1 + int(which) % MAX_IMAGES):
                path = f"{split}/{folder}/{patient}_{subtype}_{index}.png"
                rows.append((path, label, patient, subtype, split))
    return pd.DataFrame(rows, columns=["path", "label", "patient", "subtype", "split"])


def render(path: str, settings: PhantomSettings) -> NDArray[np.uint8]:
    """Draw the image of a virtual path: uint8 [H, W], about 240 x 288, the same in any order or process.

    It depends only on the seed and the path. The patient in the path decides the anatomy and the disease.
    """
    match = _PATH.fullmatch(path)
    if match is None or _folder_of(match[4]) != match[2]:
        raise UserError(f"{path!r} is not a path of the phantom set; take one from phantom.table(settings).")
    split, _, patient, subtype = match.groups()
    canvas = _chest(_rng(settings.seed, patient, "anatomy"), _rng(settings.seed, patient, "disease"), subtype)
    return _acquire(canvas, split, _rng(settings.seed, path))


def _folder_of(subtype: str) -> str:
    """The class folder of a subtype."""
    if subtype == "normal":
        return "NORMAL"
    return subtype.replace("pattern", "PATTERN_") if subtype.startswith("pattern") else "PNEUMONIA"


def digest(settings: PhantomSettings) -> str:
    """Identity of the set: sha256 over the settings and the renderer's VERSION."""
    keys = without_neutral(asdict(settings), "data.phantom")
    text = json.dumps({"version": VERSION, **keys}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(settings: PhantomSettings) -> None:
    for split, of_two in LEAST_PATIENTS.items():
        least = of_two if settings.classes == 2 else settings.classes * LEAST_PER_CLASS[split]
        count = getattr(settings, f"{split}_patients")
        if count < least:
            raise UserError(f"data.phantom.{split}_patients={count} is too few: give {least} or more.")
    if settings.seed < 0:
        raise UserError(f"data.phantom.seed={settings.seed} must not be negative; 0 is the default.")


def _subtypes(num_patients: int, normal_share: float) -> list[str]:
    num_normal = round(num_patients * normal_share)
    num_bacteria = round((num_patients - num_normal) * BACTERIA_SHARE)
    num_virus = num_patients - num_normal - num_bacteria
    return ["normal"] * num_normal + ["bacteria"] * num_bacteria + ["virus"] * num_virus


def _patterns(num_patients: int, classes: int) -> list[str]:
    """The class of each patient, sorted; a remainder goes to the first classes."""
    weights = [NORMAL_WEIGHT, *[1] * (classes - 1)]
    counts = [num_patients * weight // sum(weights) for weight in weights]
    for number in range(num_patients - sum(counts)):
        counts[number % classes] += 1
    kinds = ["normal", *(f"pattern{number}" for number in range(1, classes))]
    return [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]


def _rng(seed: int, *parts: str) -> np.random.Generator:
    key = hashlib.sha256("/".join([str(seed), *parts]).encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:16], "little"))


def _edge(distance: Field, width: float) -> Field:
    """A soft step: 0 below, 1 above, over about `width`; a clipped ramp is 5 times faster than a sigmoid."""
    t = np.clip(distance / (2 * width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _oval(cx: float, cy: float, rx: float, ry: float) -> Field:
    """How far inside an ellipse a point is: 1 at the centre, 0 on the rim, negative outside."""
    return 1 - np.sqrt(((_X - cx) / rx) ** 2 + ((_Y - cy) / ry) ** 2)


def _smooth_noise(rng: np.random.Generator, rows: int, columns: int) -> Field:
    """Smooth noise over the canvas, with unit deviation at its `rows` x `columns` knots."""
    knots = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    return np.asarray(knots.resize(_CANVAS[::-1], Image.Resampling.BICUBIC))


def _chest(anatomy: np.random.Generator, disease: np.random.Generator, subtype: str) -> Field:
    """Attenuation over the canvas: air 0, lung about 0.3, soft tissue about 0.65, bone about 0.85."""
    lungs, hila = _lungs(anatomy)
    width = 0.88 + anatomy.normal(0, 0.04) + 0.25 * _edge(-0.62 - _Y, 0.12) - 0.75 * _edge(-0.95 - _Y, 0.08)
    body = _edge(width - np.abs(_X), 0.03)
    tissue = 0.62 + 0.10 * _smooth_noise(anatomy, 3, 3) - 0.12 * (_X / width) ** 2
    lung = lungs[0] + lungs[1]
    # The amount of air in each lung varies in both classes, so mean brightness says little about the class.
    depth = 0.36 * np.exp(0.18 * anatomy.standard_normal() + 0.20 * _smooth_noise(anatomy, 4, 5))
    opacity = _opacity(disease, subtype, hila)
    # Ill lungs trap air elsewhere. This keeps their mean, so that the pattern is the sign and not the sum.
    share = float((opacity * lung).sum() / lung.sum())
    air = lung * depth * (1 - opacity) / (1 - TRAPPED * share)
    chest = tissue - air + _vessels(anatomy, hila) * lung + _bones(anatomy, lung) + _soft_shadows(anatomy)
    return (chest * body).astype(np.float32)


def _lungs(rng: np.random.Generator) -> tuple[list[Field], list[tuple[float, float]]]:
    """The two lung fields (masks in 0..1, without heart and mediastinum) and the two hila (x, y)."""
    lungs, hila = [], []
    heart = _oval(0.14 + rng.normal(0, 0.03), 0.32, rng.uniform(0.27, 0.36), rng.uniform(0.30, 0.38))
    middle = rng.uniform(0.11, 0.17) + 0.07 * _edge(-0.45 - _Y, 0.15)
    shadow = np.maximum(_edge(heart, 0.10), _edge(middle - np.abs(_X), 0.03))
    for side in (-1, 1):
        cx, cy = side * rng.uniform(0.38, 0.43), rng.uniform(-0.02, 0.05)
        rx, ry = rng.uniform(0.33, 0.38), rng.uniform(0.72, 0.80)
        taper = 0.72 + 0.28 * _edge(_Y + 0.35, 0.35)  # narrower at the apex
        outline = 1 - ((np.abs(_X - cx) / (rx * taper)) ** 2.4 + (np.abs(_Y - cy) / ry) ** 2.4)
        dome = rng.uniform(0.48, 0.58) + (0.05 if side > 0 else 0.0) + 0.9 * (_X - 0.9 * cx) ** 2
        lungs.append(_edge(outline, 0.13) * _edge(dome - _Y, 0.025) * (1 - shadow))
        hila.append((side * rng.uniform(0.18, 0.23), rng.uniform(-0.05, 0.05)))
    return lungs, hila


def _vessels(rng: np.random.Generator, hila: list[tuple[float, float]]) -> Field:
    """Streaks that fan out from each hilum and fade. Their noise is fine in angle and coarse in radius."""
    out = np.zeros(_CANVAS, np.float32)
    glow, reach = rng.uniform(0.04, 0.26), rng.uniform(0.09, 0.18)
    for side, (x, y) in zip((-1, 1), hila, strict=True):
        dx, dy = (_X - x) * side, _Y - y
        radius, noise = np.sqrt(dx**2 + dy**2), _smooth_noise(rng, 30, 7)
        angle = np.arctan2(dy, np.abs(dx)) / np.pi + 0.5 + rng.normal(0, 0.25) * radius
        row = np.clip(angle * (_CANVAS[0] - 1), 0, _CANVAS[0] - 1)
        column = np.clip(radius * 120, 0, _CANVAS[1] - 1)
        streaks = noise[row.astype(np.intp), column.astype(np.intp)] * np.clip(0.8 - radius, 0, None)
        out += (0.09 * streaks + glow * np.exp(-((radius / reach) ** 2))) * (_X * side > 0)
    return out


def _bones(rng: np.random.Generator, lung: Field) -> Field:
    """Posterior ribs (down and outwards), fainter anterior ones, the spine and the clavicles."""
    side, pitch, phase = np.abs(_X), rng.uniform(0.165, 0.20), rng.uniform(0, 1)
    cage = _edge(0.80 - side, 0.03) * _edge(_Y + 0.85, 0.06) * _edge(0.75 - _Y, 0.1)
    back = _Y - rng.uniform(0.25, 0.45) * side + 0.21 * (1 - side) ** 2
    front = _Y + rng.uniform(0.5, 0.8) * side**1.5
    ribs = 0.075 * _edge(np.cos(2 * np.pi * (back / pitch + phase)) - 0.15, 0.35)
    ribs += 0.035 * _edge(np.cos(2 * np.pi * (front / (1.2 * pitch) + phase)) - 0.35, 0.4)
    spine = _edge(0.085 - side, 0.02) * (0.10 + 0.04 * np.cos(2 * np.pi * _Y / (0.8 * pitch)))
    windpipe = 0.16 * _edge(0.045 - side, 0.02) * _edge(-0.25 - _Y, 0.08)
    tilt, height = rng.uniform(0.05, 0.30), rng.uniform(-0.70, -0.62)
    collar = _edge(0.028 - np.abs(_Y - height + tilt * side), 0.015) * _edge(side - 0.10, 0.03)
    return ribs * cage * (0.45 + 0.55 * lung) + spine - windpipe + 0.13 * collar * _edge(0.75 - side, 0.05)


def _soft_shadows(rng: np.random.Generator) -> Field:
    """Benign shadows in both classes: breast or skin folds, the shoulder blades, a smooth haze."""
    out = np.zeros(_CANVAS, np.float32)
    breast = rng.uniform(0, 0.13) * (rng.random() < 0.6)
    for side in (-1, 1):
        fold = _oval(side * 0.52, rng.uniform(0.30, 0.45), rng.uniform(0.30, 0.40), rng.uniform(0.30, 0.42))
        blade = _oval(side * rng.uniform(0.72, 0.85), -0.45, 0.22, 0.40)
        haze = _oval(side * rng.uniform(0.2, 0.6), rng.uniform(-0.6, 0.5), 0.6, 0.6)
        out += breast * _edge(fold, 0.12) + rng.uniform(0, 0.07) * _edge(blade, 0.06)
        out += rng.uniform(0, 0.24) * np.clip(haze, 0, 1)
    return out


def _opacity(rng: np.random.Generator, subtype: str, hila: list[tuple[float, float]]) -> Field:
    """Share of the air that fluid replaces, 0..1 over the canvas."""
    if subtype == "bacteria":
        return _consolidation(rng)
    if subtype == "virus":
        return _interstitial(rng, hila)
    if subtype.startswith("pattern"):
        return _pattern(rng, int(subtype.removeprefix("pattern")) - 1)
    return np.zeros(_CANVAS, np.float32)


def _consolidation(rng: np.random.Generator) -> Field:
    """One lobe, sometimes two: a patch with ragged edges and a dense middle."""
    out = np.zeros(_CANVAS, np.float32)
    for _ in range(1 + (rng.random() < 0.25)):
        side = rng.choice((-1, 1))
        oval = _oval(
            side * rng.uniform(0.30, 0.55), rng.uniform(-0.45, 0.45), *rng.uniform(0.17, 0.27, size=2)
        )
        patch = _edge(oval + 0.22 * _smooth_noise(rng, 22, 26), 0.28)
        out = np.maximum(out, patch * rng.uniform(0.55, 0.90))
    return out


def _interstitial(rng: np.random.Generator, hila: list[tuple[float, float]]) -> Field:
    """Both lungs, densest about the hila: many small patches and a net of fine lines."""
    near = sum(np.exp(-(((_X - x) / 0.40) ** 2) - ((_Y - y) / 0.55) ** 2) for x, y in hila)
    patches = _edge(_smooth_noise(rng, 22, 26) - 0.35, 0.5)
    net = _edge(0.25 - np.abs(_smooth_noise(rng, 26, 30)), 0.25)
    return np.clip(rng.uniform(0.55, 0.85) * (0.5 + 0.5 * near) * (0.75 * patches + 0.35 * net), 0, 0.9)


def _pattern(rng: np.random.Generator, number: int) -> Field:
    """A patch at one of five heights, dense or a net of lines, in one lung or both; `number` is 0 to 19."""
    height = PATTERN_HEIGHTS[number % 5]
    both, net = number // 5 % 2 == 1, number // 10 == 1
    out = np.zeros(_CANVAS, np.float32)
    first = int(rng.choice((-1, 1)))
    for side in (first, -first) if both else (first,):
        oval = _oval(
            side * rng.uniform(0.34, 0.44), height + rng.normal(0, 0.02), *rng.uniform(0.2, 0.26, size=2)
        )
        patch = _edge(oval + 0.12 * _smooth_noise(rng, 22, 26), 0.2)
        if net:
            patch = patch * _edge(0.3 - np.abs(_smooth_noise(rng, 26, 30)), 0.2)
        out = np.maximum(out, patch * rng.uniform(0.75, 0.95))
    return out


def _acquire(canvas: Field, split: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One exposure of the patient: tone, pose, leads and marker, blur, noise, perhaps a black border."""
    draw = {key: float(rng.normal(*spread[split])) for key, spread in ACQUISITION.items()}
    height, width = int(rng.integers(220, 261)), int(rng.integers(264, 313))
    tone = 1 / (1 + np.exp(-4.6 * draw["contrast"] * (canvas - 0.47 + draw["exposure"])))
    picture = Image.fromarray((255 * _posed(tone, height, width, draw["scale"], rng)).astype(np.uint8))
    _overlay(picture, rng)
    blurred = picture.filter(ImageFilter.BoxBlur(max(draw["blur"], 0.0)))
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(max(draw["noise"], 1.0))
    pixels = np.clip(np.asarray(blurred) + grain, 0, 255).astype(np.uint8)
    return _bordered(pixels, rng)


def _posed(canvas: Field, height: int, width: int, scale: float, rng: np.random.Generator) -> Field:
    """Cut [height, width] out of the canvas, turned by about 4 degrees, scaled and shifted."""
    angle, (dx, dy), stretch = rng.normal(0, 0.07), rng.normal(0, 0.05, size=2), rng.normal(1, 0.03)
    rows, columns = _CANVAS
    sx, sy = columns / 1.25 / width / scale, rows / 1.25 / height / scale * stretch
    a, b, d, e = sx * np.cos(angle), -sy * np.sin(angle), sx * np.sin(angle), sy * np.cos(angle)
    c = columns * (0.5 + dx / 2.5) - a * width / 2 - b * height / 2
    f = rows * (0.5 + dy / 2.5) - d * width / 2 - e * height / 2
    posed = Image.fromarray(canvas).transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    return np.asarray(posed)


def _overlay(picture: Image.Image, rng: np.random.Generator) -> None:
    """Draw, in place, objects on the patient in both classes: ECG leads, a tube, a side marker."""
    pen, (width, height) = ImageDraw.Draw(picture), picture.size
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.5 else 0):
        x, y = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
        end = (x + rng.normal(0, 40), height if rng.random() < 0.5 else 0)
        knee = ((x + end[0]) / 2 + rng.normal(0, 20), (y + end[1]) / 2)
        pen.line([(x, y), knee, end], fill=int(rng.integers(170, 235)), width=1)
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=int(rng.integers(190, 245)))
    if rng.random() < 0.5:
        x, y = float(rng.choice((0.06, 0.9))) * width, rng.uniform(0.05, 0.15) * height
        pen.line([(x, y), (x, y + 14), (x + 8, y + 14)], fill=245, width=3)


def _bordered(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """In a third of the images, blacken up to a tenth on each side, like the frame of a digitiser."""
    if rng.random() < 1 / 3:
        height, width = pixels.shape
        top, left, bottom, right = (rng.uniform(0, 0.1, size=4) * (height, width, height, width)).astype(int)
        pixels[:top], pixels[height - bottom :] = 0, 0
        pixels[:, :left], pixels[:, width - right :] = 0, 0
    return pixels
