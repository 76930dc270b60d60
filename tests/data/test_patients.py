"""Patients: which ids are one person, which are nobody, and which a spreadsheet has destroyed."""

import pandas as pd
import pytest

from pneumo import UserError
from pneumo.data import patients


def keys(*ids: str | None) -> list[str]:
    paths = [f"{number}.png" for number in range(len(ids))]
    return patients.keys(pd.DataFrame({"path": paths, "patient": list(ids)})).tolist()


def column(*values: str) -> list[str | None]:
    return patients.from_column(pd.Series(values), [f"t.csv, line {line + 2}" for line in range(len(values))])


def test_numbers_are_one_patient_however_they_are_written() -> None:
    assert len({*keys("101", "101.0", "00000101", "101.")}) == 1
    assert len({*keys("101", "102", "1010")}) == 3
    assert len({*keys("101.0", "101", "one more")}) == 2  # one odd id does not switch it off


def test_the_key_is_the_patients_own_spelling() -> None:
    assert keys("7", "007", "b", None) == ["007", "007", "b", "path:3.png"]
    assert keys("0101", "0102", "p1") == ["0101", "0102", "p1"]


def test_text_ids_are_compared_as_they_are() -> None:
    assert keys("p1", "p01", "1.5", "1e5", "-101", "101") == ["p1", "p01", "1.5", "1e5", "-101", "101"]


@pytest.mark.parametrize("value", ["", " ", "NaN", "nan", "None", "n/a", "-1", "unknown", "<NA>"])
def test_what_means_not_known_is_nobody(value: str) -> None:
    assert column("p1", value) == ["p1", None]


@pytest.mark.parametrize("value", ["0", "p-1", "Nancy", "none1", "-2"])
def test_what_only_resembles_it_is_an_id(value: str) -> None:
    assert column(value) == [value]


@pytest.mark.parametrize("value", ["1.23E+10", "1,23E+10", "4E+05", "1.23e+10"])
def test_a_number_that_excel_has_shortened_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="Excel") as error:
        column("p1", value)
    assert "t.csv, line 3" in str(error.value) and value in str(error.value) and "text" in str(error.value)


def test_a_note_names_patients_with_several_spellings() -> None:
    table = pd.DataFrame({"path": list("abcd"), "patient": ["101.0", "101", "5", None]})
    assert patients.spelling_note(table) == [
        "1 patients are spelled in several ways, for example 101 and 101.0: ids that are equal as numbers "
        "are one patient."
    ]
    assert patients.spelling_note(table.iloc[[0, 2]]) == []


@pytest.mark.parametrize(
    ("pattern", "patient"),
    [
        (r"(patient\d+)", "patient00001"),
        (r"(?P<patient>patient\d+)/(study\d)", "patient00001"),
        (r"(patient\d+)/(study\d)", "patient00001-study2"),
        (r"patient\d+", "patient00001"),
    ],
)
def test_patients_from_paths(pattern: str, patient: str) -> None:
    assert patients.by_pattern(["train/patient00001/study2/a.jpg", "x.jpg"], pattern) == [patient, None]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.patient_pattern=no") as error:
        patients.by_pattern(["a.jpg"], "no")
    assert "a.jpg" in str(error.value)
