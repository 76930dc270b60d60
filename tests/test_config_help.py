"""`pneumo COMMAND --help`: purpose, examples, every key with its comment."""

import os
import subprocess
import sys

import pytest
from support.commands import PROJECT, Command

from pneumo import config_help
from pneumo.commands import COMMANDS, find
from pneumo.config_files import groups, key_lines, options, shipped_dir


@pytest.mark.parametrize("module", ["train", "compare", "predict"])
def test_a_commands_help_is_ours_and_not_hydras(command: Command, module: str) -> None:
    ending = command(module, "-h")
    assert ending.code == 0 and not ending.err
    assert ending.out.startswith(f"pneumo {module}: {find(module).purpose}.")
    assert "powered by Hydra" not in ending.out and ending.out.count(f"\n  pneumo {module} ") == 3


def test_train_lists_every_key_of_every_option() -> None:
    text = config_help.of_command("train")
    for group in groups("train"):
        for file in options(group):
            assert f"  {file.stem}" in text
            keys = key_lines(file) if group not in ("experiment", "sweep") else []
            for line in keys:
                assert line.key == "name" or f"  {group}.{line.key} [" in text, (file, line)
    for line in key_lines(shipped_dir("conf") / "train.yaml"):
        assert f"  {line.key} [" in text
    assert "data.root [$PNEUMO_DATA, else ./data/chest_xray]" in text
    assert max(map(len, text.splitlines())) <= 120


def test_sub_commands_have_help_of_their_own() -> None:
    for name in ("runs", "data"):
        text = config_help.of_command(name)
        for action, inner in COMMANDS[name].actions.items():
            assert f"  {action} " in text
            assert all(example in config_help.of_command(f"{name} {action}") for example in inner.examples)


@pytest.mark.parametrize(
    ("name", "several_runs", "more_options"),
    [("train", True, True), ("data check", False, True), ("runs status", False, False), ("ui", False, False)],
)
def test_only_flags_that_a_command_can_use_are_listed(
    name: str, several_runs: bool, more_options: bool
) -> None:
    _, flags = config_help.of_command(name).split("\nFlags\n")
    assert ("--multirun" in flags, "--config-dir" in flags) == (several_runs, more_options)
    assert "--cfg job" in flags and "--version" in flags


def test_hydras_own_flags_still_work(command: Command) -> None:
    assert "seed: 7" in command("train", "seed=7", "--cfg", "job").out
    assert "Hydra" in command("train", "--hydra-help").out
    assert "Defaults List" in command("train", "--info", "defaults", "seed=1").out
    assert "draws: 2000" in command("compare", "--cfg", "job").out


def test_a_reader_that_ends_early_is_not_an_error() -> None:
    line = f"{sys.executable} -m pneumo train --help | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=PROJECT, env={**os.environ}, timeout=120
    )
    assert not done.stderr and done.stdout.strip() == "0"
