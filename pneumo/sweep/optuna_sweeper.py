"""A search by Optuna: a Hydra sweeper that asks for trials and tells their scores, under every launcher.

The study is kept in a database. A trial's run is told apart by fingerprint as every run is, so a trial that
was killed is started again with its parameters, under its own number, and continues exactly.
"""

import fcntl
import hashlib
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from pneumo import UserError, config, fingerprint
from pneumo.tracking.settings import SearchSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "qmc": "QMCSampler", "cmaes": "CmaEsSampler"}
PRUNERS = {"median": "MedianPruner", "none": "NopPruner"}
PRUNED = "pruned"  # a trial's attribute: the job says so to the sweeper, which may be another machine's


# ---- in the job


def report(search: SearchSettings, score: float, epoch: int, last: int) -> None:
    """Tell the trial that this run is, if any, its score of an epoch; raises Pruned if it should end there.

    Not after the `last` epoch: nothing is saved any more.
    """
    if search.trial is None:
        return
    from optuna.trial import Trial

    from pneumo.training.signals import Pruned

    study = _load(search)
    trial = Trial(study, _trial_id(study, search.trial))
    held = study._storage.get_trial(trial._trial_id)
    if epoch not in held.intermediate_values and math.isfinite(score):
        trial.report(score, epoch)
    if held.user_attrs.get(PRUNED) or (epoch < last and trial.should_prune()):
        note_pruned(search)
        raise Pruned(f"pruned by the search after epoch {epoch}, at {score:.4f}")


def note_pruned(search: SearchSettings) -> None:
    """Mark the trial that this run is, if any, as pruned."""
    if search.trial is not None:
        study = _load(search)
        study._storage.set_trial_user_attr(_trial_id(study, search.trial), PRUNED, True)


def _load(search: SearchSettings) -> "Study":
    import optuna

    keys = HydraConfig.get().sweeper
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Nothing is drawn in the job; the random sampler looks at no other trial.
    return optuna.load_study(
        study_name=search.study,
        storage=_storage(keys.storage),
        sampler=optuna.samplers.RandomSampler(),
        pruner=_pruner(keys),
    )


def _trial_id(study: "Study", number: int) -> int:
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)


def _storage(url: str) -> Any:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from pneumo.tracking.journal import redact

    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=wait)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = redact(str(error)).strip().splitlines()[0]
        raise UserError(f"hydra.sweeper.storage={redact(url)} cannot be opened: {reason}") from None


def _pruner(keys: Any) -> Any:
    import optuna

    settings = {}
    if keys.pruner == "median":
        settings = {"n_startup_trials": keys.n_startup_trials, "n_warmup_steps": keys.n_warmup_steps}
    return getattr(optuna.pruners, PRUNERS[keys.pruner])(**settings)


# ---- the space


class Dimension:
    """One key that the search varies, out of an override with Hydra's sweep syntax."""

    def __init__(self, override: Override) -> None:
        from optuna import distributions

        self.key, self.text = override.get_key_element(), str(override.input_line)
        sweep: Any = override.value()
        log = "log" in getattr(sweep, "tags", ())
        self.distribution: BaseDistribution
        if isinstance(sweep, IntervalSweep):
            low: Any = sweep.start
            high: Any = sweep.end
            whole = isinstance(low, int) and isinstance(high, int)  # as written int(interval(1, 8))
            kind = distributions.IntDistribution if whole else distributions.FloatDistribution
            self.distribution = kind(low, high, log=log)
        elif isinstance(sweep, RangeSweep) and len(values := list(sweep.range())) > 1:
            whole = all(isinstance(value, int) for value in values)
            kind = distributions.IntDistribution if whole else distributions.FloatDistribution
            self.distribution = kind(min(values), max(values), step=abs(values[1] - values[0]))
        else:
            self.distribution = distributions.CategoricalDistribution(list(override.sweep_string_iterator()))

    @property
    def ends(self) -> tuple[Any, Any]:
        """The first and the last value."""
        drawn: Any = self.distribution
        choices = getattr(drawn, "choices", None) or (drawn.low, drawn.high)
        return choices[0], choices[-1]

    def suggest(self, trial: "Trial") -> str:
        """The trial's value as an override; one that it has already stays."""
        value = trial._suggest(self.key, self.distribution)
        return f"{self.key}={value}"


