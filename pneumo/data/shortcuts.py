"""What a model could learn instead of the disease: the label predicted from how the files were made.

A forest predicts the label from size, aspect ratio, file type, JPEG quality, border and mean level alone,
each image from other patients. If that works, a network can use the same shortcut, and a test set from the
same source rewards it.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from sklearn.ensemble import RandomForestClassifier
from tqdm import tqdm

from pneumo.data import images
from pneumo.data.limits import BadImage
from pneumo.data.manifest import Manifest
from pneumo.data.suspect_labels import patient_folds, patient_groups
from pneumo.data.workers import worker_count

TREES = 200
# The luminance table of the JPEG standard (annex K), which libjpeg scales by the quality. In zigzag order the
# sum is the same.
_STANDARD_SUM, _STANDARD_FIRST = 3688, 16

# What a column of the facts is called in the report, and its columns.
PARTS: Mapping[str, tuple[str, ...]] = {
    "size": ("width", "height"),
    "aspect ratio": ("aspect",),
    "file type": ("type", "colour"),
    "JPEG quality": ("quality",),
    "border": ("left", "right", "top", "bottom"),
    "mean level": ("level",),
}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How well one part, or all of them, predicts the label: out-of-fold probabilities [N] of class 1."""

    name: str
    chances: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """The probes, `all` first; the label and the patient of each image that could be read."""

    probes: list[Probe]
    labels: NDArray[np.int64]
    patients: list[str | None]
    facts: pd.DataFrame


def find(manifest: Manifest, pixels: int, workers: int | None = None) -> Shortcuts:
    """Read every file and probe each part and all together. UserError if there are too few patients."""
    table = manifest.table
    paths = [str(manifest.root / manifest.file_of(path)) for path in table["path"]]

    def read(path: str) -> dict[str, float | str] | None:
        try:
            return facts_of(path, pixels)
        except BadImage:
            return None  # `pneumo data check` lists it

    with ThreadPoolExecutor(worker_count(workers)) as pool:
        rows = list(tqdm(pool.map(read, paths), "Read files", len(paths), disable=None, leave=False))
    good = [row is not None for row in rows]
    kept = table[good].reset_index(drop=True)
    facts = pd.DataFrame([row for row in rows if row is not None])
    labels = kept["label"].to_numpy(dtype=np.int64)
    groups = patient_groups(kept)
    names = {"all": tuple(facts.columns), **PARTS}
    return Shortcuts(
        probes=[Probe(name=name, chances=_chances(facts, names[name], labels, groups)) for name in names],
        labels=labels,
        patients=[None if patient != patient else patient for patient in kept["patient"].tolist()],
        facts=facts,
    )


def facts_of(path: str | Path, pixels: int) -> dict[str, float | str]:
    """How a file was made: size, aspect ratio, type, colour, JPEG quality, border and mean level."""
    grey = images.read(path, pixels=pixels)  # checks the file first
    kind = images.format_of(path) or ""
    colour, quality = "grey", 0.0
    if kind != "DICOM":
        with open(path, "rb") as file, Image.open(file, formats=(kind,)) as image:  # noqa: PTH123
            colour, quality = image.mode, jpeg_quality(getattr(image, "quantization", None))
    height, width = grey.shape
    seen_rows, seen_columns = (np.flatnonzero((grey > images.NEARLY_BLACK).any(axis)) for axis in (1, 0))
    ends = [(seen[0], seen[-1]) if len(seen) else (0, -1) for seen in (seen_rows, seen_columns)]
    (top, bottom), (left, right) = ends
    return {
        "width": width,
        "height": height,
        "aspect": width / height,
        "type": kind,
        "colour": colour,
        "quality": quality,
        "left": left / width,
        "right": (width - 1 - right) / width,
        "top": top / height,
        "bottom": (height - 1 - bottom) / height,
        "level": float(grey.mean()),
    }


def jpeg_quality(tables: Mapping[int, list[int]] | None) -> float:
    """The quality setting, 1 to 100, with which libjpeg writes the first of these tables; 0 without one."""
    if not tables:
        return 0.0
    first = tables[min(tables)]
    # A value is at most 255, so the sum says too little about the lowest qualities.
    scale = 100 * (sum(first) / _STANDARD_SUM if max(first) < 255 else first[0] / _STANDARD_FIRST)
    return float(np.clip(round((200 - scale) / 2 if scale <= 100 else 5000 / scale), 1, 100))


def _chances(
    facts: pd.DataFrame, columns: tuple[str, ...], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The out-of-fold probability of class 1 from some columns; all 0.5 where these are constant.

    A single number predicts by itself: its rank, up or down as in the other folds. Several go to a forest.
    """
    folds = patient_folds(labels, groups)
    features = pd.get_dummies(facts[list(columns)], dtype=float).to_numpy(dtype=np.float64)
    ranks = rankdata(features[:, 0]) / (len(labels) + 1)
    if not (features != features[0]).any():
        return np.full(len(labels), 0.5)
    chances = np.zeros(len(labels))
    for train, test in folds:
        if features.shape[1] == 1:
            means = [ranks[train][labels[train] == label].mean() for label in (0, 1)]
            chances[test] = ranks[test] if means[1] >= means[0] else 1 - ranks[test]
            continue
        forest = RandomForestClassifier(TREES, min_samples_leaf=5, random_state=0, class_weight="balanced")
        forest.fit(features[train], labels[train])
        chances[test] = forest.predict_proba(features[test])[:, 1]
    return chances
