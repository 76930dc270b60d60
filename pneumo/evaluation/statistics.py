"""Intervals and paired tests. A test set is a sample of patients, not of images, so patients are resampled.

The bootstrap can be repeated elsewhere to the last digit. Patients are put into strata by the classes of
their images (only 0, only 1, both; in this order) and are sorted by name within a stratum. Names that are
equal as numbers (`101`, `101.0`, `00000101`) are one patient, whose name is the first of them. An image
without a patient counts as one patient, named by its row. With rng = numpy.random.default_rng(seed),
stratum after stratum, rng.integers(n, size=(draws, n)) picks n of its n patients in each draw; the weight of
an image is how often its patient was picked. All models are scored on the same draws, so differences are
paired.

The draws give variances (ddof=1), times n / (n - 1) for n patients of the smaller class: a bootstrap's
variance is divided by n. A score's interval is Wilson's (1927) of a proportion p over an effective number of
patients, p (1 - p) / variance. That number is at most the number of patients behind the score: a score
near 1 varies little in the draws, because the patients who would be missed were not drawn into this test set.
Behind sensitivity are the ill patients, behind specificity the normal ones, behind accuracy all, behind
precision those with an image that is called ill, and behind the other scores (AUROC, AUPRC, F1, MCC,
balanced accuracy) 4 / (1 / normal + 1 / ill). MCC is treated as the proportion (1 + MCC) / 2. Losses
have the normal interval of their logarithm. ECE is biased upwards; its interval is in `calibration`.
A proportion of 0 or 1 has at least the exact one-sided bound of its patients: .05 ** (1 / n) of all n found.
Percentiles, normal intervals of logits, BCa and Clopper-Pearson were tried in simulation
(docs/explanation/statistics.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from pneumo import UserError
from pneumo.evaluation.metrics import ECE_BINS, Floats, Ints, bin_of, checked
from pneumo.evaluation.ranking import Ranking, Weights, weighted_sums
from pneumo.patient_ids import one_spelling

DRAWS = 2000
LEVEL = 0.95
Z = 1.959963984540054  # of the normal distribution, at LEVEL
PICKED = 100_000  # patients x draws that are picked at once: they stay in a core's cache
LESS_IS_BETTER = ("brier", "log_loss", "ece", "ece_top")


def clusters(labels: ArrayLike, patients: Sequence[str | None]) -> tuple[list[str], Ints, Ints]:
    """The patients' names sorted by stratum and name, each one's stratum, and each image's patient.

    A stratum is the class of a patient's images; patients with images of several classes are in the last
    one, which has the number 2, or of more than two classes the highest label and one. Spellings of one
    patient count under the first of them (pneumo.patient_ids).
    """
    truth = np.asarray(labels, dtype=np.int64)
    if len(patients) != len(truth):
        raise UserError(f"{len(patients)} patients but {len(truth)} labels; give one patient for each image.")
    return _clusters(truth.tobytes(), tuple(patients))


@lru_cache(maxsize=16)  # a comparison asks for the same ones a hundred times
def _clusters(labels: bytes, patients: tuple[str | None, ...]) -> tuple[list[str], Ints, Ints]:
    truth = np.frombuffer(labels, dtype=np.int64)
    names = [patient or f"\x00row {row:09d}" for row, patient in enumerate(one_spelling(patients))]
    classes: dict[str, set[int]] = {}
    for name, label in zip(names, truth, strict=True):
        classes.setdefault(name, set()).add(int(label))
    several = max(2, int(truth.max()) + 1)
    stratum = {name: several if len(held) > 1 else min(held) for name, held in classes.items()}
    order = sorted(classes, key=lambda name: (stratum[name], name))
    place = {name: index for index, name in enumerate(order)}
    found = order, np.array([stratum[n] for n in order]), np.array([place[name] for name in names])
    found[1].setflags(write=False)
    found[2].setflags(write=False)
    return found


def patients_of(patients: Sequence[str | None], rows: ArrayLike) -> int:
    """How many patients have one of the images `rows` [N]; an image without a patient counts as one."""
    names = one_spelling(patients)
    return len({names[row] or row for row in np.flatnonzero(rows).tolist()})


def resample(labels: ArrayLike, patients: Sequence[str | None], draws: int = DRAWS, seed: int = 0) -> Weights:
    """How often each image counts in each draw, uint16 [N, draws]: whole patients, stratified by class.

    In memory, the images of a draw are beside one another.
    """
    _, strata, patient_of = clusters(labels, patients)
    rng = np.random.default_rng(seed)
    counts = np.empty((draws, len(strata)), dtype=np.uint16)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        step = max(1, PICKED // len(rows))  # the numbers are those of one call for all draws
        for start in range(0, draws, step):
            some = min(step, draws - start)
            picks = rng.integers(len(rows), size=(some, len(rows)))
            picks += np.arange(some)[:, None] * len(rows)
            drawn = np.bincount(picks.ravel(), minlength=some * len(rows)).reshape(some, -1)
            counts[start : start + some, rows] = drawn
    return np.take(counts, patient_of, axis=1).T  # counts[:, patient_of] has the draws side by side


def resampled_scores(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: Weights,
    threshold: float = 0.5,
    parts: Sequence[str] = ("counts", "losses", "areas"),
) -> dict[str, Floats]:
    """`metrics.all_scores` of every draw: name -> [draws]. 2,000 draws of 624 images take about 0.01 s.

    `parts` names the scores to compute: counts (at `threshold`), losses (of probabilities) and areas.
    """
    truth, chances = checked(labels, probabilities)
    # What is summed over the images of a draw: the cells of the confusion matrix, then the losses.
    called = chances >= threshold
    cells = [(truth == t) & (called == c) for t in (0, 1) for c in (False, True)] if "counts" in parts else []
    losses = _losses(truth, chances) if "losses" in parts else []
    sums = weighted_sums(np.stack([*cells, *losses]), weights) if cells or losses else np.empty((0, 0))
    found: dict[str, Floats] = {}
    if cells:
        found |= _of_cells(*sums[: len(cells)])
    if losses:
        total, squares, logs, *gaps = sums[len(cells) :]
        found |= {
            "brier": squares / total,
            "ece": np.abs(gaps).sum(axis=0) / total,
            "log_loss": logs / total,
        }
    if "areas" in parts:
        found |= Ranking(truth, chances).areas(weights)
    return found


def _of_cells(tn: Floats, fp: Floats, fn: Floats, tp: Floats) -> dict[str, Floats]:
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


def _losses(truth: Ints, chances: Floats) -> list[Floats]:
    """Of each image [N]: one, squared error, log-loss, and its gap to its label in each of 15 bins."""
    kept = np.clip(chances, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)  # as scikit-learn does
    loss = -np.log(np.where(truth == 1, kept, 1 - kept))
    gaps = (np.arange(ECE_BINS)[:, None] == bin_of(chances)) * (chances - truth)
    return [np.ones(len(truth)), (chances - truth) ** 2, loss, *gaps]


def resampled_curves(
    labels: ArrayLike, probabilities: ArrayLike, weights: Weights, grid: Floats
) -> tuple[Floats, Floats]:
    """`Ranking.curves`: the ROC and the precision-recall curve at `grid` [G], both [G, draws]."""
    return Ranking(*checked(labels, probabilities)).curves(weights, grid)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


@dataclass(kw_only=True, frozen=True, slots=True)
class PatientCounts:
    """Patients of a test set: those with a normal image, those with an ill one, and all."""

    normal: int
    ill: int
    all: int

    @classmethod
    def of(cls, labels: ArrayLike, patients: Sequence[str | None]) -> "PatientCounts":
        _, strata, _ = clusters(labels, patients)
        both = int((strata == 2).sum())
        return cls(
            normal=int((strata == 0).sum()) + both, ill=int((strata == 1).sum()) + both, all=len(strata)
        )

    @property
    def smaller_class(self) -> int:
        return min(self.normal, self.ill)

    def behind(self, score: str) -> float:
        """How many patients a score is a proportion of, at most."""
        if score in ("recall", "specificity", "accuracy"):
            return {"recall": self.ill, "specificity": self.normal, "accuracy": self.all}[score]
        return 4 / (1 / self.normal + 1 / self.ill) if self.smaller_class else 0


class Counts(Protocol):
    """Patients of a test set: those of the smallest class, and how many a score is a proportion of."""

    @property
    def smaller_class(self) -> int: ...

    def behind(self, score: str) -> float: ...


def small_sample(patients: int) -> float:
    """What the draws' variance over `patients` is multiplied by."""
    return patients / (patients - 1) if patients > 1 else 1.0


