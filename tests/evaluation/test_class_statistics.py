"""Draws, intervals and tests of more than two classes against scikit-learn and brute force."""

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from pneumo import UserError
from pneumo.evaluation import class_statistics, metrics, multiclass, statistics


def sample(
    seed: int = 0, images: int = 240, classes: int = 4, mixed: bool = True
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities with ties, and patients of several images; some have images of two classes."""
    rng = np.random.default_rng(seed)
    patients = [f"p{number:03d}" for number in np.sort(rng.integers(images // 3, size=images))]
    of = {name: int(rng.integers(classes)) for name in sorted(set(patients))}
    labels = np.array([of[name] for name in patients])
    if mixed:
        labels[::25] = rng.integers(classes, size=len(labels[::25]))
    logits = np.round(rng.normal(0, 1, (images, classes)), 1)
    logits[np.arange(images), labels] += 1
    powers = np.exp(logits)
    return labels, powers / powers.sum(1, keepdims=True), patients


def test_a_draw_equals_scikit_learn_on_the_repeated_images() -> None:
    labels, chances, patients = sample()
    weights = class_statistics.resample(labels, patients, 4, 40, 1)
    found = class_statistics.resampled_scores(labels, chances, weights)
    both, each = class_statistics.resampled_both(labels, chances, weights)
    assert both.keys() == found.keys() and all((both[name] == found[name]).all() for name in found)
    for draw in range(0, weights.shape[1], 7):
        rows = np.repeat(np.arange(len(labels)), weights[:, draw])
        expected = multiclass.scores(labels[rows], chances[rows])
        assert expected.pop("recall") == pytest.approx(expected["balanced_accuracy"])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][draw] == pytest.approx(value, abs=1e-12), name
        for label, scored in enumerate(multiclass.class_scores(labels[rows], chances[rows])):
            for name, draws in each.items():
                assert draws[label, draw] == pytest.approx(scored[name], abs=1e-12), (label, name)


def test_two_classes_are_scored_as_ever() -> None:
    labels, chances, patients = sample(classes=2)
    labels = (labels > 0).astype(int)
    weights = class_statistics.resample(labels, patients, 2, 30, 1)
    assert (weights == statistics.resample(labels, patients, 30, 1)).all()
    expected = statistics.resampled_scores(labels, chances[:, 1], weights, 0.3)
    found = class_statistics.resampled_scores(labels, chances[:, 1], weights, 0.3)
    assert all((found[name] == expected[name]).all() for name in expected)
    counts = class_statistics.counts_of(labels, patients, 2)
    assert counts == statistics.PatientCounts.of(labels, patients)
    many = class_statistics.ClassCounts.of(labels, patients, 2)
    for score in ("auroc", "f1", "accuracy", "mcc"):  # the same rule for any number of classes
        assert many.behind(score) == pytest.approx(counts.behind(score))
    assert many.smaller_class == counts.smaller_class


def test_a_draw_takes_whole_patients_of_each_class() -> None:
    labels, _, patients = sample(mixed=False)
    weights = class_statistics.resample(labels, patients, 4, 50, 3)
    assert weights.shape[1] == 50
    names = np.array(patients)
    for label in range(4):
        mine = sorted(set(names[labels == label]))
        drawn = sum(weights[names == name][0].astype(int) for name in mine)
        assert (drawn == len(mine)).all()


def test_draws_without_a_class_are_left_out() -> None:
    """Class 2 is in one of two patients who also have images of another class."""
    labels = np.array([0, 0, 1, 1, 0, 1, 1, 2])
    patients = ["a", "b", "c", "d", "e", "e", "f", "f"]
    weights = class_statistics.resample(labels, patients, 3, 200, 0)
    assert 50 < weights.shape[1] < 200 and (weights[7] > 0).all()


def test_a_class_without_images_keeps_the_draws() -> None:
    """As in a smoke run: 15 classes are known, and the few images have some of them."""
    labels, patients = [0, 0, 1, 1, 3], ["a", "b", "c", "d", "e"]
    weights = class_statistics.resample(labels, patients, 15, 30, 0)
    assert (weights == statistics.resample(labels, patients, 30, 0)).all() and weights.shape[1] == 30


def test_patients_are_counted_by_class() -> None:
    labels, patients = [0, 1, 1, 2, 2, 0], ["a", "a", "b", "c", "c", None]
    counts = class_statistics.ClassCounts.of(labels, patients, 3)
    assert (counts.by_class, counts.all, counts.smaller_class) == ((2, 2, 1), 4, 1)
    assert counts.behind("accuracy") == 4 and counts.behind("auroc") == pytest.approx(9 / 2)
    assert class_statistics.ClassCounts.of(labels, patients, 4).behind("auroc") == 0


def test_a_class_without_images_gives_nan_and_no_interval() -> None:
    labels, chances, patients = sample(classes=4)
    keep = labels != 3
    labels, chances, patients = labels[keep], chances[keep], list(np.array(patients)[keep])
    weights = statistics.resample(labels, patients, 20, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = class_statistics.resampled_scores(labels, chances, weights)
    assert np.isnan(found["auroc"]).all() and np.isnan(found["f1"]).all()
    assert np.isfinite(found["accuracy"]).all() and np.isfinite(found["f1_weighted"]).all()
    counts = class_statistics.ClassCounts.of(labels, patients, 4)
    assert np.isnan(statistics.interval("auroc", np.nan, found["auroc"], counts)).all()


def test_kappa_has_the_interval_of_mcc_and_the_top_error_none() -> None:
    draws = np.random.default_rng(0).normal(0.6, 0.05, 400)
    counts = class_statistics.ClassCounts(by_class=(40, 50, 60), all=150)
    assert statistics.interval("kappa", 0.6, draws, counts) == statistics.interval("mcc", 0.6, draws, counts)
    assert np.isnan(statistics.interval("ece_top", 0.1, draws, counts)).all()


def test_delong_is_that_of_the_macro_auroc() -> None:
    labels, chances, _ = sample(images=150, classes=3)
    other = sample(seed=1, images=150, classes=3)[1]
    areas, covariance = class_statistics.delong(labels, [chances, other])
    hot = np.eye(3)[labels]
    for area, model in zip(areas, (chances, other), strict=True):
        assert area == pytest.approx(sk.roc_auc_score(hot, model, average="macro"), abs=1e-12)

    # Resampling images within their class varies the macro AUROC as much.
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(labels == k) for k in range(3)]
    weights = np.zeros((150, 4000), dtype=np.uint16)
    for draw in range(4000):
        for mine in rows:
            weights[mine, draw] = np.bincount(rng.integers(len(mine), size=len(mine)), minlength=len(mine))
    draws = [
        class_statistics.resampled_scores(labels, model, weights, parts=("areas",))["auroc"]
        for model in (chances, other)
    ]
    assert covariance == pytest.approx(np.cov(draws), rel=0.12, abs=5e-5)


def test_delong_of_two_classes_is_the_one_of_a_macro_mean() -> None:
    """With two columns that sum to 1 both classes have one AUROC."""
    labels, chances, _ = sample(images=120, classes=2)
    one = statistics.delong(labels, [chances[:, 1], chances[:, 1] ** 2])
    assert class_statistics.delong(labels, [chances[:, 1], chances[:, 1] ** 2])[1] == pytest.approx(one[1])
    three = np.column_stack([chances[:, 0], chances[:, 1], np.zeros(120)])
    with pytest.raises(UserError, match="two images of each class"):
        class_statistics.delong(labels, [three])


@pytest.mark.parametrize("auroc", [0.90, 0.9995])
def test_intervals_of_three_classes_cover_the_truth(auroc: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """150 sets of 40, 60 and 70 patients: at least 93 % less three standard errors. The benchmark has 500."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("class_simulation")
    found = simulation.intervals(worlds=150, patients=(40, 60, 70), auroc=auroc, draws=80, seed=1)
    for score in ("auroc", "accuracy", "balanced_accuracy", "f1"):
        assert found[score]["coverage"] > 0.93 - 3 * 0.021, found


def test_equal_recipes_of_three_classes_are_rarely_called_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """With chance in training, in 100 worlds: at most 5 % and three standard errors."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("class_simulation")
    found = simulation.verdicts(
        worlds=100, configurations=3, seeds=3, patients=(40, 60, 70), auroc=0.965, draws=80, seed=1
    )
    assert found["auroc"]["false_better"] <= 0.05 + 3 * 0.022
    assert found["auroc"]["coverage"] > 0.93
    assert found["auroc"]["networks_differ"] > found["auroc"]["false_better"]


def test_the_simulated_truth_is_that_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The AUROC of a large set of single images is the one that its world calls true."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("class_simulation")
    world = simulation.World(np.random.default_rng(0), 1, 1, (3000, 3000, 3000), 0.9)
    scored = multiclass.scores(world.labels, world.chances[0])
    for name in ("auroc", "accuracy", "balanced_accuracy"):
        assert scored[name] == pytest.approx(world.truth(0)[name], abs=0.012), name
    assert metrics.calibration_error(world.labels == 1, world.chances[0][:, 1]) < 0.5
