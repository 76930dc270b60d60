"""Sweeps: skip, continue, try again; one parent; a failure ends one job alone; the best weights are kept."""

import csv
import functools
import json
import logging
import math
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from support.commands import Ending
from support.servers import copy_run
from support.training import Tiny

from pneumo import UserError, models, train
from pneumo import run as one_run
from pneumo.names import BEST_WEIGHTS, MEASURED
from pneumo.sweep import jobs, retention
from pneumo.sweep import parent as sweep
from pneumo.tracking.journal import Journal, artifact_file
from pneumo.tracking.sender import sync
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.runtime import isolated
from pneumo.training.signals import Pruned

Door = Callable[..., Ending]
SMALL = (
    "data=phantom data.phantom.train_patients=24 data.phantom.test_patients=12 data.image_size=32 "
    "trainer.epochs=2 trainer.limit_batches=2 trainer.batch_size=8 schedule=constant"
).split()


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def store(tmp_path: Path, empty_store: Path) -> Path:
    """MLflow's migrations take seconds: once is enough."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[float, Callable[[], None]]:
    """A tiny network in the models' place; what a job with some model.dropout does on building it."""
    acts: dict[float, Callable[[], None]] = {}

    def build(name: str, dropout: float, **_: Any) -> Tiny:
        acts.get(dropout, lambda: None)()
        return Tiny(dropout=dropout)

    monkeypatch.setattr(models, "build_model", build)
    return acts


