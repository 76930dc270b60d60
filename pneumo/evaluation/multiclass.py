"""Scores of more than two classes from labels and one probability a class. Arrays in, numbers out.

A score of one class is that class against the rest; a macro score is the plain mean over the classes, so a
rare class counts as much as a frequent one. A score that is not defined is nan: AUROC, recall and F1 of a
class without images, and every macro score of it. The called class is the one with the largest probability.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pneumo import UserError
from pneumo.evaluation import metrics, multilabel
from pneumo.evaluation.metrics import ECE_BINS, Floats, Ints, bin_of
from pneumo.names import class_metric

OF_A_CLASS = ("auroc", "auprc", "recall", "specificity", "precision", "f1", "ece")
RECORDED = ("auroc", "recall", "precision", "f1")  # of each class, as metrics of a run
SUM_TOLERANCE = 1e-6  # of an image's probabilities against 1; a float32 softmax is within 1e-7 times K


def scores_of(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """`metrics.scores` of two classes, `scores` of more, `multilabel.scores` of several findings.

    Probabilities are [N], [N, K] and [N, K]; labels are [N], [N] and [N, K].
    """
    chances = np.asarray(probabilities)
    if np.ndim(labels) == 2:
        return multilabel.scores(labels, chances)
    return metrics.scores(labels, chances) if chances.ndim == 1 else scores(labels, chances)


def called_of(probabilities: ArrayLike) -> Ints:
    """The called class of each image: of two classes from probability 0.5 on, of more the most probable."""
    chances = np.asarray(probabilities, dtype=np.float64)
    return (chances >= 0.5).astype(np.int64) if chances.ndim == 1 else chances.argmax(1).astype(np.int64)


def right_of(labels: ArrayLike, probabilities: ArrayLike) -> np.ndarray:
    """Which images are called right, bool [N]; of several findings, in all that are known."""
    truth = np.asarray(labels)
    if truth.ndim == 2:
        called = np.asarray(probabilities, dtype=np.float64) >= 0.5
        return np.asarray(((called == truth) | (truth == multilabel.UNKNOWN)).all(axis=1))
    return np.asarray(called_of(probabilities) == truth)


def confusion_of(labels: ArrayLike, probabilities: ArrayLike) -> Ints:
    """Images by true class (rows) and called class (columns), of two classes or more.

    Of several findings, a row of each: tn, fp, fn, tp [K, 4].
    """
    if np.ndim(labels) == 2:
        return multilabel.confusion(labels, np.asarray(probabilities) >= 0.5).reshape(-1, 4)
    called = called_of(probabilities)
    if np.ndim(probabilities) == 1:
        return metrics.confusion(labels, called)
    return confusion(labels, called, np.shape(probabilities)[1])


def scores(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """Score `probabilities` [N, K] against `labels` 0 to K-1 [N].

    The first nine have the same names as for two classes. Except for accuracy they are macro scores. `ece` is
    the mean calibration error of the classes, each against the rest (Kull et al. 2019, classwise). `ece_top`
    is that of the called class's probability (Guo et al. 2017). `brier` is the sum over the classes, 0 to 2
    (Brier 1950); for two classes it is half of that. `log_loss` is in nats.
    """
    from sklearn.metrics import brier_score_loss, cohen_kappa_score, f1_score, log_loss, matthews_corrcoef

    truth, chances = checked(labels, probabilities)
    called = chances.argmax(1)
    every = np.arange(chances.shape[1])
    of_class = class_scores(truth, chances)
    macro = {name: float(np.mean([one[name] for one in of_class])) for name in OF_A_CLASS}
    whole = len(np.unique(truth)) > 1  # of one class, agreement beyond chance is not defined
    return {
        "accuracy": float((called == truth).mean()),
        **{name: macro[name] for name in ("f1", "precision", "recall", "specificity", "auroc", "auprc")},
        "brier": float(brier_score_loss(truth, chances, labels=every, scale_by_half=False)),
        "ece": macro["ece"],
        "ece_top": top_calibration_error(truth, chances),
        "balanced_accuracy": macro["recall"],
        "f1_weighted": float(f1_score(truth, called, labels=every, average="weighted", zero_division=0)),
        "mcc": float(matthews_corrcoef(truth, called)) if whole else float("nan"),
        "kappa": float(cohen_kappa_score(truth, called, labels=every)) if whole else float("nan"),
        "log_loss": float(log_loss(truth, chances, labels=every)),
    }


def class_scores(labels: ArrayLike, probabilities: ArrayLike) -> list[dict[str, float]]:
    """OF_A_CLASS of each class, and its number of images.

    AUROC, AUPRC, recall and F1 of a class without images are nan; precision of a class that is never called
    is 0, as in scikit-learn.
    """
    truth, chances = checked(labels, probabilities)
    called = chances.argmax(1)
    found = []
    for label in range(chances.shape[1]):
        own = (truth == label).astype(np.int64)
        of_ranks = metrics.scores(own, chances[:, label])
        tn, fp, fn, tp = (int(count) for count in metrics.confusion(own, called == label).ravel())
        counts = metrics.from_counts(tn, fp, fn, tp)
        known = {"recall": counts["recall"], "f1": counts["f1"], "auprc": of_ranks["auprc"]}
        if not own.any():
            known = dict.fromkeys(known, float("nan"))
        found.append(
            {
                "images": int(own.sum()),
                "auroc": of_ranks["auroc"],
                "precision": counts["precision"],
                "specificity": float(tn / (tn + fp)) if tn + fp else float("nan"),
                "ece": of_ranks["ece"],
                **known,
            }
        )
    return found


def class_metrics(
    class_names: Sequence[str], labels: ArrayLike, probabilities: ArrayLike
) -> dict[str, float]:
    """RECORDED of each class or finding under the names that a run records: `class/<name>/auroc`."""
    several = np.ndim(labels) == 2
    every = (multilabel.finding_scores if several else class_scores)(labels, probabilities)
    return {
        f"class/{class_metric(name)}/{score}": of_class[score]
        for name, of_class in zip(class_names, every, strict=True)
        for score in RECORDED
    }


def from_matrix(matrix: ArrayLike) -> dict[str, float]:
    """Accuracy and macro F1, precision and recall from counts [K, K], as training logs them."""
    counts = np.asarray(matrix, dtype=np.float64)
    hits, true, called = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(true > 0, hits / true, np.nan)
        precision = np.where(called > 0, hits / np.maximum(called, 1), 0.0)
        f1 = np.where(true > 0, 2 * hits / (true + called), np.nan)
    total = counts.sum()
    return {
        "accuracy": float(hits.sum() / total) if total else 0.0,
        "f1": float(f1.mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
    }


def confusion(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Ints:
    """Images by true class (rows) and called class (columns), int64 [K, K]."""
    truth, called = (
        _labels(what, values, classes) for what, values in (("labels", labels), ("predictions", predictions))
    )
    if len(truth) != len(called):
        raise UserError(f"{len(truth)} labels but {len(called)} predictions; give one for each label.")
    return np.bincount(classes * truth + called, minlength=classes**2).reshape(classes, classes)


def top_bins(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats, Floats]:
    """Images, mean probability and share of right calls in each of 15 bins of the called class's probability.

    An empty bin's means are nan.
    """
    truth, chances = checked(labels, probabilities)
    top, right = chances.max(1), chances.argmax(1) == truth
    bins = bin_of(top)
    images = np.bincount(bins, minlength=ECE_BINS)
    some = np.where(images > 0, images, np.nan)
    mean = np.bincount(bins, weights=top, minlength=ECE_BINS) / some
    share = np.bincount(bins, weights=right, minlength=ECE_BINS) / some
    return images.astype(np.int64), mean, share


def top_calibration_error(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Expected calibration error of the called class's probability (Guo et al. 2017), in 15 bins."""
    images, mean, share = top_bins(labels, probabilities)
    return float(np.nansum(images * np.abs(mean - share)) / images.sum())


