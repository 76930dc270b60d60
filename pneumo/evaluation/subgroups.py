"""The groups of images that a column of a table makes: sexes, ages in decades, views, quartiles, cuts."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pneumo import UserError
from pneumo.names import AGE_COLUMNS, SUBGROUP_COLUMNS, plain_column

NOT_KNOWN = "not known"  # this group is shown, and takes part in no gap
MOST_GROUPS = 20  # of a column
MOST_VALUES = 10  # numbers with more different values than this are put into quartiles
ADULT = 18  # children always are a group of their own
DECADES = (*range(20, 91, 10),)  # after 18-29: 30-39, ..., 90 and over
OLDEST = 120  # an age above it is a typing error: a public set has ages of 148 and 412
_UNKNOWN = ("", "?", "-", "nan", "na", "n/a", "none", "null", "unknown", "unspecified", NOT_KNOWN)
_AGE = re.compile(r"(>?)\s*(-?\d+(?:\.\d*)?)\s*([YMWD+]?)")
_PER_YEAR = {"M": 12, "W": 52.18, "D": 365.25}
_PLACED = re.compile(r"(under |up to |over )?(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(-| to | and over|$)")


class Column(NamedTuple):
    """A column to group by; numbers at `cuts`, if they are given."""

    name: str
    cuts: tuple[float, ...] | None = None


def parse_by(text: str) -> tuple[Column, ...]:
    """One item of `by`: `sex`, `age:18:40:65` (with cuts), or two columns, `sex*age:18:65`."""
    parts = [part.strip() for part in str(text).split("*")]
    if len(parts) > 2:
        raise UserError(f"by={text} crosses {len(parts)} columns; give one or two, such as sex*age.")
    columns = []
    for part in parts:
        name, *given = (piece.strip() for piece in part.split(":"))
        if not name:
            raise UserError(
                f"by={text} names no column; give a column of the table, such as sex, age:18:40:65 (ages at "
                "these cuts) or sex*age."
            )
        columns.append(Column(name, _cuts(text, given) if given else None))
    return tuple(columns)


def _cuts(text: str, given: Sequence[str]) -> tuple[float, ...]:
    cuts = [_number(piece) for piece in given]
    wrong = [piece for piece, cut in zip(given, cuts, strict=True) if cut is None]
    if wrong:
        raise UserError(
            f"by={text}: the cut {wrong[0] or '(empty)'} is not a number; give cuts as in age:18:40:65."
        )
    found = tuple(cut for cut in cuts if cut is not None)
    if any(later <= cut for cut, later in pairwise(found)):
        raise UserError(f"by={text}: the cuts do not rise; give each once, the lowest first.")
    return found


def columns_of(by: str | Sequence[str], table: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The group of each image [N] in each item of `by`, by the item's name: `sex`, `sex*age`.

    `table` has the values [N] of each column, as they are given. A column is found by its name, without case,
    blanks and punctuation, or by the names of public sets: `sex` finds `Patient Gender`.
    """
    found: dict[str, list[str]] = {}
    for text in [by] if isinstance(by, str) else by:
        columns = (Column(text),) if text in table else parse_by(text)
        names = [_column(text, column.name, table) for column in columns]
        each = [
            groups_of(name, table[name], column.cuts) for name, column in zip(names, columns, strict=True)
        ]
        key = "*".join(names)
        if key in found:
            raise UserError(f"by={text}: {key} is there twice; name each column or pair once.")
        found[key] = each[0] if len(each) == 1 else crossed(key, *each)
    return found


def _column(text: str, name: str, table: Mapping[str, Sequence[str]]) -> str:
    if name in table:
        return name
    asked = plain_column(name)
    same = next((known for known in SUBGROUP_COLUMNS.values() if asked in known), (asked,))
    for alike in ((asked,), same):
        close = [column for column in table if plain_column(column) in alike]
        if len(close) == 1:
            return close[0]
        if close:
            raise UserError(f"by={text} fits several columns: {', '.join(close)}; name one as it is written.")
    if not table:
        raise UserError(
            f"by={text}: the images have no columns of subgroups; data.columns.subgroups=[A,B] names them."
        )
    raise UserError(
        f"by={text}: the column {name} is not known; the columns are {', '.join(table)}. "
        "data.columns.subgroups=[A,B] names others of the table."
    )


