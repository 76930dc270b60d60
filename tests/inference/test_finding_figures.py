"""Scores of several findings on test images, and their draws, against scikit-learn on known labels."""

import numpy as np
import pytest
from sklearn import metrics as reference

from pneumo.evaluation import finding_statistics, multilabel
from pneumo.evaluation.predictions import SplitResult
from pneumo.inference import finding_figures

NAMES = ("Edema", "Mass", "Nodule")
TEMPERATURES = [1.7, 0.6, 1.0]
THRESHOLDS = [0.5, 0.3, 0.2]


def drawn(count: int = 240, seed: int = 0, shares: tuple[float, ...] = (0.5, 0.2, 0.1)) -> SplitResult:
    """Two images a patient, which share their findings; a sixth of the labels is not known."""
    rng = np.random.default_rng(seed)
    truth = np.repeat((rng.random((count // 2, 3)) < shares).astype(np.int64), 2, axis=0)
    logits = rng.normal(size=(count, 3)) + 1.5 * truth - 1
    truth[rng.random((count, 3)) < 1 / 6] = -1
    return SplitResult(
        paths=[f"{row}.png" for row in range(count)],
        patients=[f"p{row // 2}" for row in range(count)],
        labels=truth,
        probabilities=1 / (1 + np.exp(-logits)),
        class_names=NAMES,
    )


def figures_of(test: SplitResult) -> tuple[dict, dict]:
    calibrated = multilabel.tempered(test.probabilities, TEMPERATURES)
    return finding_figures.of_findings(test, calibrated, THRESHOLDS)


def test_the_scores_are_those_of_the_reference() -> None:
    test = drawn()
    figures, of_finding = figures_of(test)
    calibrated = 1 / (1 + np.exp(-np.log(test.probabilities / (1 - test.probabilities)) / TEMPERATURES))
    expected: dict[str, list[float]] = {}
    for k in range(3):
        known = test.labels[:, k] >= 0
        truth, raw, chances = (a[known, k] for a in (test.labels, test.probabilities, calibrated))
        called = chances >= THRESHOLDS[k]
        for name, value in {
            "auroc": reference.roc_auc_score(truth, raw),
            "auprc": reference.average_precision_score(truth, raw),
            "accuracy": reference.accuracy_score(truth, called),
            "recall": reference.recall_score(truth, called),
            "specificity": reference.recall_score(1 - truth, ~called),
            "precision": reference.precision_score(truth, called),
            "f1": reference.f1_score(truth, called),
            "brier": np.mean((chances - truth) ** 2),
        }.items():
            assert of_finding[NAMES[k]][name]["value"] == pytest.approx(value, abs=1e-12), name
            expected.setdefault(name, []).append(value)
    for name, values in expected.items():
        assert figures[name]["value"] == pytest.approx(np.mean(values), abs=1e-12), name
    for figure in [*figures.values(), *(one for own in of_finding.values() for one in own.values())]:
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"] > figure["low"]
    assert {name for name, figure in figures.items() if figure["low"] is None} == {"ece"}


def test_a_draw_is_the_reference_with_the_draws_weights() -> None:
    test = drawn(120)
    weights = finding_figures.resample(test)
    found = finding_figures.auroc_draws(test, weights[:, :5])
    for draw in range(5):
        areas = []
        for k in range(3):
            known = test.labels[:, k] >= 0
            areas.append(
                reference.roc_auc_score(
                    test.labels[known, k],
                    test.probabilities[known, k],
                    sample_weight=weights[known, draw].astype(float),
                )
            )
        assert found[draw] == pytest.approx(np.mean(areas), abs=1e-12)


def test_draws_are_of_whole_patients_and_hold_each_rare_finding() -> None:
    test = drawn(200, shares=(0.5, 0.2, 0.0))
    test.labels[10:12, 2] = 1  # one patient
    weights = finding_figures.resample(test)
    assert (weights[::2] == weights[1::2]).all() and weights[10].min() == weights[10].max() == 1
    assert (weights.sum(0) == 200).all() and weights.shape[1] > 1900
    for k in range(3):
        for value in (0, 1):
            assert weights[test.labels[:, k] == value].any(axis=0).all()


def test_fewer_patients_widen_an_interval() -> None:
    widths = []
    for count in (80, 240, 960):
        figures, of_finding = figures_of(drawn(count))
        widths.append([figures[name]["high"] - figures[name]["low"] for name in ("auroc", "accuracy", "f1")])
        rare, frequent = (of_finding[name]["auroc"] for name in ("Nodule", "Edema"))
        assert rare["high"] - rare["low"] > frequent["high"] - frequent["low"]
    by_count = np.array(widths)
    assert (by_count[0] > by_count[1]).all() and (by_count[1] > by_count[2]).all()


def test_a_perfect_set_has_an_interval_that_knows_its_size() -> None:
    test = drawn(80)
    test.probabilities = 0.9 * np.maximum(test.labels, 0) + 0.05
    figures, _ = figures_of(test)
    for name in ("auroc", "accuracy", "recall"):
        assert figures[name]["value"] == 1 and figures[name]["high"] == 1
        assert 0.6 < figures[name]["low"] < 0.99


@pytest.mark.filterwarnings("error")
def test_a_finding_that_none_has_or_nobody_knows_leaves_the_means_of_the_others() -> None:
    test = drawn()
    test.labels[:, 1] = np.minimum(test.labels[:, 1], 0)
    test.labels[:, 2] = -1
    figures, of_finding = figures_of(test)
    nothing = {"value": None, "low": None, "high": None}
    for name in ("auroc", "auprc", "recall", "f1"):
        assert of_finding["Mass"][name] == nothing and figures[name]["value"] is not None
        assert figures[name]["value"] == of_finding["Edema"][name]["value"]
    assert of_finding["Mass"]["specificity"]["low"] is not None
    assert all(figure == nothing for figure in of_finding["Nodule"].values())
    assert finding_figures.smallest_class(test) > 10
    test.labels[:] = -1
    test.labels[0, 0] = 0
    figures, _ = figures_of(test)
    assert figures["auroc"] == nothing and finding_figures.smallest_class(test) == 0


def test_findings_of_few_patients_are_left_out_of_a_test() -> None:
    test = drawn(200, shares=(0.5, 0.2, 0.0))
    few = 2 * (finding_statistics.FEWEST_PATIENTS - 1)
    test.labels[:, 2] = 0
    test.labels[:few, 2] = 1
    kept = finding_figures.testable(test)
    assert kept is not None and kept.class_names == NAMES[:2]
    np.testing.assert_array_equal(kept.labels, test.labels[:, :2])
    np.testing.assert_array_equal(kept.probabilities, test.probabilities[:, :2])
    test.labels[few, 2] = 1  # one patient more
    kept = finding_figures.testable(test)
    assert kept is not None and kept.class_names == NAMES
    test.labels[:] = 0
    assert finding_figures.testable(test) is None
