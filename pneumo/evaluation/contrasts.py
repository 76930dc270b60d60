"""Differences between configurations: what is chance in the patients, what is chance in training.

A configuration is a recipe; each of its runs is one network that came out of it. Two questions differ:

- Do *these networks* differ on patients like these? Only the patients are chance. The bootstrap answers.
- Does one *recipe* give better networks than the other? Then training is chance too. That takes two runs or
  more of each recipe.

For the second question the variances of three parts are added: over the patients (the bootstrap's, times
`correction`), and between the runs of either side, divided by their number. The degrees of freedom are Welch
and Satterthwaite's (1946); the patients' part has one less than the patients of the smaller class. The
variance between runs holds some of the patients' chance again, so the sum is a little too large rather than
too small. Simulation chose this among six ways (docs/decisions/0005-training-chance-decides.md).

In a cross-validation each configuration has a network for each fold. The folds train on overlapping images,
so their scores depend on each other. The variance is that of the differences by fold, times
1 / folds + validated / trained images (Nadeau and Bengio 2003); the degrees of freedom are one less than the
folds. It holds the chance in the patients already.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pneumo.evaluation.metrics import Floats
from pneumo.evaluation.statistics import LEVEL, Z, small_sample

POWER = 0.80  # with this chance a comparison finds the difference that is called its smallest
MOST_RUNS = 1000  # above that, more seeds are not the answer
STILL = 1e-12  # a standard error below this is rounding: nothing varies


@dataclass(kw_only=True, slots=True)
class Test:
    """A difference with its 95 % interval. Nothing varied: no interval (NaN) and no p (None)."""

    difference: float
    low: float
    high: float
    p: float | None
    error: float
    freedom: float

    @classmethod
    def of(cls, difference: float, error: float, freedom: float = math.inf) -> "Test":
        """The test of `difference` from its standard error: the normal's, or Student's with `freedom`."""
        if not math.isfinite(error) or error <= STILL:
            return cls(difference=difference, low=math.nan, high=math.nan, p=None, error=0.0, freedom=freedom)
        half = error * _quantile((1 + LEVEL) / 2, freedom)
        return cls(
            difference=difference,
            low=difference - half,
            high=difference + half,
            p=min(1.0, 2 * _tail(abs(difference) / error, freedom)),
            error=error,
            freedom=freedom,
        )


@dataclass(kw_only=True, slots=True)
class FoldScores:
    """One score of a configuration by fold of a cross-validation.

    `values` has the score by what identifies the fold's images, the mean of the seeds that share the fold.
    `folds` is the number of folds of one cross-validation.
    """

    values: dict[str, float]
    folds: int

    @classmethod
    def of(cls, names: Sequence[str], scores: Sequence[float], folds: int) -> "FoldScores":
        """From each network's score and the name of its fold. Scores that are not finite are left out."""
        found: dict[str, list[float]] = {}
        for name, score in zip(names, scores, strict=True):
            if math.isfinite(score):
                found.setdefault(name, []).append(score)
        return cls(values={name: float(np.mean(mine)) for name, mine in found.items()}, folds=folds)

    def error(self, less: "FoldScores | None" = None) -> tuple[float, float]:
        """Standard error of the mean, or of its difference to `less` on the same folds; degrees of freedom.

        Infinite with fewer than two folds.
        """
        values = [score - (less.values[name] if less else 0) for name, score in self.values.items()]
        if len(values) < 2:
            return math.inf, math.inf
        share = 1 / len(values) + 1 / (self.folds - 1)
        return math.sqrt(share * float(np.var(values, ddof=1))), len(values) - 1


