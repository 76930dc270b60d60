"""Journal -> MLflow on a real SQLite store: every row once, whatever happened before."""

import json
import multiprocessing
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from support.journals import artifact, begun, rows, runs, whole

from pneumo.names import NOTE_TAG
from pneumo.tracking.courier import note_path, read_note
from pneumo.tracking.journal import artifact_file
from pneumo.tracking.sender import sync, verify
from pneumo.tracking.settings import TrackingSettings

SETTINGS = TrackingSettings(flush_s=20)


def test_all_kinds_arrive(
    tmp_path: Path,
    database: Path,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # a user's export must not hijack the run
    journal = whole(tmp_path / "a run")
    result = sync(journal.folder, SETTINGS, uri)
    assert (result.sent, result.left, result.error, result.refused) == (journal.last, 0, None, 0)
    client = MlflowClient(uri)
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "a run"
    assert run.data.params == {"model.name": "resnet18", "long": "x" * 6000}
    assert run.data.tags["pneumo.fingerprint"] == "a run"
    dataset = run.inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.dataset.digest) == ("chest_xray", "a" * 36)
    assert dataset.tags[0].value == "train"
    for name in ("config.yaml", "figures/roc test.png"):
        copy = Path(client.download_artifacts(run.info.run_id, name, str(tmp_path)))
        assert copy.read_bytes() == artifact_file(journal.folder, name).read_bytes()
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts" / "pneumo").as_uri())
    assert rows(database) == sorted(journal.metric_rows())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("sequence", [None, 0, 1, 2, 4, 7])
def test_sending_again_changes_nothing(
    tmp_path: Path, database: Path, uri: str, sequence: int | None
) -> None:
    journal = whole(tmp_path / "run")
    first = sync(journal.folder, SETTINGS, uri)
    path = note_path(journal.folder, uri)
    if sequence is None:
        path.unlink()  # killed between create_run and the note
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), "sequence": sequence}))
    again = sync(journal.folder, SETTINGS, uri)
    assert again.run_id == first.run_id and again.left == 0 and again.sent == journal.last - (sequence or 0)
    assert len(runs(uri)) == 1 and rows(database) == sorted(journal.metric_rows())
    assert sync(journal.folder, SETTINGS, uri).sent == 0


def test_what_is_refused_does_not_hold_up_the_rest(tmp_path: Path, database: Path, uri: str) -> None:
    journal = begun(tmp_path / "run")
    many = {f"good/{i}": float(i) for i in range(1500)}
    journal.metrics({**many, "bad@name": 1.0, "good": 2.0}, 1)
    journal.params({"model.name": "resnet50", "other": "1"})
    artifact(journal, "gone.txt", b"x")
    artifact_file(journal.folder, "gone.txt").unlink()
    journal.tags({"nul": "a\0b\ud800"})
    journal.end("FINISHED")
    result = sync(journal.folder, SETTINGS, uri)
    assert (result.left, result.refused, result.error) == (0, 3, None)
    (run,) = runs(uri)
    assert run.info.status == "FINISHED" and run.data.tags["nul"] == "ab?"
    assert run.data.params["model.name"] == "resnet18" and run.data.params["other"] == "1"
    assert rows(database) == sorted(row for row in journal.metric_rows() if row[0] != "bad@name")
    note_path(journal.folder, uri).unlink()
    sync(journal.folder, SETTINGS, uri)
    refused = [json.loads(line) for line in (journal.folder / "refused.jsonl").read_text().splitlines()]
    assert [(r["sequence"], r["key"]) for r in refused] == [
        (6, "bad@name"),
        (7, "model.name"),
        (8, "gone.txt"),
    ]


