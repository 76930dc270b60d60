"""A model's scores of several findings on its test images, each with a 95 % interval: patients are resampled.

A finding is scored on the images whose label is known, as one of two classes. A mean over findings is that of
the findings that have the score. Its interval is Wilson's for an effective number of patients: behind the
mean of K proportions of n_1 ... n_K patients are at most K ** 2 / (1 / n_1 + ... + 1 / n_K), and never more
than all patients.

The draws are those of `finding_statistics`.
"""

from collections.abc import Sequence

import numpy as np

from pneumo.evaluation import finding_statistics, multilabel, statistics
from pneumo.evaluation.finding_statistics import FindingCounts
from pneumo.evaluation.metrics import Floats
from pneumo.evaluation.predictions import SplitResult
from pneumo.evaluation.statistics import PatientCounts, Weights
from pneumo.inference.schema import Figure
from pneumo.inference.scores import SCORES, Scored, areas, figure

OF_RECORDED = ("auroc", "auprc")  # the other scores are of calibrated probabilities at the threshold


def of_findings(
    test: SplitResult, calibrated: Floats, thresholds: Sequence[float]
) -> tuple[dict[str, Figure], dict[str, dict[str, Figure]]]:
    """SCORES as means over the findings, and those of each finding.

    AUROC and AUPRC are of the recorded probabilities, as in the run's metrics. Brier and ECE are of
    `calibrated` probabilities [N, K], and scores that count decisions are those at `thresholds` [K] of them.
    """
    weights = resample(test)
    observed = multilabel.finding_scores(test.labels, calibrated, thresholds)
    of_recorded = multilabel.finding_scores(test.labels, test.probabilities)
    each = []
    for k, threshold in enumerate(thresholds):
        scores = observed[k] | {name: of_recorded[k][name] for name in OF_RECORDED}
        each.append(_OneFinding.of(test, calibrated, k, threshold, weights, scores))
    figures = {name: _mean(name, each, test) for name in SCORES}
    return figures, dict(zip(test.class_names, [one.figures() for one in each], strict=True))


def resample(test: SplitResult) -> Weights:
    """The draws of `finding_statistics`, uint16 [N, draws]."""
    return finding_statistics.resample(test.labels, test.patients)


def testable(test: SplitResult) -> SplitResult | None:
    """`test` with the findings that have patients enough for a paired test; None if there are none."""
    kept = finding_statistics.testable(test)
    return finding_statistics.of_columns(test, kept) if kept else None


def auroc_draws(test: SplitResult, weights: Weights) -> Floats:
    """The mean AUROC over the findings that have one, on every draw."""
    found = finding_statistics.resampled_scores(test.labels, test.probabilities, weights, parts=("areas",))
    return found["auroc"]


def smallest_class(test: SplitResult) -> int:
    """The harmonic mean, over the findings with both values, of the patients of the rarer value."""
    counts = FindingCounts.of(test.labels, test.patients)
    return _harmonic([one.smaller_class for one in counts.by_finding])


def _harmonic(patients: Sequence[int]) -> int:
    some = [count for count in patients if count]
    return max(1, round(len(some) / sum(1 / count for count in some))) if some else 0


class _OneFinding(Scored):
    """Of the images whose label is known."""

    @classmethod
    def of(
        cls,
        test: SplitResult,
        calibrated: Floats,
        k: int,
        threshold: float,
        weights: Weights,
        observed: dict[str, float],
    ) -> "_OneFinding":
        known = np.flatnonzero(test.labels[:, k] != multilabel.UNKNOWN)
        truth, chances, some = test.labels[known, k], calibrated[known, k], weights[known]
        draws = {}
        if len(known):
            draws = {
                **areas(truth, test.probabilities[known, k], some),
                **statistics.resampled_scores(truth, chances, some, threshold, parts=("counts", "losses")),
            }
        nothing = np.full(weights.shape[1], np.nan)
        return cls(
            observed=observed,
            draws={name: draws[name] if np.isfinite(observed[name]) else nothing for name in SCORES},
            counts=finding_statistics.counts_of_finding(test.labels[:, k], test.patients),
            called=statistics.patients_of([test.patients[row] for row in known], chances >= threshold),
        )

    def figures(self) -> dict[str, Figure]:
        return {name: self.figure(name, name) for name in SCORES}


def _mean(score: str, each: Sequence[_OneFinding], test: SplitResult) -> Figure:
    """The mean of `score` over the findings that have it."""
    some = [one for one in each if np.isfinite(one.observed[score])]
    if not some:
        return {"value": None, "low": None, "high": None}
    everyone = PatientCounts.of(np.zeros(len(test.paths), dtype=np.int64), test.patients).all
    behind = FindingCounts(by_finding=tuple(one.counts for one in some), all=everyone).behind(score)
    smaller = _harmonic([one.counts.smaller_class for one in some])
    counts = PatientCounts(normal=everyone - smaller, ill=smaller, all=everyone)
    observed = float(np.mean([one.observed[score] for one in some]))
    draws = np.mean([one.draws[score] for one in some], axis=0)
    return figure(score, observed, draws, counts, behind)
