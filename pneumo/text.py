"""Text for people: tables in the terminal, numbers for JSON, errors in one line."""

import math
import numbers
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

LEAST_CHARS = 20  # of a table's first column
UTC_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def table(rows: Sequence[Mapping[str, object]], width: int | None = None) -> str:
    """Rows as aligned plain text. The columns are the first row's keys; floats have 4 decimals.

    With `width`, the first column loses the middle of its texts where the lines would be longer.
    """
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(text) for text in texts) for texts in zip(columns, *cells, strict=True)]
    if width is not None:
        room = max(width - sum(widths[1:]) - 2 * len(widths[1:]), LEAST_CHARS)
        for cell in cells:
            cell[0] = _shortened(cell[0], room)
        widths[0] = max(len(text) for text in (columns[0], *(cell[0] for cell in cells)))
    numeric = [any(isinstance(row.get(c), numbers.Real) for row in rows) for c in columns]

    def line(texts: Sequence[str]) -> str:
        parts = zip(texts, widths, numeric, strict=True)
        return "  ".join(t.rjust(w) if right else t.ljust(w) for t, w, right in parts).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, cells)])


def _shortened(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    head = (room - 3) // 2
    return f"{text[:head]}...{text[len(text) - (room - 3 - head) :]}"


def utc_now() -> str:
    """The time now in UTC, as tags hold it: 2026-01-31T12:00:00Z."""
    return time.strftime(UTC_FORMAT, time.gmtime())


def clock(seconds: float) -> str:
    """A duration as hours, minutes and seconds: 0:03:20."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return f"{float(value):.4f}"
    return str(value)


def printable(text: object) -> str:
    """`text` with escapes for characters that would steer the terminal: a file's name can hold anything."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in str(text))


def finite(value: Any) -> Any:
    """`value` with NaN and infinity as None: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: BaseException) -> str:
    """The line that a traceback of `error` ends with: its class and its message."""
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called in the run"
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