def interval(
    score: str, observed: float, draws: ArrayLike, counts: Counts, behind: float | None = None
) -> tuple[float, float]:
    """95 % interval of a score: Wilson's for an effective number of patients (see above).

    `behind` is the number of patients behind the score, if `counts` does not know it. Draws that are not
    finite (a rare subtype was not drawn) are left out. nan if the score has no interval here: ECE's is in
    `calibration`.
    """
    values = np.asarray(draws, dtype=np.float64)
    values = values[np.isfinite(values)]
    behind = counts.behind(score) if behind is None else behind
    if score in ("ece", "ece_top") or not np.isfinite(observed) or len(values) < 2 or behind <= 0:
        return float("nan"), float("nan")
    factor = small_sample(counts.smaller_class)
    if score in LESS_IS_BETTER:
        if observed <= 0 or values.min() <= 0:
            return float("nan"), float("nan")
        half = Z * float(np.log(values).std(ddof=1)) * factor**0.5
        return float(observed * np.exp(-half)), float(observed * np.exp(half))
    if score in ("mcc", "kappa"):
        low, high = wilson((observed + 1) / 2, float(values.var(ddof=1)) * factor / 4, behind)
        return 2 * low - 1, 2 * high - 1
    return wilson(observed, float(values.var(ddof=1)) * factor, behind)


