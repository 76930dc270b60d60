"""yaml becomes typed dataclasses once, here; Hydra starts here too, so that one place words its errors."""

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pneumo import UserError, one_of
from pneumo.data.settings import AugmentSettings, DataSettings, SamplerSettings
from pneumo.models.settings import ModelSettings
from pneumo.tracking.journal import redact
from pneumo.tracking.settings import SearchSettings, TrackingSettings
from pneumo.training.settings import OptimSettings, ScheduleSettings, TrainerSettings

_SWEEP_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,79}", re.ASCII)
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
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = 0
    force: bool = False
    sweep_id: str | None = None
    on_failure: str = "continue"
    keep_best: int | None = 3
    output_dir: str = "${pneumo.project:outputs}"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative.")
        check_sweep(self.sweep_id, self.on_failure, self.keep_best)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def as_yaml(self) -> str:
        """For a file that others read: without the credentials of any URI."""
        return redact(OmegaConf.to_yaml(OmegaConf.create(self.as_dict())))


def check_sweep(sweep_id: str | None, on_failure: str, keep_best: int | None) -> None:
    """Raise UserError for settings of a sweep that cannot be."""
    if sweep_id is not None and not _SWEEP_ID.fullmatch(sweep_id):
        raise UserError(
            f"sweep_id={sweep_id} names a folder: give at most 80 letters, digits, '_', '-' and '.', for "
            "example sweep_id=dropout_1."
        )
    one_of("on_failure", on_failure, ("continue", "stop"))
    if keep_best is not None and keep_best < 0:
        raise UserError(f"keep_best={keep_best} must not be negative; 0 keeps no weights, null keeps all.")


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
    OmegaConf.register_new_resolver("pneumo.shipped", lambda name: str(shipped_dir(name)), replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for file in sorted(shipped_dir("sweeps").glob("*.yaml")):
        store.store(group="sweep", name=file.stem, node=OmegaConf.load(file), package="_global_")
    Plugins.instance()  # finds the published launchers
    for file in (shipped_dir("conf") / "hydra").rglob("*.yaml"):  # whose schemas would refuse our keys
        store.repo.get("hydra", {}).get(file.parent.name, {}).pop(file.name, None)


def task_part(composed: DictConfig) -> DictConfig:
    """A composed configuration without Hydra's own part, as a job gets it."""
    task = composed.copy()
    with open_dict(task):
        task.pop("hydra", None)
    return task


def to_config(composed: DictConfig, schema: type = Config) -> Any:
    """The typed configuration; UserError for a value that is out of range or misses, or an added key."""
    _refuse_added_keys(composed, schema)
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise UserError(_words(error)) from None
    assert isinstance(config, schema)
    return config


def _refuse_added_keys(composed: DictConfig, schema: type, above: str = "") -> None:
    """`+key=value` gets past the schema; nothing would read that key."""
    known = {field.name: field.type for field in dataclasses.fields(schema)}
    for name, node in composed.items_ex(resolve=False):
        key = str(name)
        if key not in known:
            raise UserError(_unknown_key(f"{above}{key}"))
        inner = known[key]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner) and isinstance(node, DictConfig):
            _refuse_added_keys(node, inner, f"{above}{key}.")


_root: type = Config  # the schema of the door that runs


def run_hydra(task: Callable[[DictConfig], Any], config_name: str, schema: type = Config) -> int:
    """Run `task` on the composed command line; return 0, or 2 after naming what is wrong with it.

    A `schema` of the door's own is composed from conf/<config_name>.yaml alone: it has no groups, so that its
    keys may bear their names (experiment=NAME).
    """
    global _root
    _root = schema
    register()
    folder: str | None = str(shipped_dir("conf"))
    if schema is not Config:
        store = ConfigStore.instance()
        store.repo.pop("sweep", None)
        store.store(name="schema", node=schema)
        store.store(name=config_name, node=OmegaConf.load(shipped_dir("conf") / f"{config_name}.yaml"))
        folder = None
    # Hydra would print its own long answers and exit with 1; raising instead, it leaves the words to us.
    asked_for_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweeps = [argument for argument in sys.argv[1:] if argument.startswith("sweep=") and "," in argument]
    if sweeps:
        return complain(f"{sweeps[0]}: one sweep at a time; give the sweeps as separate commands.")
    if targets := [argument for argument in sys.argv[1:] if re.search(r"(?<!\w)_target_\s*[=:]", argument)]:
        return complain(f"{targets[0]}: no class or function is taken from the command line.")
    try:
        hydra.main(config_path=folder, config_name=config_name, version_base="1.3")(task)()
    except UserError as error:  # of a launcher or sweeper; a job's own end with the job
        return complain(error, 1)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra raises a bare ValueError for a group set to no name (model=null); others are ours to find.
        ours = not isinstance(error, HydraException | OmegaConfBaseException) and NO_NAME not in str(error)
        if asked_for_traceback or ours:
            raise
        return complain(_words(error))
    return 0


def compose(overrides: list[str]) -> Config:
    """What a command line of these overrides would be; only within an action."""
    return to_config(hydra.compose("train", overrides))


def run_action(actions: Mapping[str, Callable[[Config], int]], usage: str) -> int:
    """Carry out the action that the command line names first, on the configuration of the rest of it."""
    action = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if action in ("-h", "--help"):
        print(usage)
        return 0
    if action not in actions:
        return complain(f"{action or 'no action'!r} is not known.\n{usage}")
    return run_typed(actions[action], "train")


