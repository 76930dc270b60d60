"""Labels and probabilities of one split, and the predictions CSV that holds them.

Two classes have the columns path, patient, label, probability (of class 1) and prediction. More classes have
path, patient, label, prediction, and a column `p_<class>` for each class in the order of the labels. Several
findings have these columns, too: label and prediction list the findings (`Edema|Mass`), and a column
`label_<finding>` for each follows, 1, 0 or empty where it is not known.
"""

import csv
import io
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

import numpy as np

from pneumo import UserError
from pneumo.evaluation import metrics, multiclass, multilabel
from pneumo.names import CLASS_NAMES, PREDICTION_COLUMNS, many_classes
from pneumo.patient_ids import one_spelling

T = TypeVar("T", int, float)
COLUMNS = PREDICTION_COLUMNS[:4]  # those that are needed
MANY_COLUMNS = ("path", "patient", "label", "prediction")  # those before the probabilities
PREFIX = "p_"  # of the column of a class
LABEL_PREFIX = "label_"  # of the column of a finding's label
BETWEEN_FINDINGS = "|"
THRESHOLD = 0.5  # an image is called positive from this probability on


@dataclass(kw_only=True, slots=True)
class SplitResult:
    """What the selected checkpoint predicts for one split: columns of one length, one row per image."""

    paths: list[str]
    patients: list[str | None]  # None if the patient is not known
    labels: np.ndarray  # int [N], 0 to K-1; of several findings [N, K] of 1, 0 and -1 (not known)
    probabilities: np.ndarray  # float [N], of class 1; of more than two classes or several findings [N, K]
    class_names: tuple[str, ...] = CLASS_NAMES
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
    def many(self) -> bool:
        """More than two classes?"""
        return many_classes(self.class_names)

    @property
    def multilabel(self) -> bool:
        """Several findings an image?"""
        return np.ndim(self.labels) == 2

    @property
    def predictions(self) -> np.ndarray:
        """Predicted class, int64 [N], or findings 0 and 1 [N, K]; compared in float64, like the scores."""
        if self.many and not self.multilabel:
            return np.asarray(self.probabilities, dtype=np.float64).argmax(1).astype(np.int64)
        return (np.asarray(self.probabilities, dtype=np.float64) >= THRESHOLD).astype(np.int64)

    def scores(self) -> dict[str, float]:
        """`metrics.scores`; of more than two classes `multiclass.scores`, of findings `multilabel.scores`."""
        return multiclass.scores_of(self.labels, self.probabilities)

    def confusion(self) -> metrics.Ints:
        """Images by true class (rows) and predicted class (columns) [K, K]; of each finding [K, 2, 2]."""
        if self.multilabel:
            return multilabel.confusion(self.labels, self.predictions)
        if self.many:
            return multiclass.confusion(self.labels, self.predictions, len(self.class_names))
        return metrics.confusion(self.labels, self.predictions)

    @property
    def patient_count(self) -> int | None:
        """Number of patients, or None unless every image has one."""
        return len(set(one_spelling(self.patients))) if None not in self.patients else None


def read_predictions(text: str) -> SplitResult:
    """The content of a predictions/*.csv of two classes; UserError for another one, or if it is damaged."""
    if names := _many_names(text):
        raise UserError(
            f"it has {len(names)} classes ({', '.join(names[:5])}{', ...' * (len(names) > 5)}), and only two "
            "classes can be used here so far"
        )
    return read_any_predictions(text)


def _many_names(text: str) -> tuple[str, ...]:
    """The classes of a CSV with a column for each class; none of a CSV of two, or if it is damaged."""
    try:
        header = next(csv.reader(io.StringIO(text)), [])
    except csv.Error:
        return ()
    after = takewhile(lambda name: name.startswith(PREFIX), header[len(MANY_COLUMNS) :])
    names = [name.removeprefix(PREFIX) for name in after]
    whole = tuple(header[: len(MANY_COLUMNS)]) == MANY_COLUMNS and len(names) >= len(CLASS_NAMES)
    return tuple(names) if whole else ()


