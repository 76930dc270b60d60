"""What the tests share: the real images where there are any, tiny generated sets, the commands in-process."""

import logging
import os
import platform
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.commands import HOOKS, Ending, import_path
from support.commands import PROJECT as ROOT
from support.images import make_kaggle

from pneumo.data.settings import DataSettings

if TYPE_CHECKING:
    from support.model_tracker import ModelTracker
    from support.servers import Postgres
    from support.training import Tiny

# `PNEUMO_TEST_BF16=on make test` runs all tests as on a processor with bf16 units, `off` as on one without.
if (forced := os.environ.get("PNEUMO_TEST_BF16", "")) not in ("", "on", "off"):
    raise pytest.UsageError(f"PNEUMO_TEST_BF16={forced} is not known; the options are on, off")
# `PNEUMO_TEST_BLANK= make test` draws the figures of every run.
os.environ.setdefault("PNEUMO_TEST_BLANK", "on")
# `PNEUMO_TEST_ONE_CORE= make test` starts processes for the images of each run.
os.environ.setdefault("PNEUMO_TEST_ONE_CORE", "on")
hooks = runpy.run_path(str(HOOKS / "sitecustomize.py"))  # this process has started already
os.environ["PYTHONPATH"] = import_path(HOOKS)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from pneumo.models.precision import cpu_has_bf16

    units = "with" if cpu_has_bf16() else "without"
    why = f", PNEUMO_TEST_BF16={forced}" if forced else ""
    terminalreporter.write_line(f"Python {platform.python_version()}, a CPU {units} bf16 units{why}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real images: beside the checkout, or where PNEUMO_SHARED says."""
    folder = Path(os.environ.get("PNEUMO_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"there are no real images: {folder}/data is missing (PNEUMO_SHARED names it)")
    return folder


@pytest.fixture(scope="session")
def native(shared: Path) -> list[Path]:
    """160 X-rays at their original size."""
    files = sorted((shared / "data" / "native").rglob("*.jpeg"))
    if not files:
        pytest.skip(f"no original images in {shared}/data/native")
    return files


@pytest.fixture(scope="session")
def real_root(shared: Path) -> Path:
    """The whole public set in the Kaggle layout."""
    root = shared / "data" / "chest_xray"
    if not root.is_dir():
        pytest.skip(f"the public set is missing: {root}")
    return root


@pytest.fixture(scope="session")
def made_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts as of a run for each architecture, with weights that were drawn."""
    from support.model_runs import make

    channels = {"resnet18": 1, "resnet50": 3, "densenet121": 3}
    return {name: make(tmp_path_factory.mktemp(name), name, count) for name, count in channels.items()}


@pytest.fixture(scope="session")
def phantom_run(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """The artifacts of a finished run of seconds on synthetic images, tracked beside outputs/."""
    from support.model_runs import train

    folder = tmp_path_factory.mktemp("phantom")
    shutil.copy(empty_store, folder / "mlflow.db")
    return train(folder)


@pytest.fixture
def tracker(tmp_path: Path, made_models: dict[str, Path], empty_store: Path) -> "ModelTracker":
    """A SQLite tracker whose runs hold the artifacts of a ResNet-18."""
    from support.model_tracker import ModelTracker

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return ModelTracker(tmp_path, made_models["resnet18"])


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    return make_kaggle(tmp_path / "chest_xray")


@pytest.fixture(scope="session")
def kaggle_read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `kaggle`, shared by the tests that change nothing in it."""
    return make_kaggle(tmp_path_factory.mktemp("kaggle") / "chest_xray")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., DataSettings]:
    """DataSettings with a cache folder of the test's own, one process and small images."""

    def make(**keys: object) -> DataSettings:
        base = {"cache_dir": str(tmp_path / "cache"), "num_workers": 1, "image_size": 32, "val_fraction": 0.2}
        return DataSettings(**{**base, **{k: str(v) if k == "root" else v for k, v in keys.items()}})

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Path:
    """MLflow's migrations take seconds: once is enough."""
    file = tmp_path / "mlflow.db"
    return file if file.exists() else Path(shutil.copy(empty_store, file))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[float, Callable[[], None]]:
    """A tiny network replaces the models. What a job with some model.dropout does on building it."""
    from support.training import Tiny

    acts: dict[float, Callable[[], None]] = {}

    def build(name: str, dropout: float = 0.09, num_classes: int = 2, **_: Any) -> "Tiny":
        acts.get(dropout, lambda: None)()
        return Tiny(dropout=dropout, classes=num_classes)

    # Modules that take build_model from there are imported first: they would keep the tiny one.
    import pneumo.comparison.network_cost
    import pneumo.inference.bundle  # noqa: F401
    from pneumo import models

    monkeypatch.setattr(models, "build_model", build)
    return acts


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk quicker than any training: every state is written, none is replaced while it waits."""
    from pneumo.training.state_writer import Snapshot, StateWriter

    submit = StateWriter.submit

    def submit_and_wait(writer: StateWriter, snapshot: Snapshot) -> None:
        submit(writer, snapshot)
        writer.drain()

    monkeypatch.setattr(StateWriter, "submit", submit_and_wait)


@pytest.fixture
def blank_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a comparison are built but not drawn, for tests that do not look at them."""
    from pneumo.comparison import figures

    monkeypatch.setattr(figures, "draw_twice", figures.draw_twice)  # taken back at the end
    hooks["leave_page_blank"](figures)


@pytest.fixture
def command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    request: pytest.FixtureRequest,
) -> Callable[..., Ending]:
    """Run a command in this process as if from a shell, everything below tmp_path."""
    monkeypatch.setenv("PNEUMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.delenv("PNEUMO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(module: str, *arguments: str) -> Ending:
        from hydra.core.global_hydra import GlobalHydra

        from pneumo import compare, data_command, evaluate, predict, runs, train, ui

        if module == "compare":
            request.getfixturevalue("blank_page")
        if module == "train" and not {"tracking.enabled=false", "--help", "--cfg"} & {*arguments}:
            request.getfixturevalue("store")
        os.environ["HYDRA_FULL_ERROR"] = "0"
        GlobalHydra.instance().clear()
        line = [*arguments]
        own_keys = module == "data" and ({*arguments} & {"copies", "labels", "list", "prune"})
        if "=" in "".join(arguments) and module not in ("predict", "compare", "ui") and not own_keys:
            line.append(f"output_dir={tmp_path}/outputs")
        monkeypatch.setattr(sys, "argv", [f"pneumo.{module}", *line])
        capfd.readouterr()
        logging.getLogger().handlers.clear()  # those of an earlier test write to its closed output
        with pytest.raises(SystemExit) as end:
            {
                "train": train, "data": data_command, "runs": runs,
                "predict": predict, "compare": compare, "ui": ui, "evaluate": evaluate,
            }[module].main()  # fmt: skip
        out, err = capfd.readouterr()
        return Ending(int(end.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    from support.servers import Postgres

    # Not below pytest's folder, which PostgreSQL's own user must not enter.
    folder = Path(tempfile.mkdtemp(prefix="pneumo-postgres-"))
    folder.chmod(0o755)
    try:
        database = Postgres(folder)
    except LookupError as error:
        shutil.rmtree(folder)
        pytest.skip(str(error))
    database.start()
    try:
        database.wait()
        yield database
    finally:
        database.kill()
        shutil.rmtree(folder)
