"""yaml becomes typed dataclasses once, here; Hydra starts here too, so that one place words its errors."""

import dataclasses
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pneumo import UserError
from pneumo.data.settings import AugmentSettings, DataSettings, SamplerSettings
from pneumo.models.settings import ModelSettings
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.settings import OptimSettings, ScheduleSettings, TrainerSettings

USAGE = 2  # the exit code of a wrong command line


@dataclass(kw_only=True)
class Config:
    """One run, whole and checked."""

    model: ModelSettings = field(default_factory=ModelSettings)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    seed: int = 0
    force: bool = False
    output_dir: str = "${pneumo.project:outputs}"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative.")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def as_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.as_dict()))


def project_dir() -> Path:
    """The checkout this package lies in; where it is installed elsewhere, the working directory."""
    parent = Path(__file__).resolve().parent.parent
    return parent if (parent / "pyproject.toml").is_file() and (parent / "conf").is_dir() else Path.cwd()


def shipped_dir(name: str) -> Path:
    """The folder `name` (conf or sweeps): inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / name if (package / name).is_dir() else package.parent / name


def register() -> None:
    """Make the schema, the sweeps and the resolvers known to Hydra."""
    OmegaConf.register_new_resolver("pneumo.project", lambda name: str(project_dir() / name), replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for file in sorted(shipped_dir("sweeps").glob("*.yaml")):
        store.store(group="sweep", name=file.stem, node=OmegaConf.load(file), package="_global_")


def to_config(composed: DictConfig) -> Config:
    """The typed configuration; UserError for a value that is out of range or misses."""
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise UserError(_words(error)) from None
    assert isinstance(config, Config)
    return config


def run_hydra(task: Callable[[DictConfig], Any], config_name: str) -> int:
    """Run `task` on the composed command line; return 0, or 2 after naming what is wrong with it."""
    register()
    # Hydra would print its own long answers and exit with 1; raising instead, it leaves the words to us.
    asked_for_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweeps = [argument for argument in sys.argv[1:] if argument.startswith("sweep=") and "," in argument]
    if sweeps:
        return complain(f"{sweeps[0]}: one sweep at a time; give the sweeps as separate commands.")
    try:
        hydra.main(config_path=str(shipped_dir("conf")), config_name=config_name, version_base="1.3")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        if asked_for_traceback:
            raise
        return complain(_words(error))
    return 0


def complain(message: object, code: int = USAGE) -> int:
    """Name what went wrong on stderr and return the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return code


def _words(error: Exception) -> str:
    """One message from Hydra's chain of them, with the keys or options that exist."""
    texts = [str(error).strip()]
    if isinstance(error.__cause__, Exception):
        texts.append(str(error.__cause__).strip())
    text = "\n".join(texts)
    # OmegaConf: "Key 'epoch' not in 'TrainerSettings'" and "full_key: trainer.epoch".
    if match := re.search(r"Key '([^']+)' (?:is )?not in (?:'(\w+)'|struct)", text):
        key, known = match.group(1), _keys_of(match.group(2) or "Config")
        full = re.search(r"full_key: (\S+)", text)
        return _unknown_key(full.group(1) if full else key, key, known)
    kept = [line for line in text.splitlines() if line.strip() and "object_type=" not in line]
    kept = [line for line in kept if not line.startswith(("See ", "Set the environment"))]
    return "\n".join(dict.fromkeys(kept))


def _unknown_key(full_key: str, key: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {full_key.removesuffix(key)}{close[0]}?" if close else ""
    where = full_key.rpartition(".")[0]
    return f"the key {full_key} is not known; {where or 'the top level'} has {', '.join(known)}.{hint}"


def _keys_of(schema: str) -> list[str]:
    """The keys of a settings class by its name, groups and Hydra's own among the top level's."""
    top = {type_.name: type_ for type_ in dataclasses.fields(Config)}
    for entry in top.values():
        if getattr(entry.type, "__name__", "") == schema:
            return [key.name for key in dataclasses.fields(entry.type)]  # type: ignore[arg-type]
    return [*top, "experiment", "sweep"]
