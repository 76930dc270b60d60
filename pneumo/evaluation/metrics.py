"""Scores from labels and probabilities. Arrays in, numbers out; PNEUMONIA is class 1, the positive one."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumo import UserError

PREVALENCES = (0.10, 0.30, 0.625)  # a screening, a clinic, and the public test set itself
SENSITIVITY_WANTED = 0.95
SUBTYPES = ("bacteria", "virus")
ECE_BINS = 15  # as in Guo et al. 2017, so that figures can be compared with published ones

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def scores(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """Score `probabilities` of PNEUMONIA [N] against `labels` 0/1 [N]; all figures are fractions.

    An image is called PNEUMONIA if probability >= threshold. A ratio over nothing (for example, precision if
    no image was called PNEUMONIA) is 0, as in scikit-learn; AUROC and AUPRC (average precision) are nan if
    only one class is present. Raises UserError for arrays that cannot be scored.
    """
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

    truth, chances = checked(labels, probabilities)
    matrix = confusion(truth, chances >= threshold)
    tn, fp, fn, tp = (int(count) for count in matrix.ravel())
    both = 0 < truth.sum() < len(truth)
    return {
        **from_counts(tn, fp, fn, tp),
        "specificity": _ratio(tn, tn + fp),
        "auroc": float(roc_auc_score(truth, chances)) if both else float("nan"),
        "auprc": float(average_precision_score(truth, chances)) if both else float("nan"),
        # pos_label is given: with one class alone scikit-learn would have to guess which one is positive.
        "brier": float(brier_score_loss(truth, chances, pos_label=1)),
        "ece": calibration_error(truth, chances),
    }


def all_scores(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """`scores`, and the balanced accuracy, Matthews' correlation and log-loss (nats) of a comparison."""
    from sklearn.metrics import log_loss, matthews_corrcoef

    truth, chances = checked(labels, probabilities)
    known, called = scores(truth, chances, threshold), chances >= threshold
    all_equal = np.unique(called).tolist() == np.unique(truth).tolist() == [truth[0]]
    return {
        **known,
        "balanced_accuracy": (known["recall"] + known["specificity"]) / 2,
        "mcc": 0.0 if all_equal else float(matthews_corrcoef(truth, called)),  # scikit-learn warns, then 0
        "log_loss": float(log_loss(truth, chances, labels=[0, 1])),
    }


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Positive and negative predictive value if a share `prevalence` is ill (Bayes); nan for 0 / 0."""
    ill, well = prevalence, 1 - prevalence
    positive = sensitivity * ill + (1 - specificity) * well
    negative = specificity * well + (1 - sensitivity) * ill
    nan = float("nan")
    return (
        sensitivity * ill / positive if positive else nan,
        specificity * well / negative if negative else nan,
    )


def by_subtype(patients: Sequence[str | None], labels: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Masks [N] of all normal images and the pneumonias of one kind; the patient's name tells the kind."""
    truth = _classes("labels", labels)
    masks = {}
    for kind in SUBTYPES:
        pattern = re.compile(rf"(?:person-{kind}|{kind.upper()})-\d+")
        ill = np.array([bool(pattern.fullmatch(patient or "")) for patient in patients]) & (truth == 1)
        if ill.any() and (truth == 0).any():
            masks[kind] = ill | (truth == 0)
    return masks


