"""A run's kept checkpoint as a logged model: its scores, its data, its files, and how it ends."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support.journals import artifact, begun

from pneumo.names import BEST_WEIGHTS, TEST_PREDICTIONS
from pneumo.tracking import checkpoint_model
from pneumo.tracking.courier import Courier
from pneumo.tracking.journal import Journal
from pneumo.tracking.sender import sync
from pneumo.tracking.settings import TrackingSettings

SETTINGS = TrackingSettings(flush_s=20)


def _ended(folder: Path, *, scored: bool = True) -> Journal:
    journal = begun(folder)
    journal.dataset("phantom", "a" * 36, "phantom", "training")
    journal.dataset("phantom validation", "b" * 36, "phantom", "validation")
    journal.dataset("phantom testing", "c" * 36, "phantom", "testing")
    artifact(journal, BEST_WEIGHTS, b"weights" * 1000)
    journal.metrics({"best/epoch": 2.0, "best/val_auroc": 0.9}, 2)
    if scored:
        _score(journal)
    journal.end("FINISHED")
    return journal


def _score(journal: Journal) -> None:
    artifact(journal, TEST_PREDICTIONS, b"path,label\n")
    journal.metrics({"test/auroc": 0.8, "test/accuracy": 0.75}, 2)


def _models(client: MlflowClient, run_id: str) -> list[Any]:
    return list(client.search_logged_models([client.get_run(run_id).info.experiment_id]))


def test_a_kept_checkpoint_is_a_logged_model(tmp_path: Path, uri: str) -> None:
    folder = _ended(tmp_path / "edafd9").folder
    run_id = sync(folder, SETTINGS, uri).run_id
    assert run_id is not None
    client = MlflowClient(uri)
    (model,) = _models(client, run_id)
    assert (model.name, str(model.status), model.source_run_id) == ("resnet18 edafd9", "READY", run_id)
    assert model.params["model.name"] == "resnet18"
    scores = {score.key: (score.value, score.dataset_name) for score in model.metrics}
    assert scores == {
        "best/epoch": (2.0, "phantom validation"),
        "best/val_auroc": (0.9, "phantom validation"),
        "test/auroc": (0.8, "phantom testing"),
        "test/accuracy": (0.75, "phantom testing"),
    }
    outputs = client.get_run(run_id).outputs.model_outputs
    assert [(output.model_id, output.step) for output in outputs] == [(model.model_id, 2)]
    stored = Path(model.artifact_location.removeprefix("file://")) / BEST_WEIGHTS
    assert stored.read_bytes() == b"weights" * 1000
    assert stored.stat().st_nlink == 2, "the weights take the disk's space twice"


def test_scores_that_come_later_are_added(tmp_path: Path, uri: str) -> None:
    journal = _ended(tmp_path / "run", scored=False)
    sync(journal.folder, SETTINGS, uri)
    _score(journal)
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    assert run_id is not None
    (model,) = _models(MlflowClient(uri), run_id)
    assert {"test/auroc", "best/epoch"} <= {score.key for score in model.metrics}
    assert (Path(model.artifact_location.removeprefix("file://")) / TEST_PREDICTIONS).is_file()


def test_a_file_that_is_replaced_is_replaced_there_too(tmp_path: Path, uri: str) -> None:
    journal = _ended(tmp_path / "run")
    sync(journal.folder, SETTINGS, uri)
    artifact(journal, TEST_PREDICTIONS, b"path,label\nimage-1.png,0\n")
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    assert run_id is not None
    (model,) = _models(MlflowClient(uri), run_id)
    stored = Path(model.artifact_location.removeprefix("file://")) / TEST_PREDICTIONS
    assert b"image-1.png" in stored.read_bytes()


def test_weights_that_are_dropped_take_the_logged_model_with_them(tmp_path: Path, uri: str) -> None:
    journal = _ended(tmp_path / "run")
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    assert run_id is not None
    client = MlflowClient(uri)
    (model,) = _models(client, run_id)
    journal.drop(BEST_WEIGHTS)
    assert sync(journal.folder, SETTINGS, uri).left == 0
    assert not _models(client, run_id)
    assert not (Path(model.artifact_location.removeprefix("file://")) / BEST_WEIGHTS).exists()
    assert not client.list_artifacts(run_id, "checkpoints")


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_did_not_finish_has_no_model(tmp_path: Path, uri: str, status: str) -> None:
    journal = begun(tmp_path / "run")
    artifact(journal, BEST_WEIGHTS, b"weights")
    journal.end(status)
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    assert run_id is not None
    assert not _models(MlflowClient(uri), run_id)


def test_a_server_without_logged_models_gets_the_run_all_the_same(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise MlflowException(
            "API request to endpoint /logged-models/search failed with error code 404 != 200"
        )

    monkeypatch.setattr(MlflowClient, "search_logged_models", unknown)
    journal = _ended(tmp_path / "run")
    result = sync(journal.folder, SETTINGS, uri)
    assert (result.left, result.error) == (0, None)
    checkpoint_model.delete(Courier(journal.folder, uri)._client or MlflowClient(uri), uri, "0" * 32, "1")
