"""The description of each command agrees with its module, its file in conf/ and its settings."""

import dataclasses
import importlib
from collections.abc import Iterator

import pytest
import yaml

from pneumo import compare, config, predict, runs, ui
from pneumo.commands import COMMANDS, Command, find
from pneumo.config_arguments import prepare
from pneumo.config_files import groups, key_lines, shipped_dir

SCHEMAS = {
    "compare": compare.CompareConfig,
    "predict": predict.PredictConfig,
    "ui": ui.UiConfig,
    **{f"runs {name}": schema for name, (_, schema) in runs.ACTIONS.items()},
}


def leaves() -> Iterator[tuple[str, Command]]:
    for name, command in COMMANDS.items():
        yield from ((f"{name} {action}", inner) for action, inner in command.actions.items())
        if not command.actions:
            yield name, command


NAMES = [name for name, _ in leaves()]


def test_every_command_has_a_main() -> None:
    for command in COMMANDS.values():
        assert callable(importlib.import_module(command.module).main)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_of_its_command_and_can_be_read(name: str) -> None:
    command = find(name)
    for example in command.examples:
        assert example.startswith(f"pneumo {name}")
        assert prepare(example.replace("'", "").split()[1 + len(name.split()) :], command) is not None


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_has_the_keys_and_defaults_of_the_settings(name: str) -> None:
    file = shipped_dir("conf") / f"{find(name).config_name}.yaml"
    content = yaml.safe_load(file.read_text())
    fields = {field.name: field for field in dataclasses.fields(SCHEMAS[name])}
    of_hydra = {"defaults", "hydra"} if (in_groups := {*groups(find(name).config_name)}) else set()
    assert {*content} - of_hydra == {*fields} - in_groups
    content = {key: value for key, value in content.items() if key not in of_hydra}
    for key, value in content.items():
        if not isinstance(value, dict) and "${" not in str(value):
            assert value == fields[key].default, key
    commented = [line.key for line in key_lines(file) if line.comment]
    assert len(commented) >= len(key_lines(file)) - 1  # batch_size speaks for itself


def test_every_path_is_a_key_of_its_command() -> None:
    for name, command in leaves():
        known = {line.key for line in key_lines(shipped_dir("conf") / f"{command.config_name}.yaml")}
        if name in SCHEMAS:
            assert {*command.renamed.values(), *command.lists} <= known, name
            assert command.word is None or command.word in known


def test_an_unknown_name_is_a_key_error() -> None:
    assert find("runs status").config_name == "runs_status"
    with pytest.raises(KeyError):
        find("runs statsu")
    assert config.USAGE == 2
