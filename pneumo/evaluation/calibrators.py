"""How probabilities are calibrated on validation images: the kind with the least log-loss on others.

The kinds, by number of parameters, for logits z [K] of an image (of two classes and of a finding, K = 2):

- `temperature`: z / T (Guo et al., ICML 2017). It cannot move the mean probability.
- `bias`: z + b. It corrects the shift that a weighted sampler or class weights leave (Saerens et al. 2002).
- `platt`: a z + b (Platt 1999); of more than two classes, a temperature with a bias of each class (Alexandari
  et al., ICML 2020).
- `isotonic`: any rising function (Zadrozny and Elkan 2002), of two classes only. It is centred (Oron and
  Flournoy 2017): a line between the centres of its steps, so that two scores never get one probability.

Each kind is fitted on four fifths of the patients and scored on the fifth. Of equal ones the simplest is
kept. Few patients give a temperature, whatever the losses are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pneumo.evaluation import metrics, multiclass
from pneumo.evaluation.metrics import Floats, Ints
from pneumo.evaluation.statistics import clusters

FOLDS = 5
FEWEST_PATIENTS = 20  # of each class, for another kind than a temperature
FEWEST_IMAGES = 1000  # for isotonic, which has as many parameters as steps
FEWEST_OF_ISOTONIC = 100  # patients of each class
MAX_KNOTS = 200
LIMITS = 20.0  # of slopes and biases: classes that are separated have no finite ones
KINDS = ("temperature", "bias", "platt", "isotonic")

Record = dict[str, Any]  # `kind` and its parameters, for JSON


def choose(labels: ArrayLike, probabilities: ArrayLike, patients: Sequence[str | None]) -> Record | None:
    """The calibration of probabilities [N] of class 1, or [N, K], with labels [N]; None: a temperature."""
    truth, chances = multiclass.checked_of(labels, probabilities)
    losses = cross_fitted(truth, chances, patients)
    kind = min(losses, key=lambda name: losses[name])  # the first of equal ones
    return None if kind == "temperature" else fit(kind, truth, chances)


def cross_fitted(
    labels: ArrayLike, probabilities: ArrayLike, patients: Sequence[str | None]
) -> dict[str, float]:
    """The mean log-loss of each kind that the number of images allows, on images it was not fitted on."""
    truth, chances = multiclass.checked_of(labels, probabilities)
    _, _, patient_of = clusters(truth, patients)
    classes = 2 if chances.ndim == 1 else chances.shape[1]
    fewest = min(len(np.unique(patient_of[truth == label])) for label in range(classes))
    if fewest < FEWEST_PATIENTS:
        return {"temperature": 0.0}
    kinds = list(KINDS[:3])
    if chances.ndim == 1 and len(truth) >= FEWEST_IMAGES and fewest >= FEWEST_OF_ISOTONIC:
        kinds.append("isotonic")
    fold_of = (patient_of % FOLDS).astype(np.int64)  # patients are in the order of their strata
    found = {}
    for kind in kinds:
        total = 0.0
        for fold in range(FOLDS):
            out = fold_of == fold
            fitted = applied(fit(kind, truth[~out], chances[~out]), chances[out])
            total += float(_losses(truth[out], fitted).sum())
        found[kind] = total / len(truth)
    return found


def fit(kind: str, labels: ArrayLike, probabilities: ArrayLike) -> Record:
    """The parameters of `kind` with the least log-loss on these images."""
    truth, chances = multiclass.checked_of(labels, probabilities)
    if kind == "temperature":
        one = chances.ndim == 1
        found = metrics.temperature(truth, chances) if one else multiclass.temperature(truth, chances)
        return {"kind": kind, "slope": 1 / found, "bias": [0.0]}
    if kind == "isotonic":
        return {"kind": kind, **_isotonic(truth, chances)}
    return {"kind": kind, **_affine(truth, _logits(chances), slope=kind == "platt")}


def applied(record: Record, probabilities: ArrayLike) -> Floats:
    """Calibrated probabilities, in the shape of the uncalibrated ones."""
    chances = np.asarray(probabilities, dtype=np.float64)
    if record["kind"] == "isotonic":
        return np.asarray(np.interp(chances, record["scores"], record["chances"]))
    logits = record["slope"] * _logits(chances) + np.asarray(record["bias"])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    return np.asarray(shares[:, 1] if chances.ndim == 1 else shares)


def words(record: Record | None, temperature: float | None) -> str:
    """A calibration with its parameters, for people."""
    if record is None:
        return f"temperature {temperature:.3f}"
    if record["kind"] == "isotonic":
        return f"isotonic with {len(record['scores'])} points"
    bias = record["bias"][1:] if len(record["bias"]) == 2 else record["bias"]
    shown = ", ".join(f"{value:+.3f}" for value in bias)
    slope = f"slope {record['slope']:.3f} and " if record["kind"] == "platt" else ""
    return f"{slope}bias {shown} of the log-odds"


def _logits(chances: Floats) -> Floats:
    every = np.stack([1 - chances, chances], axis=1) if chances.ndim == 1 else chances
    return np.log(np.maximum(every, 1e-12))  # a float32 softmax reaches 0


def _losses(truth: Ints, chances: Floats) -> Floats:
    every = np.stack([1 - chances, chances], axis=1) if chances.ndim == 1 else chances
    return np.asarray(-np.log(np.maximum(every[np.arange(len(truth)), truth], 1e-12)))


def _affine(truth: Ints, logits: Floats, slope: bool) -> Record:
    """Bias of each class, the first 0, and the slope if asked; the log-loss is convex in them."""
    from scipy.optimize import minimize

    rows, classes = np.arange(len(truth)), logits.shape[1]
    is_class = np.eye(classes)[truth]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scaled = parameters[0] * logits + np.concatenate([[0.0], parameters[1:]])
        top = scaled.max(1, keepdims=True)
        shares = np.exp(scaled - top)
        total = shares.sum(1, keepdims=True)
        off = shares / total - is_class
        value = (np.log(total) + top)[:, 0] - scaled[rows, truth]
        return float(value.mean()), np.r_[(off * logits).sum(1).mean(), off.mean(0)[1:]]

    steep = (1 / LIMITS, LIMITS) if slope else (1.0, 1.0)
    found = minimize(
        loss,
        np.r_[1.0, np.zeros(classes - 1)],
        jac=True,
        method="L-BFGS-B",
        bounds=[steep, *[(-LIMITS, LIMITS)] * (classes - 1)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    return {"slope": float(found.x[0]), "bias": [0.0, *map(float, found.x[1:])]}


def _isotonic(truth: Ints, chances: Floats) -> Record:
    from sklearn.isotonic import IsotonicRegression

    values = IsotonicRegression().fit(chances, truth).predict(chances)
    steps, step_of = np.unique(values, return_inverse=True)
    sizes = np.bincount(step_of)
    # One more image with the mean label in each step: a step is never certain. Rising once more.
    values = (steps * sizes + truth.mean()) / (sizes + 1)
    values = IsotonicRegression().fit(np.arange(len(steps)), values, sizes).predict(np.arange(len(steps)))
    smooth, level_of = np.unique(values, return_inverse=True)
    step_of = level_of[step_of]
    centres = np.bincount(step_of, weights=chances) / np.bincount(step_of)
    kept = np.unique(np.linspace(0, len(smooth) - 1, min(len(smooth), MAX_KNOTS)).round().astype(int))
    inside = [row for row in kept if 0 < centres[row] < 1]
    return {
        "scores": [0.0, *map(float, centres[inside]), 1.0],
        "chances": [float(smooth[0]) / 2, *map(float, smooth[inside]), (1 + float(smooth[-1])) / 2],
    }
