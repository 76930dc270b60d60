"""Completion in bash: the script to load, and the words that may come next."""

import os
import sys

from pneumo.commands import COMMANDS
from pneumo.config_arguments import FLAG_NAMES, split_flags

# Bash splits words at "=" and ":" and replaces the last part only, so the part before it is cut off here.
SCRIPT = """_pneumo() {
    local word=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^=:]/} head= line
    word=${word##*[[:space:]]}
    [[ -n $breaks ]] && head=${word%"${word##*[$breaks]}"}
    COMPREPLY=()
    while IFS= read -r line; do
        [[ -n $line ]] && COMPREPLY+=("${line#"$head"}")
    done < <(COMP_LINE=${COMP_LINE:0:COMP_POINT} "${COMP_WORDS[0]}" completion query 2>/dev/null)
}
complete -o nospace -o default -F _pneumo pneumo"""
REMOVE = "complete -r pneumo; unset -f _pneumo"


def answer(arguments: list[str]) -> list[str] | None:
    """Print what `pneumo completion ...` asks for.

    The keys of a command are its own to print: then the command line that does it is returned, without
    "pneumo". None is wrong usage.
    """
    if arguments == ["bash"]:
        print(SCRIPT)
        return []
    if arguments == ["query"]:
        return _query(os.environ.get("COMP_LINE", ""))
    print('error: give `pneumo completion bash`; eval "$(pneumo completion bash)" loads it.', file=sys.stderr)
    return None


def _query(line: str) -> list[str]:
    """Print what the last word of `line` may become, one a line. A blank after a word: it is complete."""
    typed = line.split()[1:]
    last = typed.pop() if typed and not line.endswith((" ", "\t")) else ""
    if not typed:
        return _print(last, [f"{name} " for name in (*COMMANDS, "completion", "--help", "--version")])
    if typed[0] == "completion":
        return _print(last, ["bash "] if len(typed) == 1 else [])
    command = COMMANDS.get(typed[0])
    if command is None:
        return []
    if command.actions and len(typed) == 1:
        return _print(last, [f"{name} " for name in (*command.actions, "--help") if " " not in name])
    inner = [name.split()[1] for name in command.actions if name.startswith(f"{' '.join(typed[1:])} ")]
    if last and any(name.startswith(last) for name in inner):  # data cache li
        return _print(last, [f"{name} " for name in inner])
    if last.startswith("-"):
        return _print(last, [f"{flag} " for flag in FLAG_NAMES])
    names = typed[: 2 if command.actions else 1]
    if " ".join(typed[1:3]) in command.actions:
        names = typed[:3]
    flags, words = split_flags(typed[len(names) :])
    os.environ["COMP_LINE"] = " ".join(["pneumo", *flags, *words, last])
    return [*names, "-sc", "query=bash"]


def _print(start: str, words: list[str]) -> list[str]:
    print("\n".join(word for word in words if word.startswith(start)))
    return []
