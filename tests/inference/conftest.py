"""Fixtures of the inference tests: a finished run's artifacts, and a model folder made from them."""

from pathlib import Path

import pytest
from support.model_runs import FINDINGS, THREE, make

from pneumo.inference import model_folder


@pytest.fixture
def made(made_models: dict[str, Path]) -> Path:
    """Artifacts of a ResNet-18 with drawn weights. Do not change them."""
    return made_models["resnet18"]


@pytest.fixture(scope="session")
def made_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a ResNet-18 with drawn weights and the classes THREE. Do not change them."""
    return make(tmp_path_factory.mktemp("three"), "resnet18", classes=THREE)


@pytest.fixture(scope="session")
def made_of_findings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a ResNet-18 with drawn weights for several FINDINGS an image. Do not change them."""
    return make(tmp_path_factory.mktemp("findings"), "resnet18", classes=FINDINGS, multilabel=True)


@pytest.fixture
def model_dir(made: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    model_folder.write(model_folder.from_run(made), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def dir_of_three(made_of_three: Path, tmp_path: Path) -> Path:
    """A model folder of three classes that a test may change."""
    model_folder.write(model_folder.from_run(made_of_three), tmp_path / "three")
    return tmp_path / "three"


@pytest.fixture
def dir_of_findings(made_of_findings: Path, tmp_path: Path) -> Path:
    """A model folder of several findings that a test may change."""
    model_folder.write(model_folder.from_run(made_of_findings), tmp_path / "findings")
    return tmp_path / "findings"
