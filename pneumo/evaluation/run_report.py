"""Writes the files of a finished run for people: figures, classification reports and predictions."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pneumo import one_of
from pneumo.evaluation import class_figures, figures, multiclass, multilabel, plot
from pneumo.evaluation.predictions import THRESHOLD, SplitResult, predictions_csv
from pneumo.files import write_atomically
from pneumo.names import FIGURES, PREDICTIONS, PROTOCOLS, REPORTS, TEST_SELECTED, many_classes
from pneumo.text import finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIMISTIC = "Optimistic: the epoch was chosen on the test set."


def write(
    directory: Path,
    *,
    history: list[dict[str, Any]],
    splits: dict[str, SplitResult],
    class_counts: dict[str, dict[str, int]],
    class_names: tuple[str, ...],
    selected_epoch: int,
    protocol: str,
    note: str | None = None,
    val_monitor: str = "val/auroc",
    patients: dict[str, int] | None = None,
    images: dict[str, int] | None = None,
) -> dict[str, dict[str, float]]:
    """Write figures/, reports/ and predictions/ under `directory` and return the scores of each split.

    `history` has a dict for each epoch (`epoch`, `train/loss`, ...), `splits` val, test or both,
    `class_counts` the images by split and class, `patients` and `images` those of each split (an image may
    have several findings). `val_monitor` is the score by which validation would have chosen the epoch; only
    protocol=test_selected reads it. Each file is replaced whole. If a split cannot be scored, nothing is
    written and a UserError gives the reason.
    """
    one_of("protocol", protocol, PROTOCOLS)
    for name in splits:
        one_of("split", name, ("val", "test"))
    scored = {name: split.scores() for name, split in splits.items()}
    optimistic = protocol == TEST_SELECTED
    honest = _chosen_by_validation(history, val_monitor) if optimistic else None
    distribution = _class_distribution(class_counts, patients, images, class_names, note)
    drawn = _figures(history, splits, class_names, selected_epoch, optimistic, note)
    drawn["class_distribution"] = distribution
    for name, figure in drawn.items():
        write_atomically(directory / FIGURES / f"{name}.png", plot.png(figure))
    for name in splits:
        report = _report(name, splits[name], scored[name], class_names)
        report |= {"selected_epoch": selected_epoch, "protocol": protocol, "note": note}
        report |= {"protocol_in_words": PROTOCOLS[protocol], "optimistic": optimistic and name == "test"}
        report["at_epoch_chosen_by_validation"] = honest if name == "test" else None
        text = json.dumps(finite(report), indent=2, allow_nan=False, ensure_ascii=False)
        write_atomically(directory / REPORTS / f"classification_{name}.json", (text + "\n").encode())
        page = _page(report, splits[name], class_names)
        write_atomically(directory / REPORTS / f"classification_{name}.txt", page.encode())
        write_atomically(directory / PREDICTIONS / f"{name}.csv", predictions_csv(splits[name]))
    return scored


def _class_distribution(
    class_counts: dict[str, dict[str, int]],
    patients: dict[str, int] | None,
    images: dict[str, int] | None,
    class_names: tuple[str, ...],
    note: str | None,
) -> "Figure":
    if many_classes(class_names):
        return class_figures.class_distribution(class_counts, patients, note, images)
    return figures.class_distribution(class_counts, patients, note)


def _figures(
    history: list[dict[str, Any]],
    splits: dict[str, SplitResult],
    class_names: tuple[str, ...],
    selected_epoch: int,
    optimistic: bool,
    note: str | None,
) -> dict[str, "Figure"]:
    # Only figures of the test set carry the warning, and only if the caller's note does not have it already.
    parts = [note] if note else []
    if optimistic and "optimistic" not in (note or "").lower():
        parts.append(OPTIMISTIC)
    warned = " ".join(parts) or None
    many = many_classes(class_names)
    drawn = {}
    units = figures.MACRO_UNITS if many else figures.UNITS
    for metric, title in {"loss": "Loss", "accuracy": "Accuracy", "f1": "F1"}.items():
        drawn[f"curves_{metric}"] = figures.curve(
            history, metric, f"{title} by epoch", selected_epoch, warned, units
        )
    for name, split in splits.items():
        word, below = ("validation", note) if name == "val" else ("test", warned)
        matrix = split.confusion()
        title = f"Confusion matrix, {word} set, epoch {selected_epoch}"
        if split.multilabel:
            drawn[f"confusion_{name}"] = class_figures.finding_confusions(matrix, class_names, title, below)
        elif many:
            drawn[f"confusion_{name}"] = class_figures.confusion_matrix(matrix, class_names, title, below)
        else:
            drawn[f"confusion_{name}"] = figures.confusion_matrix(matrix, class_names, title, below)
    if "test" in splits:
        labels, probabilities = splits["test"].labels, splits["test"].probabilities
        where = f"test set, epoch {selected_epoch}"
        if many:
            curves = (labels, probabilities, class_names)
            drawn["roc_test"] = class_figures.roc(*curves, f"ROC by class, {where}", warned)
            drawn["pr_test"] = class_figures.precision_recall(
                *curves, f"Precision and recall by class, {where}", warned
            )
            drawn["calibration_test"] = class_figures.calibration(*curves, f"Calibration, {where}", warned)
            return drawn
        drawn["roc_test"] = figures.roc(labels, probabilities, f"ROC, {where}", warned)
        drawn["pr_test"] = figures.precision_recall(
            labels, probabilities, f"Precision and recall, {where}", warned
        )
        drawn["calibration_test"] = figures.calibration(
            labels, probabilities, f"Calibration, {where}", warned
        )
    return drawn


def _report(
    name: str, split: SplitResult, scored: dict[str, float], class_names: tuple[str, ...]
) -> dict[str, Any]:
    from sklearn.metrics import classification_report

    report = {}
    if not split.multilabel:
        names = {"labels": [*range(len(class_names))], "target_names": list(class_names)}
        report = classification_report(
            split.labels, split.predictions, **names, zero_division=0, output_dict=True
        )
    made = {
        "split": name,
        "images": len(split.paths),
        "patients": split.patient_count,
        "class_names": list(class_names),
        "threshold": THRESHOLD,
        "scores": scored,
        "confusion_matrix": split.confusion().tolist(),
        "classification_report": report,
    }
    if split.multilabel:
        del made["classification_report"]
        of_finding = multilabel.finding_scores(split.labels, split.probabilities)
        made["class_scores"] = dict(zip(class_names, of_finding, strict=True))
        made["undefined"] = undefined(split)
    elif split.many:
        del made["threshold"]
        of_class = multiclass.class_scores(split.labels, split.probabilities)
        made["class_scores"] = dict(zip(class_names, of_class, strict=True))
        made["undefined"] = undefined(split)
    return made


def undefined(split: SplitResult) -> str | None:
    """Which scores of more than two classes are not defined, and why; None if all are."""
    if split.multilabel:
        of_finding = multilabel.finding_scores(split.labels, split.probabilities)
        odd = [n for n, one in zip(split.class_names, of_finding, strict=True) if math.isnan(one["auroc"])]
        if not odd:
            return None
        return (
            f"all known images have, or none has, {', '.join(odd)}: the AUROC is not defined, and the means "
            "over findings are those of the others"
        )
    absent = [name for label, name in enumerate(split.class_names) if not (split.labels == label).any()]
    if not split.many or not absent:
        return None
    return (
        f"no image has the class {', '.join(absent)}: its AUROC, recall and F1 are not defined, and neither "
        "are the macro scores of them"
    )


def _page(report: dict[str, Any], split: SplitResult, class_names: tuple[str, ...]) -> str:
    from sklearn.metrics import classification_report

    header = {
        "split": report["split"],
        "images": report["images"],
        "patients": "not known for every image" if report["patients"] is None else report["patients"],
        "selected epoch": report["selected_epoch"],
        "protocol": f"{report['protocol']}: {report['protocol_in_words']}",
        "positive class": f"{class_names[1]}, called from probability {THRESHOLD} on",
    }
    if split.many:
        del header["positive class"]
        header["called class"] = "the one with the largest probability"
        if split.multilabel:
            header["called class"] = f"each finding from probability {THRESHOLD} on"
        if report["undefined"]:
            header["not defined"] = report["undefined"]
    if report["note"]:
        header["note"] = report["note"]
    if report["optimistic"]:
        header["by validation"] = _honest_words(report["at_epoch_chosen_by_validation"])
    lines = [f"{key + ':':<16}{value}" for key, value in header.items()]
    table = ""
    if not split.multilabel:
        table = classification_report(
            split.labels,
            split.predictions,
            labels=[*range(len(class_names))],
            target_names=list(class_names),
            digits=4,
            zero_division=0,
        )
    width = 20 if split.many else 12
    scores = [f"{key:<{width}}{value:.4f}" for key, value in report["scores"].items()]
    if split.many:
        scores += ["", *_class_rows(report["class_scores"])]
    return "\n".join([*lines, "", table.rstrip(), "", *scores, ""])


def _class_rows(of_class: dict[str, dict[str, float]]) -> list[str]:
    """The scores of each class, one class a line."""
    width = max(map(len, of_class)) + 2
    lines = [" " * width + "".join(f"{name:>12}" for name in multiclass.OF_A_CLASS)]
    for name, scores in of_class.items():
        lines.append(f"{name:<{width}}" + "".join(f"{scores[key]:>12.4f}" for key in multiclass.OF_A_CLASS))
    return lines


def _chosen_by_validation(history: list[dict[str, Any]], monitor: str) -> dict[str, Any] | None:
    """The test scores at the epoch that validation would have chosen; None if `history` lacks them."""
    rows = [row for row in history if _is_number(row.get(monitor))]
    if not rows:
        return None
    least = monitor.endswith(("loss", "brier", "ece"))
    best = (min if least else max)(row[monitor] for row in rows)
    ties = [row for row in rows if row[monitor] == best]
    # The first of equal epochs: a trainer keeps an epoch until another one improves on it.
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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)
