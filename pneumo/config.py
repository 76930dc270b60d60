"""The configuration: yaml becomes typed dataclasses once, here. Every command starts Hydra here."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pneumo import (
    UserError,
    __version__,
    commands,
    completion,
    config_help,
    config_source,
    fingerprint,
    one_of,
)
from pneumo.config_arguments import config_dir, prepare
from pneumo.config_errors import NO_NAME, Typed, explain, unknown_key
from pneumo.config_files import groups, options, project_dir, shipped_dir
from pneumo.data.settings import AugmentSettings, DataSettings, SamplerSettings
from pneumo.models.settings import ModelSettings
from pneumo.text import first_line, printable
from pneumo.tracking.journal import redact
from pneumo.tracking.settings import SearchSettings, TrackingSettings
from pneumo.training.settings import OptimSettings, ScheduleSettings, TrainerSettings

USAGE = 2  # the exit code of a wrong command line
_SWEEP_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,79}", re.ASCII)
# Added to the file of a command that has its own schema.
_SMALL = {
    "defaults": ["schema", "_self_", {"override hydra/job_logging": "stdout"}],
    "hydra": {"job": {"chdir": False}, "output_subdir": None, "run": {"dir": "."}},
}


@dataclass(kw_only=True)
class Config:
    """One run, whole and checked."""

    GROUPS_WITHOUT_KEYS: ClassVar[tuple[str, ...]] = ("experiment", "sweep")

    model: ModelSettings = field(default_factory=ModelSettings)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = 0
    force: bool = False
    sweep_id: str | None = None
    on_failure: str = "continue"
    on_code_change: str = "stop"
    keep_state: bool = False
    keep_best: int | None = 3
    output_dir: str = "${pneumo.project:outputs}"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative.")
        one_of("on_code_change", self.on_code_change, ("stop", "keep", "retrain"))
        check_sweep(self.sweep_id, self.on_failure, self.keep_best)
        folded = self.data.val_protocol == "fold"
        if folded and self.trainer.select_on == "test":
            raise UserError(
                "trainer.select_on=test scores the test images in every epoch, and data.val_protocol=fold "
                "leaves them unread. Give trainer.select_on=val, or data.val_protocol=patient."
            )
        if self.trainer.score_test is None:
            self.trainer.score_test = not folded

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def as_yaml(self) -> str:
        """The configuration for a file that others read: without the credentials of any URI."""
        return redact(OmegaConf.to_yaml(OmegaConf.create(self.as_dict())))


def check_sweep(sweep_id: str | None, on_failure: str, keep_best: int | None) -> None:
    """Raise UserError for settings of a sweep that cannot work."""
    if sweep_id is not None and not _SWEEP_ID.fullmatch(sweep_id):
        raise UserError(
            f"sweep_id={sweep_id} names a folder: give at most 80 letters, digits, '_', '-' and '.', for "
            "example sweep_id=dropout_1."
        )
    one_of("on_failure", on_failure, ("continue", "stop"))
    if keep_best is not None and keep_best < 0:
        raise UserError(f"keep_best={keep_best} must not be negative; 0 keeps no weights, null keeps all.")


def register() -> None:
    """Make the schema, the option files, the sweeps and the resolvers known to Hydra."""
    OmegaConf.register_new_resolver("pneumo.project", lambda name: str(project_dir() / name), replace=True)
    OmegaConf.register_new_resolver("pneumo.shipped", lambda name: str(shipped_dir(name)), replace=True)
    OmegaConf.register_new_resolver("pneumo.data_root", data_root, replace=True)
    store = ConfigStore.instance()
    schema = OmegaConf.structured(Config)
    OmegaConf.set_struct(schema.data.labels, False)  # its keys are values of the user's
    store.store(name="schema", node=schema)
    for file in sorted(shipped_dir("sweeps").glob("*.yaml")):
        store.store(group="sweep", name=file.stem, node=OmegaConf.load(file), package="_global_")
    config_source.register()  # also finds the published launchers
    for file in (shipped_dir("conf") / "hydra").rglob("*.yaml"):  # whose schemas would refuse our keys
        store.repo.get("hydra", {}).get(file.parent.name, {}).pop(file.name, None)


def data_root(table: str | None, default: str) -> str:
    """data.root where none is given: the folder of an existing data.table, else $PNEUMO_DATA or `default`."""
    if table and Path(table).expanduser().is_file():
        return str(Path(table).parent)
    return os.environ.get("PNEUMO_DATA", default)


def _register_small(config_name: str, schema: type) -> None:
    """Make a command's own schema and keys known to Hydra, and the groups of conf/ that its file names.

    Other groups stay unknown: in `pneumo evaluate`, `model` is a key.
    """
    store = ConfigStore.instance()
    store.repo.pop("sweep", None)
    for group in groups(config_name):
        for file in options(group):
            store.store(group=group, name=file.stem, node=OmegaConf.load(file))
    store.store(name="schema", node=schema)
    keys = OmegaConf.load(shipped_dir("conf") / f"{config_name}.yaml")
    store.store(name=config_name, node=OmegaConf.merge(_SMALL, keys))


def task_part(composed: DictConfig) -> DictConfig:
    """A composed configuration without Hydra's own part, as a job gets it."""
    task = composed.copy()
    with open_dict(task):
        task.pop("hydra", None)
    return task


