"""One configuration's scores against the functions they come from."""

import warnings

import numpy as np
import pytest
from support.comparison_runs import candidate

from pneumo.comparison.configuration import Configuration
from pneumo.evaluation import metrics, statistics
from pneumo.evaluation.calibration import Recalibration


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    test = candidate().test
    return statistics.resample(test.labels, test.patients, 100, 0)


def build(weights: np.ndarray, average: bool = False) -> Configuration:
    runs = [candidate(seed=1), candidate(seed=0)]
    return Configuration("two seeds", runs, runs[0].test, weights, average)


def test_scores_are_means_over_the_seeds_in_order(weights: np.ndarray) -> None:
    found = build(weights)
    each = [metrics.all_scores(run.test.labels, run.test.probabilities) for run in found.runs]
    test = found.runs[0].test
    counts = statistics.PatientCounts.of(test.labels, test.patients)
    assert found.row["seeds"] == [0, 1]
    for score, row in found.row["scores"].items():
        assert row["per_run"] == pytest.approx([scores[score] for scores in each])
        assert row["value"] == pytest.approx(np.mean(row["per_run"]))
        assert row["sd"] == pytest.approx(np.std(row["per_run"], ddof=1))
        if score not in ("ece", "precision"):
            ends = statistics.interval(score, row["value"], found.draws[score], counts)
            assert (row["low"], row["high"]) == ends
    ece = found.row["scores"]["ece"]
    assert 0 <= ece["low"] <= ece["value"] <= ece["high"]


def test_an_ensemble_averages_before_it_scores(weights: np.ndarray) -> None:
    found = build(weights, average=True)
    mean = np.mean([run.test.probabilities for run in found.runs], axis=0)
    expected = metrics.all_scores(found.runs[0].test.labels, mean)
    assert {name: row["value"] for name, row in found.row["scores"].items()} == pytest.approx(expected)
    assert found.row["scores"]["accuracy"]["sd"] is None and len(found.row["confusion"]) == 1
    chosen = metrics.operating_points(
        found.runs[0].val.labels, np.mean([run.val.probabilities for run in found.runs], axis=0)
    )
    assert {rule: point["thresholds"] for rule, point in found.row["points"].items()} == {
        rule: [threshold] for rule, threshold in chosen.items()
    }


def test_an_ensemble_without_common_validation_chooses_nothing(weights: np.ndarray) -> None:
    runs = [candidate(seed=0), candidate(seed=1)]
    runs[1].val.paths[0] = "another.jpeg"
    row = Configuration("two", runs, runs[0].test, weights, average=True).row
    assert list(row["points"]) == ["half"] and row["temperature"] is None
    assert row["validation"] == {"accuracy": None, "f1": None, "auroc": None, "scores": {}, "confusion": []}


def test_no_temperature_is_fitted_to_one_class(weights: np.ndarray) -> None:
    run = candidate()
    run.val.labels[:] = 1
    assert Configuration("one", [run], run.test, weights).row["temperature"] is None


def test_thresholds_come_from_validation_and_score_the_test_images(weights: np.ndarray) -> None:
    found = build(weights)
    for rule, point in found.row["points"].items():
        for place, (run, threshold) in enumerate(zip(found.runs, point["thresholds"], strict=True)):
            chosen = metrics.operating_points(run.val.labels, run.val.probabilities)
            assert threshold == chosen[rule], place
        recalls = [
            metrics.scores(run.test.labels, run.test.probabilities, threshold)["recall"]
            for run, threshold in zip(found.runs, point["thresholds"], strict=True)
        ]
        assert point["scores"]["recall"]["value"] == pytest.approx(np.mean(recalls))
    assert found.row["points"]["sensitivity_95"]["validation_recall"] >= 0.95


def test_curves_start_and_end_where_they_must(weights: np.ndarray) -> None:
    found = build(weights)
    assert "curves" not in found.row
    found.add_curves(found.runs[0].test, weights)
    curves = found.row["curves"]
    roc = curves["roc"]
    assert roc["value"][-1] == 1 and roc["value"] == sorted(roc["value"])
    assert all(low <= high for low, high in zip(roc["low"], roc["high"], strict=True))
    assert sum(entry["images"] for entry in curves["calibration"]) == 2 * len(found.runs[0].test.labels)
    for entry in curves["calibration"]:
        assert entry["low"] <= entry["share"] <= entry["high"]
    benefit = curves["net_benefit"]
    assert benefit["value"] == found.row["net_benefit"]
    assert all(low <= high for low, high in zip(benefit["low"], benefit["high"], strict=True))


def test_predictive_values_have_intervals(weights: np.ndarray) -> None:
    for point in build(weights).row["points"].values():
        for values in point["predictive_values"].values():
            assert values["ppv_low"] < values["ppv"] < values["ppv_high"]
            assert values["npv_low"] < values["npv"] < values["npv_high"]


def test_calibration_is_the_mean_of_the_runs(weights: np.ndarray) -> None:
    found = build(weights)
    each = [Recalibration.of(run.test.labels, run.test.probabilities) for run in found.runs]
    slope, intercept = found.row["calibration"]["slope"], found.row["calibration"]["intercept"]
    assert slope["per_run"] == [fit.slope for fit in each]
    assert intercept["per_run"] == [fit.intercept for fit in each]
    for row in (slope, intercept):
        assert row["value"] == pytest.approx(np.mean(row["per_run"]))
        assert row["low"] < row["value"] < row["high"]
    assert 0 < found.row["calibration"]["ece_if_calibrated"] < 0.2


def test_three_virus_patients_who_are_all_found() -> None:
    """The exact one-sided bound. Draws in which none of them was drawn do not count as a sensitivity of 0."""
    run = candidate(quality=3.0)
    virus = [name for name in dict.fromkeys(run.test.patients) if name and "virus" in name]
    run.test.patients[:] = [
        name.replace("virus", "bacteria") if name in virus[3:] else name  # type: ignore[union-attr]
        for name in run.test.patients
    ]
    run.test.probabilities[[name in virus[:3] for name in run.test.patients]] = 0.99
    weights = statistics.resample(run.test.labels, run.test.patients, 400, 0)
    of_virus = np.isin(run.test.patients, virus[:3])
    assert (weights[of_virus].sum(axis=0) == 0).sum() > 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = Configuration("one", [run], run.test, weights).row["subtypes"]["virus"]
    recall = row["recall"]
    assert (recall["value"], recall["high"]) == (1, 1) and recall["low"] == pytest.approx(0.05 ** (1 / 3))
    assert 0 < row["auroc"]["low"] < row["auroc"]["value"] <= row["auroc"]["high"]
