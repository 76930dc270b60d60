"""The journal and the sender of one run."""

import json
from pathlib import Path

import pytest

from pneumo.tracking.journal import Journal
from pneumo.tracking.run_log import RunLog
from pneumo.tracking.sender import NullSender, Sender
from pneumo.tracking.settings import TrackingSettings

OFF = TrackingSettings(enabled=False)


def test_figures_are_written_before_the_search_hears_of_them(tmp_path: Path) -> None:
    heard = []

    def after_epoch(values: object, epoch: int) -> None:
        heard.append((values, epoch, log.journal.history("val/loss")))
        raise StopIteration

    log = RunLog(tmp_path / "run", OFF, after_epoch=after_epoch)
    log.start("run", "pneumo", {})
    with pytest.raises(StopIteration):
        log.metrics({"val/loss": 0.5}, 1)
    log.close()
    assert heard == [({"val/loss": 0.5}, 1, [(1, 0.5)])]
    assert Journal(tmp_path / "run").history("val/loss") == [(1, 0.5)]


def test_only_the_writing_process_sends(tmp_path: Path) -> None:
    on = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    for tracking, writes in ((on, False), (OFF, True)):
        log = RunLog(tmp_path / f"{writes}", tracking, writes=writes)
        log.send()
        assert isinstance(log.sender, NullSender)
    log = RunLog(tmp_path / "sends", on)
    log.send()
    assert isinstance(log.sender, Sender)
    assert log.sender.finish(20) == 0


def test_another_process_of_the_run_keeps_its_record_in_memory(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", OFF, writes=False)
    log.keep_in_memory()
    log.start("run", "pneumo", {})
    log.metrics({"val/loss": 0.5}, 1)
    log.close()
    assert log.journal.history("val/loss") == [(1, 0.5)] and not (tmp_path / "run").exists()


def test_artifacts_are_written_and_recorded(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", OFF)
    log.start("run", "pneumo", {})
    log.keep_text("config.yaml", "seed: 0")
    (log.artifacts / "figures").mkdir()
    (log.artifacts / "figures" / "a.png").write_bytes(b"png")
    log.record_artifacts()
    log.close()
    assert set(Journal(tmp_path / "run").artifacts) == {"config.yaml", "figures/a.png"}


def test_a_run_that_is_set_aside_leaves_an_empty_record(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", OFF)
    assert log.journal.hold()
    log.start("run", "pneumo", {})
    log.set_aside("before")
    assert not log.journal.started and Journal(tmp_path / "run-before").status == "RUNNING"
    log.start("run", "pneumo", {})
    log.close()
    assert Journal(tmp_path / "run").journal_id != Journal(tmp_path / "run-before").journal_id


def test_what_a_killed_write_left_is_removed_and_not_recorded(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", OFF)
    log.start("run", "pneumo", {})
    log.journal.hold()
    log.keep_text("checkpoints/best.json", "{}")
    leftover = log.artifacts / "checkpoints" / ".best.safetensors.0123abcd.tmp"
    leftover.write_bytes(b"half")
    log.record_artifacts()
    assert list(log.journal.artifacts) == ["checkpoints/best.json"] and not leftover.exists()


def test_a_json_list_grows_by_an_entry_each_time(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", OFF)
    log.start("run", "pneumo", {})
    log.append_json("starts.json", {"host": "one"})
    log.append_json("starts.json", {"host": "two"})
    assert json.loads((log.artifacts / "starts.json").read_text()) == [{"host": "one"}, {"host": "two"}]
