"""Labels and probabilities of one split, and the predictions CSV that holds them."""

import csv
import io
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from pneumo import UserError
from pneumo.names import PREDICTION_COLUMNS
from pneumo.patient_ids import one_spelling

T = TypeVar("T", int, float)
COLUMNS = PREDICTION_COLUMNS[:4]  # those that are needed
THRESHOLD = 0.5  # an image is called positive from this probability on


@dataclass(kw_only=True, slots=True)
class SplitResult:
    """What the selected checkpoint predicts for one split: columns of one length, one row per image."""

    paths: list[str]
    patients: list[str | None]  # None if the patient is not known
    labels: np.ndarray  # int [N], 0 or 1
    probabilities: np.ndarray  # float [N], of class 1
    subgroups: dict[str, list[str]] = field(default_factory=dict)  # the table's columns, as given

    def __post_init__(self) -> None:
        lengths = [len(self.paths), len(self.patients), len(self.labels), len(self.probabilities)]
        lengths += [len(values) for values in self.subgroups.values()]
        if len(set(lengths)) != 1:
            raise UserError(
                "paths, patients, labels, probabilities"
                f"{' and subgroups' if self.subgroups else ''} have lengths {lengths}; make them equal."
            )

    @property
    def predictions(self) -> np.ndarray:
        """Predicted class, int64 [N]; compared in float64, like the scores."""
        return (np.asarray(self.probabilities, dtype=np.float64) >= THRESHOLD).astype(np.int64)

    @property
    def patient_count(self) -> int | None:
        """Number of patients, or None unless every image has one."""
        return len(set(one_spelling(self.patients))) if None not in self.patients else None


def read_predictions(text: str) -> SplitResult:
    """The content of a predictions/*.csv; UserError if it is something else or damaged.

    Further columns are subgroups.
    """
    reader = csv.DictReader(io.StringIO(text))
    paths: list[str] = []
    patients: list[str | None] = []
    labels: list[int] = []
    probabilities: list[float] = []
    subgroups: dict[str, list[str]] = {}
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"the first line has no {' and no '.join(missing)}")
        subgroups = {name: [] for name in reader.fieldnames or () if name not in PREDICTION_COLUMNS}
        for row in reader:
            # A process that was killed, or a full disk, leaves half a line.
            if None in row or None in row.values():
                raise ValueError(
                    f"it does not have the {len(reader.fieldnames or ())} cells of the first line"
                )
            paths.append(row["path"])
            patients.append(row["patient"] or None)
            labels.append(_number(int, "label", row["label"]))
            probabilities.append(_number(float, "probability", row["probability"]))
            for name, values in subgroups.items():
                values.append(row[name])
    except (ValueError, csv.Error) as error:
        where = f"line {reader.line_num}: " if reader.line_num > 1 else ""
        raise UserError(f"not a table of predictions ({', '.join(COLUMNS)}): {where}{error}") from None
    if not paths:
        raise UserError(f"not a table of predictions ({', '.join(COLUMNS)}): it has no rows")
    return SplitResult(
        paths=paths,
        patients=patients,
        labels=np.array(labels, dtype=np.int64),
        probabilities=np.array(probabilities, dtype=np.float64),
        subgroups=subgroups,
    )


def _number(kind: type[T], column: str, text: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{column} is {text[:40]!r}, not a number") from None


def predictions_csv(split: SplitResult) -> bytes:
    """The CSV, UTF-8, subgroups last; probabilities read back to the same bits."""
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow((*PREDICTION_COLUMNS, *split.subgroups))
    columns = (split.paths, split.patients, split.labels, split.probabilities, split.predictions)
    rows = zip(*columns, *split.subgroups.values(), strict=True)
    for path, patient, label, probability, prediction, *subgroups in rows:
        # repr of a Python float is the shortest text that reads back to the same bits (float32 too).
        written = (path, patient or "", int(label), repr(float(probability)), int(prediction))
        writer.writerow((*written, *subgroups))
    return page.getvalue().encode(errors="surrogateescape")  # file names may not be UTF-8