def temperature_of(labels: ArrayLike, probabilities: ArrayLike) -> float | list[float]:
    """`metrics.temperature` of two classes, `temperature` of more; one for each of several findings."""
    if np.ndim(labels) == 2:
        return multilabel.temperatures(labels, probabilities)
    one = np.ndim(probabilities) == 1
    return metrics.temperature(labels, probabilities) if one else temperature(labels, probabilities)


def tempered_of(probabilities: ArrayLike, temperature: float | Sequence[float]) -> Floats:
    """`metrics.tempered` of two classes, `tempered` of more; of findings, each by its temperature."""
    if not isinstance(temperature, float):
        return multilabel.tempered(probabilities, temperature)
    one = np.ndim(probabilities) == 1
    return metrics.tempered(probabilities, temperature) if one else tempered(probabilities, temperature)


def temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The temperature that minimises the log-loss of these (validation) images (Guo et al., ICML 2017).

    Limited to 0.05 to 20, like that of two classes. The log-loss is convex in 1 / temperature, so its slope
    has one root. 1 if all images have one class.
    """
    truth, chances = checked(labels, probabilities)
    if len(np.unique(truth)) < 2:
        return 1.0
    logits = _logs(chances)
    own = logits[np.arange(len(truth)), truth]

    def slope(inverse: float) -> float:
        return float(((_softmax(logits * inverse) * logits).sum(1) - own).mean())

    return metrics.best_temperature(slope)


def tempered(probabilities: ArrayLike, temperature: float) -> Floats:
    """`probabilities` [N, K] with their logits divided by `temperature`."""
    return _softmax(_logs(np.asarray(probabilities, dtype=np.float64)) / temperature)


def checked_of(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    """`metrics.checked` of two classes, `checked` of more, `multilabel.checked` of several findings."""
    if np.ndim(labels) == 2:
        return multilabel.checked(labels, probabilities)
    one = np.ndim(probabilities) == 1
    return metrics.checked(labels, probabilities) if one else checked(labels, probabilities)


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    """`labels` as int64 [N] and `probabilities` as float64 [N, K]; UserError says what is wrong."""
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.ndim != 2 or chances.shape[1] < 3:
        raise UserError(
            f"probabilities have shape {list(chances.shape)}; give one for each image and class [N, K], K "
            "at least 3."
        )
    truth = _labels("labels", labels, chances.shape[1])
    if len(truth) != len(chances):
        raise UserError(
            f"{len(truth)} labels but probabilities of {len(chances)} images; give one row a label."
        )
    outside = ~((chances >= 0) & (chances <= 1)).all(1)  # written so that nan counts as wrong
    wrong = outside | ~(np.abs(chances.sum(1) - 1) <= SUM_TOLERANCE)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise UserError(
            f"the probabilities of {int(wrong.sum())} of {len(chances)} images are not in [0, 1] with the "
            f"sum 1, the first is image {first}; give softmax outputs, not logits. If they are nan, the "
            "training diverged: lower the learning rate."
        )
    return truth, chances


def operating_points(
    class_names: Sequence[str], labels: ArrayLike, probabilities: ArrayLike
) -> dict[str, dict[str, float]]:
    """`metrics.operating_points` of each class against the rest, from `probabilities` [N, K]."""
    truth, chances = checked(labels, probabilities)
    return {
        name: metrics.operating_points((truth == label).astype(np.int64), chances[:, label])
        for label, name in enumerate(class_names)
    }


def _labels(what: str, values: ArrayLike, classes: int) -> Ints:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise UserError(
            f"{what} have shape {list(array.shape)}; give a one-dimensional array, one image or more."
        )
    wrong = ~np.isin(array, np.arange(classes))
    if wrong.any():
        raise UserError(f"{what} contain {array[wrong][0]}; the classes are 0 to {classes - 1}.")
    return array.astype(np.int64)


def _logs(chances: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(chances, 1e-12)))  # a float32 softmax reaches 0


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
