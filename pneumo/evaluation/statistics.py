"""Intervals and paired tests. A test set is a sample of patients, not of images, so patients are resampled.

The bootstrap can be repeated elsewhere to the last digit. Patients are put into strata by the classes of
their images (only 0, only 1, both; in this order) and are sorted by name within a stratum. An image without a
patient counts as one patient, named by its row. With rng = numpy.random.default_rng(seed), stratum after
stratum, rng.integers(n, size=(draws, n)) picks n of its n patients in each draw; the weight of an image is
how often its patient was picked. All models are scored on the same draws, so differences are paired.

The draws give standard errors (ddof=1). An interval is the observed value -+ 1.959964 standard errors, for
single scores on the scale of their logits. Percentile and BCa intervals were tried in the same simulation.
Near 1, where good models score, percentile intervals cover less than 95 %, and tests from BCa intervals
reject twice too often (docs/explanation/statistics.md).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumo import UserError
from pneumo.evaluation.metrics import ECE_BINS, Floats, Ints, checked

DRAWS = 2000
LEVEL = 0.95
Z = 1.959963984540054  # of the normal distribution, at LEVEL
BLOCK = 100  # draws at once: 624 images x 100 float64 stay in a core's cache; 250 took twice as long
LESS_IS_BETTER = ("brier", "log_loss", "ece")

Weights = NDArray[np.uint16]


def clusters(labels: ArrayLike, patients: Sequence[str | None]) -> tuple[list[str], Ints, Ints]:
    """The patients' names sorted by stratum and name, each one's stratum, and each image's patient."""
    truth = np.asarray(labels)
    names = [patient or f"\x00row {row:09d}" for row, patient in enumerate(patients)]
    if len(names) != len(truth):
        raise UserError(f"{len(names)} patients but {len(truth)} labels; give one patient for each image.")
    classes: dict[str, set[int]] = {}
    for name, label in zip(names, truth, strict=True):
        classes.setdefault(name, set()).add(int(label))
    stratum = {name: 2 if len(held) > 1 else min(held) for name, held in classes.items()}
    order = sorted(classes, key=lambda name: (stratum[name], name))
    place = {name: index for index, name in enumerate(order)}
    return order, np.array([stratum[n] for n in order]), np.array([place[name] for name in names])


def resample(labels: ArrayLike, patients: Sequence[str | None], draws: int = DRAWS, seed: int = 0) -> Weights:
    """How often each image counts in each draw, uint16 [N, draws]: whole patients, stratified by class."""
    _, strata, patient_of = clusters(labels, patients)
    rng = np.random.default_rng(seed)
    counts = np.empty((len(strata), draws), dtype=np.uint16)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        picks = rng.integers(len(rows), size=(draws, len(rows)))
        picks += np.arange(draws)[:, None] * len(rows)
        counts[rows] = np.bincount(picks.ravel(), minlength=draws * len(rows)).reshape(draws, -1).T
    return counts[patient_of]


def resampled_scores(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: Weights,
    threshold: float = 0.5,
    parts: Sequence[str] = ("counts", "losses", "areas"),
) -> dict[str, Floats]:
    """`metrics.all_scores` of every draw: name -> [draws]. 2,000 draws of 624 images take about 0.06 s.

    `parts` names the scores to compute: counts (at `threshold`), losses (of probabilities) and areas.
    """
    truth, chances = checked(labels, probabilities)
    blocks = []
    for start in range(0, weights.shape[1], BLOCK):
        some = weights[:, start : start + BLOCK].astype(np.float64)
        block: dict[str, Floats] = {}
        if "counts" in parts:
            block |= _counts(truth, chances >= threshold, some)
        if "losses" in parts:
            block |= _losses(truth, chances, some)
        if "areas" in parts:
            block |= _areas(truth, chances, some)
        blocks.append(block)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _counts(truth: Ints, called: NDArray[np.bool_], weights: Floats) -> dict[str, Floats]:
    cells = np.stack([(truth == t) & (called == c) for t in (0, 1) for c in (False, True)]).astype(float)
    tn, fp, fn, tp = cells @ weights
    recall, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    return {
        "accuracy": (tn + tp) / (tn + fp + fn + tp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "precision": _ratio(tp, tp + fp),
        "recall": recall,
        "specificity": specificity,
        "balanced_accuracy": (recall + specificity) / 2,
        "mcc": _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
    }


def _losses(truth: Ints, chances: Floats, weights: Floats) -> dict[str, Floats]:
    kept = np.clip(chances, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)  # as scikit-learn does
    loss = -np.log(np.where(truth == 1, kept, 1 - kept))
    bins = np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, chances, side="right")
    gaps = (np.arange(ECE_BINS)[:, None] == bins) * (chances - truth)
    total = weights.sum(axis=0)
    return {
        "brier": (chances - truth) ** 2 @ weights / total,
        "ece": np.abs(gaps @ weights).sum(axis=0) / total,
        "log_loss": loss @ weights / total,
    }


