"""Scores of several findings an image against scikit-learn, with labels that are not known."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss, matthews_corrcoef, roc_auc_score

from pneumo import UserError
from pneumo.evaluation import class_figures, metrics, multiclass, multilabel
from pneumo.evaluation.predictions import SplitResult, predictions_csv, read_any_predictions
from pneumo.evaluation.run_report import undefined

NAMES = ("Edema", "Mass", "Nodule")


def example(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random((count, 3)) < (0.5, 0.2, 0.1)).astype(np.int64)
    chances = np.clip(0.6 * rng.random((count, 3)) + 0.3 * labels, 0, 1)
    labels[rng.random((count, 3)) < 0.2] = -1
    return labels, chances


def test_every_mean_is_that_of_scikit_learn_on_known_labels() -> None:
    labels, chances = example()
    pairs = [(labels[:, k][labels[:, k] >= 0], chances[:, k][labels[:, k] >= 0]) for k in range(3)]
    found = multiclass.scores_of(labels, chances)
    for name, of_one in {
        "auroc": roc_auc_score,
        "auprc": average_precision_score,
        "log_loss": log_loss,
        "f1": lambda t, p: f1_score(t, p >= 0.5),
        "mcc": lambda t, p: matthews_corrcoef(t, p >= 0.5),
        "accuracy": lambda t, p: np.mean(t == (p >= 0.5)),
        "brier": lambda t, p: np.mean((t - p) ** 2),
    }.items():
        assert found[name] == pytest.approx(np.mean([of_one(*pair) for pair in pairs]), abs=1e-12), name
    right = np.where(labels < 0, True, labels == (chances >= 0.5)).all(axis=1)
    assert found["exact_match"] == right.mean()


@pytest.mark.filterwarnings("error")
def test_a_finding_that_none_or_all_have_leaves_the_means_of_the_others() -> None:
    labels, chances = example()
    expected = multilabel.finding_scores(labels, chances)
    labels[:, 1] = np.where(labels[:, 1] == 1, 0, labels[:, 1])
    labels[:, 2] = -1
    of_finding = multilabel.finding_scores(labels, chances)
    assert np.isnan([of_finding[1][name] for name in ("auroc", "auprc", "recall", "f1")]).all()
    assert np.isnan([of_finding[2][name] for name in multilabel.SCORES]).all()
    assert multilabel.scores(labels, chances)["auroc"] == expected[0]["auroc"]
    result = SplitResult(
        paths=[str(k) for k in range(80)],
        patients=[None] * 80,
        labels=labels,
        probabilities=chances,
        class_names=NAMES,
    )
    assert "Mass, Nodule: the AUROC is not defined" in (undefined(result) or "")


def test_counts_confusion_and_training_figures_agree() -> None:
    labels, chances = example()
    matrices = multilabel.confusion(labels, (chances >= 0.5).astype(int))
    assert matrices.sum((1, 2)).tolist() == (labels >= 0).sum(0).tolist()
    found, scores = multilabel.from_counts(matrices.reshape(3, 4)), multilabel.scores(labels, chances)
    for name, value in found.items():
        assert value == pytest.approx(scores[name], abs=1e-12)


def test_predictions_are_read_back_to_the_same_bits() -> None:
    labels, chances = example()
    result = SplitResult(
        paths=[f"{k}.png" for k in range(80)],
        patients=["a,b"] * 80,
        labels=labels,
        probabilities=chances,
        class_names=NAMES,
        subgroups={"sex": ["F", "M"] * 40},
    )
    text = predictions_csv(result).decode()
    head = "path,patient,label,prediction,p_Edema,p_Mass,p_Nodule,label_Edema,label_Mass,label_Nodule,sex"
    assert text.splitlines()[0] == head
    again = read_any_predictions(text)
    assert again.multilabel and again.class_names == NAMES and again.subgroups == result.subgroups
    assert (again.labels == labels).all() and (again.probabilities == chances).all()
    first = text.splitlines()[1].split(",")[3:5] if labels[0, 0] == 1 else None
    assert first is None or "Edema" in text.splitlines()[1]
    broken = text.replace(",1,", ",2,", 1)
    with pytest.raises(UserError, match="not 1, 0 or empty"):
        read_any_predictions(broken)


@pytest.mark.parametrize(
    ("labels", "chances", "words"),
    [
        ([[0, 1]], [[0.5, 0.5, 0.5]], "shape"),
        ([[0, 2]], [[0.5, 0.5]], "labels contain 2"),
        ([[0, 1]], [[0.5, float("nan")]], "not in [0, 1]"),
    ],
)
def test_what_cannot_be_scored_is_refused(labels: list, chances: list, words: str) -> None:
    with pytest.raises(UserError) as error:
        multilabel.scores(labels, chances)
    assert words in str(error.value)


def test_figures_show_the_mean_over_defined_findings() -> None:
    labels, chances = example()
    labels[:, 2] = np.where(labels[:, 2] == 1, 0, labels[:, 2])
    figure = class_figures.roc(labels, chances, NAMES, "ROC")
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    mean = multilabel.scores(labels, chances)["auroc"]
    assert texts[-1] == f"macro average {mean:.4f}" and texts[2] == "Nodule: not defined"
    cells = class_figures.finding_confusions(
        multilabel.confusion(labels, (chances >= 0.5).astype(int)), NAMES, "Confusion"
    )
    assert len(cells.axes[0].texts) == 12
    assert class_figures.calibration(labels, chances, NAMES, "Calibration").axes
    assert class_figures.precision_recall(labels, chances, NAMES, "PR").axes


def test_each_finding_has_a_temperature_and_thresholds_of_its_known_images() -> None:
    labels, chances = example()
    labels[:, 2] = np.minimum(labels[:, 2], 0)
    found = multilabel.temperatures(labels, chances)
    tempered = multilabel.tempered(chances, found)
    points = multilabel.operating_points(NAMES, labels, tempered)
    for k, name in enumerate(NAMES[:2]):
        known = labels[:, k] >= 0
        assert found[k] == metrics.temperature(labels[known, k], chances[known, k])
        np.testing.assert_array_equal(tempered[:, k], metrics.tempered(chances[:, k], found[k]))
        assert points[name] == metrics.operating_points(labels[known, k], tempered[known, k])
    assert found[2] == 1.0 and points["Nodule"] == {"half": 0.5}
    labels[:, 1] = -1
    assert multilabel.temperatures(labels, chances)[1] == 1.0
    assert multilabel.operating_points(NAMES, labels, chances)["Mass"] == {"half": 0.5}


def test_findings_are_called_at_their_own_thresholds() -> None:
    labels, chances = example()
    cuts = [0.5, 0.4, 0.3]
    found = multilabel.finding_scores(labels, chances, cuts)
    for k, cut in enumerate(cuts):
        known = labels[:, k] >= 0
        assert found[k]["f1"] == pytest.approx(f1_score(labels[known, k], chances[known, k] >= cut))