def wilson(share: float, variance: float, most: float, z: float = Z) -> tuple[float, float]:
    """Wilson's interval of a proportion whose `variance` is known, as of a sample of `most` or fewer.

    `z` is the normal distribution's quantile of the level: of 95 % if it is left out.
    """
    spread = share * (1 - share)
    size = min(most, spread / variance) if variance > 1e-15 and spread > 0 else most
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(max(0.0, spread) / size + z**2 / (4 * size**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # Of three patients who are all found, Wilson's bound is .44: as many are found by chance in 8 % of such
    # sets. The exact one is .37.
    exact = (1 - LEVEL if z == Z else math.erfc(z / math.sqrt(2))) ** (1 / size)
    if share >= 1:
        return min(low, exact), 1.0
    return (0.0, max(high, 1 - exact)) if share <= 0 else (low, high)


def delong(labels: ArrayLike, models: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
    """AUROC [K] of `models` (probabilities [N] each) and their covariance [K, K] (DeLong et al. 1988).

    By midranks, after Sun and Xu (2014). It treats images as independent, so several images of one patient
    make it too sure. It therefore accompanies the bootstrap over patients and does not replace it.
    """
    truth = np.asarray(labels)
    if min((truth == 1).sum(), (truth == 0).sum()) < 2:
        raise UserError("DeLong's test needs two images of each class, or more.")
    over_well, over_ill = placements(truth, models)
    m, n = over_well.shape[1], over_ill.shape[1]
    covariance = np.atleast_2d(np.cov(over_well)) / m + np.atleast_2d(np.cov(over_ill)) / n
    return over_well.mean(axis=1), covariance


def placements(labels: ArrayLike, models: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
    """The share of normal images below each ill one [K, ill], and of ill ones above each normal one.

    Both have the AUROC of each of the K `models` as their mean.
    """
    truth = np.asarray(labels)
    scores = np.stack([checked(truth, model)[1] for model in models])
    ill, well = scores[:, truth == 1], scores[:, truth == 0]
    m, n = ill.shape[1], well.shape[1]
    ranks = _midranks(np.concatenate([ill, well], axis=1))
    return (ranks[:, :m] - _midranks(ill)) / n, 1 - (ranks[:, m:] - _midranks(well)) / m


def delong_p(areas: Floats, covariance: Floats, contrast: ArrayLike) -> tuple[float, float | None]:
    """Difference and two-sided p of a contrast [K] of `delong`'s AUROCs: [1, -1], or means over seeds.

    The same ranking has p 1. None, no test, if the AUROCs differ and nothing varies.
    """
    from scipy.special import ndtr

    weights = np.asarray(contrast, dtype=np.float64)
    difference, variance = float(weights @ areas), float(weights @ covariance @ weights)
    if variance <= 1e-18:  # the same ranking
        return difference, 1.0 if abs(difference) < 1e-12 else None
    return difference, float(2 * ndtr(-abs(difference) / np.sqrt(variance)))


def _midranks(values: Floats) -> Floats:
    """Ranks from 1 in each row [K, N]; equal values share their mean. scipy.stats takes 1 s to import."""
    rows = [(np.sort(row), row) for row in values]
    return np.stack(
        [
            (np.searchsorted(ordered, row, "left") + np.searchsorted(ordered, row, "right") + 1) / 2
            for ordered, row in rows
        ]
    )


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """How many images only the first and only the second of two models' predictions (0/1 [N]) get right, and
    the exact two-sided p (McNemar 1947). It treats images as independent."""
    from scipy.special import bdtr

    truth = np.asarray(labels)
    right, other = np.asarray(first) == truth, np.asarray(second) == truth
    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    fewer, both = min(only_first, only_second), only_first + only_second
    return only_first, only_second, min(1.0, 2 * float(bdtr(fewer, both, 0.5))) if both else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number (Holm 1979). None, no test, stays None and does not count.

    statsmodels collects garbage for 0.3 s in each call.
    """
    tests = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, index) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - place) * p))
        adjusted[index] = highest
    return adjusted
