"""Differences between configurations, against scipy and by the frequencies that they promise."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pneumo.evaluation import contrasts
from pneumo.evaluation.contrasts import FoldScores, Spread

STILL = np.zeros(1000)  # draws in which nothing varies


def spread(values: list[float], draws: np.ndarray = STILL) -> Spread:
    return Spread.of(values, [draws] * len(values), [""] * len(values))


def test_without_chance_in_the_patients_it_is_welchs_t_test() -> None:
    first, second = [0.90, 0.91, 0.93], [0.87, 0.88, 0.88, 0.86]
    found = contrasts.over_runs(spread(first, STILL), spread(second, STILL), patients=100)
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert found is not None
    assert (found.p, found.freedom) == pytest.approx((expected.pvalue, expected.df))
    ends = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


def test_patients_and_seeds_add_their_variances() -> None:
    draws = np.random.default_rng(0).normal(0, 0.01, 1000)
    first, second = [0.88, 0.90, 0.92], [0.85, 0.87, 0.89]
    quiet = contrasts.over_patients(spread(first, draws), spread(second, STILL), patients=1000)
    noisy = contrasts.over_runs(spread(first, draws), spread(second, STILL), patients=1000)
    assert noisy is not None
    assert quiet.error == pytest.approx(0.01, rel=0.05)
    assert noisy.error**2 == pytest.approx(quiet.error**2 + 2 * 0.02**2 / 3)
    assert noisy.low < 0 < quiet.low


def test_with_one_run_on_a_side_nothing_is_said_about_recipes() -> None:
    assert contrasts.over_runs(spread([0.9], STILL), spread([0.8, 0.81], STILL), 100) is None
    assert contrasts.runs_needed(spread([0.9], STILL), spread([0.8, 0.81], STILL), 100, 0.02, 0.05) is None


def test_where_nothing_varies_there_is_no_test() -> None:
    found = contrasts.over_patients(spread([0.9], STILL), spread([0.8], STILL), patients=1)
    assert found.p is None and math.isnan(found.low) and math.isnan(found.high)
    assert contrasts.equivalence(found, 0.02) is None and contrasts.detectable(found, 0.05) is None


def test_runs_that_share_a_split_count_once() -> None:
    draws = [np.full(10, value) for value in (1.0, 3.0, 5.0, 7.0)]
    shared = Spread.of([1.0, 3.0, 5.0, 7.0], draws, ["a", "a", "b", "b"])
    assert shared.values.tolist() == [2.0, 6.0] and shared.draws.tolist() == [4.0] * 10
    for splits in (["a"] * 4, ["a", "b", "c", "d"]):  # one split, or one for each run
        assert Spread.of([1.0, 3.0, 5.0, 7.0], draws, splits).values.tolist() == [1.0, 3.0, 5.0, 7.0]


def test_equivalence_is_two_one_sided_tests() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.9, 0.004, 6), rng.normal(0.902, 0.004, 6)
    found = contrasts.over_runs(spread(list(first), STILL), spread(list(second), STILL), patients=100)
    assert found is not None
    sides = [
        stats.ttest_ind(first, second - 0.01, equal_var=False, alternative="greater").pvalue,
        stats.ttest_ind(first, second + 0.01, equal_var=False, alternative="less").pvalue,
    ]
    assert contrasts.equivalence(found, 0.01) == pytest.approx(max(sides))


def test_the_detectable_difference_is_found_with_the_power_it_promises() -> None:
    test = contrasts.Test.of(0.0, 0.01)
    shown = contrasts.detectable(test, 0.05)
    assert shown is not None
    draws = np.random.default_rng(0).normal(shown, 0.01, 20_000)
    assert np.mean(np.abs(draws) > 1.96 * 0.01) == pytest.approx(0.80, abs=0.01)


def test_the_seeds_needed_are_the_fewest_that_suffice() -> None:
    values, draws = [0.90, 0.92, 0.94], np.random.default_rng(0).normal(0, 0.002, 1000)
    a, b = spread(values, draws), spread(values, STILL)
    needed = contrasts.runs_needed(a, b, 200, margin=0.02, level=0.05)
    assert needed is not None and needed > 3

    def reach(runs: int) -> float | None:
        many = [0.92 + 0.02 * math.sqrt((runs - 1) / runs) * sign for sign in [-1, 1] * runs][:runs]
        scale = 0.02 / np.std(many, ddof=1)
        many = list(0.92 + (np.array(many) - np.mean(many)) * scale)
        test = contrasts.over_runs(spread(many, draws), spread(many, STILL), 200)
        assert test is not None
        return contrasts.detectable(test, 0.05)

    fewer, enough = reach(needed - 1), reach(needed)
    assert fewer is not None and enough is not None and enough <= 0.02 < fewer
    wide = spread(values, np.random.default_rng(0).normal(0, 0.02, 1000))
    assert contrasts.runs_needed(wide, b, 200, margin=0.02, level=0.05) is None  # more patients are needed


def test_equal_recipes_are_rarely_called_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """With chance in training, in 150 worlds: at most 5 % and three standard errors."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("statistics_simulation")
    found = simulation.verdicts(
        worlds=150, configurations=3, seeds=3, patients=(60, 70), auroc=0.965, draws=80, seed=1
    )
    assert found["auroc"]["false_better"] <= 0.05 + 3 * 0.018
    assert found["accuracy"]["false_better"] <= 0.05 + 3 * 0.018
    assert found["auroc"]["coverage"] > 0.93 and found["accuracy"]["coverage"] > 0.93
    # The interval over patients alone, which used to decide, is wrong far more often.
    assert found["accuracy"]["networks_differ"] > found["accuracy"]["false_better"]


def test_folds_are_tested_as_nadeau_and_bengio_do() -> None:
    first, second = np.array([0.91, 0.95, 0.93, 0.97]), np.array([0.90, 0.92, 0.93, 0.91])
    names = ["a", "b", "c", "d"]
    one = Spread.of([0.94], [np.zeros(3)], [""], FoldScores.of(names, first.tolist(), 4))
    other = Spread.of([0.91], [np.zeros(3)], [""], FoldScores.of(names, second.tolist(), 4))
    test = contrasts.over_runs(one, other, 50)
    assert test is not None
    error = ((1 / 4 + 25 / 75) * np.var(first - second, ddof=1)) ** 0.5
    assert test.error == pytest.approx(error) and test.freedom == 3
    assert test.p == pytest.approx(2 * stats.t.sf(0.03 / error, 3))
    assert test.high == pytest.approx(0.03 + stats.t.ppf(0.975, 3) * error)
    assert contrasts.runs_needed(one, other, 50, 0.02, 0.05) is None


def test_seeds_of_a_fold_are_averaged_and_other_folds_are_not_paired() -> None:
    folds = FoldScores.of(["a", "b", "a", "b"], [0.8, 0.9, 0.6, float("nan")], 2)
    assert folds.values == {"a": pytest.approx(0.7), "b": 0.9}
    one = Spread.of([0.8], [np.zeros(3)], [""], folds)
    other = Spread.of([0.7], [np.zeros(3)], [""], FoldScores.of(["c", "d"], [0.6, 0.8], 2))
    test = contrasts.over_folds(one, other)
    assert test.error == pytest.approx((2 * 1.5 * 0.02) ** 0.5) and test.freedom == 1