def to_config(composed: DictConfig, schema: type = Config) -> Any:
    """The typed configuration; UserError for a missing value, one out of range, or an added key."""
    _refuse_added_keys(composed, schema, schema)
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise UserError(explain(error, Typed(command="", arguments=[], schema=schema))) from None
    assert isinstance(config, schema)
    return config


def _refuse_added_keys(composed: DictConfig, schema: type, whole: type, above: str = "") -> None:
    """`+key=value` gets past the schema, but nothing would read that key."""
    known = {field.name: field.type for field in dataclasses.fields(schema)}
    for name, node in composed.items_ex(resolve=False):
        key = str(name)
        if key not in known:
            raise UserError(unknown_key(f"{above}{key}", whole))
        inner = known[key]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner) and isinstance(node, DictConfig):
            _refuse_added_keys(node, inner, whole, f"{above}{key}.")


def from_saved(file: Path) -> Config:
    """The configuration that a run saved. A key that came after the run has its neutral value.

    Raises UserError for a file that is not such a configuration.
    """
    try:
        saved: Any = OmegaConf.to_container(OmegaConf.load(file))
        whole = OmegaConf.merge(OmegaConf.structured(Config), fingerprint.with_neutral(saved))
        assert isinstance(whole, DictConfig)
        return to_config(whole)
    except (OSError, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not the configuration of a run: {first_line(error)}") from None


def compose(overrides: list[str]) -> Config:
    """The configuration that `pneumo train` makes of these overrides."""
    register()
    running = GlobalHydra.instance().hydra  # of the command that asks, with other files
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(shipped_dir("conf")), version_base="1.3"):
            return to_config(hydra.compose("train", overrides))
    finally:
        GlobalHydra.instance().hydra = running


def compose_typed(overrides: Sequence[str]) -> Config:
    """As `compose`, for words that a user gave; UserError for those that `pneumo train` would refuse."""
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise UserError(f'{overrides!r} is not a list of overrides; give ["trainer.epochs=5"], for example.')
    typed = list(overrides)
    for word in typed:
        if word.startswith("-"):
            raise UserError(f"{word} is a flag of the command line; give overrides: trainer.epochs=5.")
        if word.startswith(("sweep=", "hydra.mode=")):
            raise UserError(f"{word}: one run is composed here; start a sweep with the command.")
    words = prepare(typed, commands.find("train"))
    try:
        return compose(words)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if not isinstance(error, HydraException | OmegaConfBaseException) and NO_NAME not in str(error):
            raise  # ours
        raise UserError(explain(error, Typed(command="train", arguments=typed, schema=Config))) from None


