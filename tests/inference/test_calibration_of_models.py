"""Models whose validation calls for more than a temperature: written, read and used with one scale."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax
from support.model_runs import FINDINGS, THREE

from pneumo import UserError
from pneumo.evaluation import multiclass
from pneumo.evaluation.predictions import SplitResult, predictions_csv, read_any_predictions
from pneumo.inference import card, model_folder
from pneumo.inference.predictor import Predictor
from pneumo.names import CLASS_NAMES

COUNT = 300
SHIFT = 2.0  # of the log-odds of class 1, as a weighted sampler leaves it


def split(kind: str, seed: int) -> SplitResult:
    """Drawn labels, and the probabilities of a model with a shift."""
    rng = np.random.default_rng(seed)
    if kind == "three":
        logits = rng.normal(size=(COUNT, 3)) * 2
        labels = np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)])
        chances = softmax(logits + np.array([0, SHIFT, 0]), axis=1)
    elif kind == "findings":
        odds = rng.normal(-0.5, 1.5, (COUNT, len(FINDINGS)))
        labels = (rng.random(odds.shape) < expit(odds)).astype(int)
        labels[:10, 0] = -1
        chances = expit(odds + SHIFT)
    else:
        odds = rng.normal(-0.5, 1.5, COUNT)
        labels, chances = (rng.random(COUNT) < expit(odds)).astype(int), expit(odds + SHIFT)
    names = {"three": THREE, "findings": FINDINGS}.get(kind, CLASS_NAMES)
    return SplitResult(
        paths=[f"{row}.png" for row in range(COUNT)],
        patients=[f"p{row // 2}" for row in range(COUNT)],
        labels=labels,
        probabilities=chances,
        class_names=names,
    )


@pytest.fixture(params=["two", "three", "findings"])
def shifted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    kind = request.param
    made = request.getfixturevalue({"two": "made"}.get(kind, f"made_of_{kind}"))
    shutil.copytree(made, tmp_path / "run")
    for seed, name in enumerate(("val", "test")):
        (tmp_path / "run/predictions" / f"{name}.csv").write_bytes(predictions_csv(split(kind, seed)))
    return kind, tmp_path / "run"


def test_the_shift_is_corrected_and_survives_the_folder(shifted: tuple[str, Path], tmp_path: Path) -> None:
    kind, run = shifted
    bundle = model_folder.from_run(run)
    assert bundle.calibration is not None
    model_folder.write(bundle, tmp_path / "model")
    again = model_folder.read(tmp_path / "model")
    assert again.calibration == bundle.calibration and again.past == bundle.past
    assert "bias" in card.text(again)
    test = read_any_predictions((run / "predictions/test.csv").read_text())
    calibrated = again.calibrated(test.probabilities)
    of_one = calibrated if kind == "two" else calibrated[:, 1]
    own = test.labels[:, 1] if kind == "findings" else test.labels == 1
    assert of_one.mean() == pytest.approx(own.mean(), abs=0.07)
    raw = test.probabilities if kind == "two" else test.probabilities[:, 1]
    assert raw.mean() > own.mean() + 0.1
    # The answer, the threshold and the decision are on the same scale.
    predictor = Predictor(again, num_workers=1)
    for row, chance in zip(test.probabilities[:40], calibrated[:40], strict=True):
        answer = predictor._of_two(row) if kind == "two" else predictor._of_classes(row)
        if kind == "two":
            assert answer.probability == pytest.approx(chance)
            assert (answer.probability >= answer.threshold) == (answer.decision == "PNEUMONIA")  # type: ignore[operator]
        elif kind == "three":
            assert answer.decision == THREE[chance.argmax()] == THREE[again.call(row[None])[0]]


def test_the_figures_of_three_classes_are_of_the_calls_that_are_made(
    made_of_three: Path, tmp_path: Path
) -> None:
    shutil.copytree(made_of_three, tmp_path / "run")
    for seed, name in enumerate(("val", "test")):
        (tmp_path / "run/predictions" / f"{name}.csv").write_bytes(predictions_csv(split("three", seed)))
    bundle = model_folder.from_run(tmp_path / "run")
    test = read_any_predictions((tmp_path / "run/predictions/test.csv").read_text())
    called = bundle.call(test.probabilities)
    assert (called != test.predictions).any()
    assert bundle.figures["accuracy"]["value"] == pytest.approx((called == test.labels).mean())
    recorded = multiclass.scores(test.labels, test.probabilities)
    for name in ("auroc", "auprc"):
        assert bundle.figures[name]["value"] == pytest.approx(recorded[name])
    assert bundle.class_figures is not None
    for label, name in enumerate(THREE):
        own = test.labels == label
        found = bundle.class_figures[name]
        assert found["recall"]["value"] == pytest.approx((called[own] == label).mean())
        assert found["recall"]["low"] < found["recall"]["value"] < found["recall"]["high"]  # type: ignore[operator]


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "platt", "slope": 0, "bias": [0.0, 1.0]},
        {"kind": "platt", "slope": 1.0, "bias": [0.0]},
        {"kind": "bias", "slope": 1.0, "bias": [0.0, 1e9]},
        {"kind": "other", "slope": 1.0, "bias": [0.0, 1.0]},
        {"kind": "isotonic", "scores": [0.0, 1.0], "chances": [0.9, 0.1]},
        {"kind": "isotonic", "scores": [0.0], "chances": [0.1]},
        {},
        [],
        "platt",
    ],
)
def test_a_calibration_that_no_model_has_is_refused(record: object, model_dir: Path) -> None:
    facts = json.loads((model_dir / "model.json").read_text())
    good = {"kind": "isotonic", "scores": [0.0, 1.0], "chances": [0.1, 0.9]}
    (model_dir / "model.json").write_text(json.dumps(facts | {"calibration": good}))
    assert model_folder.read(model_dir).calibrated([0.5]) == pytest.approx([0.5])
    (model_dir / "model.json").write_text(json.dumps(facts | {"calibration": record}))
    with pytest.raises(UserError, match="calibration"):
        model_folder.read(model_dir)
