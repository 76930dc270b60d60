"""Two processes: each image is used once, figures cover all images, weights are equal, and both end."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import Hold, import_path
from support.distributed_worker import SIZES, history, plain, trained
from support.training import CPU, Tiny, make_trainer, split, three_splits

from pneumo.tracking.journal import Journal
from pneumo.training.runtime import Runtime

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TESTS = Path(__file__).parents[1]


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": import_path(TESTS.parent, TESTS),
        "OMP_NUM_THREADS": "1",
        "PNEUMO_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }


Ranks = list[tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Ranks:
    folder = tmp_path_factory.mktemp("two")
    command = [*TORCHRUN, str(TESTS / "support" / "distributed_worker.py"), str(folder)]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [
        (json.loads((folder / f"rank{rank}.json").read_text()), torch.load(folder / f"rank{rank}.pt"))
        for rank in (0, 1)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[Any, list[list[int]]]:
    folder = tmp_path_factory.mktemp("one")
    return trained(folder, Runtime(CPU, None), plain(), Tiny(norm=False, dropout=0.0))


def test_every_image_is_seen_once_an_epoch(ranks: Ranks, alone: tuple[Any, list[list[int]]]) -> None:
    shares = [result["seen"] for result, _ in ranks]
    steps = [sorted(a + b) for a, b in zip(*shares, strict=True)]
    assert steps == [sorted(step) for step in alone[1]]  # the same images in the same steps as alone
    for epoch in (steps[:21], steps[21:]):
        assert sorted(image for step in epoch for image in step) == list(range(SIZES["train"]))
    assert [{len(part) for part in share} for share in shares] == [{4, 3}, {3}]


def test_weights_are_equal_and_those_of_one_process(ranks: Ranks, alone: tuple[Any, list[list[int]]]) -> None:
    (_, first), (_, second) = ranks
    start = Tiny(norm=False, dropout=0.0).state_dict()
    for key, value in alone[0].network.state_dict().items():
        assert torch.equal(first["plain"][key], second["plain"][key])
        assert (value - start[key]).abs().max() > 0.01
        torch.testing.assert_close(first["plain"][key], value, rtol=0, atol=1e-6)


def test_figures_are_those_of_one_process(ranks: Ranks, alone: tuple[Any, list[list[int]]]) -> None:
    expected = history(alone[0])
    for result, _ in ranks:
        assert result["history"] == ranks[0][0]["history"]
        for row, other in zip(result["history"], expected, strict=True):
            assert row == pytest.approx(other, rel=1e-5)


def test_scores_of_an_uneven_split_are_exact(ranks: Ranks, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, plain(), Tiny(), three_splits(**SIZES))
    expected = {name: trainer.evaluate(name) for name in ("val", "test")}
    expected["one image"] = trainer.score(trainer.network, split("val", 1))  # nothing is left for process 1
    for result, _ in ranks:
        for name, score in expected.items():
            got = result["scored"][name]
            assert got["indices"] == score.indices.tolist()
            np.testing.assert_allclose(got["probabilities"], score.probabilities, rtol=1e-6)
            assert got["loss"] == pytest.approx(score.loss, rel=1e-6)


def test_one_process_asked_to_stop_stops_both_and_the_state_continues(ranks: Ranks) -> None:
    (first, weights), (second, others) = ranks
    assert (first["stopped"], second["stopped"]) == ("another process of this run was asked to stop", "asked")
    assert first["cut_seen"] == 36 + 4  # micro-batches: 2 of the 18 steps of epoch 1 were left, and epoch 2
    assert first["cut"] == first["whole"] == second["cut"]
    for key, value in weights["whole"].items():
        assert torch.equal(weights["cut"][key], value), key
        if "running" not in key and "num_batches" not in key:  # each process keeps its own statistics
            assert torch.equal(others["cut"][key], value), key


def test_all_processes_report_a_loss_that_is_not_finite(ranks: Ranks) -> None:
    for result, _ in ranks:
        assert "not finite in epoch 1, step 1 of 21" in result["broken"]


def test_every_process_finds_the_best_weights_when_training_ends(ranks: Ranks) -> None:
    assert [result["best_is_there"] for result, _ in ranks] == [True, True]


def test_no_trainer_holds_on_to_its_process_group(ranks: Ranks) -> None:
    """A trainer that outlives its group sometimes aborts the process at exit."""
    assert [result["ddp_left"] for result, _ in ranks] == [0, 0]


# ---- through the train command


def command(folder: Path, *overrides: str) -> list[str]:
    data = [
        "data=phantom",
        "data.phantom.train_patients=24",
        "data.phantom.test_patients=8",
        "data.image_size=32",
    ]
    common = ["trainer.batch_size=8", "trainer.device=cpu", f"output_dir={folder}/outputs"]
    return [*TORCHRUN, "-m", "pneumo.train", *data, *common, *overrides]


def runs(folder: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute("SELECT name, status FROM runs").fetchall()


@pytest.mark.services
def test_the_train_command_under_torchrun_is_one_run(tmp_path: Path) -> None:
    line = command(tmp_path, "trainer.epochs=1", "trainer.limit_batches=2")
    for words in ("chosen: epoch 1", "done already, skipped"):  # again: both processes see that it is done
        done = subprocess.run(line, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(words) == 1
        assert [status for _, status in runs(tmp_path)] == ["FINISHED"]


@pytest.mark.services
def test_sigterm_to_the_launcher_stops_both_and_the_same_command_finishes(tmp_path: Path) -> None:
    line, hold = command(tmp_path, "trainer.epochs=6"), Hold(tmp_path / "hold", 1)
    process = subprocess.Popen(
        line,
        env=environment(tmp_path) | hold.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("epoch   1"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    deadline = time.monotonic() + 60
    while (
        time.monotonic() < deadline
        and subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout
    ):
        time.sleep(0.2)
    assert not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout
    (folder,) = (path.parent for path in (tmp_path / "outputs").glob("*/journal.jsonl"))
    journal = Journal(folder)
    assert (journal.status, str(journal.reason).startswith("stopped by SIGTERM")) == ("KILLED", True)
    done = subprocess.run(line, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continues (was KILLED)" in done.stdout
    assert [status for _, status in runs(tmp_path)] == ["FINISHED"]
    assert [step for step, _ in Journal(folder).history("val/auroc")] == [1, 2, 3, 4, 5, 6]
