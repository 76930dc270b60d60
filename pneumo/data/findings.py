"""Several findings an image: what a table's labels say of each finding.

A row's findings are a code with one sign for each finding: `1`, `0`, or `-` where it is not known.
"""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumo import UserError
from pneumo.data.found import SPLITS, listed
from pneumo.data.labels import EMPTY, LEFT_OUT, MAX_CHARS, WORDS, fold, names_in
from pneumo.data.settings import NO_FINDING, DataSettings

UNKNOWN = "-"
VALUES = {"1": 1, "0": 0, UNKNOWN: -1}


@dataclass
class Findings:
    """The code of each row, its stratum (0 for no finding, else 1 + the rarest one), and notes.

    The stratum of a row without any known label is LEFT_OUT.
    """

    codes: list[str]
    strata: list[int]
    notes: list[str] = field(default_factory=list)


def matrix(codes: pd.Series) -> NDArray[np.int64]:
    """Labels [N, K] of N codes: 1, 0 or -1."""
    return np.array([[VALUES[sign] for sign in code] for code in codes], dtype=np.int64)


def from_labels(texts: Sequence[str], places: Sequence[str], settings: DataSettings) -> Findings:
    """The findings that each label lists: `A|B`, or a list as "['A', 'B']".

    Names that data.classes does not give are counted in a note. Raises UserError for a label without a name,
    and for a name of data.classes that no label has.
    """
    classes = settings.class_names
    reader = _Reader(settings)
    codes: dict[str, str | None] = {}
    for text, place in zip(texts, places, strict=True):
        if text not in codes:
            codes[text] = reader.code_of(text, place)
    reader.check_all_occur()
    found = [codes[text] or UNKNOWN * len(classes) for text in texts]
    left_out = [codes[text] is None for text in texts]
    notes = []
    others = Counter(name for text in texts for name in reader.others.get(text, ()))
    if others:
        counted = listed([f"{name} ({count:,})" for name, count in sorted(others.items())], 20)
        notes.append(f"findings that data.classes does not name, and that are not used: {counted}")
    if any(left_out):
        notes.append(f"{sum(left_out):,} images are left out by data.labels.")
    return _with_strata(found, left_out, classes, notes)


def from_columns(rows: pd.DataFrame, places: Sequence[str], settings: DataSettings) -> Findings:
    """The findings of a table with a column for each, in the order of data.classes.

    A value is 1, 0, -1 (data.uncertain says what it counts as), or empty for not known; data.labels gives
    others a meaning. Raises UserError for a value that has none.
    """
    meanings = _values(settings)
    columns = []
    for name in rows.columns:
        signs = rows[name].map(lambda text: meanings.get(fold(text)))
        if signs.isna().any():
            row = int(signs.isna().to_numpy().argmax())
            value = rows[name].iloc[row][:MAX_CHARS]
            raise UserError(
                f"{places[row]}: {name} is {value!r}. A finding is 1, 0, -1 (uncertain) or empty (unknown). "
                "data.labels={VALUE: 1}, {VALUE: 0} or {VALUE: null} (not known) says what another one means."
            )
        columns.append(signs.tolist())
    codes = ["".join(signs) for signs in zip(*columns, strict=True)]
    unlabelled = [set(code) == {UNKNOWN} for code in codes]
    notes = []
    if any(unlabelled):
        notes.append(f"{sum(unlabelled):,} images are left out: none of their findings is known.")
    return _with_strata(codes, unlabelled, settings.class_names, notes)


