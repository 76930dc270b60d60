"""Scores of groups of images, and the gap of each group against the others of its column.

All groups share the draws of `statistics`: whole patients, stratified by class over all images. So a patient
with images in two groups (two films, PA and AP) is drawn into both. Draws in which a score of a group is not
defined, because no ill patient of it was drawn, are left out for that score. The scores are the mean of the
runs, each at its own threshold; the runs are given, so only patients are chance.

A gap is the score of a group minus that of the others, which are the other groups of its column together.
A group with fewer than FEW patients of a class that the score needs takes part in no gap, on neither side,
nor do images whose group is not known. Two groups have one gap: theirs.

A gap's interval joins Wilson's intervals l, u of both sides (p of the group, q of the others) as Newcombe
(1998) does: from p - q - sqrt((p - l_p)^2 - 2 r (p - l_p)(u_q - q) + (u_q - q)^2), and likewise to the upper
end. r is the correlation of both sides over the draws (Zou and Donner 2008). Wilson's intervals are those of
`statistics`, at the quantile that Bonferroni's correction asks for: 1 - .05 / (2 m), for the m gaps of this
score over all columns. The p of a gap is that of the widest interval without 0, times m, at most 1.

Of more than two classes the scores are the balanced accuracy of the called class, and the macro AUROC.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumo import UserError
from pneumo.evaluation import class_statistics, metrics, multiclass, statistics
from pneumo.evaluation.metrics import Floats, Ints
from pneumo.evaluation.ranking import Ranking, Weights, weighted_sums
from pneumo.evaluation.statistics import DRAWS, LEVEL
from pneumo.evaluation.subgroups import NOT_KNOWN, ordered

FEW = 10  # patients of a class; a group with fewer takes part in no gap
SCORES = ("recall", "specificity", "auroc")  # the first is primary
CLASS_SCORES = ("balanced_accuracy", "auroc")  # of more than two classes
CALLED = "called"  # the share of images called ill
LOWER, HIGHER, NOT_SHOWN = "lower", "higher", "not shown"
_STEPS = 50  # of halving

Rows = NDArray[np.bool_]


class Score(TypedDict):
    """A score with its 95 % interval over patients; NaN where there is none."""

    value: float
    low: float
    high: float


class Gap(TypedDict):
    """A group's score minus that of the others, with the interval and p corrected for the number of gaps."""

    difference: float
    low: float
    high: float
    p: float
    others: float  # the score of the others
    verdict: str  # LOWER or HIGHER than the others, or NOT_SHOWN


class Group(TypedDict):
    """A group of images; `by_class` are its patients with a normal and with an ill image, or of K classes.

    `few` are the scores for which it has too few patients; `gaps` the scores for which it has a gap.
    """

    name: str
    images: int
    patients: int
    by_class: list[int]
    scores: dict[str, Score]
    few: list[str]
    gaps: dict[str, Gap]


class SubgroupResult(TypedDict):
    """The groups of each column, in order, and how they were compared."""

    primary: str
    scores: list[str]  # those with gaps
    runs: int
    whole: Group  # all images
    columns: dict[str, list[Group]]
    gaps: dict[str, int]  # by score, the number of gaps that the intervals are corrected for
    level: dict[str, float]  # by score, of a single interval: 1 - .05 / gaps
    few: int  # fewer patients of a class are few
    draws: int
    seed: int


@dataclass(kw_only=True, frozen=True, slots=True)
class _Behind:
    """The patients behind one score: those of its smaller class, and the most that it is a share of."""

    smaller_class: int
    most: float

    def behind(self, score: str) -> float:
        return self.most


@dataclass(kw_only=True, slots=True)
class _Scored:
    """The scores of some images: observed, on the draws, and the patients behind them."""

    observed: dict[str, float]
    draws: dict[str, Floats]
    variance: dict[str, float]
    behind: dict[str, _Behind]
    patients: int
    by_class: list[int]

    def interval(self, score: str) -> Score:
        low, high = statistics.interval(
            score, self.observed[score], self.draws[score], self.behind[score], self.behind[score].most
        )
        return {"value": self.observed[score], "low": low, "high": high}

    def wilson(self, score: str, z: float) -> tuple[float, float]:
        return statistics.wilson(self.observed[score], self.variance[score], self.behind[score].most, z)

    def few(self, score: str) -> bool:
        return self.behind[score].smaller_class < FEW