def run_hydra(
    task: Callable[[DictConfig], Any],
    name: str,
    schema: type = Config,
    arguments: list[str] | None = None,
) -> int:
    """Run `task` on the composed command line of the command `name` (see pneumo.commands).

    Returns 0, or 2 after printing what is wrong with the command line. A `schema` other than Config is
    composed from the command's file in conf/ alone. `arguments` default to those of this process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if _answered(name, arguments):
        return 0
    command = commands.find(name)
    register()
    folder: str | None = str(shipped_dir("conf"))
    if schema is not Config:
        _register_small(command.config_name, schema)
        folder = None
        # Hydra would look for options beside the task's module and complete our packages as groups.
        task.__module__ = "__main__"
    asked_for_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        prepared = prepare(arguments, command)
    except UserError as error:
        return complain(error)
    try:
        with _given_to_hydra(prepared):
            hydra.main(config_path=folder, config_name=command.config_name, version_base="1.3")(task)()
    except UserError as error:  # of a launcher or sweeper; a job's own end with the job
        return complain(error, 1)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra raises a bare ValueError for a group set to no name (model=null); others are ours to find.
        ours = not isinstance(error, HydraException | OmegaConfBaseException) and NO_NAME not in str(error)
        if asked_for_traceback or ours:
            raise
        return complain(explain(error, Typed(command=name, arguments=arguments, schema=schema)))
    return 0


def _answered(name: str, arguments: list[str]) -> bool:
    """Print help, version or the completion script where that is asked for."""
    given = {*arguments}
    if given & {"-h", "--help"}:
        config_help.show(config_help.of_command(name, config_dir(arguments)))
    elif "--version" in given:
        print(f"pneumo {__version__}")
    elif given & {"-sc", "--shell-completion"} and given & {"install=bash", "uninstall=bash"}:
        print(completion.SCRIPT if "install=bash" in given else completion.REMOVE)
    else:
        return False
    return True


@contextlib.contextmanager
def _given_to_hydra(arguments: list[str]) -> Iterator[None]:
    """Give Hydra these arguments, and make it raise its errors, so that their messages are ours."""
    argv, variable = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [argv[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if {"-sc", "query=bash"} <= {*arguments}:
            with _one_a_line():
                yield
        else:
            yield
    finally:
        sys.argv = argv
        if variable is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = variable


@contextlib.contextmanager
def _one_a_line() -> Iterator[None]:
    """Hydra prints completions with blanks between them; a default may have blanks itself."""
    start = os.environ.get("COMP_LINE", "").rpartition(" ")[2]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    print("\n".join(word for word in printed.getvalue().split() if word.startswith(start)))


def run_action(name: str, actions: Mapping[str, tuple[Callable[[Any], int], type]]) -> int:
    """Run the sub-command of `name` that comes first on the command line; return its exit code."""
    action, *rest = sys.argv[1:] or [""]
    if rest and f"{action} {rest[0]}" in actions:  # data cache list
        action, *rest = f"{action} {rest[0]}", *rest[1:]
    if not action:
        print(config_help.of_command(name), file=sys.stderr)
        return USAGE
    if action.startswith("-") and _answered(name, [action, *rest]):
        return 0
    if action not in actions:
        close = difflib.get_close_matches(action, actions, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return complain(
            f"{action!r} is not a sub-command of pneumo {name}; they are {', '.join(actions)}.{hint}\n"
            f"usage: pneumo {name} {'|'.join(actions)} [key=value ...]"
        )
    act, schema = actions[action]
    return run_typed(act, f"{name} {action}", schema, rest)


def run_typed(
    act: Callable[[Any], int], name: str, schema: type = Config, arguments: list[str] | None = None
) -> int:
    """Run `act` on the checked configuration of the command line of the command `name`.

    Returns its exit code; 1 for a user's mistake that it meets, 2 for a wrong command line.
    """
    codes = []

    def job(composed: DictConfig) -> None:
        try:
            config = to_config(composed, schema)
        except UserError as error:
            codes.append(complain(error))
            return
        try:
            codes.append(act(config))
        except UserError as error:
            codes.append(complain(error, 1))
        except KeyboardInterrupt:
            codes.append(complain("stopped; the same command starts again", 130))

    return max([run_hydra(job, name, schema, arguments), *codes])


def complain(message: object, code: int = USAGE) -> int:
    """Print what went wrong on stderr and return the exit code."""
    print(f"error: {printable(redact(str(message)))}", file=sys.stderr)
    return code
