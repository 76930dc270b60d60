"""Drops between two sets, rankings on both, and recalibration on the second."""

import numpy as np
import pytest
from scipy import stats

from pneumo.evaluation import metrics, statistics, transfer
from pneumo.evaluation.transfer import SetScores


def test_a_drop_is_a_welch_test_of_three_parts() -> None:
    rng = np.random.default_rng(0)
    one, other = 0.9 + 0.02 * rng.normal(size=300), 0.8 + 0.03 * rng.normal(size=300)
    inside = SetScores(values=[0.91, 0.92, 0.90], draws=one, patients=50)
    outside = SetScores(values=[0.80, 0.83, 0.78], draws=other, patients=30)
    found = transfer.drop(inside, outside)
    apart = np.array([-0.11, -0.09, -0.12])
    parts = np.array([one.var(ddof=1) * 50 / 49, other.var(ddof=1) * 30 / 29, apart.var(ddof=1) / 3])
    freedom = parts.sum() ** 2 / (parts**2 / [49, 29, 2]).sum()
    half = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum())
    assert found.difference == pytest.approx(apart.mean())
    assert (found.low, found.high) == pytest.approx((apart.mean() - half, apart.mean() + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(apart.mean()) / np.sqrt(parts.sum()), freedom))


def test_one_run_has_the_chance_of_both_sets_of_patients() -> None:
    draws = 0.8 + 0.02 * np.random.default_rng(1).normal(size=400)
    one = SetScores(values=[0.8], draws=draws, patients=100)
    found = transfer.drop(one, SetScores(values=[0.8], draws=draws, patients=100))
    assert found.error == pytest.approx(np.sqrt(2 * draws.var(ddof=1) * 100 / 99))
    assert np.isinf(found.freedom)


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inside, outside = rng.integers(0, 4, (5, 20)) / 4, rng.integers(0, 4, (5, 20)) / 4  # with ties
    expected = [stats.kendalltau(inside[:, draw], outside[:, draw]).statistic for draw in range(20)]
    np.testing.assert_allclose(transfer.tau(inside, outside), expected, atol=1e-12)


def test_the_interval_of_tau_leaves_out_draws_without_one() -> None:
    assert transfer.tau_interval(np.array([np.nan, 0.2, 0.4])) == pytest.approx((0.205, 0.395))
    assert np.isnan(transfer.tau_interval(np.array([np.nan, 0.2]))).all()


def world(seed: int, shift: float, ill: int = 60, well: int = 80) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities that are too high by `shift` logits, and patients with two images each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [2 * ill, 2 * well])
    logits = np.where(labels == 1, 1.0, -1.0) + rng.normal(size=len(labels)) + shift
    patients = [f"p{row // 2}" for row in range(len(labels))]
    return labels, 1 / (1 + np.exp(-logits)), patients


def test_recalibration_mends_a_shift_and_no_patient_helps_itself() -> None:
    labels, chances, patients = world(2, shift=2.5)
    found = transfer.recalibrate(labels, chances, patients, "youden")
    assert found is not None and found.called is not None
    before, after = (metrics.all_scores(labels, each)["log_loss"] for each in (chances, found.probabilities))
    assert after < 0.75 * before
    _, _, patient_of = statistics.clusters(labels, patients)
    assert len(found.folds) == transfer.FOLDS
    for fold, record in enumerate(found.folds):
        mine = patient_of % transfer.FOLDS == fold
        alone = transfer.calibrators.fit(record["kind"], labels[~mine], chances[~mine])
        np.testing.assert_allclose(
            found.probabilities[mine], transfer.calibrators.applied(alone, chances[mine]), atol=1e-9
        )


def test_too_few_patients_are_not_recalibrated() -> None:
    labels, chances, patients = world(3, shift=1.0, ill=19)
    assert transfer.recalibrate(labels, chances, patients, "youden") is None


def test_the_interval_of_a_drop_covers_it() -> None:
    """150 worlds of one network on two sets of patients; their true AUROCs differ by a shift of the ill."""
    hits, truth = 0, stats.norm.cdf(1.4 / np.sqrt(2)) - stats.norm.cdf(2.0 / np.sqrt(2))
    for seed in range(150):
        rng = np.random.default_rng(seed)
        sets = []
        for ill in (2.0, 1.4):
            labels = np.repeat([1, 0], [60, 60])
            logits = np.where(labels == 1, ill, 0.0) + rng.normal(size=120)
            chances, people = 1 / (1 + np.exp(-logits)), [f"p{row}" for row in range(120)]
            weights = statistics.resample(labels, people, draws=200, seed=seed)
            draws = statistics.resampled_scores(labels, chances, weights, parts=("areas",))["auroc"]
            value = metrics.all_scores(labels, chances)["auroc"]
            sets.append(SetScores(values=[value], draws=draws, patients=60))
        found = transfer.drop(*sets)
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 150 <= 0.99
