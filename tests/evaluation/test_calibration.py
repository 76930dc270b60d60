"""Slope and intercept against statsmodels; how often the interval of the calibration error is right."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm

from pneumo.evaluation import calibration, metrics, statistics
from pneumo.evaluation.calibration import Recalibration


def sample(seed: int, people: int = 120, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities and patients of one to four images; calibrated if `slope` is 1."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(people), 1 + rng.poisson(0.5, people))
    logits = rng.normal(0.3, 1.5, people)
    labels = (rng.random(people) < 1 / (1 + np.exp(-logits))).astype(int)
    return labels[of], 1 / (1 + np.exp(-logits[of] / slope)), [f"p{number:04d}" for number in of]


def ends(value: float, influence: np.ndarray, labels: np.ndarray, patients: list[str]) -> tuple[float, float]:
    _, _, patient_of = statistics.clusters(labels, patients)
    least = statistics.PatientCounts.of(labels, patients).smaller_class
    return calibration.over_patients(value, [influence], patient_of, least)


@pytest.mark.parametrize("seed", range(3))
def test_slope_and_intercept_equal_statsmodels(seed: int) -> None:
    labels, chances, patients = sample(seed, slope=0.6)
    chances[0] = 1.0  # a float32 softmax reaches it
    found = Recalibration.of(labels, chances)
    kept = np.clip(chances, 1e-12, 1 - 1e-12)
    logit = np.log(kept / (1 - kept))
    groups = np.unique(patients, return_inverse=True)[1]
    cluster = {"cov_type": "cluster", "cov_kwds": {"groups": groups, "use_correction": False}, "tol": 1e-14}
    binomial = sm.families.Binomial()
    full = sm.GLM(labels, sm.add_constant(logit), family=binomial).fit(**cluster)
    fixed = sm.GLM(labels, np.ones(len(labels)), family=binomial, offset=logit).fit(**cluster)
    assert (found.slope, found.intercept) == pytest.approx((full.params[1], fixed.params[0]), abs=1e-9)
    least = statistics.PatientCounts.of(labels, patients).smaller_class
    for value, influence, error in (
        (found.slope, found.slope_influence, full.bse[1]),
        (found.intercept, found.intercept_influence, fixed.bse[0]),
    ):
        low, high = ends(value, influence, labels, patients)
        assert (high - low) / 2 == pytest.approx(1.959964 * error * (least / (least - 1)) ** 0.5, rel=1e-5)


def test_classes_that_separate_have_no_slope_but_an_intercept() -> None:
    labels = np.array([0, 0, 1, 1])
    found = Recalibration.of(labels, [0.1, 0.3, 0.4, 0.9])
    assert np.isnan(found.slope) and np.isfinite(found.intercept)
    assert np.isnan(Recalibration.of(labels, [0.5] * 4).slope)  # nothing to fit a slope to
    assert np.isnan(Recalibration.of([1, 1], [0.2, 0.3]).intercept)


def test_saturated_probabilities_have_a_finite_fit() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    chances = np.where(rng.random(200) < 0.95, labels, 1 - labels).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Recalibration.of(labels, chances)
    assert 0 < found.slope < 0.2 and np.isfinite(found.intercept)


@pytest.mark.parametrize(("slope", "at_zero"), [(1.0, True), (0.5, False)])
def test_the_interval_of_the_calibration_error_covers_the_truth(slope: float, at_zero: bool) -> None:
    """150 sets. Percentiles of the draws cover 0 % of them if the network is calibrated."""
    labels, chances, _ = sample(99, people=200_000, slope=slope)
    truth = 0.0 if at_zero else metrics.calibration_error(labels, chances)
    covered = naive = slopes = 0
    for seed in range(150):
        labels, chances, patients = sample(seed, slope=slope)
        weights = statistics.resample(labels, patients, 100, seed)
        draws = statistics.resampled_scores(labels, chances, weights, parts=("losses",))["ece"]
        if_calibrated = calibration.error_if_calibrated(labels, patients, [chances], seed)
        least = statistics.PatientCounts.of(labels, patients).smaller_class
        error = metrics.calibration_error(labels, chances)
        low, high = calibration.error_interval(error, if_calibrated, draws, least)
        covered += low <= truth <= high
        naive += bool(np.quantile(draws, 0.025) <= truth <= np.quantile(draws, 0.975))
        found = Recalibration.of(labels, chances)
        low, high = ends(found.slope, found.slope_influence, labels, patients)
        slopes += low <= slope <= high
    assert covered / 150 > 0.93 - 3 * 0.02 and slopes / 150 > 0.93 - 3 * 0.02, (covered, slopes)
    assert naive == 0 or not at_zero


def test_a_calibrated_network_shows_the_error_that_is_expected_of_it() -> None:
    labels, chances, patients = sample(1)
    each = [metrics.calibration_error(*sample(seed)[:2]) for seed in range(60)]
    expected = [
        calibration.error_if_calibrated(found[0], found[2], [found[1]]).mean()
        for found in (sample(seed) for seed in range(10))
    ]
    assert np.mean(expected) == pytest.approx(np.mean(each), abs=0.01)
    both = calibration.error_if_calibrated(labels, patients, [chances, chances**2])
    assert both == pytest.approx(
        np.mean(
            [calibration.error_if_calibrated(labels, patients, [p]) for p in (chances, chances**2)], axis=0
        )
    )


def test_a_bin_has_wilsons_interval_of_its_patients() -> None:
    labels, patients = np.array([1, 0, 1, 0, 1]), ["a", "b", "c", "d", "e"]
    found = calibration.bin_intervals(labels, patients, [np.array([0.01, 0.02, 0.03, 0.04, 0.99])])
    assert found[0] == statistics.wilson(0.5, 4 * 0.25 / 16 * 4 / 3, 4)
    assert found[-1] == statistics.wilson(1.0, 0.0, 1) and np.isnan(found[7]).all()
    one = calibration.bin_intervals([1, 1, 0, 0], ["a", "a", "b", "b"], [np.full(4, 0.5)])
    assert one[7] == statistics.wilson(0.5, 2 * 1.0 / 16 * 2, 2)  # two images of a patient are one
