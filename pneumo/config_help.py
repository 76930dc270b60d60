"""The help of each command: purpose, examples, and the commented keys of conf/."""

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from pneumo import __version__
from pneumo.commands import COMMANDS, PURPOSE, RUN_FORMS, Command, find
from pneumo.config_files import KeyLine, groups, key_lines, options, shipped_dir, summary

WIDTH = 100
COLUMN = 40  # where the explanations begin
_FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+),'?(.*?)'?\}$")
_DATA_ROOT = re.compile(r"\$\{pneumo\.data_root:\$\{\.table\},(.*?)\}$")
_IN_PROJECT = re.compile(r"\$\{pneumo\.project:([^}]*)\}")
_SEVERAL_RUNS, _MORE_OPTIONS = "-m, --multirun", "-cd DIR, --config-dir DIR"
FLAGS = {
    _SEVERAL_RUNS: "one run for each combination of values: seed=0,1 model=resnet18,resnet50",
    "-c job, --cfg job": "print the configuration instead of running it",
    "-i, --info": "print how Hydra composed the configuration",
    _MORE_OPTIONS: "look for options in DIR too",
    "--hydra-help": "Hydra's own help",
    "--version": "the version of this project",
}


def overview() -> str:
    """What `pneumo --help` prints."""
    examples = (
        "pneumo train data=phantom data.image_size=64 trainer.epochs=2",
        "pneumo compare tracking.experiment=pneumo",
        "pneumo predict model=RUN_ID input=DIR",
    )
    lines = [f"pneumo {__version__}: {PURPOSE}", "", "Usage: pneumo COMMAND [key=value ...]", ""]
    lines += ["Commands", *_listed({name: command.purpose for name, command in COMMANDS.items()}), ""]
    lines += _examples(examples)
    lines += ["`pneumo COMMAND --help` lists the keys of a command.", f"Completion in bash: {INSTALL}"]
    return "\n".join(lines)


INSTALL = 'eval "$(pneumo completion bash)"'


def of_command(name: str, own: Path | None = None) -> str:
    """What `pneumo NAME --help` prints, with the options in the folder `own` of the user.

    A name with a blank is a sub-command.
    """
    command = find(name)
    lines = [f"pneumo {name}: {command.purpose}.", ""]
    if command.actions:
        lines += [f"Usage: pneumo {name} {'|'.join(command.actions)} [key=value ...]", ""]
        shown = {action: inner.purpose for action, inner in command.actions.items()}
        lines += ["Sub-commands", *_listed(shown), "", *_examples(command.examples)]
        lines += [f"`pneumo {name} SUB-COMMAND --help` lists its keys."]
        return "\n".join(lines)
    word = " [RUN]" if name in ("runs status", "runs sync") else " RUN" if command.word else ""
    choices = " [group=option ...]" if groups(command.config_name) else ""
    lines += [
        f"Usage: pneumo {name}{word}{choices} [key=value ...] [flags]",
        "",
        *_examples(command.examples),
    ]
    if command.word:
        takes_models = name in ("runs export", "runs recalibrate")
        also = "; also a model, as models:/NAME@ALIAS" if takes_models else ""
        lines += [*textwrap.wrap(f"RUN is {RUN_FORMS}{also}.", WIDTH), ""]
    lines += _keys(command, own)
    pointless = {*([] if name == "train" else [_SEVERAL_RUNS]), *([] if choices else [_MORE_OPTIONS])}
    lines += ["Flags", *_listed({flag: text for flag, text in FLAGS.items() if flag not in pointless})]
    return "\n".join(lines)


def _keys(command: Command, own_dir: Path | None) -> list[str]:
    """The keys of the command's file, then each group with its options and their keys."""
    own = key_lines(shipped_dir("conf") / f"{command.config_name}.yaml")
    lines = ["Keys [default]", *_listed(_shown(own)), ""] if command.groups is None else []
    for group, default in groups(command.config_name).items():
        if command.groups is not None and group not in command.groups:
            continue
        files = options(group, own_dir)
        lines.append(f"{group}={'|'.join(file.stem for file in files)} [{default or 'null'}]")
        lines += _listed({file.stem: summary(file) for file in files})
        if default:
            lines += _listed(_shown(_union(group, default)))
        lines.append("")
    return lines


def _union(group: str, default: str) -> list[KeyLine]:
    """The keys of a group: those of its default option, then those that only other options have."""
    found: dict[str, KeyLine] = {}
    files = sorted(options(group), key=lambda file: file.stem != default)
    for file in files:
        for line in key_lines(file):
            if line.key != "name":
                found.setdefault(f"{group}.{line.key}", line)
    return [KeyLine(key=key, value=line.value, comment=line.comment) for key, line in found.items()]


def _shown(lines: Iterable[KeyLine]) -> dict[str, str]:
    return {f"{line.key} [{_plain(line.value)}]": line.comment for line in lines}


def _plain(value: str) -> str:
    """A default as people read it: "$PNEUMO_DATA, else ./data/chest_xray"."""
    value = _IN_PROJECT.sub(r"<project>/\1", value)
    value = _DATA_ROOT.sub(r"the table's folder, else $PNEUMO_DATA, else \1", value)
    return _FROM_ENVIRONMENT.sub(r"$\1, else \2", value)


def show(text: str) -> None:
    """Print `text`. A reader that ends early, such as `head`, is not an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - the interpreter flushes it at its end


def _listed(entries: Mapping[str, str]) -> list[str]:
    lines = []
    for name, text in entries.items():
        head = f"  {name}"
        wrapped = textwrap.wrap(text, WIDTH - COLUMN) or [""]
        if len(head) >= COLUMN:
            lines.append(head)
            head = ""
        if head or wrapped[0]:
            lines.append(f"{head:<{COLUMN}}{wrapped[0]}".rstrip())
        lines += [" " * COLUMN + line for line in wrapped[1:]]
    return lines


def _examples(examples: Iterable[str]) -> list[str]:
    return ["Examples", *(f"  {example}" for example in examples), ""]
