"""Labels and probabilities of one split, and the predictions CSV that holds them."""

import csv
import io
from dataclasses import dataclass

import numpy as np

from pneumo import UserError

THRESHOLD = 0.5  # an image is called positive from this probability on


@dataclass(kw_only=True, slots=True)
class SplitResult:
    """What the selected checkpoint predicts for one split: four columns of one length, one row per image."""

    paths: list[str]
    patients: list[str | None]  # None if the patient is not known
    labels: np.ndarray  # int [N], 0 or 1
    probabilities: np.ndarray  # float [N], of class 1

    def __post_init__(self) -> None:
        lengths = [len(self.paths), len(self.patients), len(self.labels), len(self.probabilities)]
        if len(set(lengths)) != 1:
            raise UserError(
                f"paths, patients, labels and probabilities have lengths {lengths}; make them equal."
            )

    @property
    def predictions(self) -> np.ndarray:
        """Predicted class, int64 [N]; compared in float64, like the scores."""
        return (np.asarray(self.probabilities, dtype=np.float64) >= THRESHOLD).astype(np.int64)

    @property
    def patient_count(self) -> int | None:
        """Number of patients, or None unless every image has one."""
        return len(set(self.patients)) if None not in self.patients else None


def read_predictions(text: str) -> SplitResult:
    """The content of a predictions/*.csv; UserError if it is something else."""
    rows = list(csv.DictReader(io.StringIO(text)))
    try:
        return SplitResult(
            paths=[row["path"] for row in rows],
            patients=[row["patient"] or None for row in rows],
            labels=np.array([int(row["label"]) for row in rows], dtype=np.int64),
            probabilities=np.array([float(row["probability"]) for row in rows], dtype=np.float64),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not a table of predictions (path, patient, label, probability): {error}") from None


def predictions_csv(split: SplitResult) -> bytes:
    """The CSV, UTF-8; probabilities read back to the same bits."""
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(("path", "patient", "label", "probability", "prediction"))
    columns = (split.paths, split.patients, split.labels, split.probabilities, split.predictions)
    for path, patient, label, probability, prediction in zip(*columns, strict=True):
        # repr of a Python float is the shortest text that reads back to the same bits (float32 too).
        writer.writerow((path, patient or "", int(label), repr(float(probability)), int(prediction)))
    return page.getvalue().encode(errors="surrogateescape")  # file names may not be UTF-8