def run_typed(act: Callable[[Any], int], config_name: str, schema: type = Config) -> int:
    """Carry out `act` on the checked configuration of the command line.

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

    return max([run_hydra(job, config_name, schema), *codes])


def complain(message: object, code: int = USAGE) -> int:
    """Name what went wrong on stderr and return the exit code."""
    # A file's name can hold anything, also what would steer the terminal.
    kept = (sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in redact(str(message)))
    print(f"error: {''.join(kept)}", file=sys.stderr)
    return code


def _words(error: Exception) -> str:
    """One message that names value, options and mend, out of Hydra's and OmegaConf's chain of them."""
    chain = [error, *([error.__cause__] if isinstance(error.__cause__, Exception) else [])]
    text = "\n".join(str(link).strip() for link in chain)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return _not_among(group, name, error.options)
    if isinstance(error, OverrideParseException):
        reason = next((line for line in str(error.__cause__ or "").splitlines() if line), "it is no override")
        return (
            f"cannot read {error.override!r}: {reason}. Write group=option or key=value, and quote a value "
            "that holds brackets, commas or quotes: 'key=\"a,b\"'."
        )
    if NO_NAME in text:
        return _unnamed_group()
    if match := re.search(r"Ambiguous value for argument '(.+)'", text):
        return (
            f"{match.group(1)} gives several values. Add --multirun to train each of them; a list is written "
            "key=[a,b], a text with a comma 'key=\"a,b\"'."
        )
    full_key = _search(r"full_key: (\S+)", text)
    # OmegaConf: "Key 'epoch' not in 'TrainerSettings'" with "full_key: trainer.epoch".
    if key := _search(r"Key '([^']+)' (?:is )?not in (?:'\w+'|struct)", text):
        return _unknown_key(full_key or key)
    if variable := _search(r"Environment variable '([^']+)' not found", text):
        key = f"{full_key}: " if full_key else ""
        return f"{key}the environment variable {variable} is not set; set it, or give the value itself."
    if full_key and (wanted := _wanted(full_key)):
        given = _search(r"Error merging override [+~]*[^=\s]+=(.*)", text)
        value = given if given is not None else _search(r"Value '(.*?)' (?:of type|is not)", text)
        return f"{full_key}={value or ''} is not {wanted}: give {full_key}={_example(full_key)}, for example."
    noise = ("object_type=", "reference_type=", "full_key:", "See ", "Set the environment")
    lines = [line.strip() for line in text.splitlines() if not line.strip().startswith(noise)]
    return "\n".join(dict.fromkeys(line for line in lines if line))


NO_NAME = "Config group override must be a string"


def _search(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None


def _not_among(key: str, value: str, options: Iterable[str]) -> str:
    try:
        one_of(key, value, options)
    except UserError as error:
        return str(error)
    raise AssertionError(f"{key}={value} is among its options")


def _unnamed_group() -> str:
    """Find the group that was given null, a number or the like instead of the name of an option."""
    for argument in sys.argv[1:]:
        group, _, value = argument.lstrip("+").partition("=")
        options = sorted(file.stem for file in (shipped_dir("conf") / group).glob("*.yaml"))
        if group and options and value not in options:
            return _not_among(group, value, options)
    return "a group takes the name of one of its options, for example model=resnet18."


def _unknown_key(full_key: str) -> str:
    """Say which keys there are beside it, and the likeliest that was meant, wherever it lies."""
    where, _, key = full_key.rpartition(".")
    beside = _schema(where)
    known = [field.name for field in dataclasses.fields(beside)] if beside else []
    if beside is Config:
        known += ["experiment", "sweep"]
    if key in known:  # a group that Hydra has no option of
        return f"{full_key} has no such option: {shipped_dir(key)} holds none."
    close = [f"{where}.{name}".lstrip(".") for name in difflib.get_close_matches(key, known, n=1)]
    elsewhere = [other for other in _all_keys() if other.rpartition(".")[2] == key]
    has = f"; {where or 'the top level'} has {', '.join(known)}" if known else ""
    hint = f" Did you mean {' or '.join(close or elsewhere)}?" if close or elsewhere else ""
    return f"the key {full_key} is not known{has}.{hint}"


def _all_keys(schema: type | None = None, above: str = "") -> Iterator[str]:
    for field_ in dataclasses.fields(schema or _root):
        if isinstance(field_.type, type) and dataclasses.is_dataclass(field_.type):
            yield from _all_keys(field_.type, f"{above}{field_.name}.")
        else:
            yield above + field_.name


def _schema(full_key: str) -> type | None:
    """The type of a key's settings: a dataclass for a group, None where there is no such key."""
    schema: Any = _root
    for part in full_key.split(".") if full_key else []:
        if not dataclasses.is_dataclass(schema):
            return None
        schema = {field.name: field.type for field in dataclasses.fields(schema)}.get(part)
    return schema if dataclasses.is_dataclass(schema) else None  # type: ignore[return-value]


def _type_of(full_key: str) -> str:
    """The type of a value as text, such as "int | None"; empty where the key is none of ours."""
    where, _, key = full_key.rpartition(".")
    beside = _schema(where)
    types = {field.name: field.type for field in dataclasses.fields(beside)} if beside else {}
    type_ = types.get(key, "")
    return type_.__name__ if isinstance(type_, type) else str(type_)


def _wanted(full_key: str) -> str:
    type_, _, optional = _type_of(full_key).partition(" | ")
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    return words[type_] + " or null" * bool(optional) if type_ in words else ""


def _example(full_key: str) -> str:
    where, _, key = full_key.rpartition(".")
    beside = _schema(where)
    assert beside is not None
    default = {field.name: field.default for field in dataclasses.fields(beside)}[key]
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
