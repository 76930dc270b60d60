"""A model's scores on its test images, each with a 95 % interval: patients are resampled.

Of more than two classes, a score of one class is that class against the rest, and a macro score the mean over
the classes (pneumo.evaluation.multiclass). Its interval is Wilson's for an effective number of patients, as
of two classes. Behind accuracy are at most all patients, behind a macro score K ** 2 / (1 / n_1 + ... + 1 /
n_K) of n_k patients of class k: the mean of K proportions of different patients varies like one of so many.
Draws in which some class has no image are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pneumo.evaluation import class_statistics, metrics, multiclass, statistics
from pneumo.evaluation.metrics import Floats, Ints
from pneumo.evaluation.predictions import SplitResult
from pneumo.evaluation.statistics import Counts, PatientCounts, Weights
from pneumo.inference.schema import Figure
from pneumo.text import finite

SCORES = ("auroc", "auprc", "accuracy", "recall", "specificity", "precision", "f1", "brier", "ece")
OF_CALIBRATED = ("brier", "ece")  # the other scores do not depend on calibration, or are the recorded ones
OF_RECORDED = ("auroc", "auprc")
OF_A_CLASS = ("auroc", "recall", "specificity", "precision", "f1")
AT_THRESHOLD = ("recall", "specificity")  # of a class at its threshold, beside those of the called class


def of_two(test: SplitResult, calibrated: Floats, threshold: float) -> dict[str, Figure]:
    """SCORES of two classes; those that count decisions at `threshold`, of uncalibrated probabilities.

    Brier and ECE are of `calibrated` probabilities [N].
    """
    observed = metrics.all_scores(test.labels, test.probabilities, threshold)
    of_calibrated = metrics.all_scores(test.labels, calibrated)
    observed |= {name: of_calibrated[name] for name in OF_CALIBRATED}
    weights = statistics.resample(test.labels, test.patients)
    draws = statistics.resampled_scores(test.labels, test.probabilities, weights, threshold)
    draws |= statistics.resampled_scores(test.labels, calibrated, weights, parts=("losses",))
    counts = PatientCounts.of(test.labels, test.patients)
    called = statistics.patients_of(test.patients, test.probabilities >= threshold)
    figures = {}
    for name in SCORES:
        behind = called if name == "precision" else None
        figures[name] = figure(name, observed[name], draws[name], counts, behind)
    return figures


def of_many(
    test: SplitResult, calibrated: Floats, thresholds: Mapping[str, float]
) -> tuple[dict[str, Figure], dict[str, dict[str, Figure]]]:
    """SCORES of more than two classes, and those of each class.

    AUROC and AUPRC are of the recorded probabilities, as in the run's metrics. Decisions are the called
    classes, those with the largest calibrated probability. Brier, ECE and the scores `..._at_threshold` are
    of `calibrated` probabilities [N, K].
    """
    weights = resample(test)
    # A temperature changes no recorded call; a bias of the classes can.
    called = calibrated.argmax(1)
    same = bool((called == test.predictions).all())
    decided = test.probabilities if same else calibrated
    of_class = multiclass.class_scores(test.labels, decided)
    observed = multiclass.scores(test.labels, decided)
    if not same:
        recorded = multiclass.class_scores(test.labels, test.probabilities)
        of_class = [
            one | {name: other[name] for name in OF_RECORDED}
            for one, other in zip(of_class, recorded, strict=True)
        ]
        observed |= {name: float(np.mean([one[name] for one in recorded])) for name in OF_RECORDED}
    each = [
        _OneClass.of(test, called == label, calibrated, label, thresholds[name], weights, of_class[label])
        for label, name in enumerate(test.class_names)
    ]
    of_calibrated = multiclass.scores(test.labels, calibrated)
    observed |= {name: of_calibrated[name] for name in OF_CALIBRATED}
    draws = {name: np.mean([one.draws[name] for one in each], axis=0) for name in SCORES}
    draws["brier"] = np.sum([one.draws["brier"] for one in each], axis=0)
    right = (called == test.labels).astype(np.int64)
    draws["accuracy"] = statistics.resampled_scores(right, np.ones(len(right)), weights, parts=("counts",))[
        "accuracy"
    ]
    counts = class_statistics.ClassCounts.of(test.labels, test.patients, len(each))
    figures = {name: figure(name, observed[name], draws[name], counts) for name in SCORES}
    return figures, dict(zip(test.class_names, [one.figures() for one in each], strict=True))


def resample(test: SplitResult) -> Weights:
    """`class_statistics.resample` of the test set."""
    return class_statistics.resample(test.labels, test.patients, len(test.class_names))


def auroc_draws(test: SplitResult, weights: Weights) -> Floats:
    """AUROC, or of more than two classes its mean over the classes, on every draw."""
    return class_statistics.resampled_scores(test.labels, test.probabilities, weights, parts=("areas",))[
        "auroc"
    ]


def smallest_class(test: SplitResult) -> int:
    """The number of patients of the class that has the fewest."""
    return class_statistics.counts_of(test.labels, test.patients, len(test.class_names)).smaller_class


@dataclass(kw_only=True)
class Scored:
    """One class against the rest, or one finding: its scores on the images and on every draw."""

    observed: dict[str, float]
    draws: dict[str, Floats]
    counts: PatientCounts
    called: int  # patients with an image that is called so

    def figure(self, name: str, kind: str) -> Figure:
        """The score `name` of the given `kind` with its interval."""
        behind = self.called if kind == "precision" else self.counts.behind(kind)
        return figure(kind, self.observed[name], self.draws[name], self.counts, behind)


class _OneClass(Scored):
    @classmethod
    def of(
        cls,
        test: SplitResult,
        called: NDArray[np.bool_],
        calibrated: Floats,
        label: int,
        threshold: float,
        weights: Weights,
        observed: dict[str, float],
    ) -> "_OneClass":
        own = (test.labels == label).astype(np.int64)
        reached = statistics.resampled_scores(
            own, calibrated[:, label], weights, threshold, parts=("counts", "losses")
        )
        at_threshold = metrics.scores(own, calibrated[:, label], threshold)
        draws = {
            **areas(own, test.probabilities[:, label], weights),
            **statistics.resampled_scores(own, called.astype(np.float64), weights, parts=("counts",)),
            **{name: reached[name] for name in OF_CALIBRATED},
            **{f"{name}_at_threshold": reached[name] for name in AT_THRESHOLD},
        }
        observed = {
            **observed,
            **{f"{name}_at_threshold": at_threshold[name] for name in AT_THRESHOLD},
        }
        if not own.any():
            observed["recall_at_threshold"] = float("nan")
        return cls(
            observed=observed,
            draws=draws,
            counts=PatientCounts.of(own, test.patients),
            called=statistics.patients_of(test.patients, called),
        )

    def figures(self) -> dict[str, Figure]:
        known = {name: name for name in OF_A_CLASS}
        known |= {f"{name}_at_threshold": name for name in AT_THRESHOLD}
        return {name: self.figure(name, kind) for name, kind in known.items()}


def areas(truth: Ints, probabilities: Floats, weights: Weights) -> dict[str, Floats]:
    """AUROC and AUPRC of one class or finding on every draw."""
    return statistics.resampled_scores(truth, probabilities, weights, parts=("areas",))


def figure(score: str, observed: float, draws: Floats, counts: Counts, behind: float | None = None) -> Figure:
    """A score with its interval, `statistics.interval`; null where there is none."""
    low, high = statistics.interval(score, observed, draws, counts, behind)
    found: Figure = finite({"value": observed, "low": low, "high": high})
    return found
