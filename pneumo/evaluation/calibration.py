"""Calibration on test images: recalibration slope and intercept, an interval of the calibration error, bins.

Slope and intercept are those of logistic recalibration (Cox 1958; Van Calster et al. 2019). The slope is b in
logit P(ill) = a + b logit(p); below 1 the probabilities are too extreme. The intercept is a with b fixed at
1; above 0 the probabilities are too low. Their variances are over patients: a sum of squares of each
patient's influence (the sandwich of Huber and White, by cluster), of runs the mean influence, times
n / (n - 1) for n patients of the smaller class.

ECE is biased upwards: a calibrated network shows an ECE above 0 too. So labels are drawn as if the network
were calibrated: with rng = numpy.random.default_rng(seed), u = rng.random((patients, 500)), patients sorted
by stratum and name as for the draws; an image is ill where its patient's u is below its probability. The
95 % interval of the ECE is from max(0, ECE - the 97.5 % quantile of these ECEs) to ECE + 1.96 standard errors
of the draws. Below, it subtracts the whole bias of a calibrated network, and above none.

A bin's share of ill images has Wilson's interval with the variance over patients, of at most its patients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumo.evaluation import multiclass
from pneumo.evaluation.metrics import ECE_BINS, Floats, Ints, bin_of, checked, logit
from pneumo.evaluation.statistics import Z, clusters, small_sample, wilson

CALIBRATED_DRAWS = 500
PATIENTS_AT_ONCE = 2000  # x 500 draws: 8 MB
MOST_STEPS = 100


@dataclass(kw_only=True, slots=True)
class Recalibration:
    """One network's slope and intercept, and each image's influence on them [N]."""

    slope: float  # nan if the probabilities separate the classes: then no slope is finite
    intercept: float
    slope_influence: Floats
    intercept_influence: Floats

    @classmethod
    def of(cls, labels: ArrayLike, probabilities: ArrayLike) -> "Recalibration":
        truth, chances = checked(labels, probabilities)
        x = logit(chances)
        nothing = np.full(len(truth), np.nan)
        if not 0 < truth.sum() < len(truth):
            return cls(
                slope=np.nan, intercept=np.nan, slope_influence=nothing, intercept_influence=nothing.copy()
            )
        ones = np.ones((len(x), 1))
        (intercept,), at_intercept = _logistic(truth, ones, x)
        ill, well = x[truth == 1], x[truth == 0]
        if ill.min() >= well.max() or ill.max() <= well.min():
            return cls(
                slope=np.nan,
                intercept=intercept,
                slope_influence=nothing,
                intercept_influence=at_intercept[0],
            )
        (_, slope), at_slope = _logistic(truth, np.stack([ones[:, 0], x], axis=1), np.zeros(len(x)))
        return cls(
            slope=slope,
            intercept=intercept,
            slope_influence=at_slope[1],
            intercept_influence=at_intercept[0],
        )


def _logistic(truth: Ints, columns: Floats, offset: Floats) -> tuple[list[float], Floats]:
    """Coefficients [K] of a logistic regression on `columns` [N, K], and each image's influence [K, N].

    Newton's method; a step that raises the loss is halved.
    """
    sign = np.where(truth == 1, -1.0, 1.0)

    def loss(beta: Floats) -> float:
        return float(np.logaddexp(0, sign * (offset + columns @ beta)).sum())

    beta, now = np.zeros(columns.shape[1]), np.inf
    for _ in range(MOST_STEPS):
        mean = 1 / (1 + np.exp(-np.clip(offset + columns @ beta, -500, 500)))
        information = (columns * (mean * (1 - mean))[:, None]).T @ columns
        step = np.linalg.solve(information, columns.T @ (truth - mean))
        now = loss(beta)
        while loss(beta + step) > now + 1e-12 * (1 + now):
            step = step / 2
        beta = beta + step
        if np.abs(step).max() <= 1e-13 * (1 + np.abs(beta).max()):
            break
    mean = 1 / (1 + np.exp(-np.clip(offset + columns @ beta, -500, 500)))
    information = (columns * (mean * (1 - mean))[:, None]).T @ columns
    influence: Floats = np.linalg.solve(information, columns.T * (truth - mean)).astype(np.float64)
    return beta.tolist(), influence


def over_patients(
    value: float, influences: Sequence[Floats], patient_of: Ints, smaller_class: int
) -> tuple[float, float]:
    """95 % interval of the runs' mean `value` from each run's influences [N]; nan without a value."""
    by_patient = np.bincount(patient_of, weights=np.mean(influences, axis=0))
    half = Z * float(np.sqrt((by_patient**2).sum() * small_sample(smaller_class)))
    return value - half, value + half


def error_if_calibrated(
    labels: ArrayLike, patients: Sequence[str | None], networks: Sequence[ArrayLike], seed: int = 0
) -> Floats:
    """The networks' mean ECE [draws] if each of them were calibrated on these images."""
    each = [checked(labels, network)[1] for network in networks]
    errors = np.zeros((len(each), ECE_BINS, CALIBRATED_DRAWS))
    for rows, uniform in _uniform(labels, patients, seed):
        for network, chances in enumerate(each):
            errors[network] += _errors(chances[rows], uniform < chances[rows, None])
    return _mean_error(errors, len(each[0]))


