"""The errors of Hydra and OmegaConf in our words: key, value, options and fix in one message."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException

from pneumo import UserError, one_of
from pneumo.config_arguments import corrected
from pneumo.config_files import options, shipped_dir

NO_NAME = "Config group override must be a string"
# Lines of OmegaConf's messages that say nothing to a user.
_NOISE = ("object_type=", "reference_type=", "full_key:", "See ", "Set the environment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Typed:
    """What was typed: the command, its arguments, and the schema that its configuration must match."""

    command: str
    arguments: list[str]
    schema: type


def explain(error: Exception, typed: Typed) -> str:
    """One message that names value, options and fix, out of a chain of exceptions."""
    chain = [error, *([error.__cause__] if isinstance(error.__cause__, Exception) else [])]
    text = "\n".join(str(link).strip() for link in chain)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return _not_among(group, name, error.options)
    if isinstance(error, OverrideParseException):
        return _refused(error, typed)
    if NO_NAME in text:
        return _unnamed_group(typed.arguments)
    if match := re.search(r"Ambiguous value for argument '(.+)'", text):
        return (
            f"{match.group(1)} gives several values. Add --multirun to train each of them. Write a list as "
            "key=[a,b], a text with a comma as 'key=\"a,b\"'."
        )
    full_key = _search(r"full_key: (\S+)", text)
    # OmegaConf: "Key 'epoch' not in 'TrainerSettings'" with "full_key: trainer.epoch".
    if key := _search(r"Key '([^']+)' (?:is )?not in (?:'\w+'|struct)", text):
        return unknown_key(full_key or key, typed.schema, typed.command)
    if variable := _search(r"Environment variable '([^']+)' not found", text):
        key = f"{full_key}: " if full_key else ""
        return f"{key}the environment variable {variable} is not set; set it, or give the value itself."
    if full_key and (wanted := _wanted(typed.schema, full_key)):
        given = _search(r"Error merging override [+~]*[^=\s]+=(.*)", text)
        value = given if given is not None else _search(r"Value '(.*?)' (?:of type|is not)", text)
        example = _example(typed.schema, full_key)
        return f"{full_key}={value or ''} is not {wanted}: give {full_key}={example}, for example."
    lines = [line.strip() for line in text.splitlines() if not line.strip().startswith(_NOISE)]
    return "\n".join(dict.fromkeys(line for line in lines if line))


def unknown_key(full_key: str, schema: type, command: str = "") -> str:
    """Name the keys beside an unknown one, and the one that was probably meant, in any group."""
    where, _, key = full_key.rpartition(".")
    beside = _inner(schema, where)
    known = [field.name for field in dataclasses.fields(beside)] if beside else []
    if beside is schema:
        known += getattr(schema, "GROUPS_WITHOUT_KEYS", ())
    if key in known:  # a file whose keys went into its group, which has none
        example = shipped_dir("sweeps" if key == "sweep" else f"conf/{key}")
        return (
            f"the file of your option of {full_key} must begin with the line `# @package _global_`, as those "
            f"in {example} do: it sets keys of other groups."
        )
    close = [f"{where}.{name}".lstrip(".") for name in difflib.get_close_matches(key, known, n=1)]
    elsewhere = [other for other in _all_keys(schema) if other.rpartition(".")[2] == key]
    top = "the top level" if hasattr(schema, "GROUPS_WITHOUT_KEYS") or not command else command
    has = f"; {where or top} has {', '.join(known)}" if known else ""
    hint = f" Did you mean {' or '.join(close or elsewhere)}?" if close or elsewhere else ""
    return f"the key {full_key} is not known{has}.{hint}"


def _refused(error: OverrideParseException, typed: Typed) -> str:
    reason = next((line for line in str(error.__cause__ or "").splitlines() if line), "not an override")
    message = f"cannot read {error.override!r}: {reason}. Write group=option or key=value"
    key = error.override.partition("=")[0].lstrip("+")
    if _type_of(typed.schema, key).startswith(("int", "float", "bool")):
        return f"{message}; {key} takes {_wanted(typed.schema, key)}."
    if line := corrected(typed.arguments, error.override, typed.command):
        return f"{message}. A text with brackets, commas or quotes is quoted twice:\n  {line}"
    return f"{message}."


def _search(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None


def _not_among(key: str, value: str, names: Iterable[str]) -> str:
    try:
        one_of(key, value, names)
    except UserError as error:
        return str(error)
    raise AssertionError(f"{key}={value} is among its options")


def _unnamed_group(arguments: list[str]) -> str:
    """Find the group that was given null, a number or the like instead of the name of an option."""
    for argument in arguments:
        group, _, value = argument.lstrip("+").partition("=")
        names = [file.stem for file in options(group)] if group else []
        if names and value not in names:
            return _not_among(group, value, names)
    return "a group takes the name of one of its options, for example model=resnet18."


def _all_keys(schema: type, above: str = "") -> Iterator[str]:
    for field in dataclasses.fields(schema):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from _all_keys(field.type, f"{above}{field.name}.")
        else:
            yield above + field.name


def _inner(schema: type, full_key: str) -> type | None:
    """The dataclass of a group's keys; None where the group does not exist."""
    inner: Any = schema
    for part in full_key.split(".") if full_key else []:
        if not dataclasses.is_dataclass(inner):
            return None
        inner = {field.name: field.type for field in dataclasses.fields(inner)}.get(part)
    return inner if dataclasses.is_dataclass(inner) else None  # type: ignore[return-value]


def _type_of(schema: type, full_key: str) -> str:
    """The type of a value as text, such as "int | None"; empty for a key that does not exist."""
    where, _, key = full_key.rpartition(".")
    beside = _inner(schema, where)
    types = {field.name: field.type for field in dataclasses.fields(beside)} if beside else {}
    type_ = types.get(key, "")
    return type_.__name__ if isinstance(type_, type) else str(type_)


def _wanted(schema: type, full_key: str) -> str:
    type_, _, optional = _type_of(schema, full_key).partition(" | ")
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    words |= {"list[typing.Any]": "a list", "list[str]": "a list"}
    words |= {"dict[typing.Any, typing.Any]": "a mapping"}
    return words[type_] + " or null" * bool(optional) if type_ in words else ""


def _example(schema: type, full_key: str) -> str:
    where, _, key = full_key.rpartition(".")
    beside = _inner(schema, where)
    assert beside is not None
    default = {field.name: field.default for field in dataclasses.fields(beside)}[key]
    if example := {"list": "[A,B]", "dict": "{A: NORMAL}"}.get(_type_of(schema, full_key).partition("[")[0]):
        return example
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
