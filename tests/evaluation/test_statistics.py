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


def test_two_thousand_draws_take_well_under_a_second() -> None:
    labels, chances, patients = sample(2, images=624)
    weights = statistics.resample(labels, patients)
    began = time.perf_counter()
    statistics.resampled_scores(labels, chances, weights)
    assert time.perf_counter() - began < 0.8


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


def test_intervals_are_symmetric_where_they_say() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(3, 0.4, 20_000)
    draws = 1 / (1 + np.exp(-logits))
    observed = 1 / (1 + np.exp(-3.0))
    expected = 1 / (1 + np.exp(-np.array([3 - 1.96 * 0.4, 3 + 1.96 * 0.4])))
    assert statistics.interval("auroc", observed, draws) == pytest.approx(expected, abs=1e-3)
    assert statistics.interval("mcc", 2 * observed - 1, 2 * draws - 1) == pytest.approx(
        2 * expected - 1, abs=2e-3
    )
    loss = np.exp(rng.normal(0.5, 0.1, 20_000))  # above 1, where no logit is
    expected = np.exp([0.5 - 0.196, 0.5 + 0.196])
    assert statistics.interval("log_loss", np.exp(0.5), loss) == pytest.approx(expected, rel=1e-2)
    assert statistics.interval("recall", 1.0, [1.0, 0.9, 1.0, 0.8]) == pytest.approx((0.8075, 1.0))
    assert np.isnan(statistics.interval("auroc", 0.5, [0.5, np.nan])).all()
    assert np.isnan(statistics.interval("recall", 1.0, np.ones(100))).all()


def test_p_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.5, 1.5, 1.9, 2.2, 4.0):
        found = statistics.compare_draws(shift, rng.normal(shift, 1, 20_000))
        assert (found["p"] < 0.05) == (not found["low"] <= 0 <= found["high"])
        assert found["p"] == pytest.approx(2 * norm.sf(shift), abs=0.005)
    assert statistics.compare_draws(0.0, np.zeros(1000))["p"] == 1.0
    assert statistics.compare_draws(1.0, np.ones(1000))["p"] == 0.0


def test_the_seeds_noise_widens_the_interval() -> None:
    draws = np.random.default_rng(0).normal(0.03, 0.01, 4000)
    assert statistics.with_training_noise(0.03, draws, [0.9], [0.87, 0.88]) is None
    quiet = statistics.with_training_noise(0.03, draws, [0.90, 0.90, 0.90], [0.87, 0.87, 0.87])
    noisy = statistics.with_training_noise(0.03, draws, [0.88, 0.90, 0.92], [0.85, 0.87, 0.89])
    assert quiet is not None and noisy is not None
    assert quiet == pytest.approx((0.03 - 0.0196, 0.03 + 0.0196), abs=5e-4)
    assert noisy[0] < 0 < quiet[0]


def test_wrong_lengths_are_named() -> None:
    with pytest.raises(UserError, match="2 patients but 3 labels"):
        statistics.resample([0, 1, 1], ["a", "b"])


def test_coverage_and_type_one_error_with_clustered_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within three standard errors (3.8 points) of 95 and 5 %, which is all that 300 sets can show. The
    benchmark has 2,000 sets of the real size."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("statistics_simulation")
    found = simulation.simulate(sets=300, patients=(100, 120), draws=400, seed=1)
    for score in ("accuracy", "auroc"):
        assert abs(found[score]["coverage"] - 0.95) < 0.038, found
        assert abs(found[score]["rejects_patients"] - 0.05) < 0.038, found
    # A patient's images are alike: a test that treats them as independent rejects too often.
    assert found["auroc"]["rejects_images"] > found["auroc"]["rejects_patients"]
