"""Models in MLflow: found by every form of name, registered once, and refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from support.model_runs import images
from support.model_tracker import ModelTracker

from pneumo import UserError
from pneumo.inference import model_folder, registration
from pneumo.sweep import retention
from pneumo.tracking import registry
from pneumo.tracking.courier import Courier
from pneumo.tracking.journal import Journal
from pneumo.tracking.registry import Registry, resolve
from pneumo.tracking.settings import TrackingSettings


def test_a_registered_run_is_found_by_every_name(tracker: ModelTracker, tmp_path: Path) -> None:
    run_id = tracker.run()
    assert tracker.register(run_id).startswith("pneumo 1: registered from run")
    version = tracker.client.get_model_version_by_alias("pneumo", "champion")
    assert version.run_id == run_id and version.tags["pneumo.protocol"] == "patient_val"
    expected = model_folder.read(tracker.made).probabilities(images(4, 1))
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
        model = model_folder.read(found.folder, found.version)
        assert model.version == called
        np.testing.assert_allclose(model.probabilities(images(4, 1)), expected, atol=1e-6)
    assert model_folder.read(resolve("models:/pneumo/1", tracker.uri, tmp_path).folder).run_id == run_id


def test_what_is_not_there_is_named(tracker: ModelTracker, tmp_path: Path) -> None:
    tracker.register(tracker.run())
    deleted = tracker.run()
    tracker.client.delete_run(deleted)
    answers = {
        "models:/pneumo@nobody": r"has the versions \[1\] and the aliases @champion \(version 1\)",
        "models:/pneumo/7": r"has the versions \[1\]",
        "models:/other/1": "the registered models are pneumo",
        "models:/pneumo": "not of a known form",
        "models:/../../etc/1": "not of a known form",
        "runs:/nothing": "not of a known form",
        "f" * 32: "is not in sqlite",
        deleted: "was deleted",
        "nowhere": "neither a folder nor a known run",
        "models:/m-" + "0" * 32: "is not in sqlite",
    }
    for name, words in answers.items():
        with pytest.raises(UserError, match=words):
            resolve(name, tracker.uri, tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        resolve("models:/pneumo/1", f"sqlite:///{tmp_path}/no.db", tmp_path)


def test_weights_of_a_registered_model_are_never_dropped(phantom_run: Path, tmp_path: Path) -> None:
    folder, uri = phantom_run.parent, f"sqlite:///{phantom_run.parents[2]}/mlflow.db"
    courier = Courier(folder, uri)
    assert not courier.registered()
    assert courier.note.run_id is not None
    there = Registry(uri, tmp_path)
    registration.register(there, courier.note.run_id, name="pneumo", alias="champion", force=False)
    assert Courier(folder, uri).registered()
    assert retention._drop_weights(Journal(folder), TrackingSettings(uri=uri)) is None
    assert (phantom_run / "checkpoints" / "best.safetensors").is_file()
    found = resolve("models:/pneumo@champion", uri, tmp_path)
    assert model_folder.read(found.folder).network() is not None
    assert found.folder != phantom_run


def test_files_of_a_server_are_fetched_by_name_once(
    tracker: ModelTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.register(tracker.run())
    monkeypatch.setattr(registry, "local_folder", lambda uri: None)  # as of a server elsewhere
    found = resolve("models:/pneumo@champion", tracker.uri, tmp_path / "fetched")
    assert {path.name for path in found.folder.iterdir()} == set(registry.MODEL_FILES)
    before = (found.folder / "model.json").stat().st_mtime_ns
    again = resolve("models:/pneumo/1", tracker.uri, tmp_path / "fetched")
    assert again.folder == found.folder and (again.folder / "model.json").stat().st_mtime_ns == before
    assert model_folder.read(again.folder).network() is not None
    monkeypatch.setattr(registry, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(UserError, match="it is not a model"):
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
