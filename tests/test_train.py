"""The train command: --help needs nothing heavy; the jobs of a sweep end alone, wait, skip and are pruned."""

import csv
import json
import logging
import math
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import Command
from support.images import picture, save
from support.servers import copy_run
from support.sweep_runs import HOLDER, SWEEP, epochs_trained, family

from pneumo import run
from pneumo.names import MEASURED, STATE_TAG
from pneumo.run import Outcome
from pneumo.tracking.journal import Journal
from pneumo.tracking.run_log import RunLog
from pneumo.training.signals import Pruned

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """What every run of the test comes to."""
    seen: list[Outcome] = []
    run_one = run.run

    def remembered(*arguments: Any) -> Outcome:
        seen.append(run_one(*arguments))
        return seen[-1]

    monkeypatch.setattr(run, "run", remembered)
    return seen


@pytest.mark.parametrize("flag", ["--help", "--cfg=job"])
def test_help_and_cfg_import_nothing_heavy(flag: str) -> None:
    code = (
        f"import sys; sys.argv = ['train', *{flag.split('=')}]\n"
        "from pneumo import train\n"
        "try: train.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'mlflow', 'matplotlib', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_from_main_to_the_step_are_eight_functions(
    command: Command, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this package's own; Hydra's are not counted."""
    from pneumo.training.trainer import Trainer

    paths = []
    step = Trainer._step

    def look(self: Trainer, *arguments: Any) -> None:
        frame, path = sys._getframe(1), []
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("pneumo."):
                path.append(f"{module}.{frame.f_code.co_name}")
            frame = frame.f_back
        paths.append([*path[::-1], "_step"])
        step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", look)
    assert command("train", "--multirun", "seed=1", "tracking.enabled=false", *SWEEP).code == 0
    assert paths and all(len(path) <= 8 for path in paths), paths[0]


def test_jobs_end_alone_and_the_others_as_if_alone(
    command: Command, tiny: dict, tmp_path: Path, capfd: pytest.CaptureFixture
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

    alone = command("train", "model.dropout=0.4", *SWEEP, "tracking.enabled=false")
    assert alone.code == 0
    (folder,) = (file.parent for file in tmp_path.glob("outputs/*/journal.jsonl"))
    expected = folder.rename(tmp_path / "alone")
    tiny |= {0.1: leave, 0.2: fail, 0.3: exhaust}
    ending = command("train", "--multirun", "model.dropout=0.1,0.2,0.3,0.4", *SWEEP)
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


@pytest.mark.usefixtures("tiny")
def test_what_is_known_of_the_data_is_printed_once_a_sweep(command: Command, tmp_path: Path) -> None:
    lines = ["path,label,patient"]
    for number in range(40):
        file = save(picture(number % 2, number), tmp_path / "set" / f"{number}.png")
        lines.append(f"{file.name},{number % 2},p{number}")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(lines))
    small = "data.image_size=32 trainer.epochs=1 trainer.batch_size=16 tracking.enabled=false".split()
    ending = command(
        "train", "--multirun", "seed=0,1", "data=csv", f"data.table={tmp_path}/set/labels.csv", *small
    )
    assert ending.code == 0 and ending.out.count("chosen: ") == 2
    assert ending.out.count("note: the set has no test images") == 1
    assert len(re.findall(r"^train +\d+ images of", ending.out, re.M)) == 1


@pytest.mark.usefixtures("quick_disk")
def test_a_pruned_run_is_done(
    command: Command, tiny: dict, outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = RunLog.metrics

    def prune(self: RunLog, values: dict[str, float], step: int) -> None:
        metrics(self, values, step)
        raise Pruned(f"after epoch {step}")

    monkeypatch.setattr(RunLog, "metrics", prune)
    line = ("--multirun", "seed=3", *SWEEP)
    assert command("train", *line).code == 0
    assert math.isnan(outcomes[0].score)
    parent, (child,) = family(tmp_path)
    assert (child.info.status, child.data.tags[STATE_TAG]) == ("KILLED", "PRUNED")
    assert child.data.tags["pneumo.status_reason"] == "after epoch 1"
    assert parent.info.status == "FINISHED" and parent.data.metrics["jobs/pruned"] == 1
    again = command("train", *line)
    assert again.code == 0 and "pruned before, skipped" in again.out
    assert outcomes[1].score == child.data.metrics["val/auroc"]
    assert epochs_trained(tmp_path) == 1


@pytest.mark.parametrize("how", ["ends", "dies"])
def test_a_run_that_another_process_trains_is_waited_for(
    command: Command, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    line, free, hold = ("--multirun", "seed=5", *SWEEP), tmp_path / "free", Journal.hold
    assert command("train", *line).code == 0
    (folder,) = (file.parent for file in tmp_path.glob("outputs/*/journal.jsonl"))

    def hold_and_say(self: Journal, wait_s: float = 0.0) -> bool:
        held = hold(self, wait_s)
        if not held:
            free.touch()
        return held

    arguments = [sys.executable, "-c", HOLDER, str(folder), str(free), how]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        single = command("train", *line[1:])
        assert single.code == 1 and "another process trains in" in single.err
        monkeypatch.setattr(Journal, "hold", hold_and_say)
        ending = command("train", *line)
        assert ending.code == 0 and "waits, another process trains it" in ending.out
    assert ("done already, skipped" in ending.out) == (how == "ends")
    assert ("continues (was killed)" in ending.out) == (how == "dies")
    assert Journal(folder).status == "FINISHED"


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def test_a_job_is_skipped_at_once_among_a_thousand(
    command: Command,
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
    # A separate experiment: if a server made the database's others, artifacts go through that server.
    line = ("--multirun", "sweep_id=many", "seed=0", "tracking.experiment=many", *SWEEP)
    assert command("train", *line).code == 0
    took = []
    run_one = run.run

    def timed(*arguments: Any) -> Outcome:
        started, started_cpu = time.monotonic(), time.process_time()
        outcome = run_one(*arguments)
        took.append((time.process_time() - started_cpu, time.monotonic() - started))
        return outcome

    monkeypatch.setattr(run, "run", timed)
    assert "done already, skipped" in command("train", *line).out
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
    ending = command("train", *line)
    assert ending.code == 0 and "done already, skipped" in ending.out
    alone, among = took
    assert among[0] < alone[0] + 0.3, took  # seconds of processor time
    assert among[1] < 5 * alone[1] + 2, took  # seconds in all: the other tests share the cores
