"""The search: which trials are run, told and tried again."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig

from pneumo import UserError, config

optuna = pytest.importorskip("optuna", reason="needs pip install 'pneumo[optuna]'")
from pneumo.sweep.optuna_sweeper import OptunaSweeper  # noqa: E402


class Launcher:
    """Takes the place of a launcher: a job's score is a function of its overrides."""

    def __init__(self, score: Callable[[dict[str, str]], float]) -> None:
        self.score = score
        self.jobs: list[dict[str, str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        returns = []
        for overrides in job_overrides:
            self.jobs.append(dict(line.split("=", 1) for line in overrides))
            made = JobReturn(status=JobStatus.COMPLETED)
            made.return_value = self.score(self.jobs[-1])
            returns.append(made)
        return returns


class Loader:
    """Hydra's own, as far as the sweeper asks it."""

    def load_sweep_config(self, composed: DictConfig, overrides: list[str]) -> DictConfig:
        return compose("train", ["data=phantom", *overrides])


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    config.register()
    with initialize_config_dir(str(config.shipped_dir("conf")), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


@pytest.fixture
def carry_on(tmp_path: Path) -> Callable[..., OptunaSweeper]:
    """Start a search over model.dropout with these settings, or continue it."""

    def start(score: Callable[[dict[str, str]], float], *arguments: str, **keys: object) -> OptunaSweeper:
        composed = compose(
            "train",
            ["hydra/sweeper=pneumo_optuna", f"output_dir={tmp_path}", "data=phantom"],
            return_hydra_config=True,
        )
        defaults = {**composed.hydra.sweeper, "study": "s", "storage": f"sqlite:///{tmp_path}/o.db"}
        defaults.pop("_target_")
        sweeper = OptunaSweeper(**{**defaults, **keys})
        sweeper.hydra_context, sweeper.config = SimpleNamespace(config_loader=Loader()), composed
        sweeper.launcher = Launcher(score)
        sweeper.sweep([*arguments] or ["model.dropout=interval(0, 0.9)"])
        return sweeper

    return start


def dropout(job: dict[str, str]) -> float:
    return float(job["model.dropout"])


def states(sweeper: OptunaSweeper) -> list[str]:
    return [trial.state.name for trial in sweeper.study.trials]


def test_continues_to_the_total_with_other_points(carry_on: Callable[..., OptunaSweeper]) -> None:
    first = carry_on(dropout, n_trials=3, sampler="random")
    second = carry_on(dropout, n_trials=5, sampler="random")
    assert len(first.launcher.jobs) == 3 and len(second.launcher.jobs) == 2
    tried = [trial.params["model.dropout"] for trial in second.study.trials]
    assert len(set(tried)) == 5
    assert second.study.best_value == max(tried)
    assert carry_on(dropout, n_trials=5, sampler="random").launcher.jobs == []


def test_failed_trial_is_told_and_tried_again_by_the_next_start(
    carry_on: Callable[..., OptunaSweeper],
) -> None:
    first = carry_on(lambda job: math.nan if job["search.trial"] == "1" else 0.5, n_trials=3)
    assert states(first) == ["COMPLETE", "FAIL", "COMPLETE"]
    second = carry_on(dropout, n_trials=3)
    assert states(second) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert second.study.trials[3].params == second.study.trials[1].params


def test_killed_trial_continues_under_its_number(carry_on: Callable[..., OptunaSweeper]) -> None:
    def killed(job: dict[str, str]) -> float:
        if job["search.trial"] == "2":
            raise KeyboardInterrupt
        return dropout(job)

    with pytest.raises(KeyboardInterrupt):
        carry_on(killed, n_trials=4)
    sweeper = carry_on(dropout, n_trials=4)
    assert states(sweeper) == ["COMPLETE"] * 4
    assert [job["search.trial"] for job in sweeper.launcher.jobs] == ["2", "3"]


def test_equal_trials_of_a_batch_are_one_job(carry_on: Callable[..., OptunaSweeper]) -> None:
    sweeper = carry_on(dropout, "model.dropout=choice(0.1, 0.2)", n_trials=6, n_jobs=6, sampler="random")
    assert len(sweeper.launcher.jobs) == 2
    assert sorted({trial.value for trial in sweeper.study.trials}) == [0.1, 0.2]
    assert states(sweeper) == ["COMPLETE"] * 6


@pytest.mark.parametrize(
    ("key", "value"), [("sampler", "tbe"), ("pruner", "x"), ("n_trials", 0), ("direction", "minimize")]
)
def test_wrong_setting_is_named(carry_on: Callable[..., OptunaSweeper], key: str, value: object) -> None:
    with pytest.raises(HydraException, match=f"hydra.sweeper.{key}={value}"):
        carry_on(dropout, **{key: value})


@pytest.mark.parametrize("space", ["optim.lrr=interval(0, 1)", "model.dropout=interval(0, 2)"])
def test_wrong_space_makes_no_study(
    carry_on: Callable[..., OptunaSweeper], tmp_path: Path, space: str
) -> None:
    with pytest.raises(HydraException):
        carry_on(dropout, space)
    assert not (tmp_path / "o.db").exists()


def test_storage_that_cannot_be_opened_keeps_its_password(
    carry_on: Callable[..., OptunaSweeper],
) -> None:
    with pytest.raises(UserError, match="cannot be opened") as error:
        carry_on(dropout, storage="postgresql://me:xyzzy@127.0.0.1:9/none")
    assert "xyzzy" not in str(error.value)
