"""The study in its database."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pneumo import UserError

optuna = pytest.importorskip("optuna", reason="needs pip install 'pneumo[optuna]'")
from pneumo.sweep import optuna_study  # noqa: E402


def keys(folder: Path, **changes: object) -> Any:
    defaults = {"direction": "maximize", "sampler": "random", "pruner": "median", "seed": 0, "n_jobs": 1}
    defaults |= {"n_startup_trials": 1, "n_warmup_steps": 0, "storage": f"sqlite:///{folder}/o.db"}
    return SimpleNamespace(**{**defaults, **changes})


def test_a_study_goes_on_and_keeps_its_direction(tmp_path: Path) -> None:
    study = optuna_study.create("s", keys(tmp_path))
    study.tell(study.ask(), 0.5)
    assert len(optuna_study.create("s", keys(tmp_path)).trials) == 1
    with pytest.raises(UserError, match=r"give another hydra\.sweeper\.study"):
        optuna_study.create("s", keys(tmp_path, direction="minimize"))


def test_a_failed_trial_is_queued_once(tmp_path: Path) -> None:
    study = optuna_study.create("s", keys(tmp_path))
    for _ in range(2):
        study.enqueue_trial({"x": 0.5})
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    optuna_study.retry_failed(study)
    queued = [trial for trial in study.trials if trial.state.name == "WAITING"]
    assert len(queued) == 1 and study.ask().suggest_float("x", 0, 1) == 0.5


def test_a_job_marks_its_trial_pruned(tmp_path: Path) -> None:
    study = optuna_study.create("s", keys(tmp_path))
    study.ask()
    number = study.ask().number
    optuna_study.mark_pruned(optuna_study.load("s", keys(tmp_path)), number)
    marks = [
        optuna_study.stored_trial(study, optuna_study.trial_id(study, one)).user_attrs for one in (0, number)
    ]
    assert marks == [{}, {optuna_study.PRUNED: True}]


def test_figures_are_written_whole(tmp_path: Path) -> None:
    study = optuna_study.create("s", keys(tmp_path))
    for value in (0.1, 0.9):
        study.tell(study.ask(), value)
    files = optuna_study.write_figures(study, tmp_path / "figures")
    assert files[0].name == "search_history.png"
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert sorted(files) == sorted((tmp_path / "figures").iterdir())