def operating_points(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """Thresholds chosen on these (validation) images, to be applied unchanged to others.

    `half` is 0.5; `sensitivity_95` the highest threshold with a sensitivity of .95 or more; `youden` the
    highest that maximises sensitivity + specificity - 1 (Youden 1950). Only 0.5 if one class is missing.
    """
    truth, chances = checked(labels, probabilities)
    points = {"half": 0.5}
    ill, well = np.sort(chances[truth == 1]), np.sort(chances[truth == 0])
    if len(ill) and len(well):
        cuts = np.unique(chances)[::-1]
        found, false = (len(group) - np.searchsorted(group, cuts) for group in (ill, well))
        points["sensitivity_95"] = float(cuts[np.argmax(found >= SENSITIVITY_WANTED * len(ill))])
        # Whole numbers: rates that are equal could differ in their last bit.
        points["youden"] = float(cuts[np.argmax(found * len(well) - false * len(ill))])
    return points


def temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The temperature that minimises the log-loss of these (validation) images (Guo et al., ICML 2017).

    Limited to 0.05 to 20: if a model separates the classes perfectly, no temperature is best. The log-loss
    is convex in 1 / temperature, so its slope has one root. 1 if one class is missing: then the best
    temperature would only call every image the other class with more or less confidence.
    """
    truth, chances = checked(labels, probabilities)
    if not 0 < truth.sum() < len(truth):
        return 1.0
    margins = np.where(truth == 1, 1, -1) * logit(chances)

    def slope(inverse: float) -> float:
        return float(-(margins / (1 + np.exp(margins * inverse))).mean())

    with np.errstate(over="ignore"):
        return best_temperature(slope)


def best_temperature(slope: Callable[[float], float]) -> float:
    """The temperature at the root of the log-loss's `slope`, a rising function of 1 / temperature."""
    from scipy.optimize import brentq

    if slope(0.05) >= 0:
        return 20.0
    if slope(20.0) <= 0:
        return 0.05
    return float(1 / brentq(slope, 0.05, 20.0, xtol=1e-14))


def tempered(probabilities: ArrayLike, temperature: float) -> Floats:
    """`probabilities` [N] with their logits divided by `temperature`."""
    return np.asarray(1 / (1 + np.exp(-logit(np.asarray(probabilities, dtype=np.float64)) / temperature)))


def from_counts(tn: float, fp: float, fn: float, tp: float) -> dict[str, float]:
    """Accuracy, F1, precision and recall from the four counts, as training logs them."""
    return {
        "accuracy": _ratio(tn + tp, tn + fp + fn + tp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
    }


def confusion(labels: ArrayLike, predictions: ArrayLike) -> Ints:
    """Images by true class (rows) and predicted class (columns), int64 [2, 2]: [[tn, fp], [fn, tp]]."""
    truth, called = _classes("labels", labels), _classes("predictions", predictions)
    if len(truth) != len(called):
        raise UserError(
            f"{len(truth)} labels but {len(called)} predictions; give one prediction for each label."
        )
    return np.bincount(2 * truth + called, minlength=4).reshape(2, 2).astype(np.int64)


def calibration_bins(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats, Floats]:
    """Images, mean probability and observed share of PNEUMONIA in each of 15 equal bins of [0, 1].

    Returns three arrays [15]; an empty bin's means are nan. A probability on an edge is in the upper bin.
    """
    truth, chances = checked(labels, probabilities)
    bins = bin_of(chances)
    images = np.bincount(bins, minlength=ECE_BINS)
    some = np.where(images > 0, images, np.nan)
    mean = np.bincount(bins, weights=chances, minlength=ECE_BINS) / some
    share = np.bincount(bins, weights=truth, minlength=ECE_BINS) / some
    return images.astype(np.int64), mean, share


def bin_of(chances: Floats) -> Ints:
    """The number of the bin, 0 to 14, of each probability; one on an edge is in the upper bin."""
    # searchsorted against the edges, not floor(p * 15): products such as 0.6 * 15 round to the wrong side.
    return np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, chances, side="right")


def calibration_error(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Expected calibration error: sum over bins of (images / N) * |mean probability - observed share|.

    15 equal-width bins of the predicted PNEUMONIA probability against the observed frequency of PNEUMONIA
    (Naeini et al., AAAI 2015). Guo et al. (ICML 2017) bin the winning class's confidence instead.
    """
    images, mean, share = calibration_bins(labels, probabilities)
    return float(np.nansum(images * np.abs(mean - share)) / images.sum())


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    """`labels` as int64 [N] and `probabilities` as float64 [N]; UserError names what is wrong."""
    truth, chances = _classes("labels", labels), np.asarray(probabilities, dtype=np.float64)
    if truth.shape != chances.shape:
        raise UserError(
            f"labels have shape {list(truth.shape)} but probabilities {list(chances.shape)}; "
            "give one probability of PNEUMONIA for each label."
        )
    wrong = ~((chances >= 0) & (chances <= 1))  # written so that nan counts as wrong
    if wrong.any():
        first = int(np.argmax(wrong))
        raise UserError(
            f"{int(wrong.sum())} of {len(chances)} probabilities are not in [0, 1], the first is "
            f"{chances[first]} at index {first}; give softmax outputs, not logits. "
            "If they are nan, the training diverged: lower the learning rate."
        )
    return truth, chances


def logit(chances: Floats) -> Floats:
    """Log-odds of probabilities."""
    kept = np.clip(chances, 1e-12, 1 - 1e-12)  # a float32 softmax reaches 0 and 1
    return np.asarray(np.log(kept / (1 - kept)))


def _classes(what: str, values: ArrayLike) -> Ints:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise UserError(
            f"{what} have shape {list(array.shape)}; give a one-dimensional array, one image or more."
        )
    wrong = ~np.isin(array, (0, 1))
    if wrong.any():
        raise UserError(f"{what} contain {array[wrong][0]}; the classes are 0 (NORMAL) and 1 (PNEUMONIA).")
    return array.astype(np.int64)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
