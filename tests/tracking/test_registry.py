"""Models in MLflow: found by every form of name, registered once, and refused with a reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.model_runs import images

from pneumo import UserError
from pneumo.evaluation.predictions import predictions_csv, read_predictions
from pneumo.inference import bundle, registration
from pneumo.sweep import retention
from pneumo.tracking import registry
from pneumo.tracking.journal import Journal
from pneumo.tracking.mlflow_client import Courier, open_client
from pneumo.tracking.registry import Registry, resolve
from pneumo.tracking.settings import TrackingSettings


class Tracker:
    """A SQLite tracker with runs that hold the artifacts of `made`."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.folder, self.made, self.uri = folder, made, f"sqlite:///{folder}/mlflow.db"
        self.client = open_client(self.uri)
        self.experiment = self.client.create_experiment("pneumo", (folder / "mlartifacts").as_uri())
        self.registry = Registry(self.uri, folder / "cache")

    def run(
        self,
        change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        *,
        status: str = "FINISHED",
        protocol: str = "patient_val",
        path: str = "",
    ) -> str:
        """A run; `change` makes its test probabilities out of labels and probabilities."""
        run_id = self.client.create_run(self.experiment, tags={"pneumo.protocol": protocol}).info.run_id
        folder = self.folder / "mlartifacts" / run_id / "artifacts"
        shutil.copytree(self.made, folder, copy_function=_link)
        if change or path:
            file = folder / "predictions" / "test.csv"
            test = read_predictions(file.read_text())
            test.probabilities = change(test.labels, test.probabilities) if change else test.probabilities
            test.paths = [f"{path}{name}" for name in test.paths]
            file.unlink()
            file.write_bytes(predictions_csv(test))
        self.client.set_terminated(run_id, status)
        return run_id

    def register(self, run_id: str, alias: str = "champion", force: bool = False) -> str:
        return registration.register(self.registry, run_id, name="pneumo", alias=alias, force=force)

    def versions(self) -> list[Any]:
        return list(self.client.search_model_versions("name = 'pneumo'"))


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def good(labels: np.ndarray, _: np.ndarray) -> np.ndarray:
    row = np.arange(len(labels))
    return 0.1 + 0.7 * labels + 0.01 * row / len(labels) - 0.695 * (row == 1)


