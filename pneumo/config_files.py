"""Where the configuration's files are, and what their comments tell about each key."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_LINE = re.compile(
    r"(?P<indent> *)(?P<key>[\w/]+):(?: +(?P<value>\"[^\"]*\"|'[^']*'|[^#\s].*?))?(?: +#+ *(?P<comment>.*))?"
)
_NOT_KEYS = ("defaults", "hydra")


@dataclass(frozen=True, kw_only=True)
class KeyLine:
    """A key as its file gives it: `key` with dots, `value` as text, `comment` on one line."""

    key: str
    value: str
    comment: str


def project_dir() -> Path:
    """The checkout that holds this package; the working directory where the package is installed."""
    parent = Path(__file__).resolve().parent.parent
    return parent if (parent / "pyproject.toml").is_file() and (parent / "conf").is_dir() else Path.cwd()


def shipped_dir(name: str) -> Path:
    """The folder `name` (conf or sweeps): inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / name if (package / name).is_dir() else package.parent / name


def options(group: str, own: Path | None = None) -> list[Path]:
    """The option files of a config group, sorted by name; sweeps are the group `sweep`.

    Those in the user's own folder (--config-dir) are added where their names are new.
    """
    folder = shipped_dir("sweeps") if group == "sweep" else shipped_dir("conf") / group
    found = {file.stem: file for file in folder.glob("*.yaml")}
    if own is not None:
        found |= {file.stem: file for file in (own / group).glob("*.yaml") if file.stem not in found}
    return [found[name] for name in sorted(found)]


def groups(config_name: str) -> dict[str, str | None]:
    """The config groups of conf/<config_name>.yaml and the option that each has by default."""
    content = yaml.safe_load((shipped_dir("conf") / f"{config_name}.yaml").read_text(encoding="utf-8"))
    defaults: list[Any] = content.get("defaults", [])
    return {
        group: option
        for entry in defaults
        if isinstance(entry, dict)
        for group, option in entry.items()
        if not group.startswith("override ")
    }


def summary(file: Path) -> str:
    """What a file is, from the comment at its head: its question, else the first sentence."""
    head = [line.lstrip("# ") for line in _head(file) if not line.startswith("# @package")]
    questions = [line.partition(":")[2].strip() for line in head if line.startswith("Question:")]
    sentence = re.match(r".*?[.?!](?= |$)", " ".join(questions or head))
    return sentence[0] if sentence else " ".join(head)


def key_lines(file: Path) -> list[KeyLine]:
    """Every key of a file with its comment. A comment line above a key counts where the key has none."""
    found: list[KeyLine] = []
    above: list[tuple[int, str]] = []  # the keys that the current line is nested in, with their indents
    pending = ""
    for line in file.read_text(encoding="utf-8").splitlines()[len(_head(file)) :]:
        if line.lstrip().startswith("#"):
            pending = f"{pending} {line.lstrip('# ')}".strip()
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            pending = ""
            continue
        indent = len(match["indent"])
        above = [(other, key) for other, key in above if other < indent]
        names = [*(key for _, key in above), match["key"]]
        if names[0] not in _NOT_KEYS:
            if match["value"] is None:
                above.append((indent, match["key"]))
            else:
                comment = match["comment"] or pending
                found.append(KeyLine(key=".".join(names), value=match["value"], comment=comment))
        else:
            above.append((indent, match["key"]))
        pending = ""
    return found


def _head(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:count]