def groups_of(name: str, values: Sequence[str], cuts: Sequence[float] | None = None) -> list[str]:
    """The group of each image [N], from the column `name` as it is given in the table.

    Ages are put into decades (under 18, 18-29, 30-39, ..., 90 and over), other numbers with more than ten
    different values into quartiles of the images; with `cuts`, numbers are cut there instead. Text stays. An
    empty value, and an age below 0 or above 120, is NOT_KNOWN. Raises UserError for more than 20 groups.
    """
    texts = [NOT_KNOWN if _unknown(value) else str(value).strip() for value in values]
    known = [text for text in texts if text != NOT_KNOWN]
    age = plain_column(name) in AGE_COLUMNS
    numbers = {text: _years(text) if age else _number(text) for text in known}
    words = [text for text, number in numbers.items() if number is None]
    if words and (cuts or (age and len(words) < len(numbers))):
        raise UserError(
            f"column {name} has {words[0]!r}, which is not {'an age in years' if age else 'a number'}; "
            "leave such values empty, or give another column."
        )
    if cuts:
        places = {text: _cut(number, cuts, age) for text, number in _numbers(numbers).items()}
    elif age and not words:
        places = {text: _decade(years) for text, years in _numbers(numbers).items()}
    elif not words and len(set(numbers.values())) > MOST_VALUES:
        places = _quartiles([number for text in known if (number := numbers[text]) is not None], numbers)
    else:
        places = {text: text for text in numbers}
    return _few_enough(name, [places.get(text, NOT_KNOWN) for text in texts])


def crossed(name: str, first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The intersections [N] of two columns' groups: `F, 30-39`. If one is not known, so is the other."""
    return _few_enough(
        name,
        [
            NOT_KNOWN if NOT_KNOWN in (one, other) else f"{one}, {other}"
            for one, other in zip(first, second, strict=True)
        ],
    )


def ordered(groups: Sequence[str]) -> list[str]:
    """The different groups: numbers by their size, then words; NOT_KNOWN last."""

    def place(group: str) -> tuple[object, ...]:
        parts = []
        for part in group.split(", "):
            match = _PLACED.match(part)
            below = match is not None and match[1] in ("under ", "up to ")
            parts.append((match is None, float(match[2]) if match else 0.0, not below, part))
        return group == NOT_KNOWN, parts

    return sorted(set(groups), key=place)


def _few_enough(name: str, groups: list[str]) -> list[str]:
    found = set(groups) - {NOT_KNOWN}
    if len(found) > MOST_GROUPS:
        raise UserError(
            f"column {name} has {len(found)} groups, and {MOST_GROUPS} are the most; give cuts, such as "
            f"by=[{'age' if '*' in name else name}:18:40:65] for numbers, or another column."
        )
    return groups


def _unknown(value: object) -> bool:
    return value is None or str(value).strip().lower() in _UNKNOWN


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _years(text: str) -> float | None:
    """An age in years: `36`, `36.0`, `036Y`, `007M`, `90+`, `>89`; NaN below 0 and above OLDEST."""
    match = _AGE.fullmatch(text.upper())
    if match is None:
        return None
    years = float(match[2]) / _PER_YEAR.get(match[3], 1) + (1 if match[1] else 0)
    return years if 0 <= years <= OLDEST else math.nan


def _numbers(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {text: number for text, number in numbers.items() if number is not None and not math.isnan(number)}


def _decade(years: float) -> str:
    if years < ADULT:
        return f"under {ADULT}"
    if years >= DECADES[-1]:
        return f"{DECADES[-1]} and over"
    low = max(ADULT, int(years // 10) * 10)
    return f"{ADULT if low < 30 else low}-{29 if low < 30 else low + 9}"


def _cut(number: float, cuts: Sequence[float], age: bool) -> str:
    """The part between two cuts; a number on a cut is above it."""
    place = int(np.searchsorted(cuts, number, side="right"))
    if place == 0:
        return f"under {_short(cuts[0])}"
    if place == len(cuts):
        return f"{_short(cuts[-1])} and over"
    low, high = cuts[place - 1], cuts[place]
    if age and low == int(low) and high == int(high):  # whole years: 18-39 are those under 40
        return f"{_short(low)}-{_short(high - 1)}" if high - 1 > low else _short(low)
    return f"{_short(low)} to under {_short(high)}"


def _quartiles(values: Sequence[float], numbers: Mapping[str, float | None]) -> dict[str, str]:
    """Quarters of the images by these numbers; fewer than four where many are equal.

    Cuts are values of the column, and belong to the group below.
    """
    below = [value for value in values if value < max(values)]
    cuts = np.unique(np.quantile(values, (0.25, 0.5, 0.75), method="lower"))
    cuts = np.unique(np.minimum(cuts, max(below)))
    shown = [_short(cut) for cut in cuts]
    if len(set(shown)) < len(shown):
        shown = [repr(float(cut)) for cut in cuts]
    places = {}
    for text, number in _numbers(numbers).items():
        place = int(np.searchsorted(cuts, number, side="left"))
        if place == 0:
            places[text] = f"up to {shown[0]}"
        elif place == len(cuts):
            places[text] = f"over {shown[-1]}"
        else:
            places[text] = f"over {shown[place - 1]} to {shown[place]}"
    return places


def _short(number: float) -> str:
    return f"{number:.6g}"
