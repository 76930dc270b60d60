"""ONNX: the same probabilities, for any number of images, with what their use needs."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.model_runs import SIZE, images

from pneumo import UserError
from pneumo.inference import export, model_folder

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
