"""The launchers' own parts; tests/services/test_launchers.py runs them for real."""

import os

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from pneumo import UserError
from pneumo.sweep import launchers


def test_a_lost_job_ends_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def lose() -> JobReturn:
        raise UserError("the machine is gone")

    done = JobReturn(status=JobStatus.COMPLETED)
    launcher = launchers.RayLauncher(OmegaConf.create({"init": {}, "remote": {}}))
    returns = launcher.collect([lose, lambda: done], [["seed=1"], ["seed=2"]], first=4)
    assert returns[1] is done and returns[0].status == JobStatus.FAILED
    with pytest.raises(UserError, match="The same command tries it again"):
        _ = returns[0].return_value
    assert "job 4 (seed=1) was lost: the machine is gone" in capsys.readouterr().err


def test_a_task_gets_the_commands_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMO_CACHE", "there")

    def task(composed: DictConfig) -> str:
        return os.environ["PNEUMO_CACHE"]

    assert launchers.TaskWithEnvironment(task, {"PNEUMO_CACHE": "here"})(OmegaConf.create({})) == "here"


def test_near_the_end_a_slurm_job_is_requeued_or_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(launchers.subprocess, "run", lambda command, timeout: calls.append(command))
    monkeypatch.setattr(launchers.os, "kill", lambda process, number: calls.append(number))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    job = launchers.Restartable(lambda: JobReturn(), max_restarts=1)
    for restarts in ("0", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        job._restart_in_time(12, None)
    assert calls == [["scontrol", "requeue", "7_2"], launchers.signal.SIGTERM]
