"""Fixtures of the inference tests: a finished run's artifacts, and a model folder made from them."""

from pathlib import Path

import pytest

from pneumo.inference import model_folder


@pytest.fixture
def made(made_models: dict[str, Path]) -> Path:
    """Artifacts of a ResNet-18 with drawn weights. Do not change them."""
    return made_models["resnet18"]


@pytest.fixture
def model_dir(made: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    model_folder.write(model_folder.from_run(made), tmp_path / "model")
    return tmp_path / "model"