def bad(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return 1 - good(labels, probabilities)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tables take MLflow seconds to make."""
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    open_client(f"sqlite:///{file}")
    return file


@pytest.fixture
def tracker(tmp_path: Path, made_models: dict[str, Path], empty_database: Path) -> Tracker:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Tracker(tmp_path, made_models["resnet18"])


def test_a_registered_run_is_found_by_every_name(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.run()
    assert tracker.register(run_id).startswith("pneumo 1: registered from run")
    version = tracker.client.get_model_version_by_alias("pneumo", "champion")
    assert version.run_id == run_id and version.tags["pneumo.protocol"] == "patient_val"
    expected = bundle.read(tracker.made).probabilities(images(4, 1))
    logged = version.source
    names = {
        "models:/pneumo@champion": "pneumo 1",
        "models:/pneumo/1": "pneumo 1",
        logged: logged.removeprefix("models:/"),
        f"runs:/{run_id}": run_id,
        run_id: run_id,
        str(tracker.made): str(tracker.made),
    }
    for name, called in names.items():
        found = resolve(name, tracker.uri, tmp_path / "cache")
        model = bundle.read(found.folder, found.version)
        assert model.version == called
        np.testing.assert_allclose(model.probabilities(images(4, 1)), expected, atol=1e-6)
    assert bundle.read(resolve("models:/pneumo/1", tracker.uri, tmp_path).folder).run_id == run_id


def test_mlflow_is_told_what_serving_needs(tracker: Tracker, tmp_path: Path) -> None:
    from mlflow.models import Model

    from pneumo import __version__

    tracker.register(tracker.run())
    folder = resolve("models:/pneumo@champion", tracker.uri, tmp_path).folder
    model = Model.load(str(folder))
    assert model.flavors["python_function"]["loader_module"] == "pneumo.inference.pyfunc"
    assert model.signature.inputs.input_names() == ["image"]
    assert {"probability", "decision", "class", "threshold", "warnings", "version"} == set(
        model.signature.outputs.input_names()
    )
    assert (folder / "requirements.txt").read_text() == f"pneumo=={__version__}\n"
    example = json.loads((folder / "input_example.json").read_text())
    assert example["columns"] == ["image"] and len(example["data"]) == 1
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pth", ".pt", ".bin")]


def test_a_run_without_a_reference_gets_one_where_its_images_are(phantom_run: Path, tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, phantom_run)
    run_id = tracker.run()
    (tmp_path / "mlartifacts" / run_id / "artifacts" / bundle.FAMILIARITY).unlink()
    tracker.register(run_id)
    kept = bundle.read(resolve("models:/pneumo@champion", tracker.uri, tmp_path / "cache").folder)
    assert kept.familiarity == bundle.from_run(phantom_run).familiarity is not None


def test_registering_twice_gives_one_version(tracker: Tracker) -> None:
    run_id = tracker.run()
    tracker.register(run_id)
    assert "nothing to do" in tracker.register(run_id)
    assert tracker.register(run_id, alias="second").startswith("pneumo 1: registered before")
    assert [version.version for version in tracker.versions()] == [1]
    assert dict(tracker.client.get_registered_model("pneumo").aliases) == {"champion": 1, "second": 1}


def test_a_worse_run_is_refused_unless_forced(tracker: Tracker) -> None:
    tracker.register(tracker.run(good))
    worse = tracker.run(bad)
    with pytest.raises(UserError, match=r"worse than the model that champion names.*paired.*force=true"):
        tracker.register(worse)
    assert len(tracker.versions()) == 1
    assert "forced" in tracker.register(worse, force=True)
    assert tracker.client.get_model_version_by_alias("pneumo", "champion").version == 2
    better = tracker.register(tracker.run(good))
    assert "paired on 24 test images +" in better


def test_without_the_champions_predictions_the_intervals_decide(tracker: Tracker) -> None:
    first = tracker.run(good)
    tracker.register(first)
    tracker.client.delete_run(first)
    with pytest.raises(UserError, match=r"worse than the model that champion names: AUROC .* against"):
        tracker.register(tracker.run(bad))
    assert "paired" not in tracker.register(tracker.run(good))


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ({"status": "FAILED"}, "is FAILED: only a finished run"),
        ({"status": "KILLED"}, "is KILLED: only a finished run"),
        ({"protocol": "test_selected"}, "tagged test_selected"),
        ({"path": "other/"}, "was not tested on the images of pneumo 1"),
    ],
)
def test_unfit_runs_are_refused_unless_forced(tracker: Tracker, way: dict[str, str], reason: str) -> None:
    tracker.register(tracker.run())
    run_id = tracker.run(**way)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=reason) as told:
        tracker.register(run_id)
    assert "force=true" in str(told.value)
    assert len(tracker.versions()) == 1
    tracker.register(run_id, force=True)
    assert len(tracker.versions()) == 2


def test_what_is_not_there_is_named(tracker: Tracker, tmp_path: Path) -> None:
    tracker.register(tracker.run())
    deleted = tracker.run()
    tracker.client.delete_run(deleted)
    said = {
        "models:/pneumo@nobody": r"has the versions \[1\] and the aliases @champion \(version 1\)",
        "models:/pneumo/7": r"has the versions \[1\]",
        "models:/other/1": "the registered models are pneumo",
        "models:/pneumo": "not of a known form",
        "models:/../../etc/1": "not of a known form",
        "runs:/nothing": "not of a known form",
        "f" * 32: "is not in sqlite",
        deleted: "was deleted",
        "nowhere": "no folder and no run id",
        "models:/m-" + "0" * 32: "is not in sqlite",
    }
    for name, words in said.items():
        with pytest.raises(UserError, match=words):
            resolve(name, tracker.uri, tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        resolve("models:/pneumo/1", f"sqlite:///{tmp_path}/no.db", tmp_path)


def test_a_run_without_a_model_is_refused(tracker: Tracker) -> None:
    run_id = tracker.run()
    shutil.rmtree(tracker.folder / "mlartifacts" / run_id / "artifacts" / "checkpoints")
    with pytest.raises(UserError, match=r"best\.json"):
        tracker.register(run_id)
    assert not tracker.client.search_registered_models()


@pytest.mark.parametrize("alias", ["not/this", "latest", "v3", "", "a'b", "a" * 200])
def test_an_alias_that_mlflow_refuses_is_named(alias: str, tracker: Tracker) -> None:
    with pytest.raises(UserError, match="alias="):
        tracker.register(tracker.run(), alias=alias)
    assert not tracker.client.search_registered_models()


def test_weights_of_a_registered_model_are_never_dropped(phantom_run: Path, tmp_path: Path) -> None:
    folder, uri = phantom_run.parent, f"sqlite:///{phantom_run.parents[2]}/mlflow.db"
    courier = Courier(folder, uri)
    assert not courier.registered()
    assert courier.note.run_id is not None
    there = Registry(uri, tmp_path)
    registration.register(there, courier.note.run_id, name="pneumo", alias="champion", force=False)
    assert Courier(folder, uri).registered()
    assert retention._drop(Journal(folder), TrackingSettings(uri=uri)) is None
    assert (phantom_run / "checkpoints" / "best.safetensors").is_file()
    found = resolve("models:/pneumo@champion", uri, tmp_path)
    assert bundle.read(found.folder).network() is not None
    assert found.folder != phantom_run


def test_files_of_a_server_are_fetched_by_name_once(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.register(tracker.run())
    monkeypatch.setattr(registry, "local_folder", lambda uri: None)  # as of a server elsewhere
    found = resolve("models:/pneumo@champion", tracker.uri, tmp_path / "fetched")
    assert {path.name for path in found.folder.iterdir()} == set(registry.MODEL_FILES)
    before = (found.folder / "model.json").stat().st_mtime_ns
    again = resolve("models:/pneumo/1", tracker.uri, tmp_path / "fetched")
    assert again.folder == found.folder and (again.folder / "model.json").stat().st_mtime_ns == before
    assert bundle.read(again.folder).network() is not None
    monkeypatch.setattr(registry, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="it is no model"):
        resolve("models:/pneumo/1", tracker.uri, tmp_path / "other")
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]


def test_the_version_that_mlflow_notes_is_read_with_suspicion(tmp_path: Path) -> None:
    file = tmp_path / "registered_model_meta"
    assert registry.version_in(tmp_path) is None
    for text, version in {
        "model_name: pneumo\nmodel_version: '3'\n": "pneumo 3",
        "[]": None,
        "model_name: pneumo": None,
        "!!python/object/apply:os.system ['true']": None,
        'model_name: "a\\eb"\nmodel_version: 1\n': None,
        "model_name: " + "a" * 5000: None,
    }.items():
        file.write_text(text)
        assert registry.version_in(tmp_path) == version