@dataclass(kw_only=True, slots=True)
class Spread:
    """One score of a configuration: of each run [runs], and of the runs' mean on every draw [draws].

    `folds` are the scores by fold, where the runs are cross-validations.
    """

    values: Floats
    draws: Floats
    folds: FoldScores | None = None

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        draws: Sequence[Floats],
        splits: Sequence[str],
        folds: FoldScores | None = None,
    ) -> "Spread":
        """From each run's value, draws and train/validation split.

        If there are several splits and runs share one, the runs of a split are averaged first: chance in the
        split then counts, and there are as many independent values as splits.
        """
        each, drawn = np.asarray(values, dtype=np.float64), np.asarray(draws, dtype=np.float64)
        names = sorted(set(splits))
        if 1 < len(names) < len(each):
            rows = [[i for i, split in enumerate(splits) if split == name] for name in names]
            each = np.array([each[some].mean() for some in rows])
            drawn = np.array([drawn[some].mean(axis=0) for some in rows])
        return cls(values=each, draws=drawn.mean(axis=0), folds=folds)

    @property
    def runs(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def between(self) -> float:
        """Variance between the runs."""
        return float(self.values.var(ddof=1))


def over_patients(first: Spread, second: Spread, patients: int) -> Test:
    """Do these networks differ on patients like these? `patients` are those of the smaller class."""
    return Test.of(first.mean - second.mean, math.sqrt(_patients(first, second, patients)))


def over_runs(first: Spread, second: Spread, patients: int) -> Test | None:
    """Does one recipe give better networks? None if a side has one run: chance in training is unknown.

    Cross-validations are tested over their folds, and need no second run.
    """
    if first.folds and second.folds:
        return over_folds(first, second)
    if min(first.runs, second.runs) < 2:
        return None
    error, freedom = _error(first, second, patients, (first.runs, second.runs))
    return Test.of(first.mean - second.mean, error, freedom)


def over_folds(first: Spread, second: Spread) -> Test:
    """The difference of two cross-validations, paired by fold; not paired where their folds differ."""
    one, other = first.folds, second.folds
    assert one is not None and other is not None
    if one.values.keys() == other.values.keys():
        error, freedom = one.error(less=other)
    else:
        (a, n), (b, m) = one.error(), other.error()
        error, freedom = math.hypot(a, b), min(n, m)
    return Test.of(first.mean - second.mean, error, freedom)


def equivalence(test: Test, margin: float) -> float | None:
    """p of two one-sided tests that the difference is within -+ `margin` (Schuirmann 1987)."""
    if test.p is None:
        return None
    return max(
        _tail((margin - test.difference) / test.error, test.freedom),
        _tail((margin + test.difference) / test.error, test.freedom),
    )


def detectable(test: Test, level: float) -> float | None:
    """The difference that a test at `level` (Bonferroni: .05 / pairs) shows in 80 % of such comparisons."""
    if test.p is None:
        return None
    return test.error * _reach(level, test.freedom)


def runs_needed(first: Spread, second: Spread, patients: int, margin: float, level: float) -> int | None:
    """Runs a side with which a difference of `margin` would be shown in 80 % of comparisons at `level`.

    None if no number of runs does it: more patients are needed. None for cross-validations too. Take it as a
    hint: it rests on the variance between few runs.
    """
    if first.folds or second.folds or min(first.runs, second.runs) < 2:
        return None

    def enough(runs: int) -> bool:
        error, freedom = _error(first, second, patients, (runs, runs))
        return error * _reach(level, freedom) <= margin

    if not enough(MOST_RUNS):
        return None
    low, high = 2, MOST_RUNS
    while low < high:  # more runs never show less
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _patients(first: Spread, second: Spread, patients: int) -> float:
    apart = first.draws - second.draws
    apart -= apart.mean()  # numpy's var takes three times as long, and 50 configurations have 23,000 of these
    return float(apart @ apart) / (len(apart) - 1) * small_sample(patients)


def _error(first: Spread, second: Spread, patients: int, runs: tuple[int, int]) -> tuple[float, float]:
    """Standard error of the difference with `runs` a side, and its degrees of freedom."""
    parts = [
        (_patients(first, second, patients), max(1, patients - 1)),
        (first.between / runs[0], runs[0] - 1),
        (second.between / runs[1], runs[1] - 1),
    ]
    total = sum(part for part, _ in parts)
    small = sum(part**2 / freedom for part, freedom in parts)
    return math.sqrt(total), total**2 / small if small > 0 else math.inf


def _reach(level: float, freedom: float) -> float:
    """Standard errors from zero to a difference that is shown at `level` with probability POWER."""
    return _quantile(1 - level / 2, freedom) + _quantile(POWER, freedom)


def _quantile(share: float, freedom: float) -> float:
    from scipy.special import ndtri, stdtrit

    if share == (1 + LEVEL) / 2 and math.isinf(freedom):
        return Z
    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))


def _tail(value: float, freedom: float) -> float:
    """Probability above `value`."""
    from scipy.special import ndtr, stdtr

    return float(ndtr(-value) if math.isinf(freedom) else stdtr(freedom, -value))