def test_a_second_run_that_a_late_answer_left_is_removed(tmp_path: Path, database: Path, uri: str) -> None:
    journal = begun(tmp_path / "run")
    first = sync(journal.folder, SETTINGS, uri)
    client = MlflowClient(uri)
    experiment = read_note(journal.folder, uri).experiment_id
    client.create_run(experiment, tags={"pneumo.journal_id": journal.journal_id})
    journal.end("FINISHED")
    assert sync(journal.folder, SETTINGS, uri).run_id == first.run_id
    assert [run.info.run_id for run in runs(uri, ViewType.ACTIVE_ONLY)] == [first.run_id]


def test_what_was_deleted_in_mlflow_is_named(tmp_path: Path, database: Path, uri: str) -> None:
    journal = begun(tmp_path / "run")
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    client = MlflowClient(uri)
    client.delete_run(run_id)
    journal.end("FINISHED")
    result = sync(journal.folder, SETTINGS, uri)
    assert result.left == 1 and "mlflow runs restore" in (result.error or "")
    assert not (journal.folder / "refused.jsonl").exists()
    client.restore_run(run_id)
    assert sync(journal.folder, SETTINGS, uri).left == 0
    client.delete_experiment(read_note(journal.folder, uri).experiment_id)
    other = begun(tmp_path / "other")
    result = sync(other.folder, SETTINGS, uri)
    assert result.left == other.last and "tracking.experiment" in (result.error or "")


def test_a_new_database_gets_everything_again(
    tmp_path: Path, database: Path, uri: str, empty_store: Path
) -> None:
    journal = whole(tmp_path / "run")
    sync(journal.folder, SETTINGS, uri)
    with sqlite3.connect(empty_store) as new, sqlite3.connect(database) as old:
        new.backup(old)
    assert rows(database) == []
    result = sync(journal.folder, SETTINGS, uri)
    assert result.sent == journal.last and rows(database) == sorted(journal.metric_rows())


def test_one_folder_serves_two_trackers(tmp_path: Path, database: Path, uri: str) -> None:
    journal = whole(tmp_path / "run")
    other = Path(shutil.copy(database, tmp_path / "other.db"))
    assert sync(journal.folder, SETTINGS, uri).left == 0
    assert sync(journal.folder, SETTINGS, f"sqlite:///{other}").left == 0
    assert rows(database) == rows(other) == sorted(journal.metric_rows())


def test_a_damaged_journal_is_an_error_not_a_crash(tmp_path: Path, uri: str) -> None:
    journal = begun(tmp_path / "run")
    journal.path.write_bytes(b"{}\n" + journal.path.read_bytes())
    result = sync(journal.folder, SETTINGS, uri)
    assert result.left == 1 and "damaged" in (result.error or "")
    assert sync(tmp_path / "nothing", SETTINGS, uri).left == 0 and not (tmp_path / "nothing").exists()


def sync_at(gate: Any, folder: Path, uri: str, answers: Any) -> None:
    gate.wait(20)
    result = sync(folder, SETTINGS, uri)
    answers.put((folder.name, result.left, result.error, result.run_id))


