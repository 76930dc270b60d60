"""Intervals and paired tests for more than two classes: the scheme of `statistics`, with these additions.

Patients are put into strata by the class of their images; those with images of several classes are one more
stratum, the last. Draws in which some class has no image are left out: a macro score is not defined there.
One class against the rest is scored as two classes are, with the same draws. A macro score is the mean over
the classes in each draw, so its interval counts that the classes share patients.

The variance of the draws is multiplied by n / (n - 1) for n patients of the smallest class. Behind accuracy
are all patients. Behind the other scores of K classes are K ** 2 / (1 / n_1 + ... + 1 / n_K) patients, which
for two classes is the number behind AUROC there. Kappa is treated as MCC is.

DeLong's variance is that of the macro AUROC: each image has an influence on the AUROC of its own class and,
as one of the rest, on those of the others. Their mean varies within each class.

Calibration: slope, intercept and ECE are those of each class against the rest. `ece` is the mean of the
classes' ECE, `ece_top` that of the called class's probability. As if the network were calibrated, an image
has the first class whose cumulated probability is above its patient's u.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pneumo import UserError
from pneumo.evaluation import finding_statistics, statistics
from pneumo.evaluation.metrics import ECE_BINS, Floats, Ints, bin_of
from pneumo.evaluation.multiclass import checked
from pneumo.evaluation.ranking import Weights, weighted_sums
from pneumo.evaluation.statistics import DRAWS, Counts, PatientCounts

PARTS = ("counts", "losses", "areas")
OF_COUNTS = ("recall", "specificity", "precision", "f1")  # of a class, from the called classes


@dataclass(kw_only=True, frozen=True, slots=True)
class ClassCounts:
    """Patients of a test set: those with an image of each class, and all."""

    by_class: tuple[int, ...]
    all: int

    @classmethod
    def of(cls, labels: ArrayLike, patients: Sequence[str | None], classes: int) -> "ClassCounts":
        truth = np.asarray(labels)
        order, _, patient_of = statistics.clusters(truth, patients)
        found = [len(np.unique(patient_of[truth == label])) for label in range(classes)]
        return cls(by_class=tuple(found), all=len(order))

    @property
    def smaller_class(self) -> int:
        """Patients of the smallest class."""
        return min(self.by_class)

    def behind(self, score: str) -> float:
        """How many patients a score is a proportion of, at most."""
        if score == "accuracy":
            return self.all
        return len(self.by_class) ** 2 / sum(1 / n for n in self.by_class) if self.smaller_class else 0


def counts_of(labels: ArrayLike, patients: Sequence[str | None], classes: int) -> Counts:
    """The patients behind the scores of two classes, of more, or of several findings (labels [N, K])."""
    if np.ndim(labels) == 2:
        return finding_statistics.FindingCounts.of(labels, patients)
    if classes > 2:
        return ClassCounts.of(labels, patients, classes)
    return PatientCounts.of(labels, patients)


def resample(
    labels: ArrayLike, patients: Sequence[str | None], classes: int, draws: int = DRAWS, seed: int = 0
) -> Weights:
    """`statistics.resample`; of more than two classes only the draws with images of each class.

    A class without images is not asked for: its scores are not defined in any draw. Several findings have
    labels [N, K] and the draws of `finding_statistics`.
    """
    if np.ndim(labels) == 2:
        return finding_statistics.resample(labels, patients, draws, seed)
    weights = statistics.resample(labels, patients, draws, seed)
    return weights if classes == 2 else weights[:, with_each_class(labels, weights, classes)]


def with_each_class(labels: ArrayLike, weights: Weights, classes: int) -> np.ndarray:
    """Which draws have an image of each class that has images at all, bool [draws]."""
    truth = np.asarray(labels)
    if truth.ndim == 2:
        return finding_statistics.with_each_value(truth, weights)
    held = [truth == label for label in range(classes)]
    return np.all([weights[own].any(axis=0) for own in held if own.any()], axis=0)


def resampled_scores(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: Weights,
    threshold: float = 0.5,
    parts: Sequence[str] = PARTS,
) -> dict[str, Floats]:
    """Every score on every draw: name -> [draws], for probabilities [N] of two classes or [N, K] of more.

    `threshold` is for two classes. Of more, balanced accuracy is the macro recall. With labels [N, K] of
    several findings, it is `finding_statistics.resampled_scores`.
    """
    if np.ndim(labels) == 2:
        return finding_statistics.resampled_scores(labels, probabilities, weights, parts)
    if np.ndim(probabilities) == 1:
        return statistics.resampled_scores(labels, probabilities, weights, threshold, parts)
    truth, chances = checked(labels, probabilities)
    found: dict[str, Floats] = {}
    if "counts" in parts:
        found |= _of_matrices(_matrices(truth, chances, weights))
    if "losses" in parts:
        found |= _losses(truth, chances, weights)
    if "areas" in parts:
        found |= {name: draws.mean(axis=0) for name, draws in _areas(truth, chances, weights).items()}
    return found


def resampled_both(
    labels: ArrayLike, probabilities: ArrayLike, weights: Weights
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """`resampled_scores` of more than two classes, and the scores of each class against the rest.

    The latter are OF_COUNTS, AUROC and AUPRC: name -> [K, draws].
    """
    truth, chances = checked(labels, probabilities)
    matrices, areas = _matrices(truth, chances, weights), _areas(truth, chances, weights)
    macro = _of_matrices(matrices) | _losses(truth, chances, weights)
    macro |= {name: draws.mean(axis=0) for name, draws in areas.items()}
    return macro, _of_each(matrices) | areas


def _areas(truth: Ints, chances: Floats, weights: Weights) -> dict[str, Floats]:
    """Name -> [K, draws]."""
    each = [
        statistics.resampled_scores(truth == label, chances[:, label], weights, parts=("areas",))
        for label in range(chances.shape[1])
    ]
    return {name: np.stack([one[name] for one in each]) for name in ("auroc", "auprc")}


def _matrices(truth: Ints, chances: Floats, weights: Weights) -> Floats:
    """Images by true and called class on every draw [K, K, draws]."""
    classes = chances.shape[1]
    cell = classes * truth + chances.argmax(1)
    return weighted_sums(np.arange(classes**2)[:, None] == cell, weights).reshape(classes, classes, -1)


def _of_each(matrices: Floats) -> dict[str, Floats]:
    """OF_COUNTS of each class, [K, draws]. As in scikit-learn, precision of a class never called is 0."""
    hits, true, called = np.einsum("kkd->kd", matrices), matrices.sum(axis=1), matrices.sum(axis=0)
    total = true.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "recall": np.where(true > 0, hits / true, np.nan),
            "specificity": np.where(true < total, (total - true - called + hits) / (total - true), np.nan),
            "precision": np.where(called > 0, hits / called, 0.0),
            "f1": np.where(true > 0, 2 * hits / (true + called), np.nan),
        }


def _of_matrices(matrices: Floats) -> dict[str, Floats]:
    """Accuracy, macro scores and agreement [draws]. Of one class alone, agreement is not defined."""
    each = _of_each(matrices)
    hits, true, called = (
        np.einsum("kkd->d", matrices),
        matrices.sum(axis=1),
        matrices.sum(axis=0),
    )
    total = true.sum(axis=0)
    by_chance, of_true, of_called = (true * called).sum(axis=0), (true**2).sum(axis=0), (called**2).sum(0)
    spread = np.sqrt((total**2 - of_called) * (total**2 - of_true))
    several = of_true < total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        mcc = np.where(spread > 0, (hits * total - by_chance) / spread, 0.0)
        kappa = (hits * total - by_chance) / (total**2 - by_chance)
    return {
        "accuracy": hits / total,
        "f1": each["f1"].mean(axis=0),
        "precision": each["precision"].mean(axis=0),
        "specificity": each["specificity"].mean(axis=0),
        "balanced_accuracy": each["recall"].mean(axis=0),
        "f1_weighted": np.nansum(each["f1"] * true, axis=0) / total,
        "mcc": np.where(several, mcc, np.nan),
        "kappa": np.where(several, kappa, np.nan),
    }


def _losses(truth: Ints, chances: Floats, weights: Weights) -> dict[str, Floats]:
    hot = np.eye(chances.shape[1])[truth]
    own = np.clip(chances[np.arange(len(truth)), truth], np.finfo(np.float64).eps, None)  # as scikit-learn
    top = chances.max(axis=1)
    gaps = [*(chances - hot).T, top - (chances.argmax(1) == truth)]  # of each class, of the called one
    binned = [
        (np.arange(ECE_BINS)[:, None] == bin_of(chance)) * gap
        for chance, gap in zip((*chances.T, top), gaps, strict=True)
    ]
    images = [np.ones(len(truth)), ((chances - hot) ** 2).sum(axis=1), -np.log(own)]
    sums = weighted_sums(np.concatenate([images, *binned]), weights)
    total, squares, losses = sums[:3]
    errors = np.abs(sums[3:].reshape(len(binned), ECE_BINS, -1)).sum(axis=1) / total
    return {
        "brier": squares / total,
        "log_loss": losses / total,
        "ece": errors[:-1].mean(axis=0),
        "ece_top": errors[-1],
    }


def delong(labels: ArrayLike, models: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
    """Macro AUROC [M] of `models` (probabilities [N, K] each) and their covariance [M, M].

    It treats images as independent. For [N] of two classes it is `statistics.delong`.
    """
    if np.ndim(models[0]) == 1:
        return statistics.delong(labels, models)
    truth = checked(labels, models[0])[0]
    classes = np.shape(models[0])[1]
    images = np.bincount(truth, minlength=classes)
    if images.min() < 2:
        raise UserError("DeLong's test needs two images of each class, or more.")
    areas = np.zeros(len(models))
    influence = np.zeros((len(models), len(truth)))  # on the macro AUROC
    for label in range(classes):
        own = truth == label
        wins, losses = statistics.placements(own, [np.asarray(model)[:, label] for model in models])
        areas += wins.mean(axis=1) / classes
        influence[:, own] += wins / own.sum() / classes
        influence[:, ~own] += losses / (~own).sum() / classes
    covariance = np.zeros((len(models), len(models)))
    for label in range(classes):
        covariance += images[label] * np.atleast_2d(np.cov(influence[:, truth == label]))
    return areas, covariance
