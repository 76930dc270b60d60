"""TAB in a real bash completes commands, sub-commands, groups, options and keys."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import environment

from pneumo import completion

LINES = {
    "pneumo tr": ["train"],
    "pneumo runs st": ["status"],
    "pneumo train mod": ["model.", "model="],
    "pneumo train model=res": ["resnet18", "resnet50"],
    "pneumo train model=resnet18 -m trainer.epo": ["trainer.epochs="],
    "pneumo runs status wa": ["watch="],
    "pneumo data c": ["check", "cache", "copies"],
    "pneumo data cache l": ["list"],
    "pneumo data cache prune dry": ["dry_run="],
    "pneumo data cache data.ima": ["data.image_size="],
    "pneumo runs status t": ["tracking."],
    "pneumo compare e": [],  # neither our packages nor the groups of train
    "pneumo completion ": ["bash"],
    "pneumo completion bash ": [],
}


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a bash that finds `pneumo`, as an installed package gives it."""
    tmp_path = tmp_path_factory.mktemp("bash")
    program = tmp_path / "bin" / "pneumo"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pneumo "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return environment(tmp_path, PATH=f"{program.parent}:{os.environ['PATH']}")


@pytest.fixture(scope="module")
def completed(bash: dict[str, str]) -> dict[str, list[str]]:
    """What one bash would offer at the end of each line: the words as readline cuts them, then COMPREPLY."""
    script = (
        'eval "$(pneumo completion bash)"; for COMP_LINE; do COMP_POINT=${#COMP_LINE}; '
        'COMP_WORDS=($COMP_LINE); COMPREPLY=(); _pneumo; echo "${COMPREPLY[*]}"; done'
    )
    command = ["bash", "--norc", "-c", script, "bash", *LINES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=bash)
    assert done.returncode == 0, done.stderr
    return {line: words.split() for line, words in zip(LINES, done.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("line", LINES)
def test_bash_completes(completed: dict[str, list[str]], line: str) -> None:
    assert completed[line] == LINES[line]


def test_tab_in_a_terminal(bash: dict[str, str], tmp_path: Path) -> None:
    if not shutil.which("tmux"):
        pytest.skip("tmux is not installed")
    rc = tmp_path / "rc"
    rc.write_text('PS1="ready> "; eval "$(pneumo completion bash)"\n')
    tmux = ["tmux", "-S", str(tmp_path / "socket")]

    def call(*arguments: str) -> str:
        return subprocess.run(
            [*tmux, *arguments], capture_output=True, text=True, env=bash, check=True
        ).stdout

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in (screen := call("capture-pane", "-p")):
            assert time.monotonic() < deadline, screen
            time.sleep(0.2)

    call("-f", "/dev/null", "new-session", "-d", f"bash --noprofile --rcfile {rc} -i")
    try:
        wait_for("ready>")
        call("send-keys", "pneumo train mod", "Tab")
        wait_for("pneumo train model")
        call("send-keys", "=den", "Tab")
        wait_for("pneumo train model=densenet121")
    finally:
        call("kill-server")


def test_flags_are_completed_and_wrong_usage_is_named(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", "pneumo train --mul")
    assert completion.answer(["query"]) == [] and capsys.readouterr().out == "--multirun \n"
    assert completion.answer(["fish"]) is None and "pneumo completion bash" in capsys.readouterr().err
