"""Write docs/reference/keys.md from conf/: every key, its default in each option, and its comment.

    python tools/reference.py           write the page
    python tools/reference.py --check   write nothing; 1 if the page is out of date or a key has no comment

A key's comment is on the key's line in the yaml file: `lr: 1e-3  # the learning rate`. All options of a group
(such as conf/model/*.yaml) must give a key the same comment, because the page shows it once.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import yaml

from pneumo.config_files import KeyLine, key_lines

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/reference/keys.md"
INTERNAL = ("_target_",)  # Hydra's own, not for users to set
INTRODUCTION = """# Every key

<!-- Written by tools/reference.py from the comments in conf/. Edit those, then run `make reference`. -->

Set a key on the command line: `pneumo train optim.lr=3e-4`. Choose an option of a group by its name:
`pneumo train model=densenet121`. `pneumo train --cfg job` prints the whole configuration of a command line.
Names that begin with `$` are environment variables.
"""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One yaml file: its first comment lines and its keys."""

    file: str  # relative to the checkout
    name: str
    header: list[str]
    keys: list[KeyLine]

    @property
    def purpose(self) -> str:
        """The header, or the question of a sweep or an experiment."""
        text = " ".join(self.header)
        question = re.search(r"Question:\s*(.*?\?)", text)
        return question[1] if question else text


class UndocumentedKey(Exception):
    """A key without a comment, or with two different ones; the message names file and key."""


def read(file: Path, root: Path) -> Option:
    """A yaml file of the checkout `root`."""
    lines = file.read_text().splitlines()
    header = [line for line in takewhile(lambda line: line.startswith("#"), lines) if "@package" not in line]
    keys = [line for line in key_lines(file) if line.key not in INTERNAL]
    name = file.relative_to(root).as_posix()
    return Option(
        file=name, name=file.stem, header=[line.lstrip("# ").rstrip() for line in header], keys=keys
    )


def groups(conf: Path) -> dict[str, list[Option]]:
    """The options of every config group, by group; "" has the files of conf/ itself."""
    options: dict[str, list[Option]] = {}
    for file in sorted(conf.rglob("*.yaml")):
        group = file.parent.relative_to(conf).as_posix()
        options.setdefault("" if group == "." else group, []).append(read(file, conf.parent))
    return options


def undocumented(all_options: dict[str, list[Option]]) -> list[str]:
    """Why the page would be incomplete, one reason per line."""
    problems = []
    for group, options in all_options.items():
        if group == "experiment":  # it sets keys of other groups, which have their comments there
            continue
        first: dict[str, tuple[str, str]] = {}
        for option, line in [(each, line) for each in options for line in each.keys]:
            if not line.comment:
                short = line.key.rpartition(".")[2]
                problems.append(
                    f"{option.file}: {line.key} has no comment. Write `{short}: ...  # what it does`."
                )
                continue
            other, comment = first.setdefault(line.key, (option.file, line.comment))
            if _shown_together(group) and comment != line.comment:
                problems.append(
                    f"{option.file}: the comment of {line.key} differs from the one in {other}. The page "
                    "shows it once: make them equal."
                )
    return problems


def _shown_together(group: str) -> bool:
    """Whether the options of a group share one table. They do not if each has different keys."""
    return group != "" and not group.startswith("hydra/")


