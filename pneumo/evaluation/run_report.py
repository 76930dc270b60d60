"""The files a finished run leaves for its reader: figures, classification reports and predictions."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pneumo import UserError, one_of
from pneumo.evaluation import metrics
from pneumo.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD = 0.5  # an image is called positive from this probability on

PROTOCOLS = {
    "patient_val": "the epoch was chosen on the validation set, which shares no known patient with training; "
    "the test set took no part in any choice",
    "official_val": "the epoch was chosen on the 16 official validation images, too few to choose by; "
    "the test set took no part in any choice",
    "test_selected": "the epoch was chosen on the test set itself, so the test figure is optimistic: "
    "expect less on new images",
}
OPTIMISTIC = "Optimistic: the epoch was chosen on the test set."


@dataclass(kw_only=True, slots=True)
class SplitResult:
    """What the selected checkpoint says of one split; four columns of one length, a row an image."""

    paths: list[str]
    patients: list[str | None]  # None where the patient is not known
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


def write(
    directory: Path,
    *,
    history: list[dict[str, Any]],
    splits: dict[str, SplitResult],
    class_counts: dict[str, dict[str, int]],
    class_names: tuple[str, str],
    selected_epoch: int,
    protocol: str,
    note: str | None = None,
    val_monitor: str = "val/auroc",
    patients: dict[str, int] | None = None,
) -> dict[str, float]:
    """Write figures/, reports/ and predictions/ under `directory` and return the scores of the test split.

    `history` has a dict an epoch (`epoch`, `train/loss`, `val/f1`, ...), `splits` the keys val and test,
    `class_counts` the images by split and class, `patients` the patients by split. `val_monitor` is the
    figure by which validation would have chosen the epoch; it is read for protocol=test_selected only. Each
    file is replaced whole; nothing is written where a split cannot be scored.
    """
    one_of("protocol", protocol, PROTOCOLS)
    for needed in ("val", "test"):
        one_of("split", needed, splits)
    scored = {
        name: metrics.scores(splits[name].labels, splits[name].probabilities) for name in ("val", "test")
    }
    optimistic = protocol == "test_selected"
    honest = _chosen_by_validation(history, val_monitor) if optimistic else None
    drawn = _figures(history, splits, class_counts, patients, class_names, selected_epoch, optimistic, note)
    for name, figure in drawn.items():
        write_atomically(directory / "figures" / f"{name}.png", _png(figure))
    for name in ("val", "test"):
        facts = _facts(name, splits[name], scored[name], class_names)
        facts |= {"selected_epoch": selected_epoch, "protocol": protocol, "note": note}
        facts |= {"protocol_in_words": PROTOCOLS[protocol], "optimistic": optimistic and name == "test"}
        facts["at_epoch_chosen_by_validation"] = honest if name == "test" else None
        text = json.dumps(finite(facts), indent=2, allow_nan=False, ensure_ascii=False)
        write_atomically(directory / "reports" / f"classification_{name}.json", (text + "\n").encode())
        page = _page(facts, splits[name], class_names)
        write_atomically(directory / "reports" / f"classification_{name}.txt", page.encode())
        write_atomically(directory / "predictions" / f"{name}.csv", predictions_csv(splits[name]))
    return scored["test"]


def terminal_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as aligned plain text: columns from the first row's keys, floats with 4 decimals."""
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(text) for text in texts) for texts in zip(columns, *cells, strict=True)]
    numbers = [any(isinstance(row.get(c), (int, float, np.number)) for row in rows) for c in columns]

    def line(texts: Sequence[str]) -> str:
        parts = zip(texts, widths, numbers, strict=True)
        return "  ".join(t.rjust(w) if right else t.ljust(w) for t, w, right in parts).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, cells)])


def _figures(
    history: list[dict[str, Any]],
    splits: dict[str, SplitResult],
    class_counts: dict[str, dict[str, int]],
    patients: dict[str, int] | None,
    class_names: tuple[str, str],
    selected_epoch: int,
    optimistic: bool,
    note: str | None,
) -> dict[str, "Figure"]:
    from pneumo.evaluation import figures

    # Only what shows a test figure carries the warning; it is not said twice where the caller's note has it.
    parts = [note] if note else []
    if optimistic and "optimistic" not in (note or "").lower():
        parts.append(OPTIMISTIC)
    warned = " ".join(parts) or None
    drawn = {"class_distribution": figures.class_distribution(class_counts, patients, note)}
    for metric, title in {"loss": "Loss", "accuracy": "Accuracy", "f1": "F1"}.items():
        drawn[f"curves_{metric}"] = figures.curve(
            history, metric, f"{title} by epoch", selected_epoch, warned
        )
    for name, word, said in (("val", "validation", note), ("test", "test", warned)):
        matrix = metrics.confusion(splits[name].labels, splits[name].predictions)
        title = f"Confusion matrix, {word} set, epoch {selected_epoch}"
        drawn[f"confusion_{name}"] = figures.confusion_matrix(matrix, class_names, title, said)
    labels, probabilities = splits["test"].labels, splits["test"].probabilities
    where = f"test set, epoch {selected_epoch}"
    drawn["roc_test"] = figures.roc(labels, probabilities, f"ROC, {where}", warned)
    drawn["pr_test"] = figures.precision_recall(
        labels, probabilities, f"Precision and recall, {where}", warned
    )
    drawn["calibration_test"] = figures.calibration(labels, probabilities, f"Calibration, {where}", warned)
    return drawn


