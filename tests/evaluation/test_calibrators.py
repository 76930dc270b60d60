"""The kind of calibration that validation chooses, against references and drawn labels."""

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from sklearn.linear_model import LogisticRegression

from pneumo.evaluation import calibrators, metrics, multiclass


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Log-odds that are calibrated, labels drawn with them, and patients of two images each."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-0.5, 1.5, count)
    return odds, (rng.random(count) < expit(odds)).astype(int), [f"p{row // 2}" for row in range(count)]


def loss(labels: np.ndarray, chances: np.ndarray) -> float:
    return float(-np.log(np.where(labels == 1, chances, 1 - chances)).mean())


def test_the_shift_of_a_weighted_sampler_is_corrected() -> None:
    odds, labels, patients = drawn(1800)
    shifted = expit(odds + 1.5)
    record = calibrators.choose(labels[:900], shifted[:900], patients[:900])
    assert record is not None and record["kind"] in ("bias", "platt")
    calibrated = calibrators.applied(record, shifted[900:])
    assert calibrated.mean() == pytest.approx(labels[900:].mean(), abs=0.04)
    only = metrics.tempered(shifted[900:], metrics.temperature(labels[:900], shifted[:900]))
    assert loss(labels[900:], calibrated) < loss(labels[900:], only) - 0.05
    assert abs(only.mean() - labels[900:].mean()) > 0.08, "a temperature cannot correct it"


def test_platt_is_logistic_regression_and_the_bias_is_its_intercept() -> None:
    odds, labels, _ = drawn(900)
    chances = expit(0.4 * odds + 1)
    record = calibrators.fit("platt", labels, chances)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(chances)[:, None], labels)
    assert record["slope"] == pytest.approx(model.coef_[0, 0], rel=1e-3)
    assert record["bias"] == [0.0, pytest.approx(model.intercept_[0], abs=1e-3)]
    only = calibrators.fit("bias", labels, chances)
    assert calibrators.applied(only, chances).mean() == pytest.approx(labels.mean(), abs=1e-6)


def test_the_kind_with_the_least_cross_fitted_loss_is_chosen() -> None:
    for seed, (slope, bias) in enumerate([(0.5, 0.0), (1.0, 1.0), (0.5, -1.0)]):
        odds, labels, patients = drawn(600, seed)
        chances = expit(slope * odds + bias)
        losses = calibrators.cross_fitted(labels, chances, patients)
        assert losses.keys() == {"temperature", "bias", "platt"}
        record = calibrators.choose(labels, chances, patients)
        assert (record or {"kind": "temperature"})["kind"] == min(losses, key=lambda name: losses[name])


def test_few_patients_give_a_temperature() -> None:
    odds, labels, patients = drawn(36)
    assert calibrators.choose(labels, expit(odds + 3), patients) is None
    odds, labels, patients = drawn(400)
    assert calibrators.choose(labels, expit(odds + 3), patients) is not None
    of_few = [f"p{row % 25}" for row in range(400)]
    assert calibrators.choose(labels, expit(odds + 3), of_few) is not None
    assert calibrators.choose(labels, expit(odds + 3), [f"p{row % 15}" for row in range(400)]) is None
    assert calibrators.choose(np.ones(400, int), expit(odds), patients) is None


def test_isotonic_takes_a_bent_curve_and_keeps_the_order() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random(4000)
    labels = (rng.random(4000) < np.where(chances < 0.5, 0.15, 0.85)).astype(int)
    patients = [str(row) for row in range(4000)]
    record = calibrators.choose(labels, chances, patients)
    assert record is not None and record["kind"] == "isotonic"
    grid = np.linspace(0, 1, 2001)
    calibrated = calibrators.applied(record, grid)
    assert (np.diff(calibrated) > 0).all(), "two scores never get one probability"
    assert calibrated[700:900].mean() == pytest.approx(0.15, abs=0.05)
    assert 0 < calibrated[0] < calibrated[-1] < 1
    assert "isotonic" not in calibrators.cross_fitted(labels[:900], chances[:900], patients[:900])


def test_more_than_two_classes_have_a_bias_each() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1500, 3)) * 2
    right = softmax(logits, axis=1)
    labels = np.array([rng.choice(3, p=row) for row in right])
    shifted = softmax(logits + np.array([0, 1.5, -1]), axis=1)
    record = calibrators.choose(labels, shifted, [str(row) for row in range(1500)])
    assert record is not None and record["kind"] in ("bias", "platt")
    assert np.abs(calibrators.applied(record, shifted) - right).mean() < 0.03
    assert record["bias"] == [0.0, pytest.approx(-1.5, abs=0.3), pytest.approx(1, abs=0.3)]
    same = calibrators.fit("temperature", labels, shifted)
    expected = multiclass.tempered(shifted, multiclass.temperature(labels, shifted))
    np.testing.assert_allclose(calibrators.applied(same, shifted), expected, atol=1e-9)
