"""ONNX: the same probabilities, for any number of images, with what their use needs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.model_runs import SIZE, images

from pneumo import UserError
from pneumo.inference import export, model_folder
from pneumo.inference.bundle import Bundle

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_onnx_gives_the_models_probabilities(name: str, made_models: dict[str, Path], tmp_path: Path) -> None:
    model = model_folder.read(made_models[name])
    line = export.onnx(model, tmp_path / "model.onnx")
    assert name in line and "differ" in line
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    network = model.network()
    for count in (1, 2, 7):
        batch = images(count, 30 + count, SIZE)
        (found,) = session.run(None, {"images": batch})
        assert found.shape == (count,)
        np.testing.assert_allclose(found, model.probabilities(batch, network), atol=1e-4)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["pneumo"])
    assert facts["temperature"] == model.temperature and facts["thresholds"] == model.thresholds
    assert facts["preprocess"] == model.preprocess


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_of_bf16_is_compared_in_float32(
    made_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU with bf16 units, the model's own probabilities differ by more than the limit."""
    monkeypatch.setattr("pneumo.inference.bundle.cpu_has_bf16", lambda: True)
    model = replace(model_folder.read(made_models["resnet18"]), precision="bf16")
    batch = images(8, 3, SIZE)
    exact = replace(model, precision="float32").probabilities(batch)
    assert np.abs(model.probabilities(batch) - exact).max() > export.MAX_DIFFERENCE
    line = export.onnx(model, tmp_path / "model.onnx", batch)
    assert "in float32" in line and "6 generated images and 8 validation images" in line
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": batch})[0], exact, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_model_differs_on_the_images_that_are_given(
    made_models: dict[str, Path], made_of_three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison sees a difference that only a given image has."""
    model, batch = model_folder.read(made_models["resnet18"]), images(4, 3, SIZE)
    probabilities = type(model).probabilities

    def changed(bundle: Bundle, asked: np.ndarray, *more: object) -> np.ndarray:
        found = probabilities(bundle, asked)
        return found + 0.01 if np.array_equal(asked, batch) else found

    monkeypatch.setattr(type(model), "probabilities", changed)
    with pytest.raises(UserError, match=r"differs by 0\.01 from .*: it was not written"):
        export.onnx(model, tmp_path / "model.onnx", batch)
    assert not [*tmp_path.iterdir()]


@pytest.mark.filterwarnings("ignore")
def test_the_validation_images_of_a_run_are_found(phantom_run: Path, tmp_path: Path) -> None:
    model = model_folder.from_run(phantom_run)
    found = export.validation_images(model, phantom_run / "config.yaml", 3)
    assert found.shape == (len(found), SIZE, SIZE) and 1 <= len(found) <= 3 and found.std() > 10
    none = export.validation_images(model, tmp_path / "none.yaml")
    assert none.shape == (0, SIZE, SIZE)
    assert "on 6 generated images" in export.onnx(model, tmp_path / "model.onnx", none)


def test_another_ending_is_refused(made_models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"FILE\.onnx"):
        export.onnx(model_folder.read(made_models["resnet18"]), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_gives_each_of_three_classes(made_of_three: Path, tmp_path: Path) -> None:
    model = model_folder.read(made_of_three)
    export.onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        batch = images(count, 30 + count, SIZE)
        (found,) = session.run(["probabilities"], {"images": batch})
        assert found.shape == (count, 3)
        np.testing.assert_allclose(found, model.probabilities(batch), atol=1e-5)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["pneumo"])
    assert facts["class_names"] == model.class_names
    assert facts["class_thresholds"] == model.class_thresholds


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_gives_each_finding_its_own_probability(made_of_findings: Path, tmp_path: Path) -> None:
    model = model_folder.read(made_of_findings)
    export.onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        batch = images(count, 30 + count, SIZE)
        (found,) = session.run(["probabilities"], {"images": batch})
        assert found.shape == (count, 4) and not np.allclose(found.sum(1), 1)
        np.testing.assert_allclose(found, model.probabilities(batch), atol=1e-5)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["pneumo"])
    assert facts["task"] == "multilabel" and facts["class_temperatures"] == model.class_temperatures
