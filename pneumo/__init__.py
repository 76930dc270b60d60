"""Train, sweep and fairly compare chest X-ray classifiers."""

__version__ = "0.1.0"


class UserError(ValueError):
    """A mistake that the user can mend: the message gives the value, the options and the mend.

    The doors print it as one line, without a traceback.
    """


def one_of(key: str, value: object, options: object) -> None:
    """Raise UserError unless `value` is among `options`; the message names key, value and options."""
    import difflib

    names = [str(option) for option in options]  # type: ignore[attr-defined]
    if str(value) in names:
        return
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"{key}={value} is not known; the options are {', '.join(names)}.{hint}")
