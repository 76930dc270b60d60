"""A run shows in MLflow that its process lives; one that does not is closed, and opens itself again."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlflow import MlflowClient
from support.journals import begun, runs

from pneumo.names import HEARTBEAT_TAG, REASON_TAG
from pneumo.text import utc_now
from pneumo.tracking import heartbeat
from pneumo.tracking.courier import Courier
from pneumo.tracking.reading import Reader


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_only_an_old_beat_is_stale() -> None:
    assert heartbeat.is_stale(ago(heartbeat.STALE_S + 30))
    assert not heartbeat.is_stale(ago(10)) and not heartbeat.is_stale(utc_now())
    assert not heartbeat.is_stale(None)  # of version 0.1
    assert not heartbeat.is_stale("yesterday")


def test_a_run_closed_wrongly_opens_itself_at_its_next_beat(tmp_path: Path, uri: str) -> None:
    journal = begun(tmp_path / "run")
    courier = Courier(journal.folder, uri)
    courier.beat()  # nothing is known of it yet
    courier.carry()
    courier.beat()
    (run,) = runs(uri)
    assert not heartbeat.is_stale(run.data.tags[HEARTBEAT_TAG])
    assert Reader(uri).close_stale() == []
    client = MlflowClient(uri)
    client.set_tag(run.info.run_id, HEARTBEAT_TAG, ago(3600))
    assert Reader(uri).close_stale() == [run.info.run_name]
    (closed,) = runs(uri)
    assert closed.info.status == "KILLED" and closed.data.tags[REASON_TAG] == heartbeat.REASON
    courier.beat()
    (again,) = runs(uri)
    assert again.info.status == "RUNNING" and REASON_TAG not in again.data.tags
    journal.end("FINISHED")
    courier.carry()
    courier.beat()  # an end that the run itself recorded stays
    assert [run.info.status for run in runs(uri)] == ["FINISHED"]


def test_the_beat_is_not_in_the_journal(tmp_path: Path, uri: str, database: Path) -> None:
    journal = begun(tmp_path / "run")
    courier = Courier(journal.folder, uri)
    courier.carry()
    before = journal.path.read_bytes()
    courier.beat()
    assert journal.path.read_bytes() == before
    with sqlite3.connect(database) as store:
        (count,) = store.execute("SELECT count(*) FROM tags WHERE key = ?", (HEARTBEAT_TAG,)).fetchone()
    assert count == 1
