"""Train, sweep and fairly compare chest X-ray classifiers."""

import difflib
from collections.abc import Iterable

__version__ = "0.1.0"


class UserError(ValueError):
    """A mistake that the user can fix. The message gives the value, the options and the fix.

    The commands print it as one line, without a traceback.
    """


def one_of(key: str, value: object, options: Iterable[object]) -> None:
    """Raise UserError unless `value` is among `options`. The message names key, value and options."""
    names = [str(option) for option in options]
    if str(value) in names:
        return
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"{key}={value} is not known; the options are {', '.join(names)}.{hint}")
