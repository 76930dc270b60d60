"""Scores against formulas written out here, and against scikit-learn."""

import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from pneumo import UserError
from pneumo.evaluation import metrics


def sample(seed: int, images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(images) < 0.7).astype(int)
    labels[:2] = 0, 1
    # Rounded, so that ties (also at the threshold) occur.
    probabilities = np.round(np.clip(rng.normal(0.35 + 0.3 * labels, 0.25), 0, 1), 2)
    return labels, probabilities


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_scores_equal_scikit_learn(seed: int, threshold: float) -> None:
    labels, probabilities = sample(seed)
    called = probabilities >= threshold
    expected = {
        "accuracy": sk.accuracy_score(labels, called),
        "precision": sk.precision_score(labels, called),
        "recall": sk.recall_score(labels, called),
        "specificity": sk.recall_score(labels, called, pos_label=0),
        "f1": sk.f1_score(labels, called),
        "auroc": sk.roc_auc_score(labels, probabilities),
        "auprc": sk.average_precision_score(labels, probabilities),
        "brier": sk.brier_score_loss(labels, probabilities),
    }
    scored = metrics.scores(labels, probabilities, threshold)
    assert scored.keys() == expected.keys() | {"ece"}
    assert all(type(value) is float for value in scored.values())
    assert {key: scored[key] for key in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_written_out_formulas(seed: int) -> None:
    labels, probabilities = sample(seed)
    pairs = list(zip(labels.tolist(), probabilities.tolist(), strict=True))
    tp = sum(y == 1 and p >= 0.5 for y, p in pairs)
    fp = sum(y == 0 and p >= 0.5 for y, p in pairs)
    tn = sum(y == 0 and p < 0.5 for y, p in pairs)
    fn = sum(y == 1 and p < 0.5 for y, p in pairs)
    sick = [p for y, p in pairs if y == 1]
    well = [p for y, p in pairs if y == 0]
    # AUROC is the chance that a sick image ranks above a well one; ties count half (Mann and Whitney).
    wins = sum((a > b) + 0.5 * (a == b) for a in sick for b in well)
    area, recall_before = 0.0, 0.0
    for cut in sorted(set(probabilities.tolist()), reverse=True):
        hits = sum(p >= cut for p in sick)
        recall = hits / len(sick)
        area += (recall - recall_before) * hits / (hits + sum(p >= cut for p in well))
        recall_before = recall
    ece = 0.0
    for k in range(15):
        inside = [(y, p) for y, p in pairs if k / 15 <= p < (k + 1) / 15 or (k == 14 and p == 1)]
        ece += abs(sum(p - y for y, p in inside)) / len(pairs)
    assert metrics.scores(labels, probabilities) == pytest.approx(
        {
            "accuracy": (tp + tn) / len(pairs),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "auroc": wins / len(sick) / len(well),
            "auprc": area,
            "brier": sum((p - y) ** 2 for y, p in pairs) / len(pairs),
            "ece": ece,
        },
        rel=1e-9,
    )
    assert metrics.confusion(labels, probabilities >= 0.5).tolist() == [[tn, fp], [fn, tp]]
    counted = metrics.from_counts(tn, fp, fn, tp)
    assert counted.keys() == {"accuracy", "f1", "precision", "recall"}
    assert counted == {key: metrics.scores(labels, probabilities)[key] for key in counted}


def test_expected_calibration_error_by_hand() -> None:
    # Bin [0, 1/15): two images at .05, none sick:  2 * |.05 - 0|      = .10
    # Bin [7/15, 8/15): two at .5, one sick:        2 * |.50 - .50|    = 0
    # Bin [14/15, 1]: .95 and 1, one of two sick:   2 * |.975 - .50|   = .95
    labels = [0, 0, 0, 1, 1, 0]
    probabilities = [0.05, 0.05, 0.5, 0.5, 0.95, 1.0]
    assert metrics.calibration_error(labels, probabilities) == pytest.approx(1.05 / 6, rel=1e-12)


def test_calibration_bins_take_edges_upwards() -> None:
    edges = np.arange(16) / 15
    images, mean, share = metrics.calibration_bins(np.ones(16, int), edges)
    assert images.tolist() == [1] * 14 + [2]  # 1.0 has no bin above it
    assert mean[:14] == pytest.approx(edges[:14])
    assert share.tolist() == [1.0] * 15
    images, mean, share = metrics.calibration_bins([1], [0.3])
    assert images.sum() == 1 and np.isnan(mean).sum() == np.isnan(share).sum() == 14


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_ranking_and_no_warning(label: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = metrics.scores(np.full(4, label), [0.1, 0.2, 0.6, 0.9])
    assert math.isnan(scored["auroc"]) and math.isnan(scored["auprc"])
    assert scored["accuracy"] == 0.5
    assert scored["brier"] == pytest.approx(np.mean((np.array([0.1, 0.2, 0.6, 0.9]) - label) ** 2))
    assert (scored["recall"], scored["specificity"]) == ((0.5, 0.0) if label else (0.0, 0.5))


def test_perfect_and_all_wrong() -> None:
    labels = np.array([0, 0, 1, 1])
    perfect, wrong = metrics.scores(labels, labels), metrics.scores(labels, 1 - labels)
    good = {"accuracy", "precision", "recall", "specificity", "f1", "auroc", "auprc"}
    assert {perfect[key] for key in good} == {1.0}
    assert perfect["brier"] == perfect["ece"] == 0.0
    assert {wrong[key] for key in good - {"auprc"}} == {0.0}
    assert wrong["auprc"] == 0.5  # every image must be called to find a sick one
    assert wrong["brier"] == wrong["ece"] == 1.0


def test_a_tie_with_the_threshold_is_positive() -> None:
    assert metrics.scores([0, 1], [0.5, 0.5])["recall"] == 1.0
    assert metrics.scores([0, 1], [0.5, 0.5])["specificity"] == 0.0
    assert metrics.scores([0, 1], [0.5, 0.5], threshold=0.51)["recall"] == 0.0


def test_nothing_called_positive_is_zero_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = metrics.scores([0, 1, 1], [0.1, 0.2, 0.3])
    assert scored["precision"] == scored["recall"] == scored["f1"] == 0.0
    assert metrics.from_counts(0, 0, 0, 0) == dict.fromkeys(("accuracy", "f1", "precision", "recall"), 0.0)


@pytest.mark.parametrize(
    ("labels", "probabilities", "said"),
    [
        ([], [], "one image or more"),
        ([0, 1], [0.5], "one probability of PNEUMONIA for each label"),
        ([[0, 1]], [[0.5, 0.5]], "one-dimensional"),
        ([0, 1], [[0.5, 0.5], [0.2, 0.8]], "one probability"),
        ([0, 2], [0.5, 0.5], "labels contain 2"),
        ([0, 1], [0.5, 1.25], "the first is 1.25 at index 1; give softmax"),
        ([0, 1], [-0.5, 0.5], "the first is -0.5 at index 0"),
        ([0, 1], [0.5, float("nan")], "the first is nan at index 1"),
    ],
)
def test_what_cannot_be_scored_is_named(labels: list, probabilities: list, said: str) -> None:
    with pytest.raises(UserError, match=said):
        metrics.scores(labels, probabilities)


def test_confusion_wants_equal_lengths() -> None:
    with pytest.raises(UserError, match="3 labels but 2 predictions"):
        metrics.confusion([0, 1, 1], [0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_all_scores_equal_scikit_learn(seed: int) -> None:
    labels, probabilities = sample(seed)
    called = probabilities >= 0.4
    found = metrics.all_scores(labels, probabilities, 0.4)
    assert found == pytest.approx(
        metrics.scores(labels, probabilities, 0.4)
        | {
            "balanced_accuracy": sk.balanced_accuracy_score(labels, called),
            "mcc": sk.matthews_corrcoef(labels, called),
            "log_loss": sk.log_loss(labels, probabilities),
        },
        rel=1e-12,
    )


def test_predictive_values_are_bayes_rule() -> None:
    labels, probabilities = sample(0)
    called = probabilities >= 0.5
    scored = metrics.scores(labels, probabilities)
    ppv, npv = metrics.predictive_values(scored["recall"], scored["specificity"], float(labels.mean()))
    assert ppv == pytest.approx(sk.precision_score(labels, called))
    assert npv == pytest.approx(sk.precision_score(labels, called, pos_label=0))
    assert metrics.predictive_values(0.9, 0.8, 0.1) == pytest.approx((0.09 / 0.27, 0.72 / 0.73))
    assert math.isnan(metrics.predictive_values(0.0, 1.0, 0.3)[0])


def test_the_patients_names_carry_the_subtype() -> None:
    patients = ["person-bacteria-1", "person-virus-1", "VIRUS-7", "IM-3", "NORMAL2-IM-3", None]
    masks = metrics.by_subtype(patients, [1, 1, 1, 0, 0, 0])
    assert masks["bacteria"].tolist() == [True, False, False, True, True, True]
    assert masks["virus"].tolist() == [False, True, True, True, True, True]
    assert metrics.by_subtype(["a", "b"], [0, 1]) == {}


@pytest.mark.parametrize("seed", range(3))
def test_operating_points_keep_what_they_promise(seed: int) -> None:
    labels, probabilities = sample(seed)
    points = metrics.operating_points(labels, probabilities)

    def at(threshold: float) -> tuple[float, float]:
        scored = metrics.scores(labels, probabilities, threshold)
        return scored["recall"], scored["specificity"]

    every = sorted(set(probabilities.tolist()))
    assert points["half"] == 0.5
    assert points["sensitivity_95"] == max(t for t in every if at(t)[0] >= 0.95)
    assert sum(at(points["youden"])) == pytest.approx(max(sum(at(t)) for t in every))
    assert metrics.operating_points([1, 1], [0.2, 0.3]) == {"half": 0.5}


def test_no_temperature_is_fitted_to_one_class() -> None:
    assert metrics.temperature([1, 1, 1], [0.9, 0.8, 0.3]) == 1.0
    assert metrics.temperature([0, 1], [0.4, 0.9]) != 1.0


def test_temperature_minimises_the_log_loss() -> None:
    labels, probabilities = sample(1)
    found = metrics.temperature(labels, probabilities)
    losses = [
        sk.log_loss(labels, metrics.tempered(probabilities, found * factor)) for factor in (0.98, 1, 1.02)
    ]
    assert losses[1] == min(losses)
    truth = np.random.default_rng(0)
    calibrated = truth.uniform(0.01, 0.99, 20_000)
    drawn = (truth.random(20_000) < calibrated).astype(int)
    assert metrics.temperature(drawn, calibrated) == pytest.approx(1, abs=0.05)
    assert metrics.temperature(drawn, metrics.tempered(calibrated, 0.5)) == pytest.approx(2, abs=0.1)
