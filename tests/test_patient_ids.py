"""Which spellings of an id are one patient."""

from pneumo.patient_ids import one_spelling


def test_ids_that_are_equal_as_numbers_have_the_first_spelling() -> None:
    assert one_spelling(["101", "101.0", None, "0101", "+101", "b"]) == ["+101"] * 2 + [None] + [
        "+101"
    ] * 2 + ["b"]
    assert one_spelling(["0", "00", "0.0"]) == ["0"] * 3


def test_other_ids_stay_as_they_are() -> None:
    ids = ["007", "p1", "p01", "1.5", "1e5", "-7", "", "\u0667"]
    assert one_spelling(ids) == ids
    assert one_spelling([]) == []