def _counts_down(truth: Ints, chances: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """True and false positives [G, draws] at each distinct probability, from the highest down."""
    order = np.argsort(-chances, kind="stable")
    ordered = weights[order]
    ill = ordered * truth[order][:, None]
    ordered -= ill
    tp, fp = np.cumsum(ill, axis=0), np.cumsum(ordered, axis=0)
    ends = np.flatnonzero(np.diff(chances[order], append=-1.0))  # the last image of each tie
    return (tp, fp) if len(ends) == len(order) else (tp[ends], fp[ends])


def _areas(truth: Ints, chances: Floats, weights: Floats) -> dict[str, Floats]:
    """AUROC (trapezoids, which count ties half) and average precision of every draw."""
    if not 0 < truth.sum() < len(truth):
        nan = np.full(weights.shape[1], np.nan)
        return {"auroc": nan, "auprc": nan}
    tp, fp = _counts_down(truth, chances, weights)
    ill, normal = tp.copy(), fp.copy()  # of each step; numpy.add.reduceat took three times as long
    ill[1:] -= tp[:-1]
    normal[1:] -= fp[:-1]
    called = fp + tp
    np.maximum(called, 1, out=called)  # 0 / 0 where a draw lacks the surest images
    return {
        "auroc": np.einsum("gd,gd->d", normal, tp - ill / 2) / (tp[-1] * fp[-1]),
        "auprc": np.einsum("gd,gd->d", ill, tp / called) / tp[-1],
    }


def resampled_curves(
    labels: ArrayLike, probabilities: ArrayLike, weights: Weights, grid: Floats
) -> tuple[Floats, Floats]:
    """Sensitivity at each false positive rate of `grid` [G], and precision at each sensitivity, [G, draws].

    The ROC is a step function: the sensitivity reached without exceeding the false positive rate.
    """
    truth, chances = checked(labels, probabilities)
    roc, precision = [], []
    for start in range(0, weights.shape[1], BLOCK):
        tp, fp = _counts_down(truth, chances, weights[:, start : start + BLOCK].astype(np.float64))
        rates, recalls = fp / fp[-1], tp / tp[-1]
        ratios = _ratio(tp, tp + fp)
        # The grid's values count as reached within rounding: k / n * n is not always k.
        last = np.stack([(rates <= value + 1e-12).sum(axis=0) for value in grid])
        above = np.concatenate([np.zeros((1, tp.shape[1])), recalls])
        roc.append(np.take_along_axis(above, last, axis=0))
        first = np.stack([(recalls < value - 1e-12).sum(axis=0) for value in grid])
        precision.append(np.take_along_axis(ratios, np.minimum(first, len(ratios) - 1), axis=0))
    return np.concatenate(roc, axis=1), np.concatenate(precision, axis=1)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def interval(score: str, observed: float, draws: ArrayLike) -> tuple[float, float]:
    """95 % interval of a score: symmetric on the logit scale (MCC's of (1 + MCC) / 2; log-loss's logarithm).

    If the observed value or a draw is at the end of the scale, 0 or 1, the draws' 2.5 % and 97.5 % quantiles.
    nan if all draws are equal (no patient missed, say): the bootstrap then shows no uncertainty.
    """
    values = np.asarray(draws, dtype=np.float64)
    if not (np.isfinite(observed) and np.isfinite(values).all()) or np.ptp(values) < 1e-12:
        return float("nan"), float("nan")
    unit = (values + 1) / 2 if score == "mcc" else values
    middle = (observed + 1) / 2 if score == "mcc" else observed
    ends = [min(middle, unit.min()), max(middle, unit.max())]
    if ends[0] <= 0 or (ends[1] >= 1 and score != "log_loss"):
        low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return float(low), float(high)
    if score == "log_loss":
        half = Z * np.log(unit).std(ddof=1)
        return float(middle * np.exp(-half)), float(middle * np.exp(half))
    half = Z * np.log(unit / (1 - unit)).std(ddof=1)
    centre = np.log(middle / (1 - middle))
    low, high = 1 / (1 + np.exp(half - centre)), 1 / (1 + np.exp(-half - centre))
    return (float(2 * low - 1), float(2 * high - 1)) if score == "mcc" else (float(low), float(high))


def compare_draws(difference: float, draws: ArrayLike) -> dict[str, float]:
    """Interval of a paired difference from its bootstrap differences [draws]; p inverts that interval."""
    error = float(np.asarray(draws).std(ddof=1))
    sure = 0.0 if difference else 1.0
    p = math.erfc(abs(difference) / error / 2**0.5) if error > 1e-12 else sure
    return {
        "difference": float(difference),
        "low": float(difference - Z * error),
        "high": float(difference + Z * error),
        "p": p,
    }


def with_training_noise(
    difference: float, draws: ArrayLike, first: ArrayLike, second: ArrayLike
) -> tuple[float, float] | None:
    """95 % interval of a difference of means over training seeds; seeds and patients both count as chance.

    The variance over bootstrap draws and the seeds' variances of both means are summed; the degrees of
    freedom are Welch and Satterthwaite's (1946). None if a model has fewer than two seeds.
    """
    from scipy.stats import t

    a, b = np.asarray(first), np.asarray(second)
    if min(len(a), len(b)) < 2:
        return None
    parts = [
        float(np.asarray(draws).var(ddof=1)),
        float(a.var(ddof=1)) / len(a),
        float(b.var(ddof=1)) / len(b),
    ]
    total = sum(parts)
    freedom = total**2 / max(parts[1] ** 2 / (len(a) - 1) + parts[2] ** 2 / (len(b) - 1), 1e-300)
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * total**0.5 if total else 0.0
    return difference - half, difference + half


def delong(labels: ArrayLike, models: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
    """AUROC [K] of `models` (probabilities [N] each) and their covariance [K, K] (DeLong et al. 1988).

    By midranks, after Sun and Xu (2014). It treats images as independent, so several images of one patient
    make it too sure. It therefore accompanies the bootstrap over patients and does not replace it.
    """
    from scipy.stats import rankdata

    truth = np.asarray(labels)
    scores = np.stack([checked(truth, model)[1] for model in models])
    ill, well = scores[:, truth == 1], scores[:, truth == 0]
    m, n = ill.shape[1], well.shape[1]
    if min(m, n) < 2:
        raise UserError("DeLong's test needs two images of each class, or more.")
    ranks = rankdata(np.concatenate([ill, well], axis=1), axis=1)
    over_well = (ranks[:, :m] - rankdata(ill, axis=1)) / n
    over_ill = 1 - (ranks[:, m:] - rankdata(well, axis=1)) / m
    covariance = np.atleast_2d(np.cov(over_well)) / m + np.atleast_2d(np.cov(over_ill)) / n
    return over_well.mean(axis=1), covariance


def delong_p(areas: Floats, covariance: Floats, contrast: ArrayLike) -> tuple[float, float]:
    """Difference and two-sided p of a contrast [K] of `delong`'s AUROCs: [1, -1], or means over seeds."""
    from scipy.stats import norm

    weights = np.asarray(contrast, dtype=np.float64)
    difference, variance = float(weights @ areas), float(weights @ covariance @ weights)
    if variance <= 1e-18:  # the same ranking
        return difference, 1.0 if abs(difference) < 1e-12 else 0.0
    return difference, float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """How many images only the first and only the second of two models' predictions (0/1 [N]) get right, and
    the exact two-sided p (McNemar 1947). It treats images as independent."""
    from scipy.special import bdtr

    truth = np.asarray(labels)
    right, other = np.asarray(first) == truth, np.asarray(second) == truth
    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    fewer, both = min(only_first, only_second), only_first + only_second
    return only_first, only_second, min(1.0, 2 * float(bdtr(fewer, both, 0.5))) if both else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979). statsmodels collects garbage for 0.3 s in each call."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
