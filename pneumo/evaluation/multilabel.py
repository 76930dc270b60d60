"""Scores of several findings an image. Arrays in, numbers out.

Labels are [N, K]: 1, 0, or -1 where it is not known whether the image has the finding. Each finding is scored
on the images whose label is known. A score of the run is the mean over the findings that have it: a finding
that all or none of the images have has no AUROC, and does not change the mean of the others.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from pneumo import UserError
from pneumo.evaluation import metrics
from pneumo.evaluation.metrics import Floats, Ints

UNKNOWN = -1  # the label of a finding that is not known
SCORES = (
    *("accuracy", "f1", "precision", "recall", "specificity", "auroc", "auprc", "brier", "ece"),
    *("balanced_accuracy", "mcc", "log_loss"),
)
_NEEDS_PRESENT = ("auroc", "auprc", "recall", "f1", "balanced_accuracy", "mcc")
_NEEDS_ABSENT = ("auroc", "specificity", "balanced_accuracy", "mcc")


def scores(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """Score `probabilities` [N, K] against `labels` [N, K]: `metrics.scores` of each finding, averaged.

    `exact_match` is the share of images of which every known finding is called right at probability 0.5.
    """
    truth, chances = checked(labels, probabilities)
    of_finding = finding_scores(truth, chances)
    means = {name: _mean([one[name] for one in of_finding]) for name in SCORES}
    right = ((chances >= 0.5) == truth) | (truth == UNKNOWN)
    return {**means, "exact_match": float(right.all(1).mean())}


def finding_scores(
    labels: ArrayLike, probabilities: ArrayLike, thresholds: Sequence[float] | None = None
) -> list[dict[str, float]]:
    """`metrics.scores` of each finding on its known images, and `images`: how many have it.

    A finding is called from its threshold on, None: from 0.5 on. A score that needs images with (or without)
    the finding is nan where there are none.
    """
    found = []
    truths, every = checked(labels, probabilities)
    cuts = [0.5] * truths.shape[1] if thresholds is None else thresholds
    for (truth, chances), cut in zip(columns(truths, every), cuts, strict=True):
        one = metrics.all_scores(truth, chances, cut) if len(truth) else dict.fromkeys(SCORES, float("nan"))
        if not truth.any():
            one |= dict.fromkeys(_NEEDS_PRESENT, float("nan"))
        if truth.all():
            one |= dict.fromkeys(_NEEDS_ABSENT, float("nan"))
        found.append({"images": int(truth.sum()), **one})
    return found


def columns(labels: Ints, probabilities: Floats) -> Iterator[tuple[Ints, Floats]]:
    """Labels 0 or 1 and probabilities of the images whose label is known, finding by finding."""
    for truth, chances in zip(labels.T, probabilities.T, strict=True):
        known = truth != UNKNOWN
        yield truth[known], chances[known]


def temperatures(labels: ArrayLike, probabilities: ArrayLike) -> list[float]:
    """`metrics.temperature` of each finding on its known images; 1 if they do not have both values."""
    return [
        metrics.temperature(truth, chances) if len(truth) else 1.0
        for truth, chances in columns(*checked(labels, probabilities))
    ]


def tempered(probabilities: ArrayLike, temperatures: Sequence[float]) -> Floats:
    """`probabilities` [N, K] with the logits of each finding divided by its temperature [K]."""
    chances = np.asarray(probabilities, dtype=np.float64)
    return np.stack(
        [metrics.tempered(column, one) for column, one in zip(chances.T, temperatures, strict=True)], axis=1
    )


def operating_points(
    class_names: Sequence[str], labels: ArrayLike, probabilities: ArrayLike
) -> dict[str, dict[str, float]]:
    """`metrics.operating_points` of each finding on its known images; only 0.5 if one value is missing."""
    found = columns(*checked(labels, probabilities))
    return {
        name: metrics.operating_points(truth, chances) if len(truth) else {"half": 0.5}
        for name, (truth, chances) in zip(class_names, found, strict=True)
    }


def confusion(labels: ArrayLike, predictions: ArrayLike) -> Ints:
    """Known images by true (rows) and called (columns) absence and presence: [K, 2, 2]."""
    truth, called = np.asarray(labels), np.asarray(predictions)
    cells = np.where(truth == UNKNOWN, -1, 2 * truth + called)
    return np.stack([(cells == cell).sum(0) for cell in range(4)], 1).reshape(-1, 2, 2).astype(np.int64)


def from_counts(counts: ArrayLike) -> dict[str, float]:
    """Accuracy, F1, precision and recall from tn, fp, fn, tp of each finding [K, 4], as training logs."""
    rows = [[int(count) for count in row] for row in np.asarray(counts)]
    of_finding = []
    for row in rows:
        one = metrics.from_counts(*row)
        if not row[2] + row[3]:
            one |= {"recall": float("nan"), "f1": float("nan")}
        of_finding.append(one)
    seen = [one for one, row in zip(of_finding, rows, strict=True) if sum(row)]
    return {name: _mean([one[name] for one in seen]) for name in ("accuracy", "f1", "precision", "recall")}


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    """`labels` as int64 [N, K] and `probabilities` as float64 [N, K]; UserError says what is wrong."""
    truth, chances = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 2 or truth.shape != chances.shape or not truth.size:
        raise UserError(
            f"labels have shape {list(truth.shape)} and probabilities {list(chances.shape)}; give one of "
            "each for each image and finding [N, K]."
        )
    odd = ~np.isin(truth, (0, 1, UNKNOWN))
    if odd.any():
        raise UserError(f"labels contain {truth[odd][0]}; a finding is 0, 1, or {UNKNOWN} for not known.")
    wrong = ~((chances >= 0) & (chances <= 1)).all(1)  # written so that nan counts as wrong
    if wrong.any():
        raise UserError(
            f"the probabilities of {int(wrong.sum())} of {len(chances)} images are not in [0, 1], the first "
            f"is image {int(np.argmax(wrong))}. If they are nan, the training diverged: lower the learning "
            "rate."
        )
    return truth.astype(np.int64), chances


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
