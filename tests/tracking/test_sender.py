"""The thread that sends while a run trains: it never blocks, and it shows no credential."""

import json
import time
from pathlib import Path

from support.journals import begun, rows, runs

from pneumo.tracking.journal import Journal
from pneumo.tracking.sender import NullSender, Sender, sync
from pneumo.tracking.settings import TrackingSettings

SETTINGS = TrackingSettings(flush_s=20)


def test_what_training_writes_arrives_while_it_writes(tmp_path: Path, database: Path, uri: str) -> None:
    journal = Journal(tmp_path / "run")
    sender = Sender(journal.folder, SETTINGS, uri)
    journal.start("run", "pneumo", {})
    sender.start()
    for epoch in range(1, 4):
        journal.metrics({"val/auroc": epoch / 10}, epoch)
        sender.notify()
    deadline = time.monotonic() + 60
    while len(rows(database)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows(database) == sorted(journal.metric_rows())
    assert [run.info.status for run in runs(uri)] == ["RUNNING"]
    journal.end("KILLED", "SIGTERM")
    assert sender.finish(20) == 0 and sender.error is None
    (run,) = runs(uri)
    assert run.info.status == "KILLED" and run.data.tags["pneumo.status_reason"] == "SIGTERM"
    assert run.info.run_id == sender.run_id
    # The same command goes on.
    again = Journal(journal.folder)
    journal.close()
    again.resume()
    again.metrics({"val/auroc": 9.0}, 3)
    again.metrics({"val/auroc": 0.4}, 4)
    again.end("FINISHED")
    assert sync(again.folder, SETTINGS, uri).left == 0
    (run,) = runs(uri)
    assert run.info.status == "FINISHED" and "pneumo.status_reason" not in run.data.tags
    assert run.info.end_time == json.loads(again.path.read_text().splitlines()[-1])["t"]
    assert rows(database) == sorted(again.metric_rows()) and len(rows(database)) == 4


def test_no_server_never_blocks_and_no_credential_shows(tmp_path: Path) -> None:
    uri = "http://me:secret@127.0.0.1:9"  # discard: nothing listens
    journal = begun(tmp_path / "run")
    sender = Sender(journal.folder, SETTINGS, uri)
    sender.start()
    deadline = time.monotonic() + 60
    while sender.error is None and time.monotonic() < deadline:
        time.sleep(0.05)
    journal.end("FINISHED")
    began = time.monotonic()
    assert sender.finish(0.3) == journal.last
    assert time.monotonic() - began < SETTINGS.flush_s / 2
    assert "127.0.0.1" in (sender.error or "") and "secret" not in (sender.error or "")
    result = sync(journal.folder, TrackingSettings(flush_s=0), uri)
    assert result.left == journal.last and "secret" not in (result.error or "secret")
    for path in journal.folder.rglob("*"):
        assert "secret" not in path.name and (path.is_dir() or b"secret" not in path.read_bytes())


def test_a_damaged_journal_is_an_error_of_the_sender(tmp_path: Path, uri: str) -> None:
    journal = begun(tmp_path / "run")
    journal.path.write_bytes(b"{}\n" + journal.path.read_bytes())
    sender = Sender(journal.folder, SETTINGS, uri)
    sender.start()
    assert sender.finish(10) == 1 and "damaged" in (sender.error or "")


def test_where_nothing_is_sent_nothing_is_left() -> None:
    sender = NullSender()
    sender.start()
    sender.notify()
    assert (sender.finish(), sender.run_id) == (0, None)