def class_errors_if_calibrated(
    labels: ArrayLike, patients: Sequence[str | None], networks: Sequence[ArrayLike], seed: int = 0
) -> Floats:
    """As `error_if_calibrated` for probabilities [N, K]: [K + 1, draws], of each class and the called one."""
    each = [multiclass.checked(labels, network)[1] for network in networks]
    classes = each[0].shape[1]
    errors = np.zeros((classes + 1, len(each), ECE_BINS, CALIBRATED_DRAWS))
    for rows, uniform in _uniform(labels, patients, seed):
        for network, every in enumerate(each):
            chances = every[rows]
            below = np.cumsum(chances, axis=1)
            drawn = sum((uniform >= below[:, [k]]).astype(np.int64) for k in range(classes - 1))
            for k in range(classes):
                errors[k, network] += _errors(chances[:, k], np.equal(drawn, k))
            hits = np.equal(drawn, chances.argmax(1)[:, None])
            errors[classes, network] += _errors(chances.max(1), hits)
    return np.stack([_mean_error(some, len(each[0])) for some in errors])


def _uniform(labels: ArrayLike, patients: Sequence[str | None], seed: int) -> Iterator[tuple[Ints, Floats]]:
    """The images by part [M], and their numbers u [M, draws]."""
    order, _, patient_of = clusters(labels, patients)
    rng, images = np.random.default_rng(seed), np.argsort(patient_of, kind="stable")
    for first in range(0, len(order), PATIENTS_AT_ONCE):  # the numbers are those of one call for all patients
        numbers = rng.random((min(PATIENTS_AT_ONCE, len(order) - first), CALIBRATED_DRAWS))
        ends = np.searchsorted(patient_of[images], (first, first + len(numbers)))
        rows = images[slice(*ends)]
        yield rows, numbers[patient_of[rows] - first]


def _errors(chances: Floats, hits: NDArray[np.bool_]) -> Floats:
    """By how much the probabilities are too high, summed by bin, on each draw of `hits` [N, draws]."""
    return np.asarray(_by_bin(chances) @ (chances[:, None] - hits))


def _mean_error(errors: Floats, images: int) -> Floats:
    """The networks' mean ECE [draws] from their sums by bin [networks, bins, draws]."""
    return np.asarray(np.abs(errors).sum(axis=1).mean(axis=0) / images)


def error_interval(
    value: float, if_calibrated: Floats, draws: Floats, smaller_class: int
) -> tuple[float, float]:
    """95 % interval of an ECE from its draws if calibrated and its bootstrap draws (see above)."""
    low = max(0.0, value - float(np.quantile(if_calibrated, 0.975)))
    return low, value + Z * float(draws.std(ddof=1)) * small_sample(smaller_class) ** 0.5


def bin_intervals(
    labels: ArrayLike, patients: Sequence[str | None], networks: Sequence[ArrayLike]
) -> list[tuple[float, float]]:
    """95 % interval of each of 15 bins' share of ill images, the networks pooled; nan of an empty bin."""
    truth = checked(labels, networks[0])[0]
    _, _, patient_of = clusters(labels, patients)
    people, hits = np.tile(patient_of, len(networks)), np.tile(truth, len(networks))
    return share_intervals(people, hits, np.concatenate([checked(truth, p)[1] for p in networks]))


def share_intervals(people: Ints, hits: Ints, chances: Floats) -> list[tuple[float, float]]:
    """95 % interval of the share of `hits` in each of 15 bins of `chances`, those of several networks.

    All have an entry for each image and network; `people` are the numbers of the patients.
    """
    inside = _by_bin(chances)
    found = []
    for row in inside:
        rows = np.flatnonzero(row)
        if not len(rows):
            found.append((float("nan"), float("nan")))
            continue
        share = float(hits[rows].mean())
        off = np.bincount(people[rows], weights=hits[rows] - share)
        counted = len(np.unique(people[rows]))
        found.append(wilson(share, float((off**2).sum()) / len(rows) ** 2 * small_sample(counted), counted))
    return found


def _by_bin(chances: Floats) -> Floats:
    """1 where an image [N] is in a bin [15]."""
    return (np.arange(ECE_BINS)[:, None] == bin_of(chances)).astype(np.float64)