def _parse(
    params: dict[str, Any], arguments: Sequence[str], loader: Any
) -> tuple[list[Dimension], list[str]]:
    """The dimensions of the space, and the overrides that go to every job; the command line wins."""
    lines = [f"{key}={value}" for key, value in params.items()] + [*arguments]
    spaces: dict[str, Dimension] = {}
    fixed: dict[str, str] = {}
    for line, override in zip(
        lines, OverridesParser.create(config_loader=loader).parse_overrides(lines), strict=True
    ):
        key = override.get_key_element()
        spaces.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = line
            continue
        try:
            spaces[key] = Dimension(override)
        except ValueError as error:
            raise HydraException(f"{line}: {error}") from None
    if not spaces:
        raise HydraException(
            "the search has no space: give hydra.sweeper.params in a sweep file, or for example "
            "'optim.lr=tag(log, interval(1e-4, 3e-3))' 'model.dropout=choice(0.0, 0.3)'"
        )
    return [*spaces.values()], [*fixed.values()]


# ---- the sweeper


class OptunaSweeper(Sweeper):
    """Asks the study for trials, launches them in batches of n_jobs and tells their scores."""

    hydra_context: Any
    config: Any
    launcher: Any

    def __init__(self, **keys: Any) -> None:
        self.keys = OmegaConf.create(keys)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Carry the study to n_trials trials in all; what the jobs returned."""
        self._check()
        params: Any = OmegaConf.to_container(self.keys.params, resolve=True)
        self.space, self.fixed = _parse(params, arguments, self.hydra_context.config_loader)
        self._try_out()
        name = self.keys.study or f"pneumo-{self._digest()}"
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise HydraException(
                f"hydra.sweeper.study={name!r}: give a name of letters, digits, '_', '-' and '.'."
            )
        returns: list[JobReturn] = []
        folder = Path(self.config.output_dir).expanduser() / "searches" / name
        with _alone(folder):
            self.study = self._open(name)
            print(f"search {name}: {self._count()}")
            while batch := self._next_batch():
                returns += self._run(batch)
            self._finish(folder)
        for returned in returns:
            _ = returned.return_value  # raises what a lost job left
        return returns

    # -- inside

    def _check(self) -> None:
        try:
            import optuna
        except ModuleNotFoundError:
            raise UserError("Optuna is not installed: pip install 'pneumo[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        from pneumo import one_of

        keys = self.keys
        try:
            one_of("hydra.sweeper.sampler", keys.sampler, SAMPLERS)
            one_of("hydra.sweeper.pruner", keys.pruner, PRUNERS)
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
        """Refuse a key that is not known or a value out of range before a trial is made of it."""
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
        data = {key: str(settings["data"][key]) for key in ("name", "root", "phantom")}
        same = {
            "space": varied,
            "fixed": {k: v for k, v in fingerprint.relevant(settings).items() if k not in varied},
            "data": data,
            "direction": self.keys.direction,
        }
        return hashlib.sha256(json.dumps(same, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def _open(self, name: str) -> "Study":
        import optuna

        storage = _storage(self.keys.storage)
        self.study = study = optuna.create_study(
            study_name=name, storage=storage, direction=self.keys.direction, load_if_exists=True
        )
        if study.direction.name.lower() != self.keys.direction:
            raise UserError(
                f"the study {name} is to {study.direction.name.lower()}, hydra.sweeper.direction="
                f"{self.keys.direction}: give another hydra.sweeper.study."
            )
        # A fixed seed would draw the same points again after every start.
        seed: dict[str, Any] = {"seed": self.keys.seed + len(study.trials)}
        if self.keys.sampler == "tpe" and self.keys.n_jobs > 1:
            seed["constant_liar"] = True  # trials of one batch keep away from each other
        study.sampler = getattr(optuna.samplers, SAMPLERS[self.keys.sampler])(**seed)
        study.pruner = _pruner(self.keys)
        self._stale = [trial for trial in study.trials if trial.state.name == "RUNNING"]
        tried = [trial.params for trial in study.trials if trial.state.name != "FAIL"]
        for trial in study.trials:  # failed ones are tried again, under another number
            if trial.state.name == "FAIL" and trial.params and trial.params not in tried:
                tried.append(trial.params)
                study.enqueue_trial(trial.params)
        self._tries = (
            self.keys.n_trials - self._ended()
        )  # of this start: a failed trial is not tried in a ring
        return study

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
        who = [f"search.study={self.study.study_name}"]
        lines = [[*self.fixed, *key, *who, f"search.trial={own[0].number}"] for key, own in jobs.items()]
        returns = [*self.launcher.launch(lines, initial_job_idx=batch[0].number)]
        for own, returned in zip(jobs.values(), returns, strict=True):
            score = returned.return_value if returned.status == JobStatus.COMPLETED else None
            pruned = self.study._storage.get_trial(own[0]._trial_id).user_attrs.get(PRUNED)
            for trial in own:
                if pruned:
                    self.study.tell(trial, state=TrialState.PRUNED)
                elif score is None or not math.isfinite(score):
                    self.study.tell(trial, state=TrialState.FAIL)
                else:
                    self.study.tell(trial, float(score))
        return returns

    def _count(self) -> str:
        states = Counter(trial.state.name for trial in self._trials())
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "to continue"}
        counts = [f"{states[state]} {name}" for state, name in names.items() if states[state]]
        return f"{self._ended()} of {self.keys.n_trials} trials are done ({', '.join(counts) or 'none yet'})"

    def _finish(self, folder: Path) -> None:
        """Print the best trial and keep Optuna's figures in `folder`, and with the sweep's parent run."""
        from pneumo.sweep import parent as sweep

        print(f"search {self.study.study_name}: {self._count()}")
        if not any(trial.state.name == "COMPLETE" for trial in self._trials()):
            return
        best = self.study.best_trial
        chosen = " ".join(f"{key}={value}" for key, value in best.params.items())
        print(f"best: trial {best.number}, {self.config.trainer.monitor} {best.value:.4f}: {chosen}")
        write_figures(self.study, folder)
        if sweep.launched is not None:
            parent, _ = sweep.launched
            write_figures(self.study, parent.folder / "artifacts" / "figures")


def figures(study: "Study") -> dict[str, "Figure"]:
    """Optuna's own figures of a study: its history and, where it can be said, what mattered how much."""
    import matplotlib

    matplotlib.use("Agg")  # Optuna draws by pyplot, which would look for a screen
    import optuna.visualization.matplotlib as draw
    from matplotlib import pyplot

    made: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental"
        made["search_history"] = draw.plot_optimization_history(study).figure
        with suppress(ValueError, RuntimeError):  # too few trials, or all scores are equal
            made["search_importance"] = draw.plot_param_importances(study).figure
    for figure in made.values():
        figure.set_size_inches(8, 5)
        figure.tight_layout()
        pyplot.close(figure)
    return made


def write_figures(study: "Study", folder: Path) -> list[Path]:
    """Write the figures of a study into `folder` as PNG; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures(study).items():
        files.append(folder / f"{name}.png")
        aside = folder / f".{name}.png"
        figure.savefig(aside, dpi=120)
        aside.replace(files[-1])
    return files


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a second process that carries on the same search; the lock ends with its holder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"the search {folder.name} is being carried on by another process: "
                "wait for it, or stop it first."
            ) from None
        yield