@dataclass(kw_only=True, slots=True)
class _Sides:
    """A group and the others of its column, in one score."""

    group: _Scored
    others: _Scored
    score: str
    correlation: float

    @classmethod
    def of(cls, group: _Scored, others: _Scored, score: str) -> "_Sides":
        one, other = group.draws[score], others.draws[score]
        both = np.isfinite(one) & np.isfinite(other)
        one, other = one[both] - one[both].mean(), other[both] - other[both].mean()
        spread = math.sqrt(float(one @ one) * float(other @ other))
        correlation = float(one @ other) / spread if spread > 0 else 0.0
        return cls(group=group, others=others, score=score, correlation=correlation)

    @property
    def difference(self) -> float:
        return self.group.observed[self.score] - self.others.observed[self.score]

    def interval(self, z: float) -> tuple[float, float]:
        p, q = self.group.observed[self.score], self.others.observed[self.score]
        low_p, high_p = self.group.wilson(self.score, z)
        low_q, high_q = self.others.wilson(self.score, z)

        def half(one: float, other: float) -> float:
            return math.sqrt(max(0.0, one**2 - 2 * self.correlation * one * other + other**2))

        return p - q - half(p - low_p, high_q - q), p - q + half(high_p - p, q - low_q)

    def reach(self) -> float:
        """The quantile z of the widest interval that does not hold 0; at most 40."""
        inside, outside = 40.0, 0.0
        for _ in range(_STEPS):
            z = (inside + outside) / 2
            low, high = self.interval(z)
            inside, outside = (z, outside) if low <= 0 <= high else (inside, z)
        return outside


