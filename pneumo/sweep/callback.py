"""Hydra's callback that starts a sweep (conf/train.yaml names it)."""

import shlex
import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pneumo import UserError
from pneumo.config import check_sweep
from pneumo.config_files import summary
from pneumo.sweep import context, identity
from pneumo.sweep.parent import Sweep
from pneumo.tracking.journal import redact
from pneumo.tracking.settings import TrackingSettings


class SweepCallback(Callback):
    """Tells every job which sweep it belongs to.

    Hydra pickles the callback along to jobs in other processes, with the attributes that the parent set.
    """

    def __init__(self, files: str) -> None:
        self.files = files  # the folder of the sweep files
        self.sweep: Sweep | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            self.sweep = _sweep_of(config, self.files)
        except UserError as error:  # Hydra would turn it into a warning
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        tracking = OmegaConf.to_object(config.tracking)
        assert isinstance(tracking, TrackingSettings)
        command = context.current()
        command.sweep, command.tracking = self.sweep, tracking

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        context.current().sweep_of_job = self.sweep


def _sweep_of(config: DictConfig, files: str) -> Sweep:
    """The sweep that a composed command line asks for."""
    check_sweep(config.sweep_id, config.on_failure, config.keep_best)
    typed = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    task: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    typed += task
    chosen, file = identity.choices(typed), config.hydra.runtime.choices.get("sweep")
    return Sweep(
        id=config.sweep_id or identity.sweep_id(file, chosen, config.tracking.experiment),
        root=str(Path(config.output_dir).expanduser().absolute()),
        experiment=config.tracking.experiment,
        overrides=[redact(choice) for choice in chosen],
        planned=_planned(config, typed),
        axes=identity.axes(typed),
        command=_command(task),
        question=_question(Path(files) / f"{file}.yaml"),
        on_failure=config.on_failure,
        keep_best=config.keep_best,
    )


def _command(task: list[str]) -> str:
    """The command that the sweep's overrides were typed with."""
    flag = [] if any(text.startswith(("sweep=", "hydra.mode=")) for text in task) else ["--multirun"]
    return redact(shlex.join(["pneumo", "train", *flag, *identity.without_places(task)]))


def _planned(config: DictConfig, typed: list[str]) -> dict[str, list[str]]:
    """The jobs that Hydra's own sweeper will make of `typed`; empty for a search."""
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return {}
    try:
        (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed), None)
    except (HydraException, ValueError):
        return {}  # the sweeper names what is wrong
    planned = [identity.choices(overrides) for overrides in batch]
    return {identity.job_key(chosen): [redact(choice) for choice in chosen] for chosen in planned}


def _question(file: Path) -> str | None:
    """What a sweep's file asks, from the comment at its head."""
    try:
        return summary(file) or None
    except OSError:
        return None
