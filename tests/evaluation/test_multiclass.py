"""Scores of more than two classes against scikit-learn and plain sums, and what is not defined."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn import metrics as reference

from pneumo import UserError
from pneumo.evaluation import metrics, multiclass


def drawn(classes: int, images: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of unequal frequency and probabilities that know something of them."""
    rng = np.random.default_rng([seed, classes])
    shares = np.arange(1, classes + 1) / (classes * (classes + 1) / 2)
    labels = rng.choice(classes, images, p=shares)
    labels[:classes] = np.arange(classes)
    logits = rng.normal(0, 1.5, (images, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [3, 5, 15])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    labels, chances = drawn(classes)
    called, every = chances.argmax(1), np.arange(classes)
    found = multiclass.scores(labels, chances)
    macro = {"labels": every, "average": "macro", "zero_division": 0}
    hot = np.eye(classes)[labels]
    expected = {
        "accuracy": reference.accuracy_score(labels, called),
        "f1": reference.f1_score(labels, called, **macro),
        "precision": reference.precision_score(labels, called, **macro),
        "recall": reference.recall_score(labels, called, **macro),
        "auroc": reference.roc_auc_score(labels, chances, multi_class="ovr", average="macro"),
        "auprc": reference.average_precision_score(hot, chances, average="macro"),
        "brier": ((chances - hot) ** 2).sum(1).mean(),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, called),
        "f1_weighted": reference.f1_score(labels, called, average="weighted"),
        "mcc": reference.matthews_corrcoef(labels, called),
        "kappa": reference.cohen_kappa_score(labels, called),
        "log_loss": -np.log(chances[np.arange(len(labels)), labels]).mean(),
        "specificity": np.mean([((called != k) & (labels != k)).sum() / (labels != k).sum() for k in every]),
        "ece": np.mean([_ece(chances[:, k], labels == k) for k in every]),
        "ece_top": _ece(chances.max(1), called == labels),
    }
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-12)


def _ece(chances: np.ndarray, right: np.ndarray) -> float:
    total = 0.0
    for low in range(15):
        inside = (chances >= low / 15) & ((chances < (low + 1) / 15) | (low == 14))
        if inside.any():
            total += inside.sum() * abs(chances[inside].mean() - right[inside].mean())
    return total / len(chances)


def test_the_first_nine_scores_have_the_names_of_two_classes() -> None:
    labels, chances = drawn(3)
    two = metrics.scores(labels > 0, chances[:, 1] + chances[:, 2])
    many = multiclass.scores(labels, chances)
    assert {*two} <= {*many} and multiclass.scores_of(labels, chances) == many
    assert multiclass.scores_of((labels > 0).astype(int), chances[:, 1]) == metrics.scores(
        (labels > 0).astype(int), chances[:, 1]
    )


def test_the_scores_of_a_class_are_those_of_it_against_the_rest() -> None:
    labels, chances = drawn(4)
    called = chances.argmax(1)
    for k, one in enumerate(multiclass.class_scores(labels, chances)):
        own = labels == k
        assert one["images"] == own.sum()
        assert one["auroc"] == pytest.approx(reference.roc_auc_score(own, chances[:, k]), abs=1e-12)
        assert one["recall"] == pytest.approx(reference.recall_score(own, called == k), abs=1e-12)
        assert one["specificity"] == pytest.approx(reference.recall_score(~own, called != k), abs=1e-12)
        assert one["precision"] == pytest.approx(reference.precision_score(own, called == k), abs=1e-12)
        assert one["f1"] == pytest.approx(reference.f1_score(own, called == k), abs=1e-12)


