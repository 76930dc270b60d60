"""Predictive values with intervals, and the net benefit, by hand and by simulation."""

import math

import numpy as np
import pytest

from pneumo.evaluation import decisions, metrics, statistics


def test_the_net_benefit_by_hand() -> None:
    labels, chances = np.array([1, 1, 0, 0]), np.array([0.9, 0.3, 0.6, 0.1])
    weights = np.array([[1, 2], [1, 0], [1, 1], [1, 1]], np.uint16)
    found = decisions.net_benefit(labels, chances, weights)
    assert found.shape == (99, 2)
    assert found[49] == pytest.approx([1 / 4 - 1 / 4, 2 / 4 - 1 / 4])  # at .5 a false alarm costs one
    assert found[19] == pytest.approx([2 / 4 - 1 / 4 * 0.25, 2 / 4 - 1 / 4 * 0.25])
    assert found[94] == pytest.approx([0, 0])  # nobody is called ill


def test_to_treat_all_is_the_curve_of_a_network_that_calls_all() -> None:
    labels = np.array([1, 1, 1, 0])
    everyone = decisions.net_benefit(labels, np.ones(4), np.ones((4, 1), np.uint16))[:, 0]
    assert decisions.treat_all(labels) == pytest.approx(everyone)
    assert decisions.treat_all(labels)[74] == pytest.approx(0)  # at the prevalence


@pytest.mark.parametrize(
    ("sensitivity", "specificity", "patients"),
    [(0.95, 0.9, (40, 40)), (0.8, 0.99, (100, 100)), (1, 1, (40, 60))],
)
def test_intervals_of_predictive_values_cover_the_truth(
    sensitivity: float, specificity: float, patients: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    truth = metrics.predictive_values(sensitivity, specificity, 0.1)
    covered = np.zeros(2)
    for _ in range(400):
        shares = [
            rng.binomial(size, share) / size
            for size, share in zip(patients, (sensitivity, specificity), strict=True)
        ]
        entries = [
            (share, *statistics.wilson(share, share * (1 - share) / size, size))
            for share, size in zip(shares, patients, strict=True)
        ]
        ends = decisions.predictive_intervals(entries[0], entries[1], 0.1)
        found = metrics.predictive_values(*shares, 0.1)
        for (low, high), value in zip(ends, found, strict=True):
            assert 0 <= low <= value + 1e-12 and value <= high + 1e-12 and high <= 1
        covered += [low <= value <= high for (low, high), value in zip(ends, truth, strict=True)]
    assert (covered / 400 > 0.93 - 3 * 0.011).all(), covered


def test_a_perfect_specificity_has_an_interval_of_its_ppv() -> None:
    ppv, npv = decisions.predictive_intervals((0.9, 0.8, 0.95), (1.0, 0.9, 1.0), 0.1)
    # The sensitivity's own chance widens it a little: with sensitivity known, .1 * .9 / (.1 * .9 + .9 * .1).
    assert ppv[0] == pytest.approx(0.5, abs=0.01) and ppv[1] == 1
    assert 0.97 < npv[0] < npv[1] < 1


def test_a_ratio_over_what_may_be_nothing() -> None:
    assert decisions.ratio((0.5, 0.4, 0.6), (0.1, 0.0, 0.3))[1] == math.inf
    assert math.isnan(decisions.ratio((0.0, 0.0, 0.1), (0.0, 0.0, 0.1))[0])
    assert math.isnan(decisions.ratio((0.5, math.nan, 0.6), (0.1, 0.0, 0.3))[0])
    low, high = decisions.ratio((0.2, 0.1, 0.3), (1.0, 1.0, 1.0))
    assert (low, high) == pytest.approx((0.1, 0.3))
