"""How another set differs from the model's own test images, as the network and as simple figures see it.

The classifier two-sample test (Lopez-Paz and Oquab 2017): a logistic regression learns to tell the two sets
apart by the network's features. Its AUROC on images of other patients is .5 if the sets look alike to the
network, and 1 if it can tell every image's origin.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumo.data.cache import ImageCache
from pneumo.evaluation import metrics, statistics
from pneumo.inference import neighbours
from pneumo.inference.bundle import Bundle
from pneumo.patient_ids import one_spelling

MAX_IMAGES = 1000  # of each set
FOLDS = 5

Floats = NDArray[np.float64]


class TwoSampleTest(TypedDict):
    """AUROC of a classifier that tells the sets apart, with its 95 % interval over patients."""

    auroc: float
    low: float
    high: float
    internal: int  # images
    external: int


class PixelFigures(TypedDict):
    """Means over a set's prepared images: grey level and contrast 0 to 255, width to height."""

    images: int
    level: float
    contrast: float
    aspect: float


def features_of(bundle: Bundle, data: ImageCache, rows: NDArray[np.int64], device: str) -> Floats | None:
    """The features of prepared images, along the main directions of the training images."""
    reference = (bundle.ood_reference or {}).get("features")
    if not reference:
        return None
    network = bundle.network(device)
    found = neighbours.features(
        network,
        (data.images[row] for row in rows),
        bundle.model["in_channels"],
        lambda: bundle.autocast(next(network.parameters()).device),
    )
    return None if found is None else neighbours.NeighbourDetector(reference).along(found)


def two_sample(
    internal: Floats,
    external: Floats,
    internal_patients: Sequence[str | None],
    external_patients: Sequence[str | None],
    seed: int = 0,
) -> TwoSampleTest:
    """How well the features [N, D] and [M, D] of two sets can be told apart."""
    values = np.concatenate([internal, external])
    origin = np.repeat([0, 1], [len(internal), len(external)])
    people = [
        f"{place} {name or f'row {row}'}"
        for place, names in enumerate((internal_patients, external_patients))
        for row, name in enumerate(one_spelling(names))
    ]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    groups = np.unique(people, return_inverse=True)[1]
    chances = cross_val_predict(classifier, values, origin, groups=groups, cv=folds, method="predict_proba")
    chances = np.asarray(chances)[:, 1]
    weights = statistics.resample(origin, people, seed=seed)
    draws = statistics.resampled_scores(origin, chances, weights, parts=("areas",))["auroc"]
    auroc = metrics.all_scores(origin, chances)["auroc"]
    low, high = statistics.interval("auroc", auroc, draws, statistics.PatientCounts.of(origin, people))
    return {
        "auroc": auroc,
        "low": low,
        "high": high,
        "internal": len(internal),
        "external": len(external),
    }


def pixel_figures(data: ImageCache, rows: NDArray[np.int64]) -> PixelFigures:
    """Grey level, contrast and shape of prepared images, without their padding."""
    levels, contrasts, aspects = [], [], []
    for row in rows:
        square = Image.fromarray(np.ascontiguousarray(data.images[row]))
        content = square.crop(square.getbbox() or (0, 0, *square.size))
        pixels = np.asarray(content, dtype=np.float64)
        levels.append(pixels.mean())
        contrasts.append(pixels.std())
        aspects.append(content.width / content.height)
    return {
        "images": len(levels),
        "level": float(np.mean(levels)),
        "contrast": float(np.mean(contrasts)),
        "aspect": float(np.mean(aspects)),
    }


def sample(count: int) -> NDArray[np.int64]:
    """At most MAX_IMAGES of `count` numbers, spread evenly."""
    return np.linspace(0, count - 1, min(MAX_IMAGES, count)).round().astype(np.int64)