def analyse(
    labels: ArrayLike,
    networks: Sequence[ArrayLike],
    thresholds: Sequence[float],
    patients: Sequence[str | None],
    columns: Mapping[str, Sequence[str]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> SubgroupResult:
    """The scores of each group of each of `columns` (name -> group [N]), and their gaps.

    `networks` are the probabilities of one configuration's runs on the images with `labels` [N]: [N], or
    [N, K] of more than two classes. `thresholds` are the runs' own; of more than two classes there are none.
    """
    truth, chances = _checked(labels, networks, thresholds, patients, columns)
    weights = statistics.resample(truth, patients, draws, seed)
    scorer = _Scorer(
        truth=truth, chances=chances, thresholds=list(thresholds), patients=patients, weights=weights
    )
    scores = list(SCORES if chances[0].ndim == 1 else CLASS_SCORES)
    found: dict[str, list[Group]] = {}
    sides: dict[tuple[str, str, str], _Sides] = {}  # by column, group and score
    counts = dict.fromkeys(scores, 0)
    for column, given in columns.items():
        groups = np.asarray(given, dtype=object)
        rows = {name: groups == name for name in ordered(list(given))}
        scored = {name: scorer.of(mine) for name, mine in rows.items()}
        found[column] = [_group(name, rows[name], one) for name, one in scored.items()]
        for score in scores:
            taking = [name for name, one in scored.items() if name != NOT_KNOWN and not one.few(score)]
            if len(taking) < 2:
                continue
            counts[score] += len(taking) if len(taking) > 2 else 1
            for name in taking:
                others = np.any([rows[other] for other in taking if other != name], axis=0)
                sides[column, name, score] = _Sides.of(scored[name], scorer.of(others), score)
    by_name = {(column, group["name"]): group for column, listed in found.items() for group in listed}
    for (column, name, score), both in sides.items():
        by_name[column, name]["gaps"][score] = _gap(both, counts[score])
    everything = np.ones(len(truth), dtype=bool)
    return {
        "primary": scores[0],
        "scores": scores,
        "runs": len(chances),
        "whole": _group("all", everything, scorer.of(everything)),
        "columns": found,
        "gaps": counts,
        "level": {score: 1 - (1 - LEVEL) / max(1, count) for score, count in counts.items()},
        "few": FEW,
        "draws": draws,
        "seed": seed,
    }


def _checked(
    labels: ArrayLike,
    networks: Sequence[ArrayLike],
    thresholds: Sequence[float],
    patients: Sequence[str | None],
    columns: Mapping[str, Sequence[str]],
) -> tuple[Ints, list[Floats]]:
    if np.ndim(labels) == 2:
        raise UserError(
            "subgroups of several findings an image are not scored: a finding has too few patients in most "
            "groups. Train or score one finding (data.positive=[NAME]), or leave out by."
        )
    if not networks:
        raise UserError("there is no network to score in subgroups; give one run or more.")
    many = np.ndim(networks[0]) == 2
    check = multiclass.checked if many else metrics.checked
    both = [check(labels, network) for network in networks]
    truth = both[0][0]
    if not many and len(thresholds) != len(networks):
        raise UserError(f"{len(networks)} networks but {len(thresholds)} thresholds; give one for each.")
    lengths = {"patients": len(patients)} | {f"column {name}": len(given) for name, given in columns.items()}
    for name, length in lengths.items():
        if length != len(truth):
            raise UserError(f"{name}: {length} values but {len(truth)} labels; give one for each image.")
    return truth, [np.asarray(chances) for _, chances in both]


@dataclass(kw_only=True, slots=True)
class _Scorer:
    """What scores the images of a group, on the same draws for all groups."""

    truth: Ints
    chances: list[Floats]
    thresholds: list[float]
    patients: Sequence[str | None]
    weights: Weights
    known: dict[bytes, _Scored] = field(
        default_factory=dict
    )  # by the rows: two groups are each other's others

    def of(self, rows: Rows) -> _Scored:
        key = rows.tobytes()
        if key not in self.known:
            self.known[key] = self._of(rows)
        return self.known[key]

    def _of(self, rows: Rows) -> _Scored:
        truth, weights = self.truth[rows], self.weights[rows]
        chances = [network[rows] for network in self.chances]
        patients = [self.patients[row] for row in np.flatnonzero(rows).tolist()]
        classes = 2 if chances[0].ndim == 1 else chances[0].shape[1]
        once = np.ones((len(truth), 1), dtype=np.uint16)
        score = self._of_two if classes == 2 else self._of_many
        draws = score(truth, chances, weights)
        everyone = len(statistics.clusters(truth, patients)[0])
        by_class = [statistics.patients_of(patients, truth == label) for label in range(classes)]
        behind = _behind(by_class, everyone)
        return _Scored(
            observed={name: float(value[0]) for name, value in score(truth, chances, once).items()},
            draws=draws,
            variance={name: _variance(values, behind[name]) for name, values in draws.items()},
            behind=behind,
            patients=everyone,
            by_class=by_class,
        )

    def _of_two(self, truth: Ints, chances: list[Floats], weights: Weights) -> dict[str, Floats]:
        """The runs' mean of SCORES and CALLED on each draw [draws]; NaN where a class is not in it."""
        called = np.mean(
            [network >= at for network, at in zip(chances, self.thresholds, strict=True)], axis=0
        )
        ill = (truth == 1).astype(np.float64)
        parts = np.stack([ill * called, ill, (1 - ill) * (1 - called), 1 - ill, called, np.ones(len(ill))])
        each = weighted_sums(parts, weights)
        areas = [Ranking(truth, network).areas(weights, precision=False)["auroc"] for network in chances]
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, specificity, share = each[::2] / each[1::2]
        return {
            "recall": recall,
            "specificity": specificity,
            "auroc": np.mean(areas, axis=0),
            CALLED: share,
        }

    def _of_many(self, truth: Ints, chances: list[Floats], weights: Weights) -> dict[str, Floats]:
        """The runs' mean of CLASS_SCORES on each draw [draws]; NaN where a class is not in it."""
        with np.errstate(invalid="ignore", divide="ignore"):
            each = [
                class_statistics.resampled_scores(truth, network, weights, parts=("counts", "areas"))
                for network in chances
            ]
        return {score: np.mean([one[score] for one in each], axis=0) for score in CLASS_SCORES}


def _variance(draws: Floats, behind: _Behind) -> float:
    kept = draws[np.isfinite(draws)]
    if len(kept) < 2:
        return math.nan
    return float(kept.var(ddof=1)) * statistics.small_sample(behind.smaller_class)


def _behind(by_class: Sequence[int], everyone: int) -> dict[str, _Behind]:
    least = min(by_class)
    most = len(by_class) ** 2 / sum(1 / n for n in by_class) if least else 0.0
    of_all_classes = _Behind(smaller_class=least, most=most)
    if len(by_class) > 2:
        return dict.fromkeys(CLASS_SCORES, of_all_classes)
    normal, ill = by_class
    return {
        "recall": _Behind(smaller_class=ill, most=ill),
        "specificity": _Behind(smaller_class=normal, most=normal),
        "auroc": of_all_classes,
        CALLED: _Behind(smaller_class=everyone, most=everyone),
    }


def _group(name: str, rows: Rows, scored: _Scored) -> Group:
    return {
        "name": name,
        "images": int(rows.sum()),
        "patients": scored.patients,
        "by_class": scored.by_class,
        "scores": {score: scored.interval(score) for score in scored.observed},
        "few": [score for score in scored.observed if score != CALLED and scored.few(score)],
        "gaps": {},
    }


def _gap(sides: _Sides, gaps: int) -> Gap:
    from scipy.special import ndtr, ndtri

    low, high = sides.interval(float(ndtri(1 - (1 - LEVEL) / (2 * gaps))))
    return {
        "difference": sides.difference,
        "low": low,
        "high": high,
        "p": min(1.0, 2 * gaps * float(ndtr(-sides.reach()))),
        "others": sides.others.observed[sides.score],
        "verdict": HIGHER if low > 0 else LOWER if high < 0 else NOT_SHOWN,
    }