def counts(table: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images by split, of no known finding and of each finding."""
    labels = matrix(table["findings"])
    found = {}
    for split in SPLITS:
        mine = labels[(table["split"] == split).to_numpy()]
        of_finding = {name: int((mine[:, k] == 1).sum()) for k, name in enumerate(names)}
        found[split] = {NO_FINDING: int((mine != 1).all(1).sum()), **of_finding}
    return found


def problems(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Why the findings cannot be trained: one is never known, or training has one value of it."""
    messages = []
    for name, signs in _by_split(table, names):
        known = "".join(signs.values()).replace(UNKNOWN, "")
        train = signs["train"]
        if not known:
            messages.append(f"no image has a known label of {name}")
        elif "1" not in train or "0" not in train:
            there = "present in none" if "1" not in train else "absent in none"
            messages.append(
                f"{name} is {there} of the {len(train) - train.count(UNKNOWN):,} training images that it is "
                f"known of ({known.count('1'):,} images of the whole set have it)"
            )
    if not messages:
        return []
    return [f"{'; '.join(messages)}. Leave such findings out of data.classes={list(names)}."]


def undefined_notes(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """A note about findings that validation or test has only one value of."""
    notes = []
    for split in SPLITS[1:]:
        short = [name for name, signs in _by_split(table, names) if not {"0", "1"} <= set(signs[split])]
        if short:
            notes.append(
                f"{split} has no image with, or none without, {listed(short, 20)}: their AUROC is not "
                "defined there, and the mean over findings is that of the others"
            )
    return notes


def _by_split(table: pd.DataFrame, names: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Of each finding, its signs by split."""
    codes = {split: table.loc[table["split"] == split, "findings"].tolist() for split in SPLITS}
    return [
        (name, {split: "".join(code[k] for code in some) for split, some in codes.items()})
        for k, name in enumerate(names)
    ]


def _with_strata(
    codes: list[str], left_out: Sequence[bool], names: Sequence[str], notes: list[str]
) -> Findings:
    kept = [code for code, out in zip(codes, left_out, strict=True) if not out]
    images = [sum(code[k] == "1" for code in kept) for k in range(len(names))]
    rarest_first = sorted(range(len(names)), key=lambda k: (images[k], k))
    strata = [
        LEFT_OUT if out else next((k + 1 for k in rarest_first if code[k] == "1"), 0)
        for code, out in zip(codes, left_out, strict=True)
    ]
    return Findings(codes, strata, notes)


def _values(settings: DataSettings) -> dict[str, str]:
    """The sign of each value of a finding's column, as compared."""
    meanings = {word: str(value) for word, value in WORDS.items()} | {"": UNKNOWN}
    for key, value in settings.labels.items():
        sign = UNKNOWN if value is None else meanings.get(fold(value))
        if sign is None:
            raise UserError(
                f"data.labels={{{key}: {value}}} is not known; the options are 1, 0 and null (not known), "
                "because each finding has a column."
            )
        meanings[fold(key)] = sign
    return meanings | {"-1": {"ignore": UNKNOWN, "zero": "0", "one": "1"}[settings.uncertain]}


class _Reader:
    """Reads labels that list findings. `others` has the names of each label that are not asked for."""

    def __init__(self, settings: DataSettings) -> None:
        self.settings, self.names = settings, settings.class_names
        self.places = {fold(name): k for k, name in enumerate(self.names)}
        self.absent = {word for word, value in WORDS.items() if value == 0}
        self.mapped = {fold(key): self._target(key, value) for key, value in settings.labels.items()}
        self.others: dict[str, list[str]] = {}
        self.seen: set[int] = set()

    def _target(self, key: object, value: object) -> int | None:
        """A finding's number, -1 for none; None leaves the image out."""
        if value is None:
            return None
        if fold(value) in self.absent:
            return -1
        if fold(value) not in self.places:
            raise UserError(
                f"data.labels={{{key}: {value}}} is not known; the options are {', '.join(self.names)}, "
                f"{NO_FINDING} and null, which leaves the images out."
            )
        return self.places[fold(value)]

    def code_of(self, text: str, place: str) -> str | None:
        """The code of a label; None leaves the image out."""
        try:
            found = names_in(text, self.settings.separator) or {"": EMPTY}
        except ValueError:
            found = {}
        numbers: set[int] = set()
        others = []
        for name, spelled in found.items():
            if name in self.mapped:
                target = self.mapped[name]
                if target is None:
                    return None
                numbers.add(target)
            elif name in self.places:
                numbers.add(self.places[name])
            elif name in self.absent:
                numbers.add(-1)
            elif name:
                others.append(spelled)
        present = numbers - {-1}
        if not found or ("" in found and "" not in self.mapped) or (present and -1 in numbers):
            reason = "contradicts itself" if present else "names no finding"
            raise UserError(
                f"{place}: label {text[:MAX_CHARS]!r} {reason}. A label is a name, names separated by "
                f"{self.settings.separator} (data.separator), or a list in brackets. "
                f"data.labels={{empty: {NO_FINDING}}} counts an empty label as no finding, {{empty: null}} "
                "leaves its images out."
            )
        self.seen |= present
        self.others[text] = others
        return "".join("1" if k in present else "0" for k in range(len(self.names)))

    def check_all_occur(self) -> None:
        missing = [name for k, name in enumerate(self.names) if k not in self.seen]
        if missing:
            known = {fold(name): name for names in self.others.values() for name in names}
            close = [
                known[match]
                for name in missing
                for match in difflib.get_close_matches(fold(name), known, n=1)
            ]
            hint = f" Did you mean {listed(close)}?" if close else ""
            there = f" Other names in the labels are {listed(sorted(known.values()), 20)}." if known else ""
            raise UserError(
                f"data.classes names {', '.join(missing)}, which no label has.{there}{hint} Leave it out, or "
                "give the label's name."
            )