def page(conf: Path, sweeps: Path) -> str:
    """The whole page; UndocumentedKey if a key has no comment."""
    all_options = groups(conf)
    if problems := undocumented(all_options):
        raise UndocumentedKey("\n".join(problems))
    commands = {option.name: option for option in all_options.pop("")}
    experiments = all_options.pop("experiment", [])
    chosen = _defaults(conf / "train.yaml")
    parts = [INTRODUCTION, "## train\n\nKeys of `pneumo train` that belong to no group.\n"]
    parts.append(_table([commands.pop("train")], ""))
    for group in sorted(
        all_options, key=lambda name: (name.startswith("hydra/"), [*chosen, name].index(name), name)
    ):
        options, prefix = all_options[group], f"{group.replace('/', '.')}."
        if _shown_together(group):
            parts += [f"## {group}\n", _choices(group, options, chosen.get(group)), _table(options, prefix)]
            continue
        for option in options:
            parts += [f"## {group}={option.name}\n\n{option.purpose}\n", _table([option], prefix)]
    parts += [
        "## experiment\n\nAn experiment sets keys of several groups.\n",
        _choices("experiment", experiments),
    ]
    questions = [read(file, sweeps.parent) for file in sorted(sweeps.glob("*.yaml"))]
    parts += [
        "## sweep\n\nA file in `sweeps/` holds the axes of one question.\n",
        _choices("sweep", questions),
    ]
    for name, option in commands.items():
        words = name.replace("_", " ")  # runs_status holds the keys of `pneumo runs status`
        parts += [f"## {words}\n\n{_cell(option.purpose)}\n", _table([option], "")]
    return "\n".join(parts).rstrip() + "\n"


def _defaults(train: Path) -> dict[str, str]:
    """The option that train.yaml chooses for each group, in its order."""
    entries = yaml.safe_load(train.read_text())["defaults"]
    return {key: value for entry in entries if isinstance(entry, dict) for key, value in entry.items()}


def _choices(group: str, options: list[Option], chosen: str | None = None) -> str:
    """A line for each option of a group."""
    lines = ["| Choice | Meaning |", "|---|---|"]
    for option in options:
        mark = " (default)" if len(options) > 1 and option.name == chosen else ""
        lines.append(f"| `{group}={option.name}`{mark} | {_cell(option.purpose)} |")
    return "\n".join([*lines, ""])


def _table(options: list[Option], above: str) -> str:
    """A line for each key: its value and its comment. If most values differ, each option has a column."""
    values = [{line.key: line for line in option.keys} for option in options]
    names = list(dict.fromkeys(name for keys in values for name in keys))
    if above and not above.startswith("hydra."):
        names = [name for name in names if name != "name"]  # choosing the option sets it
    if not names:
        return ""

    def shown(name: str) -> list[str]:
        return [_value(keys[name].value) if name in keys else "-" for keys in values]

    many = sum(len(set(shown(name))) > 1 for name in names) > len(names) / 2
    heads = [f"in `{option.name}`" for option in options] if many else ["Default"]
    lines = [f"| Key | {' | '.join(heads)} | Meaning |", "|---" * (len(heads) + 2) + "|"]
    for name in names:
        cells = shown(name)
        if not many:
            held = dict.fromkeys(cells)  # each value once, with the options that have it
            by = {
                cell: [o.name for o, own in zip(options, cells, strict=True) if own == cell] for cell in held
            }
            cells = [
                cells[0] if len(by) == 1 else "; ".join(f"{c} ({', '.join(own)})" for c, own in by.items())
            ]
        comment = next(keys[name].comment for keys in values if name in keys)
        lines.append(f"| `{above}{name}` | {' | '.join(cells)} | {_cell(comment)} |")
    return "\n".join([*lines, ""])


def _value(written: str) -> str:
    """A readable value: environment variables and the project's folder by name."""
    text = written.strip("'\"")
    text = re.sub(r"\$\{pneumo\.project:([^}]*)\}", r"<project>/\1", text)
    if match := re.fullmatch(r"\$\{pneumo\.data_root:\$\{\.table\},(.*)\}", text):
        return f"the folder of `data.table`, else `$PNEUMO_DATA`, else {_value(match[1])}"
    if match := re.fullmatch(r"\$\{oc\.env:(\w+),(.*)\}", text):
        return f"`${match[1]}`, else {_value(match[2])}"
    return f"`{text}`" if text else "`''`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    checking = parser.parse_args().check
    try:
        text = page(ROOT / "conf", ROOT / "sweeps")
    except UndocumentedKey as error:
        print(error, file=sys.stderr)
        return 1
    file = ROOT / PAGE
    if checking:
        if not file.is_file() or file.read_text() != text:
            print(f"{PAGE} is out of date: run `make reference`", file=sys.stderr)
            return 1
        return 0
    file.write_text(text)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
