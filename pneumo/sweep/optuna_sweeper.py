"""A search by Optuna: a Hydra sweeper that asks for trials and tells their scores, under every launcher.

The study is kept in a database. A trial's run has a fingerprint as every run has. So a trial that was killed
is started again with its parameters, under its own number, and continues exactly.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from pneumo import UserError, config, fingerprint, one_of
from pneumo.files import Busy, locked
from pneumo.sweep import context, optuna_space, optuna_study
from pneumo.sweep.optuna_space import Dimension

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial


class OptunaSweeper(Sweeper):
    """Asks the study for trials, launches them in batches of n_jobs and tells their scores."""

    hydra_context: Any
    config: Any
    launcher: Any
    study: "Study"

    def __init__(self, **keys: Any) -> None:
        self.keys = OmegaConf.create(keys)
        self.space: list[Dimension] = []
        self.fixed: list[str] = []  # overrides of every job
        self._stale: list[FrozenTrial] = []  # trials that a killed command left
        self._tries = 0  # trials of this start that are still to be launched

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Carry the study to n_trials trials in all; what the jobs returned."""
        self._check()
        params: Any = OmegaConf.to_container(self.keys.params, resolve=True)
        self.space, self.fixed = optuna_space.parse(params, arguments, self.hydra_context.config_loader)
        self._try_out()
        name = self.keys.study or f"pneumo-{self._digest()}"
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise HydraException(
                f"hydra.sweeper.study={name!r}: give a name of letters, digits, '_', '-' and '.'."
            )
        returns: list[JobReturn] = []
        folder = Path(self.config.output_dir).expanduser() / "searches" / name
        with _alone(folder):
            self._open(name)
            print(f"search {name}: {self._count()}")
            while batch := self._next_batch():
                returns += self._run(batch)
            self._finish(folder)
        for returned in returns:
            _ = returned.return_value  # raises what a lost job left
        return returns

    # ---- before the trials

    def _check(self) -> None:
        try:
            import optuna
        except ModuleNotFoundError:
            raise UserError("Optuna is not installed: pip install 'pneumo[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        keys = self.keys
        try:
            one_of("hydra.sweeper.sampler", keys.sampler, optuna_study.SAMPLERS)
            one_of("hydra.sweeper.pruner", keys.pruner, optuna_study.PRUNERS)
            one_of("hydra.sweeper.direction", keys.direction, ("maximize", "minimize"))
            if (keys.direction == "minimize") != (self.config.trainer.monitor == "val/loss"):
                raise UserError(
                    f"hydra.sweeper.direction={keys.direction} does not suit trainer.monitor="
                    f"{self.config.trainer.monitor}: val/loss is to minimize, the others to maximize."
                )
            for key in ("n_trials", "n_jobs"):
                if not isinstance(keys[key], int) or keys[key] < 1:
                    raise UserError(f"hydra.sweeper.{key}={keys[key]} must be a whole number from 1.")
        except UserError as error:
            raise HydraException(str(error)) from None

    def _try_out(self) -> None:
        """Refuse an unknown key or a value out of range before any trial exists."""
        for end in (0, -1):
            point = [f"{dimension.key}={dimension.ends[end]}" for dimension in self.space]
            composed = self.hydra_context.config_loader.load_sweep_config(self.config, self.fixed + point)
            try:
                config.to_config(config.task_part(composed))
            except UserError as error:
                raise HydraException(str(error)) from None

    def _digest(self) -> str:
        """12 hex digits that are equal where the scores of the trials may be compared."""
        settings = config.to_config(config.task_part(self.config)).as_dict()
        varied = {dimension.key: dimension.text.partition("=")[2] for dimension in self.space}
        phantom = fingerprint.without_neutral(settings["data"]["phantom"], "data.phantom")
        data = {key: str(settings["data"][key]) for key in ("name", "root")} | {"phantom": str(phantom)}
        data |= {key: str(value) for key, value in fingerprint.reading(settings["data"]).items()}
        same = {
            "space": varied,
            "fixed": {k: v for k, v in fingerprint.relevant(settings).items() if k not in varied},
            "data": data,
            "direction": self.keys.direction,
        }
        return hashlib.sha256(json.dumps(same, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def _open(self, name: str) -> None:
        self.study = optuna_study.create(name, self.keys)
        self._stale = [trial for trial in self.study.trials if trial.state.name == "RUNNING"]
        optuna_study.retry_failed(self.study)
        # Counted once: a trial that fails in this start is tried again by the next one only.
        self._tries = self.keys.n_trials - self._ended()

    # ---- the trials

    def _trials(self) -> list["FrozenTrial"]:
        return self.study.get_trials(deepcopy=False)

    def _ended(self) -> int:
        return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in self._trials())

    def _next_batch(self) -> list["Trial"]:
        """At most n_jobs trials: first those that a killed command left, then new ones; none at the end."""
        from optuna.trial import Trial

        batch: list[Trial] = []
        while len(batch) < min(self.keys.n_jobs, self._tries):
            left = self._stale.pop(0) if self._stale else None
            batch.append(Trial(self.study, left._trial_id) if left else self.study.ask())
        self._tries -= len(batch)
        return batch

    def _run(self, batch: list["Trial"]) -> list[JobReturn]:
        """Launch the trials' jobs and tell the study how each ended."""
        from optuna.trial import TrialState

        jobs: dict[tuple[str, ...], list[Trial]] = {}  # equal parameters are one run
        for trial in batch:
            overrides = tuple(dimension.suggest(trial) for dimension in self.space)
            if any(
                other.state == TrialState.PRUNED and other.params == trial.params for other in self._trials()
            ):
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                jobs.setdefault(overrides, []).append(trial)
        if not jobs:
            return []
        study = f"search.study={self.study.study_name}"
        lines = [[*self.fixed, *key, study, f"search.trial={own[0].number}"] for key, own in jobs.items()]
        returns = [*self.launcher.launch(lines, initial_job_idx=batch[0].number)]
        for own, returned in zip(jobs.values(), returns, strict=True):
            score = returned.return_value if returned.status == JobStatus.COMPLETED else None
            stored = optuna_study.stored_trial(self.study, own[0]._trial_id)
            for trial in own:
                if stored.user_attrs.get(optuna_study.PRUNED):
                    self.study.tell(trial, state=TrialState.PRUNED)
                elif score is None or not math.isfinite(score):
                    self.study.tell(trial, state=TrialState.FAIL)
                else:
                    self.study.tell(trial, float(score))
        return returns

    # ---- after the trials

    def _count(self) -> str:
        states = Counter(trial.state.name for trial in self._trials())
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "to continue"}
        counts = [f"{states[state]} {name}" for state, name in names.items() if states[state]]
        return f"{self._ended()} of {self.keys.n_trials} trials are done ({', '.join(counts) or 'none yet'})"

    def _finish(self, folder: Path) -> None:
        """Print the best trial and keep Optuna's figures in `folder`, and with the sweep's parent run."""
        print(f"search {self.study.study_name}: {self._count()}")
        if not any(trial.state.name == "COMPLETE" for trial in self._trials()):
            return
        best = self.study.best_trial
        chosen = " ".join(f"{key}={value}" for key, value in best.params.items())
        print(f"best: trial {best.number}, {self.config.trainer.monitor} {best.value:.4f}: {chosen}")
        optuna_study.write_figures(self.study, folder)
        if sweep := context.current().sweep:
            optuna_study.write_figures(self.study, sweep.folder / "artifacts" / "figures")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a second process that continues the same search."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock"))
        except Busy:
            raise UserError(
                f"another process continues the search {folder.name}: wait for it, or stop it first."
            ) from None
        yield