def runs(folder: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("pneumo")
    return list(client.search_runs([experiment.experiment_id]))


def family(folder: Path) -> tuple[Any, list[Any]]:
    """The only parent run, and its children."""
    parents = [run for run in runs(folder) if "pneumo.overrides" in run.data.tags]
    assert len(parents) == 1
    (parent,) = parents
    key = "mlflow.parentRunId"
    return parent, [run for run in runs(folder) if run.data.tags.get(key) == parent.info.run_id]


def weights(folder: Path) -> set[str]:
    return {file.parents[2].name for file in folder.glob(f"outputs/*/artifacts/{BEST_WEIGHTS}")}


def epochs_trained(folder: Path) -> int:
    return sum(
        len(Journal(file.parent).history("val/loss")) for file in folder.glob("outputs/*/journal.jsonl")
    )


# ---- from the command line


def test_skip_try_again_and_add(door: Door, tiny: dict, tmp_path: Path) -> None:
    first = ("--multirun", "sweep_id=one", "optim.lr=1e-3,1e30", "model.dropout=0.1,0.2", *SMALL)
    ending = door("train", *first, "keep_best=1")
    assert ending.code == 1
    assert "Traceback" not in ending.err and ending.err.count("not finite") == 2
    parent, children = family(tmp_path)
    assert parent.info.status == "FAILED"
    assert parent.data.tags["pneumo.status_reason"] == "of 4 jobs: 2 FAILED, 2 FINISHED"
    assert sorted(run.info.status for run in children) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    assert {run.data.tags["pneumo.sweep"] for run in children} == {"one"}
    finished = [run for run in children if run.info.status == "FINISHED"]
    best = max(finished, key=lambda run: run.data.metrics["best/val_auroc"])
    assert parent.data.metrics["best/score"] == best.data.metrics["best/val_auroc"]
    chosen = next(run for run in finished if run.info.run_id == parent.data.tags["best_child"])
    assert chosen.data.metrics["best/val_auroc"] == best.data.metrics["best/val_auroc"]
    assert parent.data.metrics["jobs/finished"] == parent.data.metrics["jobs/failed"] == 2
    # The table: here, and in MLflow.
    rows = list(csv.DictReader((tmp_path / "outputs/sweeps/one/artifacts/sweep.csv").open()))
    assert [row["state"] for row in rows] == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert {row["optim.lr"] for row in rows if "not finite" in row["reason"]} == {"1e+30"}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    copy = json.loads(
        Path(client.download_artifacts(parent.info.run_id, "sweep.json", str(tmp_path))).read_text()
    )
    assert [row["fingerprint"] for row in copy["jobs"]] == [row["fingerprint"] for row in rows]
    # keep_best=1: the weights of the other are gone in both places, and nothing else of it.
    assert weights(tmp_path) == {chosen.data.tags["pneumo.fingerprint"]}
    for run in finished:
        names = {file.path for file in client.list_artifacts(run.info.run_id, "checkpoints")}
        assert ("checkpoints/best.safetensors" in names) == (run.info.run_id == chosen.info.run_id)
        assert "checkpoints/best.json" in names
    # Again, in another order and with one more: two are skipped, two tried again, two added.
    trained = epochs_trained(tmp_path)
    again = ("--multirun", "model.dropout=0.2,0.1", "sweep_id=one", "optim.lr=2e-3,1e-3,1e30", *SMALL)
    ending = door("train", *again, "keep_best=1")
    assert ending.code == 1
    said = ending.out.splitlines()
    assert len([line for line in said if "done already, skipped" in line]) == 2
    assert len([line for line in said if "is tried again (it FAILED: the loss is not finite" in line]) == 2
    assert len([line for line in said if ": begins in" in line]) == 2
    assert epochs_trained(tmp_path) == trained + 4
    parent_again, children = family(tmp_path)
    assert parent_again.info.run_id == parent.info.run_id and len(children) == 6
    assert parent_again.data.metrics["jobs/all"] == 6
    # Without the combination that fails all is done; the table of the sweep remembers it.
    done = door("train", "--multirun", "sweep_id=two", "optim.lr=1e-3,2e-3", "model.dropout=0.1", *SMALL)
    assert done.code == 0 and done.out.count("FINISHED (skipped)") == 2
    assert epochs_trained(tmp_path) == trained + 4
    # A run stays the child of the sweep that made it; the second sweep's parent names it.
    second = next(run for run in runs(tmp_path) if run.info.run_name == "two")
    assert second.info.status == "FINISHED" and len(runs(tmp_path)) == 8
    assert second.data.tags["best_child"] in {run.info.run_id for run in children}
    # What `runs` says of it.
    shown = door("runs", "status", "sweep=one")
    assert shown.code == 0 and "4 of 6 jobs done" in shown.out and shown.out.count("FAILED") == 2
    assert door("runs", "status", "sweep=three").code == 1
    told = door("runs", "sync", f"output_dir={tmp_path}/outputs")
    assert told.code == 0 and "one: 0 records sent, 0 left" in told.out
    shown = door("runs", "reproduce", chosen.info.run_id[:20], f"output_dir={tmp_path}/outputs")
    (command,) = (line for line in shown.out.splitlines() if line.startswith("python -m pneumo.train "))
    assert shown.code == 0 and "schedule=constant" in command and "data.phantom.train_patients=24" in command


def test_jobs_end_alone_and_the_others_as_if_alone(
    door: Door, tiny: dict, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    def leave() -> None:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        sys.exit(0)

    def fail() -> None:
        random.seed(1)
        logging.getLogger().addHandler(logging.StreamHandler())
        raise RuntimeError("the model is broken")

    def exhaust() -> None:
        np.empty((1 << 60,), np.uint8)

    alone = door("train", "model.dropout=0.4", *SMALL, "tracking.enabled=false")
    assert alone.code == 0
    (folder,) = (file.parent for file in tmp_path.glob("outputs/*/journal.jsonl"))
    expected = folder.rename(tmp_path / "alone")
    tiny |= {0.1: leave, 0.2: fail, 0.3: exhaust}
    ending = door("train", "--multirun", "model.dropout=0.1,0.2,0.3,0.4", *SMALL)
    assert ending.code == 1
    reasons = {
        row["model.dropout"]: row["reason"]
        for row in csv.DictReader(next(tmp_path.glob("outputs/sweeps/*/artifacts/sweep.csv")).open())
    }
    assert reasons["0.1"] == "sys.exit(0) was called in the run"
    assert reasons["0.2"] == "RuntimeError: the model is broken"
    assert reasons["0.3"].startswith("out of memory with trainer.batch_size=8")
    assert reasons["0.4"] == ""
    figures = [
        {row[:2] + row[3:] for row in Journal(one).metric_rows() if not row[0].startswith(MEASURED)}
        for one in (expected, folder)
    ]
    assert figures[0] == figures[1]
    parent, children = family(tmp_path)
    assert parent.info.status == "FAILED"
    assert sorted(run.info.status for run in children) == ["FAILED"] * 3 + ["FINISHED"]


def test_a_done_run_that_another_terminal_looks_at_again_stays_done(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "one"
    journal = Journal(tmp_path / "f00d")
    journal.start("run", "pneumo", {})
    journal.end("FINISHED")
    begin = functools.partial(jobs.Job, folder, "key", ["seed=1"], 0)
    begin("first").note(fingerprint="f00d", state="FINISHED")
    for _ in range(2):  # the second was killed before it knew its fingerprint
        other = begin("second")
        assert [row["state"] for row in jobs.table(folder)] == ["FINISHED"]
    other.note(state="FAILED", reason="no images")  # what it came to say holds
    assert [row["state"] for row in jobs.table(folder)] == ["FAILED"]


def test_on_failure_stop(door: Door, tiny: dict, tmp_path: Path) -> None:
    def fail() -> None:
        raise UserError("no")

    tiny[0.1] = fail
    ending = door("train", "--multirun", "model.dropout=0.1,0.2,0.3", "on_failure=stop", *SMALL)
    assert ending.code == 1
    assert ending.out.count("is not started: on_failure=stop") == 2
    rows = jobs.table(next(tmp_path.glob("outputs/sweeps/*")))
    assert [row["state"] for row in rows] == ["FAILED", "waiting", "waiting"]
    assert epochs_trained(tmp_path) == 0


def test_a_pruned_run_is_done(
    door: Door, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = one_run.Run.metrics

    def prune(self: one_run.Run, values: dict[str, float], step: int) -> None:
        metrics(self, values, step)
        raise Pruned(f"after epoch {step}")

    monkeypatch.setattr(one_run.Run, "metrics", prune)
    command = ("--multirun", "seed=3", *SMALL)
    assert door("train", *command).code == 0
    assert math.isnan(train.outcomes[0].score)
    parent, (child,) = family(tmp_path)
    assert (child.info.status, child.data.tags["pneumo.state"]) == ("KILLED", "PRUNED")
    assert child.data.tags["pneumo.status_reason"] == "after epoch 1"
    assert parent.info.status == "FINISHED" and parent.data.metrics["jobs/pruned"] == 1
    again = door("train", *command)
    assert again.code == 0 and "pruned before, skipped" in again.out
    assert train.outcomes[0].score == child.data.metrics["val/auroc"]
    assert epochs_trained(tmp_path) == 1


HOLDER = """
import os, signal, sys, time
from pathlib import Path
from pneumo.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
assert journal.hold()
journal.resume()
print("held", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.05)
if sys.argv[3] == "ends":
    journal.end("FINISHED")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["ends", "dies"])
def test_a_run_that_another_process_trains_is_waited_for(
    door: Door, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    command, free, hold = ("--multirun", "seed=5", *SMALL), tmp_path / "free", Journal.hold
    assert door("train", *command).code == 0
    (folder,) = (file.parent for file in tmp_path.glob("outputs/*/journal.jsonl"))

    def hold_and_say(self: Journal, wait_s: float = 0.0) -> bool:
        held = hold(self, wait_s)
        if not held:
            free.touch()
        return held

    arguments = [sys.executable, "-c", HOLDER, str(folder), str(free), how]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        single = door("train", *command[1:])
        assert single.code == 1 and "another process trains in" in single.err
        monkeypatch.setattr(Journal, "hold", hold_and_say)
        ending = door("train", *command)
        assert ending.code == 0 and "waits, another process trains it" in ending.out
    assert ("done already, skipped" in ending.out) == (how == "ends")
    assert ("continues (was killed)" in ending.out) == (how == "dies")
    assert Journal(folder).status == "FINISHED"


def test_force_runs_all_again_as_new_runs(door: Door, tiny: dict, tmp_path: Path) -> None:
    command = ("--multirun", "seed=7,8", "trainer.epochs=1", *[a for a in SMALL if "epochs" not in a])
    assert door("train", *command).code == 0
    assert door("train", *command, "force=true").code == 0
    assert epochs_trained(tmp_path) == 4
    _, children = family(tmp_path)
    assert len(children) == 4 and {run.info.status for run in children} == {"FINISHED"}


@pytest.mark.parametrize(
    ("override", "words"),
    [("sweep_id=../x", "sweep_id=../x names a folder"), ("on_failure=go", "continue, stop")],
)
def test_wrong_settings_of_a_sweep(door: Door, tmp_path: Path, override: str, words: str) -> None:
    ending = door("train", "--multirun", "seed=1,2", override, *SMALL)
    assert ending.code == 2 and words in ending.err and "Traceback" not in ending.err
    assert not list(tmp_path.glob("outputs/**/*.json*"))


# ---- its parts


def test_a_sweeps_id_depends_on_what_can_change_a_result_alone() -> None:
    one = sweep.choices(["optim.lr=1e-3,1e-4", "model=resnet18", "output_dir=/a", "force=true"])
    two = sweep.choices(["model=resnet18", "optim.lr=0.0001,0.001", "trainer.device=cpu", "tracking.uri=x"])
    assert one == two == ["model=resnet18", "optim.lr=0.0001,0.001"]
    assert sweep.choices(["optim.lr=1e-3", "optim.lr=2e-3"]) == ["optim.lr=0.002"]
    assert sweep.choices(["optim.lr=interval(1e-4, 1e-2)"]) == ["optim.lr=interval(1e-4, 1e-2)"]


def test_nothing_leaks_out_of_a_job() -> None:
    def state() -> tuple[Any, ...]:
        root = logging.getLogger()
        flags = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
        numbers = torch.get_num_threads(), torch.get_default_dtype(), torch.rand(1).item()
        return flags, numbers, random.random(), np.random.rand(), root.level, list(root.handlers)

    for seed in (1, 2):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        expected = state()
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        with pytest.raises(SystemExit), isolated():
            torch.manual_seed(9), random.seed(9), np.random.seed(9)
            torch.set_num_threads(1), torch.set_default_dtype(torch.float64)
            torch.use_deterministic_algorithms(True), torch.set_float32_matmul_precision("medium")
            logging.getLogger().addHandler(logging.NullHandler())
            logging.getLogger().setLevel(1)
            sys.exit(0)
        assert state() == expected


def finished(output_dir: Path, name: str, score: float, sweep_id: str = "s") -> Path:
    """A finished run with weights, by its journal alone."""
    journal = Journal(output_dir / name)
    journal.start(name, "pneumo", {"pneumo.fingerprint": name, "pneumo.sweep": sweep_id})
    journal.params({"trainer.monitor": "val/auroc"})
    journal.metrics({"val/auroc": score}, 1)
    journal.metrics({"best/epoch": 1.0, "best/val_auroc": score}, 1)
    file = artifact_file(journal.folder, BEST_WEIGHTS)
    file.parent.mkdir(parents=True)
    file.write_bytes(name.encode())
    journal.artifact(BEST_WEIGHTS)
    journal.end("FINISHED")
    journal.close()
    return journal.folder


def parent(output_dir: Path, names: list[str]) -> Path:
    whole = sweep.Sweep(
        id="s", root=str(output_dir), experiment="pneumo", overrides=["seed=0,1"], planned={}, question="why?"
    )
    whole.begin(trains=True)
    for number, name in enumerate(names):
        whole.job([f"seed={number}"], number).note(fingerprint=name, state="FINISHED")
    return whole.folder


def test_retention_spares_what_is_registered_running_foreign_or_not_asked_about(tmp_path: Path) -> None:
    output_dir, uri = tmp_path / "outputs", f"sqlite:///{tmp_path}/mlflow.db"
    names = ["a", "b", "c", "d", "e"]
    folder = parent(output_dir, names)
    for number, name in enumerate(names):
        finished(output_dir, name, 0.9 - number / 10, "other" if name == "c" else "s")
    settings = TrackingSettings(uri=uri, flush_s=20)
    run_ids = {name: sync(output_dir / name, settings, uri).run_id for name in names}
    client = MlflowClient(uri)
    client.create_registered_model("best")
    client.create_model_version("best", f"runs:/{run_ids['d']}/checkpoints", run_ids["d"])
    away = TrackingSettings(uri="http://127.0.0.1:9", flush_s=1)
    told = retention.keep_best(folder, 1, away)
    assert weights(tmp_path) == set(names) and len(told) == 3 and "keeps its weights" in told[0]
    assert retention.keep_best(folder, None, settings) == []
    holding = [sys.executable, "-c", HOLDER, str(output_dir / "e"), str(tmp_path / "never"), "dies"]
    with subprocess.Popen(holding, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert retention.keep_best(folder, 1, settings) == []
        holder.kill()
    assert weights(tmp_path) == {"a", "c", "d", "e"}  # the best, the foreign, the registered, the running one
    assert not client.list_artifacts(run_ids["b"], "checkpoints")
    result = sync(output_dir / "b", settings, uri)
    assert (result.left, result.error) == (0, None)
    # To a tracker that never saw the run, it is sent without them, and nothing is refused.
    other = f"sqlite:///{tmp_path}/other.db"
    result = sync(output_dir / "b", TrackingSettings(uri=other), other)
    assert (result.left, result.error, result.refused) == (0, None, 0)


def _send(folder: str, uri: str) -> None:
    assert sync(Path(folder), TrackingSettings(uri=uri, flush_s=60), uri).error is None


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
        process.join(120)
        assert process.exitcode == 0
    one, children = family(tmp_path)
    assert one.info.status == "RUNNING" and one.data.tags["mlflow.note.content"] == "why?"
    assert len(children) == 3 and len(runs(tmp_path)) == 4


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def test_a_job_is_skipped_at_once_among_a_thousand(
    door: Door,
    tiny: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    database: str,
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    if database == "postgres":
        uri = request.getfixturevalue("postgres").uri
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    # An experiment of its own: where a server made the database's others, artifacts go through that server.
    command = ("--multirun", "sweep_id=many", "seed=0", "tracking.experiment=many", *SMALL)
    assert door("train", *command).code == 0
    outputs = tmp_path / "outputs"
    (folder,) = (file.parent for file in outputs.glob("*/journal.jsonl"))
    (record,) = (outputs / "sweeps" / "many" / "jobs").glob("*.json")
    job = json.loads(record.read_text())
    for number in range(1000):
        other = outputs / f"{number:016x}"
        other.mkdir()
        shutil.copy(folder / "journal.jsonl", other)
        job |= {"key": f"{number:010x}", "number": number + 1, "fingerprint": other.name}
        record.with_name(f"{number:010x}.json").write_text(json.dumps(job))
    copy_run(uri, folder.name, 1000)
    took = []
    run = train.run

    def timed(*arguments: Any) -> one_run.Outcome:
        started = time.monotonic()
        outcome = run(*arguments)
        took.append(time.monotonic() - started)
        return outcome

    train.run, begun = timed, time.monotonic()
    try:
        ending = door("train", *command)
    finally:
        train.run = run
    assert ending.code == 0 and "done already, skipped" in ending.out
    assert took[0] < 0.3, f"the decision took {took[0]:.2f} s of {time.monotonic() - begun:.2f} s"
