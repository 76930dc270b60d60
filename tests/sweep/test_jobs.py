"""What a sweep knows of its jobs."""

import csv
import functools
import json
import math
from pathlib import Path

import pytest
from support.commands import Command
from support.sweep_runs import SWEEP, epochs_trained, finished

from pneumo import UserError
from pneumo.sweep import jobs
from pneumo.tracking.journal import Journal


def test_a_done_run_that_another_terminal_looks_at_again_stays_done(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "one"
    journal = Journal(tmp_path / "f00d")
    journal.start("run", "pneumo", {})
    journal.end("FINISHED")
    begin = functools.partial(jobs.SweepJob, folder, "key", ["seed=1"], 0)
    begin("first").update(fingerprint="f00d", state="FINISHED")
    for _ in range(2):  # the second was killed before it knew its fingerprint
        other = begin("second")
        assert [row["state"] for row in jobs.table(folder)] == ["FINISHED"]
    other.update(state="FAILED", reason="no images")  # what it came to say holds
    assert [row["state"] for row in jobs.table(folder)] == ["FAILED"]


@pytest.mark.usefixtures("store")
def test_on_failure_stop(command: Command, tiny: dict, tmp_path: Path) -> None:
    def fail() -> None:
        raise UserError("no")

    tiny[0.1] = fail
    ending = command("train", "--multirun", "model.dropout=0.1,0.2,0.3", "on_failure=stop", *SWEEP)
    assert ending.code == 1
    assert ending.out.count("is not started: on_failure=stop") == 2
    rows = jobs.table(next(tmp_path.glob("outputs/sweeps/*")))
    assert [row["state"] for row in rows] == ["FAILED", "waiting", "waiting"]
    assert epochs_trained(tmp_path) == 0


def rows_of(tmp_path: Path) -> list[jobs.SweepJobRow]:
    """One finished job, one that failed before its run began, and one that waits."""
    folder = tmp_path / "sweeps" / "s"
    finished(tmp_path, "f00d", 0.75)
    jobs.plan(folder, "now", {"last": ["seed=1", "optim.lr=3"]})
    jobs.SweepJob(folder, "a", ["seed=1", "optim.lr=1"], 0, "now").update(fingerprint="f00d")
    jobs.SweepJob(folder, "b", ["seed=1", "optim.lr=2"], 1, "now").update(state="FAILED", reason="no images")
    return jobs.table(folder)


def test_the_table_has_a_row_for_every_job(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    assert [(row["key"], row["state"]) for row in rows] == [
        ("a", "FINISHED"),
        ("b", "FAILED"),
        ("last", "waiting"),
    ]
    assert [row["score"] for row in rows] == [0.75, None, None]
    assert rows[0]["figures"]["epoch"] == 1 and rows[1]["reason"] == "no images"
    assert jobs.names(rows) == ["optim.lr=1", "optim.lr=2", "optim.lr=3"]
    assert jobs.best(rows) == rows[0] and jobs.best(rows[1:]) is None


def test_the_written_tables_are_flat(tmp_path: Path) -> None:
    jobs.write_table(tmp_path, rows_of(tmp_path), {"sweep": "s"})
    lines = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert list(lines[0]) == [
        *("optim.lr", "state", "score", *jobs.COLUMNS),  # what differs and the scores come first
        *("number", "fingerprint", "happened", "reason", "duration_s", "seed"),
    ]
    assert lines[0]["val AUROC"] == "0.75" and lines[2]["val AUROC"] == ""
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written["sweep"] == "s" and written["jobs"][0]["val AUROC"] == 0.75
    assert not {"key", "issue", "rank", "figures"} & set(written["jobs"][0])


def test_a_lower_loss_ranks_higher(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert math.isnan(jobs.score_of(journal)) and jobs.rank_of(journal) == -math.inf
    journal.start("run", "pneumo", {})
    journal.params({"trainer.monitor": "val/loss"})
    for epoch, loss in enumerate((0.5, 0.25, 0.75), 1):
        journal.metrics({"val/loss": loss}, epoch)
    assert (jobs.score_of(journal), jobs.rank_of(journal)) == (0.25, -0.25)
    journal.metrics({"best/epoch": 3.0}, 3)
    assert jobs.score_of(journal) == 0.75


def test_a_damaged_journal_is_a_failed_job(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "s"
    jobs.SweepJob(folder, "a", ["seed=1"], 0, "now").update(fingerprint="f00d")
    (tmp_path / "f00d").mkdir()
    (tmp_path / "f00d" / "journal.jsonl").write_bytes(b"{}\n{}\n")
    (row,) = jobs.table(folder)
    assert row["state"] == "FAILED" and "damaged" in str(row["reason"])


def test_a_torn_file_is_written_again(tmp_path: Path) -> None:
    assert jobs.read_json(tmp_path / "missing.json") == {}
    (tmp_path / "torn.json").write_text('{"key": ')
    assert jobs.read_json(tmp_path / "torn.json") == {}
