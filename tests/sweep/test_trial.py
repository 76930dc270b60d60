"""A run as a trial of a search."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pneumo.tracking.settings import SearchSettings
from pneumo.training.signals import Pruned

optuna = pytest.importorskip("optuna", reason="needs pip install 'pneumo[optuna]'")
from pneumo.sweep import optuna_study, trial  # noqa: E402


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A study with one finished trial that did well, and a second one that runs."""
    keys = {"direction": "maximize", "sampler": "random", "pruner": "median", "seed": 0, "n_jobs": 1}
    keys |= {"n_startup_trials": 1, "n_warmup_steps": 0, "storage": f"sqlite:///{tmp_path}/o.db"}
    sweeper = SimpleNamespace(**keys)
    monkeypatch.setattr(trial.HydraConfig, "get", lambda: SimpleNamespace(sweeper=sweeper))
    made = optuna_study.create("s", sweeper)
    first = made.ask()
    for epoch in (1, 2, 3):
        first.report(0.9, epoch)
    made.tell(first, 0.9)
    made.ask()
    return made


SECOND = SearchSettings(study="s", trial=1)


def test_a_run_without_a_trial_reports_nothing() -> None:
    trial.report(SearchSettings(), 0.5, 1, 3)
    trial.note_pruned(SearchSettings())


def test_a_good_trial_goes_on(study: Any) -> None:
    trial.report(SECOND, 0.95, 1, 3)
    trial.report(SECOND, 0.5, 1, 3)  # the same epoch again, of a resumed run: the first score stays
    assert study.trials[1].intermediate_values == {1: 0.95}


def test_a_bad_trial_is_pruned_and_stays_so(study: Any) -> None:
    with pytest.raises(Pruned, match=r"pruned by the search after epoch 1, at 0\.1000"):
        trial.report(SECOND, 0.1, 1, 3)
    assert study.trials[1].user_attrs == {optuna_study.PRUNED: True}
    with pytest.raises(Pruned):
        trial.report(SECOND, 0.99, 2, 3)


def test_the_last_epoch_prunes_nothing(study: Any) -> None:
    trial.report(SECOND, 0.1, 3, 3)
    assert not study.trials[1].user_attrs


def test_a_score_that_is_not_a_number_is_left_out(study: Any) -> None:
    trial.report(SECOND, float("nan"), 1, 3)
    assert not study.trials[1].intermediate_values
