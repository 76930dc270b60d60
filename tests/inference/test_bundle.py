"""A trained model as a folder: what it says is what the run said, and nothing damaged or hostile is used."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from statsmodels.stats.proportion import proportion_confint
from support.model_runs import SIZE, images, phantom

from pneumo import UserError
from pneumo.data import cache, manifest
from pneumo.evaluation import metrics
from pneumo.evaluation.predictions import read_predictions
from pneumo.inference import bundle


@pytest.fixture
def made(made_models: dict[str, Path]) -> Path:
    return made_models["resnet18"]


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    bundle.from_run(made).write(tmp_path / "model")
    return tmp_path / "model"


def facts(folder: Path, **changed: object) -> None:
    file = folder / bundle.FACTS
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def test_a_run_gives_the_probabilities_of_its_predictions(phantom_run: Path, tmp_path: Path) -> None:
    artifacts = phantom_run
    settings = phantom(artifacts.parents[2]).data
    data = cache.prepare(manifest.build(settings), settings)
    table = data.manifest.table.set_index("path")
    model = bundle.read(artifacts.parent)
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
    model.write(tmp_path / "model")
    card = (tmp_path / "model" / bundle.CARD).read_text()
    assert "Not a medical device" in card and "synthetic images" in card and model.fingerprint in card
    assert f"| {model.figures['auroc']['value']:.4f} |" in card


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_a_written_model_reads_back_the_same(name: str, made_models: dict[str, Path], tmp_path: Path) -> None:
    artifacts = made_models[name]
    first = bundle.read(artifacts)
    first.write(tmp_path / "model")
    second = bundle.read(tmp_path / "model")
    written = read_predictions((artifacts / "predictions" / "test.csv").read_text())
    np.testing.assert_allclose(second.probabilities(images(24, 1)), written.probabilities, atol=1e-5)
    assert second.thresholds == first.thresholds and second.past == first.past
    assert second.figures == first.figures and second.temperature == first.temperature
    assert not second.network().training
    assert "pickle" not in {path.suffix for path in (tmp_path / "model").iterdir()}


def test_calibrated_probabilities_and_their_threshold_agree(made: Path) -> None:
    model = bundle.read(made)
    raw = np.linspace(0, 1, 101)
    np.testing.assert_array_equal(model.decide(raw), raw >= model.thresholds["sensitivity_95"])
    calibrated = model.calibrated(raw)
    away = np.abs(raw - model.raw_threshold) > 1e-9
    np.testing.assert_array_equal(model.decide(raw)[away], (calibrated >= model.threshold)[away])
    np.testing.assert_allclose(calibrated, metrics.tempered(raw, model.temperature))
    assert bundle.from_run(made, threshold_rule="youden").raw_threshold == model.thresholds["youden"]
    with pytest.raises(UserError, match="youden"):
        bundle.from_run(made, threshold_rule="best")


def test_past_errors_are_those_of_the_nearest_images(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bundle.read(made)
    monkeypatch.setattr(bundle, "PAST_LIKE", 5)
    model.past = {"labels": [0, 0, 1, 1, 1, 0, 1], "probabilities": [0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 1.0]}
    found = model.past_at(0.2)
    assert found is not None
    assert (found["images"], found["ill"]) == (5, 3)
    low, high = proportion_confint(3, 5, method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    model.past = {"labels": [], "probabilities": []}
    assert model.past_at(0.2) is None


def test_half_is_the_threshold_where_validation_has_one_class(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "val.csv"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0], *(row for row in rows[1:] if row.split(",")[2] == "1")]) + "\n")
    model = bundle.read(tmp_path / "run")
    assert (model.threshold_rule, model.thresholds) == ("half", {"half": 0.5})


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch " + os.environ["PNEUMO_BOMB"],)


@pytest.mark.parametrize("way", ["pickle", "torch", "empty", "cut", "header", "exchanged", "pipe", "missing"])
def test_weights_that_are_none_are_refused(
    way: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sign = folder / bundle.WEIGHTS, tmp_path / "exploded"
    monkeypatch.setenv("PNEUMO_BOMB", str(sign))
    whole = file.read_bytes()
    if way != "exchanged":
        facts(folder, weights_sha256=None)  # so that not the checksum alone finds it
    file.unlink()
    if way == "pickle":
        file.write_bytes(pickle.dumps(Bomb()))
    elif way == "torch":
        torch.save(Bomb(), file)
    elif way in ("empty", "cut"):
        file.write_bytes(whole[: len(whole) // 2 if way == "cut" else 0])
    elif way == "header":
        file.write_bytes((2**62).to_bytes(8, "little") + whole[8:])
    elif way == "exchanged":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif way == "pipe":
        os.mkfifo(file)
    with pytest.raises(UserError, match=bundle.WEIGHTS):
        bundle.read(folder).network()
    assert not sign.exists()


@pytest.mark.parametrize("way", ["shape", "lacks", "unknown", "dtype", "nan"])
def test_weights_of_another_shape_are_refused(way: str, folder: Path) -> None:
    file = folder / bundle.WEIGHTS
    state = load_file(file)
    key = "fc.3.weight"
    if way == "shape":
        state[key] = torch.zeros(3, 50)
    elif way == "lacks":
        del state[key]
    elif way == "unknown":
        state["extra"] = torch.zeros(1)
    elif way == "dtype":
        state[key] = state[key].to(torch.complex64)
    else:
        state[key][0, 0] = float("nan")
    file.unlink()
    save_file(state, file)
    facts(folder, weights_sha256=None)
    with pytest.raises(UserError, match="extra" if way == "unknown" else key):
        bundle.read(folder).network()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", {"name": "os.system", "in_channels": 3, "dropout": 0.1, "num_classes": 2}),
        ("model", {"name": "resnet18", "in_channels": 10**9, "dropout": 0.1, "num_classes": 2}),
        ("model", {"name": "resnet18", "in_channels": True, "dropout": 0.1, "num_classes": 2}),
        ("model", {"name": "resnet18"}),
        ("preprocess", {"image_size": 10**7, "crop_black": True, "equalize": True}),
        ("preprocess", {"image_size": 32, "crop_black": "yes", "equalize": True}),
        ("preprocess", {"image_size": 32, "crop_black": True, "equalize": True, "path": "/etc/passwd"}),
        ("class_names", ["NORMAL", "\x1b[2J"]),
        ("class_names", ["NORMAL"]),
        ("class_names", ["NORMAL", "A" * 10**6]),
        ("thresholds", {"half": 0.5, "sensitivity_95": 1e308}),
        ("thresholds", {"sensitivity_95": 0.5}),
        ("threshold_rule", "youden; rm -rf"),
        ("temperature", 0),
        ("temperature", -1.0),
        ("temperature", "1"),
        ("past", {"labels": [0, 1], "probabilities": [0.5]}),
        ("past", {"labels": [0, 2], "probabilities": [0.5, 0.5]}),
        ("figures", {"auroc": {"value": 1e300, "low": 0.0, "high": 1.0}}),
        ("protocol", "none"),
        ("epoch", 10**400),
        ("counts", {"images": {"train": {"NORMAL": {"deep": 1}}}}),
        ("precision", ["bf16"]),
        ("fingerprint", None),
        ("familiarity", [1]),
        ("format", 99),
        ("more", 1),
    ],
)
def test_absurd_facts_are_refused(key: str, value: object, folder: Path) -> None:
    facts(folder, **{key: value})
    with pytest.raises(UserError, match=key if key != "format" else "format"):
        bundle.read(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"epoch": NaN}', "\x00" * 50, '{"epoch": ' + "9" * 9999 + "}"],
    ids=["empty", "list", "cut", "deep", "nan", "zeros", "long number"],
)
def test_facts_that_are_no_json_object_are_refused(text: str, folder: Path) -> None:
    (folder / bundle.FACTS).write_text(text)
    with pytest.raises(UserError, match=bundle.FACTS):
        bundle.read(folder)


def test_every_fact_may_be_missing_and_is_then_named(folder: Path) -> None:
    whole = json.loads((folder / bundle.FACTS).read_text())
    for key in whole.keys() - {"format", "weights_sha256"}:
        (folder / bundle.FACTS).write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(UserError, match=key):
            bundle.read(folder)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        bundle.read(tmp_path)
    with pytest.raises(UserError, match="holds no model"):
        bundle.read(tmp_path / "nowhere")


def test_damaged_predictions_are_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "val.csv"
    for text in ("", "path,label\na,1\n", "path,patient,label,probability\na,p,1,7\n"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"val\.csv"):
            bundle.read(tmp_path / "run")


def test_only_prepared_images_are_taken(made: Path) -> None:
    model = bundle.read(made)
    for wrong in (np.zeros((2, SIZE, SIZE), np.float32), np.zeros((2, 8, 8), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            model.probabilities(wrong)
