"""A model as a folder: it reads back as it was written, and nothing damaged or hostile is used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from sklearn.metrics import log_loss
from support.model_runs import FINDINGS, SIZE, THREE, change_facts, images, make, phantom

from pneumo import UserError
from pneumo.data import cache, manifest
from pneumo.evaluation import metrics
from pneumo.evaluation.predictions import predictions_csv, read_any_predictions, read_predictions
from pneumo.inference import model_folder
from pneumo.names import BEST_FACTS, MODEL_CARD, MODEL_FACTS


def test_a_run_gives_the_probabilities_of_its_predictions(phantom_run: Path, tmp_path: Path) -> None:
    artifacts = phantom_run
    settings = phantom(artifacts.parents[2]).data
    data = cache.prepare(manifest.build(settings), settings)
    table = data.manifest.table.set_index("path")
    model = model_folder.read(artifacts.parent)
    network = model.network()
    for split in ("val", "test"):
        written = read_predictions((artifacts / "predictions" / f"{split}.csv").read_text())
        rows = [int(data.rows[table.index.get_loc(path)]) for path in written.paths]
        assert set(table.loc[written.paths, "split"]) == {split}
        found = model.probabilities(np.asarray(data.images[rows]), network)
        np.testing.assert_allclose(found, written.probabilities, atol=1e-5)
    assert model.synthetic and model.image_size == SIZE and model.precision == "float32"
    assert model.counts["images"]["test"] == data.manifest.counts()["test"]
    points = read_predictions((artifacts / "predictions" / "val.csv").read_text())
    assert model.thresholds == metrics.operating_points(points.labels, points.probabilities)
    model_folder.write(model, tmp_path / "model")
    card = (tmp_path / "model" / MODEL_CARD).read_text()
    assert "Not a medical device" in card and "synthetic images" in card and model.fingerprint in card
    assert f"| {model.figures['auroc']['value']:.4f} |" in card


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_a_written_model_reads_back_the_same(name: str, made_models: dict[str, Path], tmp_path: Path) -> None:
    artifacts = made_models[name]
    first = model_folder.read(artifacts)
    model_folder.write(first, tmp_path / "model")
    second = model_folder.read(tmp_path / "model")
    written = read_predictions((artifacts / "predictions" / "test.csv").read_text())
    np.testing.assert_allclose(second.probabilities(images(24, 1)), written.probabilities, atol=1e-5)
    assert second.thresholds == first.thresholds and second.past == first.past
    assert second.figures == first.figures and second.temperature == first.temperature
    assert not second.network().training
    assert "pickle" not in {path.suffix for path in (tmp_path / "model").iterdir()}


def test_the_pixel_rule_and_white_are_passed_on(tmp_path: Path) -> None:
    preprocess = {"image_size": SIZE, "crop_black": True, "equalize": True, "pixels": 2}
    newest = make(tmp_path / "newest", "resnet18", preprocess=preprocess, white=4095)
    model_folder.write(model_folder.read(newest), tmp_path / "model")
    model = model_folder.read(tmp_path / "model")
    assert (model.pixel_rule, model.white, model.preprocess) == (2, 4095, preprocess)
    old = model_folder.read(make(tmp_path / "old", "resnet18"))  # as version 0.1 wrote it
    assert (old.pixel_rule, old.white) == (1, None)
    model_folder.write(old, tmp_path / "old model")
    written = json.loads((tmp_path / "old model" / MODEL_FACTS).read_text())
    assert "white" not in written and "pixels" not in written["preprocess"]


def test_half_is_the_threshold_where_validation_has_one_class(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "val.csv"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0], *(row for row in rows[1:] if row.split(",")[2] == "1")]) + "\n")
    model = model_folder.read(tmp_path / "run")
    assert (model.threshold_rule, model.thresholds) == ("half", {"half": 0.5})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"epoch": NaN}', "\x00" * 50, '{"epoch": ' + "9" * 9999 + "}"],
    ids=["empty", "list", "cut", "deep", "nan", "zeros", "long number"],
)
def test_facts_that_are_no_json_object_are_refused(text: str, model_dir: Path) -> None:
    (model_dir / MODEL_FACTS).write_text(text)
    with pytest.raises(UserError, match=MODEL_FACTS):
        model_folder.read(model_dir)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not contain a model"):
        model_folder.read(tmp_path)
    with pytest.raises(UserError, match="does not contain a model"):
        model_folder.read(tmp_path / "nowhere")


def test_damaged_predictions_are_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "val.csv"
    for text in ("", "path,label\na,1\n", "path,patient,label,probability\na,p,1,7\n"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"val\.csv"):
            model_folder.read(tmp_path / "run")


def test_three_classes_read_back_the_same(made_of_three: Path, tmp_path: Path) -> None:
    first = model_folder.read(made_of_three)
    model_folder.write(first, tmp_path / "model")
    second = model_folder.read(tmp_path / "model")
    assert tuple(second.class_names) == THREE and second.many and second.thresholds == {}
    for name in ("class_thresholds", "class_figures", "figures", "past", "temperature", "threshold_rule"):
        assert getattr(second, name) == getattr(first, name), name
    np.testing.assert_array_equal(second.probabilities(images(5, 3)), first.probabilities(images(5, 3)))


def test_validation_alone_chooses_the_temperature_and_a_threshold_for_each_class(
    made_of_three: Path, tmp_path: Path
) -> None:
    model = model_folder.read(made_of_three)
    val = read_any_predictions((made_of_three / "predictions" / "val.csv").read_text())

    def loss(temperature: float) -> float:
        return float(log_loss(val.labels, softmax(np.log(val.probabilities) / temperature, axis=1)))

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert loss(model.temperature) == pytest.approx(best.fun, abs=1e-12)
    calibrated = softmax(np.log(val.probabilities) / model.temperature, axis=1)
    for label, (name, points) in enumerate(model.class_thresholds.items()):
        own, chances = val.labels == label, calibrated[:, label]
        assert name == THREE[label] and points["half"] == 0.5
        assert points == pytest.approx(metrics.operating_points(own.astype(int), chances))
        assert (chances[own] >= points["sensitivity_95"] - 1e-12).mean() >= 0.95
    # Other test images change the figures, and nothing else.
    shutil.copytree(made_of_three, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "test.csv"
    test = read_any_predictions(file.read_text())
    test.labels = (test.labels + 1) % 3
    file.write_bytes(predictions_csv(test))
    other = model_folder.read(tmp_path / "run")
    assert other.figures != model.figures and other.temperature == model.temperature
    assert (other.class_thresholds, other.past) == (model.class_thresholds, model.past)
    file.unlink()
    unscored = model_folder.read(tmp_path / "run")
    assert not unscored.figures and unscored.class_thresholds == model.class_thresholds
    model_folder.write(unscored, tmp_path / "unscored")
    assert model_folder.read(tmp_path / "unscored").class_figures == {name: {} for name in THREE}


def test_a_class_that_validation_lacks_is_called_from_half(made_of_three: Path, tmp_path: Path) -> None:
    shutil.copytree(made_of_three, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "val.csv"
    val = read_any_predictions(file.read_text())
    val.labels = val.labels % 2
    file.write_bytes(predictions_csv(val))
    model = model_folder.read(tmp_path / "run")
    assert model.class_thresholds[THREE[2]] == {"half": 0.5}
    assert model.threshold_of_class[THREE[2]] == 0.5
    assert model.threshold_of_class[THREE[0]] == model.class_thresholds[THREE[0]]["sensitivity_95"]


def test_predictions_of_other_classes_than_the_models_are_refused(
    made: Path, made_of_three: Path, tmp_path: Path
) -> None:
    for name in ("val.csv", "test.csv"):
        shutil.copytree(made_of_three, tmp_path / name)
        shutil.copyfile(made / "predictions" / name, tmp_path / name / "predictions" / name)
        with pytest.raises(UserError, match="not of the same classes"):
            model_folder.read(tmp_path / name)


def test_two_classes_have_the_keys_that_they_always_had_and_later_ones_last(model_dir: Path) -> None:
    keys = [*json.loads((model_dir / MODEL_FACTS).read_text())]
    assert keys == [
        *("model", "preprocess", "class_names", "data_digest", "protocol", "synthetic", "fingerprint"),
        *(
            "thresholds",
            "temperature",
            "threshold_rule",
            "figures",
            "past",
            "test_digest",
            "monitor",
            "epoch",
        ),
        *("precision", "counts", "familiarity", "run_id", "weights_sha256"),
        *("past_patients", "format"),  # later keys are last
    ]


def test_several_findings_read_back_the_same(made_of_findings: Path, tmp_path: Path) -> None:
    first = model_folder.read(made_of_findings)
    model_folder.write(first, tmp_path / "model")
    second = model_folder.read(tmp_path / "model")
    assert second.multilabel and second.many and tuple(second.class_names) == FINDINGS
    for name in ("class_thresholds", "class_figures", "class_temperatures", "figures", "past", "temperature"):
        assert getattr(second, name) == getattr(first, name), name
    np.testing.assert_array_equal(second.probabilities(images(5, 3)), first.probabilities(images(5, 3)))
    assert json.loads((tmp_path / "model" / MODEL_FACTS).read_text())["task"] == "multilabel"


def test_validation_alone_chooses_the_temperature_and_threshold_of_each_finding(
    made_of_findings: Path, tmp_path: Path
) -> None:
    model = model_folder.read(made_of_findings)
    val = read_any_predictions((made_of_findings / "predictions" / "val.csv").read_text())
    assert (val.labels == -1).any()
    for k, name in enumerate(FINDINGS[:3]):
        known = val.labels[:, k] >= 0
        truth, logits = val.labels[known, k], logit(val.probabilities[known, k])

        def loss(temperature: float, truth: np.ndarray = truth, logits: np.ndarray = logits) -> float:
            return float(log_loss(truth, expit(logits / temperature)))

        best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
        assert loss(model.class_temperatures[name]) == pytest.approx(best.fun, abs=1e-9)
        chances = expit(logits / model.class_temperatures[name])
        assert model.class_thresholds[name] == pytest.approx(metrics.operating_points(truth, chances))
        assert (chances[truth == 1] >= model.threshold_of_class[name] - 1e-12).mean() >= 0.95
    # Validation has no image with the last one.
    assert model.not_chosen == [FINDINGS[3]] and model.class_temperatures[FINDINGS[3]] == 1
    assert model.threshold_of_class[FINDINGS[3]] == 0.5
    shutil.copytree(made_of_findings, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "test.csv"
    test = read_any_predictions(file.read_text())
    test.labels = np.where(test.labels >= 0, 1 - test.labels, -1)
    file.write_bytes(predictions_csv(test))
    other = model_folder.read(tmp_path / "run")
    assert other.figures != model.figures and other.class_temperatures == model.class_temperatures
    assert (other.class_thresholds, other.past) == (model.class_thresholds, model.past)
    file.unlink()
    unscored = model_folder.read(tmp_path / "run")
    assert not unscored.figures and unscored.class_thresholds == model.class_thresholds


def test_predictions_of_another_task_than_the_models_are_refused(
    made_of_findings: Path, made_of_three: Path, tmp_path: Path
) -> None:
    for name, made, words in (
        ("findings", made_of_findings, "predictions are of several findings an image, and .* one class"),
        ("three", made_of_three, "predictions are of one class an image, and .* several findings"),
    ):
        shutil.copytree(made, tmp_path / name)
        facts = json.loads((tmp_path / name / BEST_FACTS).read_text())
        facts["task"] = "multilabel" if name == "three" else None
        (tmp_path / name / BEST_FACTS).write_text(json.dumps(facts))
        with pytest.raises(UserError, match=words):
            model_folder.read(tmp_path / name)


def test_three_classes_have_the_keys_that_they_always_had(dir_of_three: Path, model_dir: Path) -> None:
    of_two = json.loads((model_dir / MODEL_FACTS).read_text())
    of_three = json.loads((dir_of_three / MODEL_FACTS).read_text())
    assert of_three.keys() - of_two.keys() == {"class_thresholds", "class_figures"}
    assert isinstance(of_three["temperature"], float)
    change_facts(dir_of_three, temperature=None)
    with pytest.raises(UserError, match="temperature is None"):
        model_folder.read(dir_of_three)
