"""A sweep from the command line: one parent, its table, and what a second command does with its jobs."""

import csv
import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.commands import Command, Ending
from support.sweep_runs import SWEEP, epochs_trained, family, finished, parent, runs, weights

from pneumo.names import FINGERPRINT_TAG, SWEEP_TAG
from pneumo.sweep.parent import Sweep
from pneumo.tracking import courier
from pneumo.tracking.sender import sync
from pneumo.tracking.settings import TrackingSettings

pytestmark = pytest.mark.usefixtures("store")

# Two jobs finish and two fail; keep_best=1 keeps the weights of one.
FIRST = ("--multirun", "sweep_id=one", "optim.lr=1e-3,1e30", "model.dropout=0.1,0.2", *SWEEP, "keep_best=1")


@pytest.fixture
def first(command: Command, tiny: dict) -> Ending:
    """How the sweep `one` ended."""
    return command("train", *FIRST)


def finished_and_best(folder: Path) -> tuple[list[Any], Any]:
    """The finished runs of the sweep, and the one that the parent names as the best."""
    one, children = family(folder)
    done = [run for run in children if run.info.status == "FINISHED"]
    return done, next(run for run in done if run.info.run_id == one.data.tags["best_child"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests that change nothing look at one sweep."""
    return tmp_path_factory.mktemp("one")


@pytest.fixture(scope="module")
def ended() -> list[Ending]:
    """How that sweep ended, once it has run."""
    return []


class TestAFinishedSweep:
    """What the sweep `one` left, seen from several sides; nothing changes it."""

    @pytest.fixture
    def tmp_path(self, folder: Path) -> Path:
        """The same for all tests of the class, also for `command`."""
        return folder

    @pytest.fixture
    def first(self, ended: list[Ending], command: Command, tiny: dict) -> Ending:
        """How the sweep ended, which the first of the tests runs."""
        if not ended:
            ended.append(command("train", *FIRST))
        return ended[0]

    def test_failed_jobs_end_alone_and_the_parent_counts_them(self, first: Ending, tmp_path: Path) -> None:
        assert first.code == 1
        assert "Traceback" not in first.err and first.err.count("not finite") == 2
        one, children = family(tmp_path)
        assert one.info.status == "FAILED"
        assert one.data.tags["pneumo.status_reason"] == "of 4 jobs: 2 FAILED, 2 FINISHED"
        assert sorted(run.info.status for run in children) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
        assert {run.data.tags[SWEEP_TAG] for run in children} == {"one"}
        assert one.data.metrics["jobs/finished"] == one.data.metrics["jobs/failed"] == 2

    def test_the_parent_names_the_best_run(self, first: Ending, tmp_path: Path) -> None:
        one, _ = family(tmp_path)
        done, chosen = finished_and_best(tmp_path)
        best = max(run.data.metrics["best/val_auroc"] for run in done)
        assert one.data.metrics["best/score"] == chosen.data.metrics["best/val_auroc"] == best

    def test_the_table_is_on_disk_and_in_mlflow(self, first: Ending, tmp_path: Path) -> None:
        rows = list(csv.DictReader((tmp_path / "outputs/sweeps/one/artifacts/sweep.csv").open()))
        assert [row["state"] for row in rows] == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
        assert {row["optim.lr"] for row in rows if "not finite" in row["reason"]} == {"1e+30"}
        one, _ = family(tmp_path)
        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        file = Path(client.download_artifacts(one.info.run_id, "sweep.json", str(tmp_path)))
        jobs = json.loads(file.read_text())["jobs"]
        assert [job["fingerprint"] for job in jobs] == [row["fingerprint"] for row in rows]

    def test_only_the_best_weights_stay_here_and_in_mlflow(self, first: Ending, tmp_path: Path) -> None:
        done, chosen = finished_and_best(tmp_path)
        assert weights(tmp_path) == {chosen.data.tags[FINGERPRINT_TAG]}
        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        for run in done:
            names = {file.path for file in client.list_artifacts(run.info.run_id, "checkpoints")}
            assert ("checkpoints/best.safetensors" in names) == (run.info.run_id == chosen.info.run_id)
            assert "checkpoints/best.json" in names

    def test_the_runs_command_shows_a_sweep(self, first: Ending, command: Command, tmp_path: Path) -> None:
        shown = command("runs", "status", "sweep=one")
        assert shown.code == 0 and "2 of 4 jobs done" in shown.out and shown.out.count("FAILED") == 2
        assert command("runs", "status", "sweep=three").code == 1
        sent = command("runs", "sync", f"output_dir={tmp_path}/outputs")
        assert sent.code == 0 and "one: 0 records sent, 0 left" in sent.out
        _, chosen = finished_and_best(tmp_path)
        shown = command("runs", "reproduce", chosen.info.run_id[:20], f"output_dir={tmp_path}/outputs")
        (line,) = (line for line in shown.out.splitlines() if line.startswith("pneumo train "))
        assert shown.code == 0 and "schedule=constant" in line and "data.phantom.train_patients=24" in line


def test_the_same_sweep_again_skips_tries_again_and_adds(
    first: Ending, command: Command, tmp_path: Path
) -> None:
    trained, (one, _) = epochs_trained(tmp_path), family(tmp_path)
    # In another order and with one rate more: two jobs are skipped, two tried again, two added.
    axes = ("model.dropout=0.2,0.1", "sweep_id=one", "optim.lr=2e-3,1e-3,1e30")
    ending = command("train", "--multirun", *axes, *SWEEP, "keep_best=1")
    assert ending.code == 1
    lines = ending.out.splitlines()
    assert len([line for line in lines if "done already, skipped" in line]) == 2
    assert len([line for line in lines if "is tried again (it FAILED: the loss is not finite" in line]) == 2
    assert len([line for line in lines if ": begins in" in line]) == 2
    assert epochs_trained(tmp_path) == trained + 4
    again, children = family(tmp_path)
    assert again.info.run_id == one.info.run_id and len(children) == 6
    assert again.data.metrics["jobs/all"] == 6


def test_another_sweep_reuses_a_run_and_lists_it(first: Ending, command: Command, tmp_path: Path) -> None:
    trained, (_, children) = epochs_trained(tmp_path), family(tmp_path)
    done = command("train", "--multirun", "sweep_id=two", "optim.lr=1e-3", "model.dropout=0.1,0.2", *SWEEP)
    assert done.code == 0 and done.out.count("FINISHED (skipped)") == 2
    assert epochs_trained(tmp_path) == trained
    # The run stays the child of the sweep that made it; the second sweep's parent names it.
    second = next(run for run in runs(tmp_path) if run.info.run_name == "two")
    assert second.info.status == "FINISHED" and len(runs(tmp_path)) == 6
    assert second.data.tags["best_child"] in {run.info.run_id for run in children}


def test_force_runs_all_again_as_new_runs(command: Command, tiny: dict, tmp_path: Path) -> None:
    line = ("--multirun", "seed=7,8", "trainer.epochs=1", *[a for a in SWEEP if "epochs" not in a])
    assert command("train", *line).code == 0
    assert command("train", *line, "force=true").code == 0
    assert epochs_trained(tmp_path) == 4
    _, children = family(tmp_path)
    assert len(children) == 4 and {run.info.status for run in children} == {"FINISHED"}


def _send(folder: str, uri: str) -> None:
    courier.LINK_WAIT_S = 600  # beside other work, the first to make the parent takes longer than usual
    sent = sync(Path(folder), TrackingSettings(uri=uri, flush_s=600), uri)
    assert sent.error is None, sent.error


def test_children_sent_at_once_share_one_parent(tmp_path: Path) -> None:
    output_dir, uri = tmp_path / "outputs", f"sqlite:///{tmp_path}/mlflow.db"
    names = ["a", "b", "c"]
    parent(output_dir, names)
    for name in names:
        finished(output_dir, name, 0.5)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_send, args=(str(output_dir / name), uri)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    one, children = family(tmp_path)
    assert one.info.status == "RUNNING" and one.data.tags["mlflow.note.content"] == "why?"
    assert len(children) == 3 and len(runs(tmp_path)) == 4


def test_a_tracker_that_is_down_is_noted_for_jobs_in_other_processes(tmp_path: Path) -> None:
    sweep = Sweep(id="s", root=str(tmp_path), experiment="pneumo", overrides=[], planned={})
    assert not sweep.tracker_is_down
    sweep.note_tracker(is_down=True)
    elsewhere, again = (
        pickle.loads(pickle.dumps(sweep)),
        replace(sweep, issue="given again"),
    )
    assert elsewhere.tracker_is_down and not again.tracker_is_down
    elsewhere.note_tracker(is_down=False)
    assert not sweep.tracker_is_down
