"""What labels mean: numbers, words, lists of findings, and the keys that say otherwise."""

from typing import Any

import pytest

from pneumo import UserError
from pneumo.data.labels import LEFT_OUT, Reader
from pneumo.data.settings import DataSettings


def read(*texts: str, **keys: Any) -> list[int]:
    reader = Reader(DataSettings(name="csv", **keys), texts)
    return reader.read([f"t.csv, line {line + 2}" for line in range(len(texts))], texts)


def refused(*texts: str, **keys: Any) -> str:
    with pytest.raises(UserError) as error:
        read(*texts, **keys)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("0", 0), ("1", 1), ("0.0", 0), ("1.0", 1), (" 1. ", 1), ("NORMAL", 0), ("pneumonia", 1),
        ("No Finding", 0),
        ("negative", 0), ("Positive", 1), ("False", 0), ("TRUE", 1), ("yes", 1), ("no", 0), ("healthy", 0),
    ],
)  # fmt: skip
def test_numbers_and_words(text: str, meaning: int) -> None:
    assert read(text) == [meaning]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Pneumonia", 1),
        ("Edema|Pneumonia|Mass", 1),
        ("Edema | pneumonia", 1),
        ("Edema|Mass", 0),
        ("No Finding", 0),
        ("['edema', 'pneumonia']", 1),
        ('["edema"]', 0),
        ("Viral Pneumonia", 0),  # a finding is compared whole
    ],
)
def test_one_finding_against_the_rest(text: str, meaning: int) -> None:
    assert read(text, "Pneumonia", positive=["Pneumonia"])[0] == meaning


def test_several_positive_findings() -> None:
    texts = ("Edema", "Mass", "Mass|Pneumonia", "No Finding")
    assert read(*texts, positive=["Pneumonia", "Edema"]) == [1, 0, 1, 0]


def test_labels_give_values_a_class_or_leave_them_out() -> None:
    texts = ("1.0", "0.0", "-1.0", "", "covid")
    labels = {-1.0: None, "empty": "NORMAL", "COVID": 1}
    assert read(*texts, labels=labels) == [1, 0, LEFT_OUT, 0, 1]
    reader = Reader(DataSettings(name="csv", labels=labels), texts)
    assert reader.left_out_note(texts, [1, 0, LEFT_OUT, 0, 1]) == [
        "1 images are left out by data.labels: 1 -1.0."
    ]
    assert read("Edema", "COVID", "Pneumonia", positive=["Pneumonia"], labels={"COVID": None}) == [
        0,
        LEFT_OUT,
        1,
    ]


def test_classes_name_both_classes() -> None:
    assert read("sick", "Well", "well", classes=["well", "sick"]) == [1, 0, 0]
    assert read("2.0", "1", classes=[1, 2]) == [1, 0]


@pytest.mark.parametrize(
    ("texts", "keys", "words"),
    [
        (("0", "7"), {}, ["t.csv, line 3", "'7'", "0 or NORMAL, 1 or PNEUMONIA", "data.labels={VAL"]),
        (("Edema", "A|Pneumonia"), {}, ["line 2", "data.positive=[Pneumonia]", "A, Edema, Pneumonia"]),
        (("Edema", "Mass"), {"positive": ["Edma"]}, ["'Edma'", "Edema, Mass", "Did you mean Edema?"]),
        (("Edema", ""), {"positive": ["Edema"]}, ["line 3", "''", "data.labels={empty: null}"]),
        (("Edema", "['a"), {"positive": ["Edema"]}, []),
        (("Edema", "['a', ]]"), {"positive": ["Edema"]}, ["line 3", "a list in brackets"]),
        (("a", "c"), {"classes": ["a", "b"]}, ["line 3", "'c'", "a and b"]),
        (("0",), {"labels": {"0": "SICK"}}, ["data.labels={0: SICK}", "NORMAL, PNEUMONIA, 0, 1, and null"]),
        (("0",), {"positive": []}, ["data.positive=[]"]),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused(texts: tuple[str, ...], keys: dict[str, Any], words: list[str]) -> None:
    if not words:  # not a list: a name with odd signs
        assert read(*texts, **keys) == [1, 0]
        return
    message = refused(*texts, **keys)
    assert all(word in message for word in words), message
