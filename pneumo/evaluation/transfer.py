"""What becomes of models on patients of another place: the drop, the ranking, and what recalibration gives.

The patients of the two sets are different people, so their bootstrap draws are independent. The variance of
a drop is the sum of three parts: over the patients of either set (times n / (n - 1) for n patients of the
smaller class), and between the runs' drops, divided by the number of runs. The degrees of freedom are Welch
and Satterthwaite's (1946). With one run, only the patients are chance.

Kendall's tau-b (1945) compares two rankings. Its interval has the 2.5 and 97.5 % percentiles over the draws:
draw b of one set is paired with draw b of the other. Noise in either set moves tau towards 0, so that the
interval of a perfect agreement is wide where the configurations are close.

Recalibration is cross-fitted by patient: five folds, in the order of the patients' strata. Calibration and
threshold of an image come from the other folds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pneumo.evaluation import calibrators, metrics
from pneumo.evaluation.contrasts import Test
from pneumo.evaluation.metrics import Floats
from pneumo.evaluation.multiclass import checked_of
from pneumo.evaluation.statistics import clusters, small_sample

FOLDS = 5
FEWEST_PATIENTS = 4 * FOLDS  # of a class, for recalibration


@dataclass(kw_only=True, slots=True)
class SetScores:
    """One score of a configuration's runs on one set: values [runs], the mean's draws, the patients.

    `patients` are those of the smaller class.
    """

    values: Sequence[float]
    draws: Floats
    patients: int

    @property
    def variance(self) -> float:
        return float(np.nanvar(self.draws, ddof=1)) * small_sample(self.patients)


def drop(internal: SetScores, external: SetScores) -> Test:
    """The score on the external set minus that on the internal one; the runs are the same networks."""
    each = np.asarray(external.values) - np.asarray(internal.values)
    parts = [(one.variance, max(1, one.patients - 1)) for one in (internal, external)]
    if len(each) > 1:
        parts.append((float(each.var(ddof=1)) / len(each), len(each) - 1))
    total = sum(part for part, _ in parts)
    small = sum(part**2 / freedom for part, freedom in parts)
    freedom = total**2 / small if small > 0 and len(each) > 1 else math.inf
    return Test.of(float(each.mean()), math.sqrt(total), freedom)


def tau(internal: Floats, external: Floats) -> Floats:
    """Kendall's tau-b of each draw, from scores [configurations, draws] on two sets; nan if all are tied."""
    first, second = np.triu_indices(len(internal), 1)
    one, other = (np.sign(scores[first] - scores[second]) for scores in (internal, external))
    length = np.sqrt((one**2).sum(0) * (other**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((one * other).sum(0) / length)


def tau_interval(draws: Floats) -> tuple[float, float]:
    """The percentiles of tau over the draws in which it is defined."""
    known = draws[np.isfinite(draws)]
    if len(known) < 2:
        return math.nan, math.nan
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


@dataclass(kw_only=True, slots=True)
class Recalibrated:
    """Cross-fitted on the set itself: calibrated probabilities, and of two classes calls [N] of 0 and 1.

    `folds` has the calibration that was fitted without each fold.
    """

    probabilities: Floats
    called: Floats | None
    folds: list[calibrators.Record]


def recalibrate(
    labels: ArrayLike, probabilities: ArrayLike, patients: Sequence[str | None], rule: str
) -> Recalibrated | None:
    """What calibration and threshold from other patients of the same set give; `rule` chooses the threshold.

    Probabilities are uncalibrated, [N] of class 1 or [N, K]. None with fewer than 20 patients of a class.
    """
    truth, chances = checked_of(labels, probabilities)
    _, _, patient_of = clusters(truth, patients)
    classes = 2 if chances.ndim == 1 else chances.shape[1]
    fewest = min(len(np.unique(patient_of[truth == label])) for label in range(classes))
    if fewest < FEWEST_PATIENTS:
        return None
    found = np.empty_like(chances)
    called = np.zeros(len(truth)) if chances.ndim == 1 else None
    records = []
    for fold in range(FOLDS):
        out = patient_of % FOLDS == fold
        others = [name for name, left in zip(patients, ~out, strict=True) if left]
        record = calibrators.choose(truth[~out], chances[~out], others)
        record = record or calibrators.fit("temperature", truth[~out], chances[~out])
        records.append(record)
        found[out] = calibrators.applied(record, chances[out])
        if called is not None:
            points = metrics.operating_points(truth[~out], chances[~out])
            called[out] = chances[out] >= points.get(rule, points["half"])
    return Recalibrated(probabilities=found, called=called, folds=records)