def _facts(
    name: str, split: SplitResult, scored: dict[str, float], class_names: tuple[str, str]
) -> dict[str, Any]:
    from sklearn.metrics import classification_report

    names = {"labels": [0, 1], "target_names": list(class_names)}
    report = classification_report(
        split.labels, split.predictions, **names, zero_division=0, output_dict=True
    )
    matrix = metrics.confusion(split.labels, split.predictions)
    return {
        "split": name,
        "images": len(split.paths),
        "patients": split.patient_count,
        "class_names": list(class_names),
        "threshold": THRESHOLD,
        "scores": scored,
        "confusion_matrix": matrix.tolist(),
        "classification_report": report,
    }


def _page(facts: dict[str, Any], split: SplitResult, class_names: tuple[str, str]) -> str:
    from sklearn.metrics import classification_report

    header = {
        "split": facts["split"],
        "images": facts["images"],
        "patients": "not known for every image" if facts["patients"] is None else facts["patients"],
        "selected epoch": facts["selected_epoch"],
        "protocol": f"{facts['protocol']}: {facts['protocol_in_words']}",
        "positive class": f"{class_names[1]}, called from probability {THRESHOLD} on",
    }
    if facts["note"]:
        header["note"] = facts["note"]
    if facts["optimistic"]:
        header["by validation"] = _honest_words(facts["at_epoch_chosen_by_validation"])
    lines = [f"{key + ':':<16}{value}" for key, value in header.items()]
    table = classification_report(
        split.labels,
        split.predictions,
        labels=[0, 1],
        target_names=list(class_names),
        digits=4,
        zero_division=0,
    )
    figures = [f"{key:<12}{value:.4f}" for key, value in facts["scores"].items()]
    return "\n".join([*lines, "", table.rstrip(), "", *figures, ""])


def _chosen_by_validation(history: list[dict[str, Any]], monitor: str) -> dict[str, Any] | None:
    """The test figures at the epoch that validation would have chosen; None where `history` cannot say."""
    rows = [row for row in history if _is_number(row.get(monitor))]
    if not rows:
        return None
    least = monitor.endswith(("loss", "brier", "ece"))
    best = (min if least else max)(row[monitor] for row in rows)
    ties = [row for row in rows if row[monitor] == best]
    # The first of equals, as a trainer that asks for an improvement keeps it.
    test = {key: float(v) for key, v in ties[0].items() if key.startswith("test/") and _is_number(v)}
    if not test:
        return None
    return {
        "epoch": ties[0]["epoch"],
        "monitor": monitor,
        "value": float(best),
        "ties": len(ties),
        "test": test,
    }


def _honest_words(honest: dict[str, Any] | None) -> str:
    if honest is None:
        return "not known: the history lacks a validation or a test figure of each epoch"
    ties = f", the first of {honest['ties']} equal epochs" if honest["ties"] > 1 else ""
    figures = ", ".join(f"{key} {value:.4f}" for key, value in honest["test"].items())
    return f"epoch {honest['epoch']} (best {honest['monitor']} {honest['value']:.4f}{ties}): {figures}"


def read_predictions(text: str) -> SplitResult:
    """The content of a predictions/*.csv; UserError where it is none."""
    rows = list(csv.DictReader(io.StringIO(text)))
    try:
        return SplitResult(
            paths=[row["path"] for row in rows],
            patients=[row["patient"] or None for row in rows],
            labels=np.array([int(row["label"]) for row in rows], dtype=np.int64),
            probabilities=np.array([float(row["probability"]) for row in rows], dtype=np.float64),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"no table of predictions (path, patient, label, probability): {error}") from None


def predictions_csv(split: SplitResult) -> bytes:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(("path", "patient", "label", "probability", "prediction"))
    columns = (split.paths, split.patients, split.labels, split.probabilities, split.predictions)
    for path, patient, label, probability, prediction in zip(*columns, strict=True):
        # repr of a Python float is the shortest text that reads back to the same bits (float32 too).
        writer.writerow((path, patient or "", int(label), repr(float(probability)), int(prediction)))
    return page.getvalue().encode(errors="surrogateescape")  # a file name need not be UTF-8


def _png(figure: "Figure") -> bytes:
    page = io.BytesIO()
    figure.savefig(page, format="png")
    return page.getvalue()


def finite(value: Any) -> Any:
    """`value` with nan and infinity as None: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, (float, np.floating)) else str(value)
