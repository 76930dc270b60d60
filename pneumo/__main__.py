"""`pneumo COMMAND ...` and `python -m pneumo COMMAND ...`."""

import difflib
import importlib
import sys

from pneumo import __version__
from pneumo.commands import COMMANDS


def main() -> None:
    """Hand the rest of the command line to the command that comes first on it."""
    name, *rest = sys.argv[1:] or [""]
    if name in ("-h", "--help", ""):
        from pneumo.config_help import overview, show

        if name:
            show(overview())
            sys.exit(0)
        print(overview(), file=sys.stderr)
        sys.exit(2)
    if name == "--version":
        print(f"pneumo {__version__}")
        sys.exit(0)
    if name == "completion":
        from pneumo.completion import answer

        asked = answer(rest)
        if not asked:
            sys.exit(2 if asked is None else 0)
        name, *rest = asked
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        print(
            f"error: {name!r} is not a command; the commands are {', '.join(COMMANDS)}.{hint}",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.argv = [sys.argv[0], *rest]
    importlib.import_module(COMMANDS[name].module).main()


if __name__ == "__main__":
    main()
