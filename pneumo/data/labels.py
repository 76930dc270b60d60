"""What a label in a table, or the name of a class folder, means: a class 0 to K-1, or left out on purpose."""

import ast
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from pneumo import UserError
from pneumo.data.found import listed
from pneumo.data.settings import DataSettings
from pneumo.names import CLASS_NAMES, many_classes

LEFT_OUT = -1  # data.labels maps the value to null
EMPTY = "empty"  # how data.labels names a label without text
SEPARATOR = "|"
MAX_CHARS = 4096  # of a value quoted in a message
# The words of data sets for the two classes; compared without case, and numbers as numbers.
WORDS = {
    "0": 0,
    "normal": 0,
    "negative": 0,
    "neg": 0,
    "no": 0,
    "false": 0,
    "healthy": 0,
    "no finding": 0,
    "no findings": 0,
    "no pneumonia": 0,
    "1": 1,
    "pneumonia": 1,
    "positive": 1,
    "pos": 1,
    "yes": 1,
    "true": 1,
}
_NUMBER = re.compile(r"[+-]?\d+(?:\.0*)?")


def fold(value: Any) -> str:
    """A label for comparisons: without case and outer blanks; 1, 1.0 and "1" are equal."""
    text = " ".join(str(value).split()).casefold()
    if _NUMBER.fullmatch(text):
        return str(int(float(text)))
    return "" if text == EMPTY else text


def names_in(text: str, separator: str = SEPARATOR) -> dict[str, str]:
    """The names that a label lists, as compared and as written: `A|B`, or a list as "['A', 'B']".

    Raises ValueError for a broken list.
    """
    stripped = text.strip()
    if stripped.startswith("[") and stripped.endswith("]"):
        try:
            values = ast.literal_eval(stripped)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError("a broken list") from None
    else:
        values = stripped.split(separator)
    return {folded: str(value).strip() for value in values if (folded := fold(value))}


class Reader:
    """Reads labels under data.positive, data.labels and data.classes; without them, under WORDS.

    `values` are the labels of the whole set, so that a name of data.positive that never occurs is refused.
    With more than two classes, only the names of data.classes and data.labels mean one.
    """

    def __init__(self, settings: DataSettings, values: Iterable[str]) -> None:
        self.settings = settings
        self.values = list(dict.fromkeys(values))
        self.class_names = settings.class_names
        self.many = many_classes(self.class_names)
        self.classes = {fold(name): label for label, name in enumerate(settings.classes or ())}
        if self.many and len(self.classes) < len(self.class_names):
            raise UserError(
                f"data.classes={settings.classes} has two names that labels cannot tell apart: case and "
                "blanks do not count, and 1.0 is 1."
            )
        self.mapped = {fold(key): self._class(key, value) for key, value in settings.labels.items()}
        self.positive = {fold(name) for name in settings.positive or ()}
        if settings.positive is not None and not self.positive:
            raise UserError("data.positive=[] names no class; give data.positive=[NAME,...].")
        if self.values:
            self._check_positive()

    def _class(self, key: Any, value: Any) -> int:
        if value is None:
            return LEFT_OUT
        names, options = self.classes, ", ".join(self.class_names)
        if not self.many:
            own = {fold(name): label for label, name in enumerate(CLASS_NAMES)} | {"0": 0, "1": 1}
            names, options = own | self.classes, f"{options}, 0, 1,"
        if fold(value) not in names:
            raise UserError(
                f"data.labels={{{key}: {value}}} names an unknown class; the options are "
                f"{options} and null, which leaves the images out."
            )
        return names[fold(value)]

    def _check_positive(self) -> None:
        known = {fold(key): str(key) for key in self.settings.labels}
        for value in self.values:
            try:
                known |= names_in(value)
            except ValueError:
                continue  # reported with its line
        for name in self.settings.positive or ():
            if fold(name) not in known:
                close = difflib.get_close_matches(fold(name), known, n=1)
                hint = f" Did you mean {known[close[0]]}?" if close else ""
                raise UserError(
                    f"data.positive names {str(name)!r}, which no label has. The labels are "
                    f"{listed(sorted(known.values()))}.{hint}"
                )

    def meaning(self, text: str) -> int | None:
        """A class 0 to K-1, LEFT_OUT, or None for a label that is not known."""
        folded = fold(text)
        if folded in self.mapped:
            return self.mapped[folded]
        if self.settings.positive is not None:
            try:
                found = names_in(text)
            except ValueError:
                return None
            return int(not self.positive.isdisjoint(found)) if found else None
        if self.classes:
            return self.classes.get(folded)
        return WORDS.get(folded)

    def read(self, places: Sequence[str], texts: Sequence[str]) -> list[int]:
        """The meaning of each label. Raises UserError for the first that is not known, with its place."""
        meanings = {text: self.meaning(text) for text in dict.fromkeys(texts)}
        for place, text in zip(places, texts, strict=True):
            if meanings[text] is None:
                raise UserError(f"{place}: label {text[:MAX_CHARS]!r} is not known; {self._options(texts)}")
        return [int(meanings[text] or 0) for text in texts]

    def _options(self, texts: Sequence[str]) -> str:
        if self.settings.positive is not None:
            return (
                "a label is a name, names separated by |, or a list in brackets. Give "
                "data.labels={empty: null} to leave out images without a label, or {empty: NORMAL} to count "
                "them as that class."
            )
        if self.many:
            unknown = Counter(
                text.strip()[:MAX_CHARS] or EMPTY for text in texts if self.meaning(text) is None
            )
            counted = listed([f"{text} ({count:,})" for text, count in sorted(unknown.items())])
            return (
                f"data.classes gives {', '.join(self.class_names)}. The labels without a class are "
                f"{counted}. data.labels={{VALUE: CLASS}} gives one a class, {{VALUE: null}} leaves its "
                "images out."
            )
        if self.classes:
            given = " and ".join(str(name) for name in self.settings.classes or ())
            return f"data.classes gives {given}. data.labels={{VALUE: null}} leaves one out."
        words = f"give 0 or {CLASS_NAMES[0]}, 1 or {CLASS_NAMES[1]}"
        names: dict[str, str] = {}
        for text in dict.fromkeys(texts):
            with suppress(ValueError):
                names |= names_in(text[:MAX_CHARS])
        if not any(name not in WORDS and not _NUMBER.fullmatch(name) for name in names):
            return f"{words}. data.labels={{VALUE: CLASS}} gives other values a class, null leaves them out."
        example = next((name for folded, name in names.items() if "pneumonia" in folded), "NAME")
        return (
            f"{words}; or say which names are the positive class, for example data.positive=[{example}] (all "
            f"other names are negative). The names are {listed(sorted(names.values()), 20)}."
        )

    def left_out_note(self, texts: Sequence[str], meanings: Sequence[int]) -> list[str]:
        """One line that counts what data.labels leaves out."""
        counts = Counter(
            text.strip() or EMPTY
            for text, meaning in zip(texts, meanings, strict=True)
            if meaning == LEFT_OUT
        )
        if not counts:
            return []
        parts = listed([f"{count:,} {text}" for text, count in sorted(counts.items())])
        return [f"{counts.total():,} images are left out by data.labels: {parts}."]
