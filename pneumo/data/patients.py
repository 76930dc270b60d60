"""Who is in the picture: patients from a column or a file name, and which ids mean the same patient."""

import re
from collections.abc import Sequence

import pandas as pd

from pneumo import UserError
from pneumo.data.found import listed
from pneumo.names import CLASS_NAMES
from pneumo.patient_ids import one_spelling

# What people and programs write for "not known"; compared without case.
MISSING = frozenset(
    ("", "nan", "none", "null", "na", "n/a", "n.a.", "<na>", "nat", "-1", "-1.0", "unknown", "?", "-")
)
# A number as Excel shortens it: the digits after the shown ones are lost.
_SHORTENED = re.compile(r"[+-]?\d(?:[.,]\d+)?E\+\d+", re.IGNORECASE)

# Kaggle: person<N>_<bacteria|virus>_<serial>[_k] and [NORMAL2-]IM-<N>-<k>[-<kkkk>]; Mendeley V3:
# <NORMAL|BACTERIA|VIRUS>-<patient>-<image>. The number is not a key: bacteria and virus count separately.
_GRAMMARS = (
    re.compile(r"(?P<kind>person)(?P<number>\d+)_(?P<subtype>bacteria|virus)_\d+(?:_\d+)?"),
    re.compile(r"(?P<kind>(?:NORMAL2-)?IM)-(?P<number>\d+)-\d+(?:-\d+)?"),
    re.compile(r"(?P<kind>(?P<subtype>NORMAL|BACTERIA|VIRUS))-(?P<number>\d+)-\d+"),
)
GRAMMAR_WORDS = "person<N>_<bacteria|virus>_<n>, [NORMAL2-]IM-<N>-<n> and <NORMAL|BACTERIA|VIRUS>-<N>-<n>"


def parse_name(name: str) -> tuple[str, str] | None:
    """(patient, subtype) from a file name of the Kaggle or Mendeley release; None for other names."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    for grammar in _GRAMMARS:
        if match := grammar.fullmatch(stem):
            parts = match.groupdict()
            subtype = (parts.get("subtype") or "normal").lower()
            kind = f"{parts['kind']}-{subtype}" if parts["kind"] == "person" else parts["kind"]
            return f"{kind}-{int(parts['number'])}", subtype
    return None


def by_pattern(paths: Sequence[str], pattern: str) -> list[str | None]:
    """The patient in each path, where data.patient_pattern matches.

    The pattern may match anywhere in the path. The patient is its group `patient`, else its groups joined by
    `-`, else the whole match. Raises UserError if no path matches.
    """
    compiled = re.compile(pattern)
    found: list[str | None] = []
    for path in paths:
        match = compiled.search(path)
        if match is None:
            found.append(None)
        elif "patient" in compiled.groupindex:
            found.append(match["patient"] or None)
        else:
            found.append("-".join(part for part in match.groups() if part) or match[0] or None)
    if paths and not any(found):
        raise UserError(
            f"data.patient_pattern={pattern} matches no path, for example {listed(list(paths[:1]))}. It is a "
            "regular expression that is searched in each path; its group is the patient: "
            r"data.patient_pattern='(patient\d+)'."
        )
    return found


def from_column(values: pd.Series, places: Sequence[str]) -> list[str | None]:
    """The patients of a table's column, in the user's spelling; None where the value means "not known".

    `places` says where each value is. Raises UserError for ids that Excel has shortened.
    """
    stripped = values.str.strip()
    shortened = stripped.str.fullmatch(_SHORTENED).to_numpy()
    if shortened.any():
        row = int(shortened.argmax())
        raise UserError(
            f"{places[row]}: patient {stripped.iloc[row]!r} is a number that Excel has shortened; so are "
            f"{int(shortened.sum()):,} ids, and different patients may have become one. Export the table "
            "again, with this column formatted as text."
        )
    known = ~stripped.str.lower().isin(MISSING)
    return [value if ok else None for value, ok in zip(stripped, known, strict=True)]


def keys(table: pd.DataFrame) -> pd.Series:
    """What stands for the patient in groups: one of the patient's spellings, or the path if it is unknown.

    The spelling is that of `one_spelling`. So where each patient has one spelling, it is the id itself. An
    image without a patient is a separate group.
    """
    patients = table["patient"]
    named = [patient if isinstance(patient, str) else None for patient in patients.tolist()]
    keys = pd.Series(one_spelling(named), index=table.index, dtype=object)
    return keys.where(keys.notna(), "path:" + table["path"])


def spelling_note(table: pd.DataFrame) -> list[str]:
    """One line about patients whose ids are spelled in several ways."""
    known = table.dropna(subset=["patient"])
    pairs = pd.DataFrame({"key": keys(known), "patient": known["patient"]}).drop_duplicates()
    several = pairs[pairs["key"].duplicated(keep=False)].sort_values(["key", "patient"])
    if several.empty:
        return []
    example = several[several["key"] == several["key"].iloc[0]]["patient"].tolist()
    return [
        f"{several['key'].nunique():,} patients are spelled in several ways, for example "
        f"{' and '.join(example)}: ids that are equal as numbers are one patient."
    ]


def classes(table: pd.DataFrame, pool: pd.Series, groups: pd.Series, count: int) -> pd.Series:
    """The class that each row's group counts as, for the rows of `pool`; `count` is the number of classes.

    A group with images of both classes counts as the second; of more than two classes, as the rarest that it
    has.
    """
    order = list(range(count))
    if count > len(CLASS_NAMES):
        images = table.loc[pool, "label"].value_counts()
        order.sort(key=lambda label: (-int(images.get(label, 0)), label))
    place = {label: index for index, label in enumerate(order)}
    last = table.loc[pool, "label"].map(place).groupby(groups).transform("max")
    return last.map(dict(enumerate(order)))
