"""Where a run computes: devices under torchrun, true float32, a compiler that may be missing, a job's traces.

No CUDA device is needed: torch's answers about it are replaced.
"""

import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pneumo import UserError
from pneumo.training import runtime
from pneumo.training.runtime import Runtime, open_runtime
from pneumo.training.settings import TrainerSettings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with runtime.isolated():
        yield


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)


# ---- devices


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_of_torchrun_takes_its_own_device(
    device: str, rank: int, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    assert open_runtime(TrainerSettings(device=device)).device == torch.device("cuda", rank)


def test_alone_a_named_device_is_taken(two_gpus: None) -> None:
    assert open_runtime(TrainerSettings(device="cuda:1")).device == torch.device("cuda", 1)


# ---- precision


@pytest.mark.parametrize(
    ("precision", "recorded", "tf32"),
    [("float32", "float32", False), ("tf32", "tf32", True), ("bf16", "bf16", False), ("auto", "bf16", False)],
)
def test_float32_on_cuda_is_not_tf32(precision: str, recorded: str, tf32: bool, two_gpus: None) -> None:
    torch.backends.cudnn.allow_tf32 = not tf32  # an earlier job may have left this
    made = open_runtime(TrainerSettings(device="cuda", precision=precision))
    assert made.precision == recorded
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    assert (made.autocast_dtype is None) == (recorded in ("float32", "tf32"))


def test_tf32_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.precision=tf32 needs a CUDA device.*float32 or auto"):
        open_runtime(TrainerSettings(precision="tf32", device="cpu"))


# ---- torch.compile


def missing(what: str, monkeypatch: pytest.MonkeyPatch, headers: Path) -> None:
    (headers / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(headers))
    if what == "Triton is not installed":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    elif what == "a C compiler":
        monkeypatch.setattr("shutil.which", lambda name: None)
    elif what == "header files":
        monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    elif what == "a GPU as old":
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: (6, 1))


@pytest.mark.parametrize("what", ["Triton is not installed", "a C compiler", "header files", "a GPU as old"])
def test_auto_does_not_compile_without_what_that_needs(
    what: str, two_gpus: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    missing(what, monkeypatch, tmp_path)
    assert not open_runtime(TrainerSettings(device="cuda")).compile
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and "trainer.compile=auto" in printed[0] and what in printed[0]
    assert open_runtime(TrainerSettings(device="cuda", compile="true")).compile
    assert not capsys.readouterr().out


def test_auto_compiles_where_all_is_there(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    missing("nothing", monkeypatch, tmp_path)
    assert open_runtime(TrainerSettings(device="cuda")).compile
    assert not open_runtime(TrainerSettings(device="cpu")).compile
    assert not capsys.readouterr().out


# ---- determinism


def test_the_workspace_of_cublas_is_set_before_any_job() -> None:
    """cuBLAS reads it once per process: setting it in a sweep's first deterministic job is too late."""
    environment = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    script = "import os, pneumo.training.runtime; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ":4096:8"


def test_a_runtime_says_its_precision() -> None:
    device = torch.device("cpu")
    assert [Runtime(device, None, tf32=tf32).precision for tf32 in (False, True)] == ["float32", "tf32"]


# ---- the process after a job


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
        with pytest.raises(SystemExit), runtime.isolated():
            torch.manual_seed(9), random.seed(9), np.random.seed(9)
            torch.set_num_threads(1), torch.set_default_dtype(torch.float64)
            torch.use_deterministic_algorithms(True), torch.set_float32_matmul_precision("medium")
            logging.getLogger().addHandler(logging.NullHandler())
            logging.getLogger().setLevel(1)
            sys.exit(0)
        assert state() == expected
