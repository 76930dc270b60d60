"""A model's decisions and its weights: damaged or hostile weights are refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from statsmodels.stats.proportion import proportion_confint
from support.model_runs import FINDINGS, SIZE, change_facts, images, train

from pneumo import UserError
from pneumo.evaluation import metrics
from pneumo.evaluation.predictions import read_any_predictions
from pneumo.inference import bundle, model_folder
from pneumo.names import MODEL_WEIGHTS
from pneumo.training.settings import TrainerSettings


def test_a_run_in_bf16_is_used_in_bf16_where_the_cpu_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainerSettings(epochs=1, limit_batches=2, batch_size=16, precision="bf16", device="cpu")
    model = model_folder.read(train(tmp_path, trainer=settings))
    assert model.precision == "bf16"
    found = []
    for has, used in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("pneumo.inference.bundle.cpu_has_bf16", lambda has=has: has)
        with model.autocast(torch.device("cpu")):
            assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype is used
        found.append(model.probabilities(images(8)))
    assert np.abs(found[0] - found[1]).max() > 0
    np.testing.assert_allclose(*found, atol=0.05)


def test_calibrated_probabilities_and_their_threshold_agree(made: Path) -> None:
    model = model_folder.read(made)
    raw = np.linspace(0, 1, 101)
    np.testing.assert_array_equal(model.decide(raw), raw >= model.thresholds["sensitivity_95"])
    calibrated = model.calibrated(raw)
    away = np.abs(raw - model.raw_threshold) > 1e-9
    np.testing.assert_array_equal(model.decide(raw)[away], (calibrated >= model.threshold)[away])
    np.testing.assert_allclose(calibrated, metrics.tempered(raw, model.temperature))
    assert model_folder.from_run(made, threshold_rule="youden").raw_threshold == model.thresholds["youden"]
    with pytest.raises(UserError, match="youden"):
        model_folder.from_run(made, threshold_rule="best")


def test_past_errors_are_those_of_the_nearest_images(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_folder.read(made)
    monkeypatch.setattr(bundle, "SIMILAR_CASES", 5)
    model.past = {"labels": [0, 0, 1, 1, 1, 0, 1], "probabilities": [0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 1.0]}
    found = model.similar_cases(0.2)
    assert found is not None
    assert (found["images"], found["ill"]) == (5, 3)
    low, high = proportion_confint(3, 5, method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    model.past = {"labels": [], "probabilities": []}
    assert model.similar_cases(0.2) is None


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch " + os.environ["PNEUMO_BOMB"],)


@pytest.mark.parametrize("way", ["pickle", "torch", "empty", "cut", "header", "exchanged", "pipe", "missing"])
def test_weights_that_are_none_are_refused(
    way: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sign = model_dir / MODEL_WEIGHTS, tmp_path / "exploded"
    monkeypatch.setenv("PNEUMO_BOMB", str(sign))
    whole = file.read_bytes()
    if way != "exchanged":
        change_facts(model_dir, weights_sha256=None)  # so that not the checksum alone finds it
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
    with pytest.raises(UserError, match=MODEL_WEIGHTS):
        model_folder.read(model_dir).network()
    assert not sign.exists()


@pytest.mark.parametrize("way", ["shape", "lacks", "unknown", "dtype", "nan"])
def test_weights_of_another_shape_are_refused(way: str, model_dir: Path) -> None:
    file = model_dir / MODEL_WEIGHTS
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
    change_facts(model_dir, weights_sha256=None)
    with pytest.raises(UserError, match="extra" if way == "unknown" else key):
        model_folder.read(model_dir).network()


def test_only_prepared_images_are_taken(made: Path) -> None:
    model = model_folder.read(made)
    for wrong in (np.zeros((2, SIZE, SIZE), np.float32), np.zeros((2, 8, 8), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            model.probabilities(wrong)


def test_of_three_classes_the_largest_probability_is_called_whatever_the_temperature(
    made_of_three: Path,
) -> None:
    model = model_folder.read(made_of_three)
    raw = model.probabilities(images(24, 1))
    assert raw.shape == (24, 3) and raw.sum(1) == pytest.approx(1, abs=1e-12)
    written = read_any_predictions((made_of_three / "predictions" / "test.csv").read_text())
    np.testing.assert_allclose(raw, written.probabilities, atol=1e-6)
    model.temperature = 3.0
    calibrated = model.calibrated(raw)
    powers = raw ** (1 / 3)
    np.testing.assert_allclose(calibrated, powers / powers.sum(1, keepdims=True), atol=1e-9)
    assert (model.call(raw) == raw.argmax(1)).all() and (model.call(calibrated) == model.call(raw)).all()


def test_past_cases_are_of_the_class_that_is_asked_about(
    made_of_three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_folder.read(made_of_three)
    monkeypatch.setattr(bundle, "SIMILAR_CASES", 3)
    rows = [[0.8, 0.1, 0.1], [0.1, 0.5, 0.4], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]]
    model.past = {"labels": [0, 1, 2, 1, 2], "probabilities": rows}
    of_second, of_third = model.similar_cases(0.55, 1), model.similar_cases(0.3, 2)
    assert of_second is not None and (of_second["images"], of_second["ill"]) == (3, 2)
    assert of_third is not None and (of_third["images"], of_third["ill"]) == (3, 1)


def test_each_finding_is_called_where_its_calibrated_probability_reaches_its_threshold(
    made_of_findings: Path,
) -> None:
    model = model_folder.read(made_of_findings)
    raw = model.probabilities(images(24, 1))
    written = read_any_predictions((made_of_findings / "predictions" / "test.csv").read_text())
    np.testing.assert_allclose(raw, written.probabilities, atol=1e-6)
    calibrated = model.calibrated(raw)
    temperatures = [*model.class_temperatures.values()]
    assert len({*temperatures}) == 4, "the last one, which is not fitted, is 1"
    for k in range(4):
        np.testing.assert_array_equal(calibrated[:, k], metrics.tempered(raw[:, k], temperatures[k]))
    thresholds = np.array([*model.threshold_of_class.values()])
    np.testing.assert_array_equal(model.call(raw), (calibrated >= thresholds).astype(int))
    assert not np.allclose(raw.sum(1), 1)


def test_past_cases_of_a_finding_are_those_whose_label_is_known(
    made_of_findings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_folder.read(made_of_findings)
    monkeypatch.setattr(bundle, "SIMILAR_CASES", 3)
    model.past = {
        "labels": [[0, 1, -1, 0], [1, 1, -1, 0], [-1, 0, -1, 0], [0, 0, -1, 0], [1, -1, -1, 0]],
        "probabilities": [[0.1 * row] * 4 for row in range(5)],
    }
    first, second, last = (model.similar_cases(0.2, FINDINGS.index(FINDINGS[k])) for k in (0, 1, 3))
    assert first is not None and (first["images"], first["ill"]) == (3, 1)
    assert second is not None and (second["images"], second["ill"]) == (3, 1)
    assert last is not None and (last["images"], last["ill"]) == (3, 0)
    assert model.similar_cases(0.2, 2) is None, "nobody knows the third finding"