def test_four_processes_at_once_on_a_new_database(tmp_path: Path) -> None:
    """Two of them for the same run. Forked, because importing mlflow four times takes half a minute."""
    journals = {name: whole(tmp_path / name) for name in "abc"}
    database = tmp_path / "new" / "mlflow.db"
    fork = multiprocessing.get_context("fork")
    gate, answers = fork.Barrier(4), fork.Queue()
    started = [
        fork.Process(target=sync_at, args=(gate, tmp_path / name, f"sqlite:///{database}", answers))
        for name in "aabc"
    ]
    for process in started:
        process.start()
    seen = sorted(answers.get(timeout=60) for _ in started)
    for process in started:
        process.join(10)
    assert [answer[:3] for answer in seen] == [(name, 0, None) for name in "aabc"]
    assert seen[0] == seen[1] and len(runs(f"sqlite:///{database}")) == 3
    for name, _, _, run_id in seen:
        assert rows(database, run_id) == sorted(journals[name].metric_rows())


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were synced, in their order."""
    paths, fsync = list[str](), os.fsync

    def noting(handle: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    return paths


def test_a_copy_in_a_local_store_is_on_the_disk_before_it_counts_as_sent(
    tmp_path: Path, uri: str, synced: list[str]
) -> None:
    journal = whole(tmp_path / "run")
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    store = tmp_path / "mlartifacts" / "pneumo" / str(run_id) / "artifacts"
    for path in (
        store / "config.yaml",
        store / "figures" / "roc test.png",
        store / "figures",
        store,
        store.parent,
    ):
        assert str(path) in synced, path


def test_what_a_power_cut_emptied_in_the_tracker_is_sent_again(tmp_path: Path, uri: str) -> None:
    journal = whole(tmp_path / "run")
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    store = tmp_path / "mlartifacts" / "pneumo" / str(run_id) / "artifacts"
    assert verify(journal.folder, uri) == []
    (store / "config.yaml").write_bytes(b"")
    (store / "figures" / "roc test.png").unlink()
    assert sorted(verify(journal.folder, uri)) == ["config.yaml", "figures/roc test.png"]
    assert (store / "config.yaml").read_bytes() == artifact_file(journal.folder, "config.yaml").read_bytes()
    assert verify(journal.folder, uri) == []


def test_a_record_is_on_the_disk_before_it_counts_as_sent(
    tmp_path: Path, uri: str, synced: list[str]
) -> None:
    """Otherwise a power cut takes it from the journal, and the next one with its number is never sent."""
    journal = begun(tmp_path / "run")
    artifact(journal, "config.yaml", b"seed: 0\n")
    synced.clear()
    sync(journal.folder, SETTINGS, uri)
    note = next(number for number, path in enumerate(synced) if Path(path).name.startswith(".sent-"))
    assert str(journal.path) in synced[:note]


def test_a_half_copied_file_of_a_killed_process_goes(tmp_path: Path, uri: str) -> None:
    journal = whole(tmp_path / "run")
    path = note_path(journal.folder, uri)
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    store = tmp_path / "mlartifacts" / "pneumo" / str(run_id) / "artifacts"
    for folder in (store, store / "figures"):
        (folder / ".artifact.uploading.x4711").write_bytes(b"half")
    path.write_text(json.dumps({**json.loads(path.read_text()), "sequence": 1}))  # as it was at the kill
    sync(journal.folder, SETTINGS, uri)
    assert sorted(file.name for file in store.rglob("*") if file.is_file()) == ["config.yaml", "roc test.png"]


def described(tmp_path: Path, uri: str) -> tuple[Any, MlflowClient, str]:
    journal = begun(tmp_path / "run")
    journal.tags({NOTE_TAG: "It trains: [ROC](run:/figures/roc.png), [other](run:abc123)."})
    run_id = sync(journal.folder, SETTINGS, uri).run_id
    assert run_id is not None
    return journal, MlflowClient(uri), run_id


def test_links_of_a_description_lead_to_mlflows_pages(tmp_path: Path, uri: str) -> None:
    journal, client, run_id = described(tmp_path, uri)
    run = client.get_run(run_id)
    page = f"#/experiments/{run.info.experiment_id}/runs/{run_id}"
    figure = f"{page}/artifacts/figures/roc.png?workflowType=machine_learning"  # else: the mode for GenAI
    assert run.data.tags[NOTE_TAG] == f"It trains: [ROC]({figure}), [other](run:abc123)."
    journal.tags({NOTE_TAG: "done"})
    sync(journal.folder, SETTINGS, uri)
    assert client.get_run(run_id).data.tags[NOTE_TAG] == "done"


def test_a_users_description_stays(tmp_path: Path, uri: str) -> None:
    journal, client, run_id = described(tmp_path, uri)
    client.set_tag(run_id, NOTE_TAG, "my own words")
    journal.tags({NOTE_TAG: "done", "other": "x"})
    sync(journal.folder, SETTINGS, uri)
    tags = client.get_run(run_id).data.tags
    assert tags[NOTE_TAG] == "my own words" and tags["other"] == "x"
