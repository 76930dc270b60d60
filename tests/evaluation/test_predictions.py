"""Labels and probabilities of a split, and their CSV."""

import csv
import io

import numpy as np
import pytest

from pneumo import UserError
from pneumo.evaluation.predictions import SplitResult, predictions_csv, read_predictions


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


def test_a_file_name_need_not_be_utf_8() -> None:
    one = split()
    one.paths[0] = b"\xff.jpeg".decode(errors="surrogateescape")
    assert b"\xff.jpeg" in predictions_csv(one)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na,0\n",
        "path,patient,label,probability\na,,x,0.5\n",
        "path,patient,label,probability\na\n",
    ],
)
def test_another_table_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="table of predictions \\(path, patient, label, probability\\)"):
        read_predictions(text)


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