def read_any_predictions(text: str) -> SplitResult:
    """The content of a predictions/*.csv of any number of classes; UserError if it is damaged.

    Further columns are subgroups.
    """
    class_names = _many_names(text)
    wanted = [*MANY_COLUMNS[:3], *(PREFIX + name for name in class_names)] if class_names else [*COLUMNS]
    reader = csv.DictReader(io.StringIO(text))
    of_findings: list[str] = []
    paths: list[str] = []
    patients: list[str | None] = []
    labels: list[int | list[int]] = []
    probabilities: list[float | list[float]] = []
    subgroups: dict[str, list[str]] = {}
    try:
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"the first line has no {' and no '.join(missing)}")
        if class_names and LABEL_PREFIX + class_names[0] in (reader.fieldnames or ()):
            of_findings = [LABEL_PREFIX + name for name in class_names]
        missing = [name for name in of_findings if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"the first line has no {' and no '.join(missing)}")
        known = {*wanted, *of_findings, *PREDICTION_COLUMNS}
        subgroups = {name: [] for name in reader.fieldnames or () if name not in known}
        for row in reader:
            # A process that was killed, or a full disk, leaves half a line.
            if None in row or None in row.values():
                raise ValueError(
                    f"it does not have the {len(reader.fieldnames or ())} cells of the first line"
                )
            paths.append(row["path"])
            patients.append(row["patient"] or None)
            if of_findings:
                labels.append([_finding(name, row[name]) for name in of_findings])
            else:
                labels.append(_number(int, "label", row["label"]))
            if class_names:
                probabilities.append([_number(float, name, row[name]) for name in wanted[3:]])
            else:
                probabilities.append(_number(float, "probability", row["probability"]))
            for name, values in subgroups.items():
                values.append(row[name])
    except (ValueError, csv.Error) as error:
        where = f"line {reader.line_num}: " if reader.line_num > 1 else ""
        raise UserError(f"not a table of predictions ({', '.join(wanted)}): {where}{error}") from None
    if not paths:
        raise UserError(f"not a table of predictions ({', '.join(wanted)}): it has no rows")
    return SplitResult(
        paths=paths,
        patients=patients,
        labels=np.array(labels, dtype=np.int64),
        probabilities=np.array(probabilities, dtype=np.float64),
        class_names=class_names or CLASS_NAMES,
        subgroups=subgroups,
    )


def _number(kind: type[T], column: str, text: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{column} is {text[:40]!r}, not a number") from None


def _finding(column: str, text: str) -> int:
    if text not in ("1", "0", ""):
        raise ValueError(f"{column} is {text[:40]!r}, not 1, 0 or empty")
    return int(text or multilabel.UNKNOWN)


def predictions_csv(split: SplitResult) -> bytes:
    """The CSV, UTF-8, subgroups last; probabilities read back to the same bits."""
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    rows = zip(split.paths, split.patients, split.labels, split.predictions, split.probabilities, strict=True)
    others = list(zip(*split.subgroups.values(), strict=True)) or [()] * len(split.paths)
    if split.many:
        classes = [PREFIX + name for name in split.class_names]
        labels = [LABEL_PREFIX + name for name in split.class_names] if split.multilabel else []
        writer.writerow((*MANY_COLUMNS, *classes, *labels, *split.subgroups))
        for (path, patient, label, prediction, chances), further in zip(rows, others, strict=True):
            cells = [repr(float(chance)) for chance in chances]
            shown: tuple[object, object] = (label, prediction)
            if split.multilabel:
                shown = (_listed(split.class_names, label), _listed(split.class_names, prediction))
                cells += ["" if one == multilabel.UNKNOWN else str(one) for one in label]
            writer.writerow((path, patient or "", *shown, *cells, *further))
        return page.getvalue().encode(errors="surrogateescape")
    writer.writerow((*PREDICTION_COLUMNS, *split.subgroups))
    for (path, patient, label, prediction, probability), further in zip(rows, others, strict=True):
        # repr of a Python float is the shortest text that reads back to the same bits (float32 too).
        written = (path, patient or "", int(label), repr(float(probability)), int(prediction))
        writer.writerow((*written, *further))
    return page.getvalue().encode(errors="surrogateescape")  # file names may not be UTF-8


def _listed(names: tuple[str, ...], present: np.ndarray) -> str:
    """The findings that an image has."""
    return BETWEEN_FINDINGS.join(name for name, one in zip(names, present, strict=True) if one == 1)