def test_scores_of_a_class_without_images_are_not_numbers() -> None:
    labels, chances = drawn(4)
    kept = labels != 2
    found, of_class = (f(labels[kept], chances[kept]) for f in (multiclass.scores, multiclass.class_scores))
    assert all(np.isnan(of_class[2][name]) for name in ("auroc", "auprc", "recall", "f1"))
    assert of_class[2]["images"] == 0 and of_class[2]["precision"] == 0 and of_class[2]["specificity"] < 1
    assert all(np.isnan(found[name]) for name in ("auroc", "auprc", "recall", "f1", "balanced_accuracy"))
    defined = ("accuracy", "precision", "specificity", "brier", "ece", "ece_top", "mcc", "kappa", "log_loss")
    assert all(np.isfinite(found[name]) for name in defined)
    assert np.isfinite(multiclass.class_scores(labels[kept], chances[kept])[0]["auroc"])
    one = multiclass.scores(np.ones(9, int), chances[:9])
    assert np.isnan(one["mcc"]) and np.isnan(one["kappa"]) and np.isfinite(one["accuracy"])


def test_the_counts_of_training_give_the_same_figures() -> None:
    labels, chances = drawn(5)
    matrix = multiclass.confusion(labels, chances.argmax(1), 5)
    assert (matrix == reference.confusion_matrix(labels, chances.argmax(1))).all()
    found, scores = multiclass.from_matrix(matrix), multiclass.scores(labels, chances)
    assert found == pytest.approx({name: scores[name] for name in found}, abs=1e-12)
    matrix[3] = 0
    emptied = multiclass.from_matrix(matrix)
    assert np.isnan(emptied["f1"]) and np.isnan(emptied["recall"]) and 0 < emptied["accuracy"] < 1
    assert multiclass.from_matrix(np.zeros((3, 3)))["accuracy"] == 0


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_minimises_the_log_loss(sharpness: float) -> None:
    labels, chances = drawn(4)
    sharp = multiclass.tempered(chances, 1 / sharpness)
    found = multiclass.temperature(labels, sharp)
    best = minimize_scalar(
        lambda t: reference.log_loss(labels, multiclass.tempered(sharp, t)),
        bounds=(0.05, 20),
        method="bounded",
    )
    assert found == pytest.approx(best.x, rel=1e-4)
    assert multiclass.tempered(sharp, found).sum(1) == pytest.approx(1, abs=1e-12)
    assert (multiclass.tempered(sharp, found).argmax(1) == chances.argmax(1)).all()
    assert multiclass.tempered(chances, 1.0) == pytest.approx(chances, abs=1e-12)


def test_the_temperature_has_limits() -> None:
    labels, chances = drawn(4)
    perfect = np.eye(4)[labels] * 0.9 + 0.025
    assert multiclass.temperature(labels, perfect) == 0.05
    assert multiclass.temperature((labels + 1) % 4, perfect) == 20.0
    assert multiclass.temperature(np.zeros(len(labels), int), chances) == 1.0


@pytest.mark.parametrize(
    ("labels", "chances", "message"),
    [
        ([0, 1], [[0.5, 0.5], [0.5, 0.5]], r"shape \[2, 2\]"),
        ([0, 3], [[0.2, 0.3, 0.5]] * 2, "labels contain 3; the classes are 0 to 2"),
        ([0, 1, 2], [[0.2, 0.3, 0.5]] * 2, "3 labels but probabilities of 2 images"),
        ([0, 1], [[0.2, 0.3, 0.5], [0.2, 0.3, 0.6]], "of 1 of 2 images .* the first is image 1"),
        ([0, 1], [[np.nan, 0.3, 0.5], [0.2, 0.3, 0.5]], "the training diverged"),
        ([0, 1], [[-0.2, 0.7, 0.5], [0.2, 0.3, 0.5]], "softmax outputs"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    labels: list[int], chances: list[list[float]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        multiclass.scores(labels, chances)


def test_a_class_has_metrics_under_a_name_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name

    labels, chances = drawn(3)
    found = multiclass.class_metrics(("No Finding", "Größe/2 & 3%", ".."), labels, chances)
    assert [*found][:4] == [f"class/No Finding/{score}" for score in ("auroc", "recall", "precision", "f1")]
    assert "class/Größe_2 _ 3_/f1" in found and len(found) == 12
    for name in found:
        _validate_metric_name(f"test/{name}")
