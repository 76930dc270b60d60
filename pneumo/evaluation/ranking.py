"""Images in the order of their probabilities, counted on many draws of the bootstrap at once.

How often an image is in a draw is a whole number, so the counts along the order are whole too. They are kept
as 32-bit integers, and looked at where images of class 1 are: 100,000 images take a third of the time that
they take as float64, and AUROC is exact.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumo.evaluation.metrics import Floats, Ints

COUNTED = 100_000  # images x draws that are counted at once: they stay in a core's cache
SUMMED, FEWEST_DRAWS = 65_536, 64  # images x draws that are summed at once, and the fewest draws of them

Weights = NDArray[np.uint16]
Counts = NDArray[np.uint32]


class Ranking:
    """Images with `truth` 0 or 1 [N], in the order of their `chances` [N] from the highest down.

    A tie is all images of one probability. The ties that hold an image of class 1 are numbered in this order,
    and counts at them are [draws, T]. Only `areas` takes images without any of class 1.
    """

    def __init__(self, truth: Ints, chances: Floats) -> None:
        self._order = np.argsort(-chances, kind="stable")
        self._falling = chances[self._order]
        self._ill = np.flatnonzero(truth[self._order] == 1)
        ends = np.flatnonzero(np.diff(self._falling, append=-1.0))
        tie = np.searchsorted(ends, self._ill)
        self._surest = int(ends[0])  # the last image of the highest probability
        self._tied = len(ends) < len(chances)
        self._last = np.flatnonzero(np.diff(tie, append=len(ends)))  # of the images of class 1 in each tie
        self._begin, self._end = np.append(0, ends[:-1] + 1)[tie[self._last]], ends[tie[self._last]]

    def areas(self, weights: Weights, precision: bool = True) -> dict[str, Floats]:
        """AUROC and, with `precision`, average precision (auprc) on each draw of `weights` [N, draws].

        Pairs of one probability count half. NaN where a draw lacks one of the classes.
        """
        if not len(self._ill):
            return {name: np.full(weights.shape[1], np.nan) for name in ("auroc", "auprc")[: 1 + precision]}
        found = [self._areas(*counted, precision) for counted in self._counted(weights)]
        return {name: np.concatenate([some[name] for some in found]) for name in found[0]}

    def _areas(self, every: Weights, called: Counts, true: Counts, precision: bool) -> dict[str, Floats]:
        here = np.take(called, self._end, axis=1)
        positive, picked = true[:, -1].astype(np.float64), true.astype(np.float64)
        picked[:, 1:] -= true[:, :-1]
        above = (here - true).astype(np.float64)  # normal images from this probability on
        if self._tied:
            own = called[:, self._begin] - every[:, self._begin]  # images above it
            above = (above + (own - (true - picked))) / 2
        pairs = positive * (called[:, -1] - positive)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {"auroc": (pairs - np.einsum("dt,dt->d", picked, above)) / pairs}
            if precision:
                np.maximum(here, 1, out=here)  # 0 / 0 where a draw lacks the surest images
                found["auprc"] = np.einsum("dt,dt->d", picked, true / here) / positive
                found["auprc"][pairs == 0] = np.nan
        return found

    def from_thresholds(self, weights: Weights, thresholds: Floats) -> tuple[Floats, Floats]:
        """The images of class 1, and all, with a probability of `thresholds` [G] or more: both [G, draws]."""
        places = np.searchsorted(-self._falling, -thresholds, side="right")
        ties = np.searchsorted(self._end, places)  # a threshold cuts no tie
        found = [(_first(true, ties), _first(called, places)) for _, called, true in self._counted(weights)]
        ill, all_images = (np.concatenate(each).T.astype(np.float64) for each in zip(*found, strict=True))
        return ill, all_images

    def curves(self, weights: Weights, grid: Floats) -> tuple[Floats, Floats]:
        """Sensitivity at each false positive rate of `grid` [G], and precision at each sensitivity.

        Both are [G, draws]. The ROC is a step function: the sensitivity reached without exceeding the false
        positive rate.
        """
        surest = np.full(len(grid), self._surest + 1)
        found = []
        for _, called, true in self._counted(weights):
            here = np.take(called, self._end, axis=1)
            positive, negative = true[:, -1:].astype(np.float64), called[:, -1:] - true[:, -1:]
            # The grid's values count as reached within rounding: k / n * n is not always k.
            reached = _first(true, _places(here - true, np.floor((grid + 1e-12) * negative), "right"))
            place = _places(true, np.ceil((grid - 1e-12) * positive), "left") + 1
            # Sensitivity 0 is reached at the highest probability, which may be of normal images alone.
            ill = np.where(
                grid > 1e-12, _first(true, place), _first(true, np.searchsorted(self._end, surest))
            )
            every = np.where(grid > 1e-12, _first(here, place), _first(called, surest))
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append((reached / positive, ill / np.maximum(every, 1)))
        roc, precision = (np.concatenate(each).T for each in zip(*found, strict=True))
        return roc, precision

    def _counted(self, weights: Weights) -> Iterator[tuple[Weights, Counts, Counts]]:
        """Of some draws of `weights` [N, draws]: how often they have each image in the order [draws, N], all
        images up to it [draws, N], and the images of class 1 up to the end of each tie [draws, T]."""
        if not np.issubdtype(weights.dtype, np.integer):
            raise TypeError(f"weights are {weights.dtype}, but images are counted")
        by_draw = weights.T
        size = max(1, COUNTED // len(self._order))
        for start in range(0, len(by_draw), size):
            # numpy.take: weights[order] took four times as long for 100,000 images.
            every = np.take(by_draw[start : start + size], self._order, axis=1)
            true = np.cumsum(np.take(every, self._ill, axis=1), axis=1, dtype=np.uint32)
            if len(self._last) < len(self._ill):
                true = np.take(true, self._last, axis=1)
            yield every, np.cumsum(every, axis=1, dtype=np.uint32), true


def _first(counts: Counts, places: Ints) -> Counts:
    """The count of the first `places` ([G] or [draws, G]) in each row of `counts` [draws, N]: [draws, G]."""
    wide = np.broadcast_to(places, (len(counts), places.shape[-1]))
    found = np.take_along_axis(counts, np.clip(wide, 1, counts.shape[1]) - 1, axis=1)
    return np.where(wide > 0, found, np.uint32(0))


def _places(rising: Counts, values: Floats, side: Literal["left", "right"]) -> Ints:
    """Where `values` [draws, G] belong in each row of `rising` [draws, N]: [draws, G]."""
    keys = np.maximum(values, 0).astype(np.uint32)  # of the same type, or each row would be converted
    return np.stack([np.searchsorted(row, some, side) for row, some in zip(rising, keys, strict=True)])


def weighted_sums(rows: ArrayLike, weights: Weights) -> Floats:
    """`rows` [K, N] @ `weights` [N, draws], in parts that stay in a core's cache."""
    each, by_draw = np.asarray(rows, dtype=np.float64), np.asarray(weights).T
    draws = max(FEWEST_DRAWS, SUMMED // each.shape[1])
    images = SUMMED // draws
    found = np.zeros((len(each), len(by_draw)))
    for first in range(0, len(by_draw), draws):
        some = slice(first, first + draws)
        for start in range(0, each.shape[1], images):
            part = slice(start, start + images)
            found[:, some] += each[:, part] @ by_draw[some, part].T.astype(np.float64)
    return found
