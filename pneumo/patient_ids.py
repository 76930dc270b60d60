"""Which spellings of an id are one patient, wherever images are grouped by patient."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"\+?0*(\d+)(?:\.0*)?", re.ASCII)


def one_spelling(patients: Sequence[str | None]) -> list[str | None]:
    """The patients with one spelling each, the first in alphabetical order; None, for an unknown one, stays.

    Ids that are equal as numbers are one patient: `101`, `101.0` and `00000101`. Each id counts for itself,
    so that one id that is not a number does not switch this off. Where each patient has one spelling, nothing
    changes.
    """
    numbers: dict[str, str] = {}
    first: dict[str, str] = {}  # of each number, its first spelling
    for spelling in {patient for patient in patients if patient is not None}:
        if match := _NUMBER.fullmatch(spelling):
            numbers[spelling] = match[1]
            first[match[1]] = min(spelling, first.get(match[1], spelling))
    changed = {spelling: first[number] for spelling, number in numbers.items() if first[number] != spelling}
    return [patient if patient is None else changed.get(patient, patient) for patient in patients]


def canonical(patient: str) -> str:
    """One spelling of an id, whatever other ids there are: a number without leading zeros."""
    match = _NUMBER.fullmatch(patient)
    return match[1] if match else patient
