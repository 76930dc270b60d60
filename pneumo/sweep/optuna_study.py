"""Optuna's study in its database: how it is opened, by the sweeper and by its jobs, and its figures."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumo import UserError
from pneumo.text import first_line
from pneumo.tracking.journal import redact

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "qmc": "QMCSampler", "cmaes": "CmaEsSampler"}
PRUNERS = {"median": "MedianPruner", "none": "NopPruner"}
PRUNED = "pruned"  # a trial's attribute: the job says so to the sweeper, which may run on another machine


def create(name: str, keys: Any) -> "Study":
    """The study `name` with the settings `keys` of hydra.sweeper, created where it is missing."""
    import optuna

    study = optuna.create_study(
        study_name=name, storage=_storage(keys.storage), direction=keys.direction, load_if_exists=True
    )
    if study.direction.name.lower() != keys.direction:
        raise UserError(
            f"the study {name} is to {study.direction.name.lower()}, hydra.sweeper.direction="
            f"{keys.direction}: give another hydra.sweeper.study."
        )
    # A fixed seed would draw the same points again after every start.
    options: dict[str, Any] = {"seed": keys.seed + len(study.trials)}
    if keys.sampler == "tpe" and keys.n_jobs > 1:
        options["constant_liar"] = True  # trials of one batch keep away from each other
    study.sampler = getattr(optuna.samplers, SAMPLERS[keys.sampler])(**options)
    study.pruner = _pruner(keys)
    return study


def load(name: str, keys: Any) -> "Study":
    """The study as a job sees it. Nothing is drawn there: the random sampler looks at no other trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(
        study_name=name,
        storage=_storage(keys.storage),
        sampler=optuna.samplers.RandomSampler(),
        pruner=_pruner(keys),
    )


def retry_failed(study: "Study") -> None:
    """Queue the parameters of failed trials again, under another number."""
    tried = [trial.params for trial in study.trials if trial.state.name != "FAIL"]
    for trial in study.trials:
        if trial.state.name == "FAIL" and trial.params and trial.params not in tried:
            tried.append(trial.params)
            study.enqueue_trial(trial.params)


def stored_trial(study: "Study", trial_id: int) -> "FrozenTrial":
    """A trial as the database has it now."""
    return study._storage.get_trial(trial_id)


def trial_id(study: "Study", number: int) -> int:
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)


def mark_pruned(study: "Study", number: int) -> None:
    study._storage.set_trial_user_attr(trial_id(study, number), PRUNED, True)


def _storage(url: str) -> Any:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=wait)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = redact(first_line(error))
        raise UserError(f"hydra.sweeper.storage={redact(url)} cannot be opened: {reason}") from None


def _pruner(keys: Any) -> Any:
    import optuna

    options = {}
    if keys.pruner == "median":
        options = {"n_startup_trials": keys.n_startup_trials, "n_warmup_steps": keys.n_warmup_steps}
    return getattr(optuna.pruners, PRUNERS[keys.pruner])(**options)


def figures(study: "Study") -> dict[str, "Figure"]:
    """Optuna's own figures of a study: its history, and how much each key mattered where Optuna can say."""
    import matplotlib

    matplotlib.use("Agg")  # Optuna draws by pyplot, which would look for a screen
    import optuna.visualization.matplotlib as draw
    from matplotlib import pyplot

    drawn: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental"
        drawn["search_history"] = draw.plot_optimization_history(study).figure
        with suppress(ValueError, RuntimeError):  # too few trials, or all scores are equal
            drawn["search_importance"] = draw.plot_param_importances(study).figure
    for figure in drawn.values():
        figure.set_size_inches(8, 5)
        figure.tight_layout()
        pyplot.close(figure)
    return drawn


def write_figures(study: "Study", folder: Path) -> list[Path]:
    """Write the figures of a study into `folder` as PNG; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures(study).items():
        files.append(folder / f"{name}.png")
        temporary = folder / f".{name}.png"
        figure.savefig(temporary, dpi=120)
        temporary.replace(files[-1])
    return files
