"""Text for people: tables in the terminal, numbers for JSON, errors in one line."""

import math
import numbers
import traceback
from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as aligned plain text. The columns are the first row's keys; floats have 4 decimals."""
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(text) for text in texts) for texts in zip(columns, *cells, strict=True)]
    numeric = [any(isinstance(row.get(c), numbers.Real) for row in rows) for c in columns]

    def line(texts: Sequence[str]) -> str:
        parts = zip(texts, widths, numeric, strict=True)
        return "  ".join(t.rjust(w) if right else t.ljust(w) for t, w, right in parts).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, cells)])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return f"{float(value):.4f}"
    return str(value)


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
