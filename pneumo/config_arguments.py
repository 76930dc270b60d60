"""The command line as typed becomes the arguments that Hydra takes.

Flags may be anywhere, paths are used as typed, old spellings of keys still work.
"""

import difflib
import re
import shlex
import sys
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from pneumo import UserError
from pneumo.commands import Command

_BARE = "-h --help --hydra-help --version --resolve -r --run -m --multirun -sc --shell-completion".split()
_WITH_VALUE = (
    *("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir", "--experimental-rerun"),
)
_INFO = ("-i", "--info")
_INFO_VALUES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
FLAG_NAMES = sorted(flag for flag in (*_BARE, *_WITH_VALUE, *_INFO) if flag.startswith("--"))
_TARGET = re.compile(r"(?<!\w)_target_\s*[=:]")
_KEY = re.compile(r"(?P<sign>[+~]*)(?P<key>[\w./@:-]+)=(?P<value>.*)", re.DOTALL)


def split_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The flags with their values, and the other words, each in the order typed.

    Hydra's own parser wants the words side by side: `model=a -m seed=1,2` is refused.
    """
    flags: list[str] = []
    words: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            words += rest
            break
        if not re.match(r"--?[a-z]", argument):
            words.append(argument)
            continue
        name, equals, value = argument.partition("=")
        name = _whole(name)
        if name in _INFO and not equals:
            flags.append(f"--info={rest.pop(0) if rest and rest[0] in _INFO_VALUES else 'all'}")
        elif name in _WITH_VALUE and not equals:
            if not rest:
                raise UserError(f"{name} needs a value after it.")
            flags += [name, rest.pop(0)]
        else:
            flags.append(name + equals + value)
    return flags, words


def config_dir(arguments: list[str]) -> Path | None:
    """The user's own folder of options, if the command line names one that exists."""
    flags, _ = split_flags(arguments)
    for flag, following in zip(flags, [*flags[1:], ""], strict=True):
        name, equals, value = flag.partition("=")
        if name in ("-cd", "--config-dir"):
            folder = Path(value if equals else following)
            return folder if folder.is_dir() else None
    return None


def _whole(flag: str) -> str:
    """A flag's name where its beginning was typed; UserError for one that does not exist."""
    known = (*_BARE, *_WITH_VALUE, *_INFO)
    if flag in known:
        return flag
    begun = [name for name in known if len(flag) > 3 and name.startswith(flag)]
    if len(begun) == 1:
        return begun[0]
    close = difflib.get_close_matches(flag, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"{flag} is not a flag; the flags are {', '.join(FLAG_NAMES)}.{hint}")


def prepare(arguments: list[str], command: Command) -> list[str]:
    """The arguments for Hydra; UserError for what cannot be meant. Old spellings get a note on stderr."""
    flags, words = split_flags(arguments)
    several = bool({"-m", "--multirun"} & {*flags})
    several |= any(word.startswith(("sweep=", "hydra.mode=MULTIRUN")) for word in words)
    prepared = []
    for word in words:
        if command.word and not _names_key(word):
            word = f"{command.word}={word}"
        if word.startswith("sweep=") and "," in word and "sweep" not in command.renamed:
            raise UserError(f"{word}: one sweep at a time; give the sweeps as separate commands.")
        if _TARGET.search(word):
            raise UserError(f"{word}: no class or function is taken from the command line.")
        prepared.append(_prepared(word, command, several))
    return [*flags, *prepared]


def _names_key(word: str) -> bool:
    """False for a word that is a value by itself, such as a folder, even one with "=" in its name."""
    return "=" in word and not (_exists(word) or word.startswith(("/", "./", "~/")))


def _prepared(word: str, command: Command, several: bool) -> str:
    match = _KEY.fullmatch(word)
    if match is None:
        return word
    sign, key, value = match["sign"], match["key"], match["value"]
    if key in command.renamed:
        new = command.renamed[key]
        print(f"note: {key}= is the old spelling; write {new}=", file=sys.stderr)
        key = new
    if key in command.paths and not sign.startswith("~"):
        value = as_typed(key, value, several=several, lists=key in command.lists)
    return f"{sign}{key}={value}"


def as_typed(key: str, value: str, *, several: bool = False, lists: bool = False) -> str:
    """A path as an override's value that Hydra reads as exactly this path.

    A file of that very name comes first. Else these keep their meaning: null, an interpolation, a quoted
    value, with `lists` a list, and with `several` (a sweep) values with commas between them.
    """
    parsed = _parse(f"{key}={value}")
    if not _exists(value):
        quoted = value[:1] in ("'", '"') and value[-1:] == value[:1]
        if value in ("", "null") or "${" in value or (quoted and parsed is not None):
            return value
        if several and parsed is not None and parsed.is_sweep_override():
            return value
        if lists and value.startswith("[") and value.endswith("]"):
            return f"[{','.join(as_typed(key, part) for part in _parts(value[1:-1]))}]"
    if parsed is not None and not parsed.is_sweep_override() and parsed.value() == value:
        return value
    return quote(value)


def quote(text: str) -> str:
    """`text` in the quotes of Hydra's grammar."""
    for kind in (Quote.double, Quote.single):
        quoted = QuotedString(text, kind).with_quotes()
        parsed = _parse(f"key={quoted}")
        if parsed is not None and parsed.value() == text:
            return quoted
    raise UserError(f"{text!r} cannot be written on the command line; rename the file.")


def corrected(arguments: list[str], refused: str, name: str) -> str | None:
    """The command line with the value of `refused` quoted for a shell; None if that does not help."""
    match = _KEY.fullmatch(refused)
    if match is None:
        return None
    try:
        quoted = f"{match['sign']}{match['key']}={quote(match['value'])}"
    except UserError:
        return None
    if _parse(quoted) is None:
        return None
    line = [quoted if argument == refused else argument for argument in arguments]
    return f"pneumo {name} {shlex.join(line)}"


def _parse(text: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, ValueError):
        return None


def _parts(text: str) -> list[str]:
    """The elements of a list, apart at commas that are not inside quotes."""
    parts = re.findall(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,])+""", text)
    return [part.strip() for part in parts if part.strip()]


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, an unknown user after "~"
        return False
