"""Draws and scores of several findings, and a small version of their simulation."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from support.finding_runs import NAMES, split

from pneumo.evaluation import class_statistics, finding_statistics, multiclass, multilabel
from pneumo.evaluation.finding_statistics import FindingCounts


def test_one_draw_of_every_image_has_the_scores_of_the_run() -> None:
    test = split("test", 0, 2.0)
    once = np.ones((len(test.paths), 1), dtype=np.uint16)
    means, each = finding_statistics.resampled_both(test.labels, test.probabilities, once)
    expected = multilabel.scores(test.labels, test.probabilities)
    assert means.keys() == expected.keys()
    assert {name: draws[0] for name, draws in means.items()} == pytest.approx(expected)
    of_finding = multilabel.finding_scores(test.labels, test.probabilities)
    for name, draws in each.items():
        assert draws[:, 0] == pytest.approx([scores[name] for scores in of_finding])


def test_every_draw_has_both_values_of_each_finding() -> None:
    test = split("test", 0, 2.0)
    weights = finding_statistics.resample(test.labels, test.patients, 300)
    assert 0 < weights.shape[1] <= 300
    for column in test.labels.T:
        for value in (0, 1):
            assert weights[column == value].any(axis=0).all()
    for patient in set(test.patients):  # whole patients
        rows = [n for n, other in enumerate(test.patients) if other == patient]
        assert (weights[rows] == weights[rows[0]]).all()


def test_a_finding_without_both_values_is_left_out_of_the_mean() -> None:
    test = split("val", 0, 2.0)
    once = np.ones((len(test.paths), 1), dtype=np.uint16)
    test.labels[:, 1] = 0
    means = finding_statistics.resampled_scores(test.labels, test.probabilities, once)
    kept = finding_statistics.of_columns(test, [0, 2, 3])
    expected = finding_statistics.resampled_scores(kept.labels, kept.probabilities, once)
    assert means["auroc"] == expected["auroc"] and means["accuracy"] == expected["accuracy"]
    test.labels[:] = 0
    none = finding_statistics.resampled_scores(test.labels, test.probabilities, once)
    assert none.keys() == means.keys() and np.isnan(none["auroc"]).all()


def test_patients_behind_a_mean_are_at_most_all() -> None:
    test = split("test", 0, 2.0)
    counts = FindingCounts.of(test.labels, test.patients)
    assert counts.all == 60 and len(counts.by_finding) == len(NAMES)
    assert counts.smaller_class == 3 and counts.behind("accuracy") == counts.behind("exact_match") == 60
    assert 3 < counts.behind("recall") < counts.behind("specificity") <= 60
    assert FindingCounts.of(-np.ones((4, 2), dtype=int), list("abcd")).behind("auroc") == 0


def test_findings_are_told_from_classes_by_their_labels() -> None:
    test = split("test", 0, 2.0)
    weights = class_statistics.resample(test.labels, test.patients, len(NAMES), 20)
    assert np.array_equal(weights, finding_statistics.resample(test.labels, test.patients, 20))
    assert isinstance(class_statistics.counts_of(test.labels, test.patients, len(NAMES)), FindingCounts)
    right = multiclass.right_of(test.labels, test.probabilities)
    assert right.mean() == pytest.approx(test.scores()["exact_match"])


def test_few_patients_on_validation_make_a_finding_unknown_there() -> None:
    test = split("test", 0, 2.0)
    kept = finding_statistics.testable(test)
    assert [NAMES[k] for k in kept] == ["Edema", "Mass, large", "Nodule"]
    masked = finding_statistics.known_only(test, [0])
    assert (masked.labels[:, 1:] == multilabel.UNKNOWN).all()
    assert np.array_equal(masked.labels[:, 0], test.labels[:, 0])


def test_intervals_and_claims_in_simulated_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 worlds: the limits are those of the benchmark with three standard errors."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("finding_simulation")
    covered = simulation.intervals(100, 150, (0.5, 0.3, 0.1), 0.9, draws=80, seed=1)
    assert covered["coverage"] > 0.93 - 3 * 0.026, covered
    found = simulation.verdicts(100, 3, 3, 150, (0.5, 0.3, 0.1), 0.9, draws=80, seed=1)
    assert found["false_better"] <= 0.05 + 3 * 0.022, found
    assert found["coverage"] > 0.93 and found["networks_differ"] > found["false_better"], found


def test_the_simulated_truth_is_that_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("finding_simulation")
    world = simulation.World(np.random.default_rng(0), 1, 1, 6000, (0.5, 0.2), 0.9)
    assert world.split.scores()["auroc"] == pytest.approx(world.truth[0], abs=0.012)
