"""Labels and probabilities of a split, and their CSV."""

import csv
import io
import re

import numpy as np
import pytest

from pneumo import UserError
from pneumo.evaluation.predictions import (
    SplitResult,
    predictions_csv,
    read_any_predictions,
    read_predictions,
)


def split(dtype: type = np.float64) -> SplitResult:
    return SplitResult(
        paths=["set 1/a,b 'c' é.jpeg", "b", "c", "d"],
        patients=["bacteria-1", None, "bacteria-1", "x"],
        labels=np.array([0, 1, 0, 1]),
        probabilities=np.array([0.5, 1 / 3, 1e-30, 1.0], dtype=dtype),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_csv_round_trips_bit_for_bit(dtype: type) -> None:
    one = split(dtype)
    text = predictions_csv(one).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["path", "patient", "label", "probability", "prediction"]
    assert [int(row["prediction"]) for row in rows] == [1, 0, 0, 1]
    read = read_predictions(text)
    assert (read.paths, read.patients) == (one.paths, one.patients)
    assert read.labels.tolist() == one.labels.tolist()
    assert read.probabilities.astype(dtype).tobytes() == one.probabilities.tobytes()


def test_subgroups_come_last_and_round_trip() -> None:
    one = split()
    one.subgroups = {"Patient Sex": ["F", "", "M", "F"], "View, Position": ["AP", 'P"A', " ", "é"]}
    text = predictions_csv(one).decode()
    header = "path,patient,label,probability,prediction,Patient Sex,"
    assert text.splitlines()[0] == header + '"View, Position"'
    read = read_predictions(text)
    assert read.subgroups == one.subgroups and read.paths == one.paths
    assert predictions_csv(read).decode() == text
    with pytest.raises(UserError, match="line 5: it does not have the 7 cells"):
        read_predictions(text.rpartition(",")[0])


def test_spellings_of_one_number_are_one_patient() -> None:
    one = split()
    one.patients = ["101", "101.0", "00101", "b"]
    assert one.patient_count == 2
    assert read_predictions(predictions_csv(one).decode()).patients == one.patients


def test_a_file_name_need_not_be_utf_8() -> None:
    one = split()
    one.paths[0] = b"\xff.jpeg".decode(errors="surrogateescape")
    assert b"\xff.jpeg" in predictions_csv(one)
    assert read_predictions(predictions_csv(one).decode(errors="surrogateescape")).paths == one.paths


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the first line has no path and no patient and no label and no probability"),
        ("path,label\na,0\n", "the first line has no patient and no probability"),
        ("path,patient,label,probability\n", "it has no rows"),
        ("path,patient,label,probability\na,,x,0.5\n", "line 2: label is 'x', not a number"),
        ("path,patient,label,probability\na,,1,0.5\nb\n", "line 3: it does not have the 4 cells"),
        ("path,patient,label,probability,prediction\na,,1,0.5,1\nb,,1,0.", "line 3: it does not have the 5"),
        ("path,patient,label,probability\na,,1,0.5,9\n", "line 2: it does not have the 4 cells"),
        (f"path,patient,label,probability\n{'a' * 200_000},,1,0.5\n", "field larger than"),
    ],
)
def test_another_or_a_damaged_table_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(UserError) as raised:
        read_predictions(text)
    message = str(raised.value)
    assert message.startswith("not a table of predictions (path, patient, label, probability): ")
    assert re.search(reason, message) and "\n" not in message


def test_an_image_is_positive_from_the_threshold_on() -> None:
    assert split().predictions.tolist() == [1, 0, 0, 1]


def test_patients_are_counted_if_every_image_has_one() -> None:
    one = split()
    assert one.patient_count is None
    one.patients[1] = "y"
    assert one.patient_count == 3


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(UserError, match=r"lengths \[1, 1, 2, 1\]"):
        SplitResult(paths=["a"], patients=[None], labels=np.array([0, 1]), probabilities=np.array([0.5]))


def of_three() -> SplitResult:
    rng = np.random.default_rng(3)
    return SplitResult(
        paths=["a,b.png", "c.png", "d.png"],
        patients=["p1", None, "p2"],
        labels=np.array([0, 2, 1]),
        probabilities=rng.dirichlet(np.ones(3), 3),
        class_names=("No, Finding", "p_B", 'C "c"'),
    )


def test_more_classes_have_a_column_each_and_read_back_to_the_same_bits() -> None:
    one = of_three()
    text = predictions_csv(one).decode()
    assert text.startswith('path,patient,label,prediction,"p_No, Finding",p_p_B,"p_C ""c"""\n')
    read = read_any_predictions(text)
    assert read.class_names == one.class_names and read.many
    assert (read.probabilities == one.probabilities).all() and read.probabilities.shape == (3, 3)
    assert (read.paths, read.patients) == (one.paths, one.patients) and (read.labels == one.labels).all()
    assert (read.predictions == one.probabilities.argmax(1)).all()
    assert (
        read.confusion().sum() == 3 and read.scores()["accuracy"] == (read.predictions == read.labels).mean()
    )


def test_a_reader_of_two_classes_refuses_more_in_one_line() -> None:
    with pytest.raises(UserError) as error:
        read_predictions(predictions_csv(of_three()).decode())
    assert str(error.value) == (
        'it has 3 classes (No, Finding, p_B, C "c"), and only two classes can be used here so far'
    )


def test_a_damaged_table_of_more_classes_is_refused() -> None:
    text = predictions_csv(of_three()).decode()
    with pytest.raises(UserError, match="line 4: it does not have the 7 cells"):
        read_any_predictions(text[:-30])
    with pytest.raises(UserError, match="p_p_B is 'x', not a number"):
        read_any_predictions("path,patient,label,prediction,p_A,p_p_B,p_C\na,p,0,0,0.1,x,0.5\n")
