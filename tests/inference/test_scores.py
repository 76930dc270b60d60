"""Scores of more than two classes on test images, and their draws, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as reference

from pneumo.evaluation import multiclass, statistics
from pneumo.evaluation.predictions import SplitResult
from pneumo.inference import scores

NAMES = ("a", "b", "c", "d")
TEMPERATURE = 1.7


def drawn(count: int = 240, seed: int = 0, names: tuple[str, ...] = NAMES, labels: int = 4) -> SplitResult:
    """Two images a patient, rare classes last, probabilities that know something of the label."""
    rng = np.random.default_rng(seed)
    shares = 2.0 ** -np.arange(labels)
    truth = np.repeat(rng.choice(labels, count // 2, p=shares / shares.sum()), 2)
    logits = rng.normal(size=(count, len(names))) + 1.5 * np.eye(len(names))[truth]
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return SplitResult(
        paths=[f"{row}.png" for row in range(count)],
        patients=[f"p{row // 2}" for row in range(count)],
        labels=truth,
        probabilities=chances,
        class_names=names,
    )


def test_the_scores_are_those_of_the_reference() -> None:
    test = drawn()
    calibrated = multiclass.tempered(test.probabilities, TEMPERATURE)
    thresholds = {"a": 0.3, "b": 0.25, "c": 0.2, "d": 0.1}
    figures, of_class = scores.of_many(test, calibrated, thresholds)
    every, called = range(4), test.probabilities.argmax(1)
    hot = np.eye(4)[test.labels]
    areas = [reference.roc_auc_score(test.labels == k, test.probabilities[:, k]) for k in every]
    macro = {"average": "macro", "zero_division": 0}
    expected = {
        "auroc": np.mean(areas),
        "auprc": reference.average_precision_score(hot, test.probabilities, average="macro"),
        "accuracy": (called == test.labels).mean(),
        "recall": reference.recall_score(test.labels, called, **macro),
        "precision": reference.precision_score(test.labels, called, **macro),
        "f1": reference.f1_score(test.labels, called, **macro),
        "brier": ((calibrated - hot) ** 2).sum(1).mean(),
    }
    for name, value in expected.items():
        assert figures[name]["value"] == pytest.approx(value, abs=1e-12), name
    for k, name in enumerate(NAMES):
        own = of_class[name]
        assert own["auroc"]["value"] == pytest.approx(areas[k], abs=1e-12)
        found = reference.recall_score(test.labels == k, calibrated[:, k] >= thresholds[name])
        assert own["recall_at_threshold"]["value"] == pytest.approx(found, abs=1e-12)
        spared = reference.recall_score(test.labels != k, calibrated[:, k] < thresholds[name])
        assert own["specificity_at_threshold"]["value"] == pytest.approx(spared, abs=1e-12)
    for figure in [*figures.values(), *(one for own in of_class.values() for one in own.values())]:
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"] > figure["low"]
    without = {name for name, figure in figures.items() if figure["low"] is None}
    assert without == {"ece"}, "the calibration error has its interval on the comparison's page"


def test_a_draw_is_the_reference_with_the_draws_weights() -> None:
    test = drawn(120)
    weights = statistics.resample(test.labels, test.patients, draws=5)
    found = scores.auroc_draws(test, weights)
    for draw in range(5):
        areas = [
            reference.roc_auc_score(
                test.labels == k, test.probabilities[:, k], sample_weight=weights[:, draw].astype(float)
            )
            for k in range(4)
        ]
        assert found[draw] == pytest.approx(np.mean(areas), abs=1e-12)
    assert scores.smallest_class(test) == min(np.bincount(test.labels)) // 2


def test_fewer_patients_widen_an_interval() -> None:
    widths = []
    for count in (80, 240, 960):
        test = drawn(count)
        figures, of_class = scores.of_many(test, test.probabilities, dict.fromkeys(NAMES, 0.5))
        for name in ("auroc", "accuracy", "f1"):
            widths.append(figures[name]["high"] - figures[name]["low"])
        rare, frequent = (of_class[name]["recall"] for name in ("d", "a"))
        assert rare["high"] - rare["low"] > frequent["high"] - frequent["low"]
    by_count = np.reshape(widths, (3, 3))
    assert (by_count[0] > by_count[1]).all() and (by_count[1] > by_count[2]).all()


def test_a_perfect_set_has_an_interval_that_knows_its_size() -> None:
    test = drawn(80)
    test.probabilities = 0.9 * np.eye(4)[test.labels] + 0.025
    figures, _ = scores.of_many(test, test.probabilities, dict.fromkeys(NAMES, 0.5))
    for name in ("auroc", "accuracy", "recall"):
        assert figures[name]["value"] == 1 and figures[name]["high"] == 1
        assert 0.6 < figures[name]["low"] < 0.99


def test_a_class_without_images_has_no_figures_and_macro_scores_neither() -> None:
    test = drawn(labels=3)
    figures, of_class = scores.of_many(test, test.probabilities, dict.fromkeys(NAMES, 0.5))
    nothing = {"value": None, "low": None, "high": None}
    for name in ("auroc", "recall", "f1", "recall_at_threshold"):
        assert of_class["d"][name] == nothing
    assert figures["auroc"] == figures["f1"] == nothing
    assert figures["accuracy"]["low"] is not None and of_class["a"]["auroc"]["low"] is not None
