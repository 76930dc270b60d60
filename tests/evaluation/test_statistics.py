"""Intervals and tests against brute force, scikit-learn and statsmodels; their frequencies by simulation."""

import importlib
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from pneumo import UserError
from pneumo.evaluation import metrics, statistics


def sample(seed: int, images: int = 200) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, tied probabilities and patients of one to five images."""
    rng = np.random.default_rng(seed)
    patients = [f"p{number:03d}" for number in np.sort(rng.integers(images // 3, size=images))]
    ill = {name: int(rng.random() < 0.6) for name in sorted(set(patients))}
    labels = np.array([ill[name] for name in patients])
    chances = np.round(np.clip(rng.normal(0.35 + 0.3 * labels, 0.25), 0, 1), 2)
    return labels, chances, patients


def test_a_draw_takes_whole_patients_of_each_class() -> None:
    labels, _, patients = sample(0)
    weights = statistics.resample(labels, patients, draws=50, seed=3)
    names = np.array(patients)
    by_patient = {name: weights[names == name] for name in sorted(set(patients))}
    assert all((rows == rows[0]).all() for rows in by_patient.values())
    ill = {name: labels[names == name][0] for name in by_patient}
    for label in (0, 1):
        drawn = sum(rows[0].astype(int) for name, rows in by_patient.items() if ill[name] == label)
        assert (drawn == sum(value == label for value in ill.values())).all()
    assert (statistics.resample(labels, patients, 50, 3) == weights).all()
    assert not (statistics.resample(labels, patients, 50, 4) == weights).all()


def test_the_draws_follow_the_documented_scheme() -> None:
    labels, patients = np.array([0, 1, 1, 0, 1, 0]), ["b", "c", "c", "a", None, "mixed"]
    labels, patients = np.append(labels, 1), [*patients, "mixed"]
    rng = np.random.default_rng(5)
    expected = np.zeros((7, 20), dtype=int)
    for rows in (
        [[3], [0]],
        [[4], [1, 2]],
        [[5, 6]],
    ):  # strata 0, 1, both; names sorted, rows without a name first
        picks = rng.integers(len(rows), size=(20, len(rows)))
        for patient, images in enumerate(rows):
            expected[images] = (picks == patient).sum(axis=1)
    assert (statistics.resample(labels, patients, 20, 5) == expected).all()


@pytest.mark.parametrize("threshold", [0.5, 0.31])
def test_resampled_scores_equal_scikit_learn_on_the_repeated_images(threshold: float) -> None:
    labels, chances, patients = sample(1)
    weights = statistics.resample(labels, patients, draws=40, seed=0)
    resampled = statistics.resampled_scores(labels, chances, weights, threshold)
    for draw in range(40):
        rows = np.repeat(np.arange(len(labels)), weights[:, draw])
        expected = metrics.all_scores(labels[rows], chances[rows], threshold)
        assert {k: v[draw] for k, v in resampled.items()} == pytest.approx(expected, abs=1e-12)


def test_a_score_over_nothing_is_as_in_scikit_learn() -> None:
    labels, chances = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    ones = np.ones((4, 1), dtype=np.uint16)
    resampled = statistics.resampled_scores(labels, chances, ones)
    assert {k: v[0] for k, v in resampled.items()} == pytest.approx(metrics.all_scores(labels, chances))
    alone = statistics.resampled_scores(np.ones(4, dtype=int), chances, ones)
    assert np.isnan(alone["auroc"][0]) and alone["recall"][0] == 0


def test_two_thousand_draws_take_less_time_than_twenty_one_by_one() -> None:
    labels, chances, patients = sample(2, images=624)
    weights = statistics.resample(labels, patients)
    began = time.thread_time()
    statistics.resampled_scores(labels, chances, weights)
    together_s, began = time.thread_time() - began, time.thread_time()
    for draw in range(20):
        rows = np.repeat(np.arange(len(labels)), weights[:, draw])
        metrics.all_scores(labels[rows], chances[rows])
    assert together_s < time.thread_time() - began  # ten times less on an idle machine


def test_delong_equals_the_definition_by_pairs() -> None:
    labels, first, _ = sample(3)
    second = np.clip(first + np.random.default_rng(0).normal(0, 0.1, len(first)), 0, 1).round(2)
    areas, covariance = statistics.delong(labels, [first, second])
    kernel = [
        np.where(d > 0, 1.0, np.where(d == 0, 0.5, 0.0))
        for p in (first, second)
        for d in [p[labels == 1][:, None] - p[labels == 0][None, :]]
    ]
    ill, well = np.stack([k.mean(axis=1) for k in kernel]), np.stack([k.mean(axis=0) for k in kernel])
    expected = np.cov(ill) / ill.shape[1] + np.cov(well) / well.shape[1]
    assert areas == pytest.approx([sk.roc_auc_score(labels, p) for p in (first, second)])
    assert covariance == pytest.approx(expected)
    error = np.sqrt(expected[0, 0] + expected[1, 1] - 2 * expected[0, 1])
    p = 2 * norm.sf(abs(areas[0] - areas[1]) / error)
    assert statistics.delong_p(areas, covariance, (1, -1)) == pytest.approx((areas[0] - areas[1], p))
    assert statistics.delong_p(*statistics.delong(labels, [first, first**3]), (1, -1))[1] == 1.0
    with pytest.raises(UserError, match="two images of each class"):
        statistics.delong([0, 1, 1], [[0.1, 0.2, 0.3]])


def test_delong_by_hand() -> None:
    """3 ill, 2 well: AUROC 5/6; the placement variances written out are 1/12 and 1/18."""
    areas, covariance = statistics.delong([1, 1, 1, 0, 0], [[0.9, 0.8, 0.3, 0.5, 0.1]])
    assert areas[0] == pytest.approx(5 / 6)
    assert covariance[0, 0] == pytest.approx((1 / 12) / 3 + (1 / 18) / 2)


def test_mcnemar_and_holm_equal_statsmodels() -> None:
    labels, first, _ = sample(4)
    second = np.random.default_rng(1).permutation(first)
    a, b = first >= 0.5, second >= 0.5
    only_a, only_b, p = statistics.mcnemar(labels, a, b)
    table = [[0, ((a == labels) & (b != labels)).sum()], [((a != labels) & (b == labels)).sum(), 0]]
    assert (only_a, only_b) == (table[0][1], table[1][0])
    assert p == pytest.approx(reference_mcnemar(table, exact=True).pvalue)
    assert statistics.mcnemar(labels, a, a) == (0, 0, 1.0)
    p_values = [0.01, 0.04, 0.03]
    assert statistics.holm(p_values) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert statistics.holm([]) == []


HUNDRED = statistics.PatientCounts(normal=100, ill=100, all=200)


def test_an_interval_is_wilsons_for_an_effective_number_of_patients() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.8, 0.08, 50_000)
    size = 0.8 * 0.2 / (0.08**2 * 100 / 99)
    expected = proportion_confint(0.8 * size, size, method="wilson")
    assert statistics.interval("auroc", 0.8, draws, HUNDRED) == pytest.approx(expected, abs=1e-3)
    unit = statistics.interval("auroc", 0.8, draws, HUNDRED)
    assert statistics.interval("mcc", 0.6, 2 * draws - 1, HUNDRED) == pytest.approx(
        (2 * unit[0] - 1, 2 * unit[1] - 1)
    )
    loss = np.exp(rng.normal(0.5, 0.1, 50_000))  # above 1, where no proportion is
    expected = np.exp([0.5 - 0.196 * (100 / 99) ** 0.5, 0.5 + 0.196 * (100 / 99) ** 0.5])
    assert statistics.interval("log_loss", np.exp(0.5), loss, HUNDRED) == pytest.approx(expected, rel=1e-2)
    assert np.isnan(statistics.interval("ece", 0.1, draws, HUNDRED)).all()


@pytest.mark.parametrize(("score", "patients"), [("recall", 30), ("specificity", 50), ("accuracy", 80)])
def test_a_perfect_score_has_the_interval_of_its_patients(score: str, patients: int) -> None:
    counts = statistics.PatientCounts(normal=50, ill=30, all=80)
    expected = proportion_confint(patients, patients, method="wilson")
    assert statistics.interval(score, 1.0, np.ones(100), counts) == pytest.approx(expected)
    low, high = statistics.interval("auroc", 1.0, np.ones(100), counts)
    assert low == pytest.approx(proportion_confint(75, 75, method="wilson")[0]) and high == 1.0
    assert statistics.interval("precision", 1.0, np.ones(100), counts, behind=3)[0] < 0.5


def test_one_draw_that_touches_one_does_not_change_the_method() -> None:
    """190 and 238 patients near 1: percentiles used to take over, and covered 81 to 84 %."""
    draws = np.append(np.full(999, 0.9990), 0.9994) + np.random.default_rng(0).normal(0, 2e-4, 1000)
    counts = statistics.PatientCounts(normal=190, ill=238, all=428)
    without = statistics.interval("auroc", 0.9990, np.minimum(draws, 0.99999), counts)
    touching = statistics.interval("auroc", 0.9990, np.append(draws[:-1], 1.0), counts)
    assert touching == pytest.approx(without, abs=2e-3)
    assert touching[0] < 0.992 and touching[1] > 0.9994


def test_draws_without_a_value_are_left_out() -> None:
    draws = [0.5, 0.6, np.nan, 0.7]
    assert statistics.interval("recall", 0.6, draws, HUNDRED) == statistics.interval(
        "recall", 0.6, [0.5, 0.6, 0.7], HUNDRED
    )
    assert np.isnan(statistics.interval("recall", np.nan, draws, HUNDRED)).all()


def test_patients_are_counted_by_class() -> None:
    labels, patients = [0, 0, 1, 1, 0, 1], ["a", "a", "b", None, "both", "both"]
    counts = statistics.PatientCounts.of(labels, patients)
    assert (counts.normal, counts.ill, counts.all, counts.smaller_class) == (2, 3, 4, 2)


def test_spellings_of_one_number_are_one_patient() -> None:
    labels = [0, 1, 1, 1, 0, 0]
    spelled, plain = ["0101", "101", "101.0", "7", "p1", None], ["0101"] * 3 + ["7", "p1", None]
    assert (statistics.resample(labels, spelled) == statistics.resample(labels, plain)).all()
    counts = statistics.PatientCounts.of(labels, spelled)
    assert (counts.normal, counts.ill, counts.all) == (3, 2, 4)
    assert statistics.patients_of(spelled, np.array([True, True, True, False, False, True])) == 2
    assert statistics.patients_of([None, None, "a", "a"], np.array([True, True, False, True])) == 3


def test_what_cannot_be_tested_does_not_count_in_holms_correction() -> None:
    assert statistics.holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    labels = [0, 0, 1, 1]
    areas, covariance = statistics.delong(labels, [[0.1, 0.2, 0.8, 0.9], [0.8, 0.9, 0.1, 0.2]])
    assert statistics.delong_p(areas, covariance, (1, -1)) == (1.0, None)


def test_wrong_lengths_are_named() -> None:
    with pytest.raises(UserError, match="2 patients but 3 labels"):
        statistics.resample([0, 1, 1], ["a", "b"])


def test_the_simulation_scores_as_the_comparison_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("statistics_simulation")
    labels, chances, patients = sample(7)  # with ties
    weights = statistics.resample(labels, patients, draws=20, seed=0)
    expected = statistics.resampled_scores(labels, chances, weights)["auroc"]
    assert simulation.auroc_of_draws(labels, chances, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("auroc", [0.90, 0.9995])
def test_intervals_cover_the_truth(auroc: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 sets of 60 and 70 patients: at least 93 % less three standard errors. The benchmark has 2,000."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("statistics_simulation")
    found = simulation.intervals(worlds=200, patients=(60, 70), auroc=auroc, draws=80, seed=1)
    for score in ("auroc", "accuracy", "recall", "specificity"):
        assert found[score]["coverage"] > 0.93 - 3 * 0.018, found


def test_wilsons_interval_of_another_level_is_statsmodels_and_exact_at_the_ends() -> None:
    for z in (statistics.Z, 2.8):
        alpha = 2 * norm.sf(z)
        expected = proportion_confint(30, 40, alpha=alpha, method="wilson")
        assert statistics.wilson(0.75, 0.75 * 0.25 / 40, 1000, z) == pytest.approx(expected)
        low, high = statistics.wilson(1.0, 0.0, 3, z)
        assert high == 1.0 and low == pytest.approx(alpha ** (1 / 3), rel=1e-6)
    assert statistics.wilson(0.9, 0.002, 40) == statistics.wilson(0.9, 0.002, 40, statistics.Z)
