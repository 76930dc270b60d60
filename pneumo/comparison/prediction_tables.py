"""Predictions of any program as candidates: one table for each model, or tables of several models.

A row is an image: its `path` or `id`, its `label`, and its `probability` of class 1, or `p_<class>` for each
class. Optional: `patient`, `model`, `seed` and `split`. Rows of the split val choose thresholds; rows of the
training images are left out.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pneumo import UserError
from pneumo.comparison import result
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import Comparison
from pneumo.data.columns import plain
from pneumo.data.found import SPLIT_NAMES
from pneumo.evaluation.predictions import PREFIX, SplitResult
from pneumo.names import CLASS_NAMES, OUTSIDE

COLUMNS = {  # by role, the names that are known: without case, blanks and punctuation
    "path": ("path", "id", "image", "imageid", "imageindex", "file", "filename", "filepath", "img"),
    "label": ("label", "target", "truth", "ytrue", "class"),
    "probability": ("probability", "prob", "score", "yprob", "probability1"),
    "patient": ("patient", "patientid", "subject", "subjectid"),
    "model": ("model", "modelname"),
    "seed": ("seed", "randomseed"),
    "split": ("split", "subset", "fold"),
}
TRUE = {"1": 1, "true": 1, "yes": 1, "positive": 1, "0": 0, "false": 0, "no": 0, "negative": 0}
SUM_TOLERANCE = 0.01  # of an image's probabilities against 1: people round them
_SUFFIX = re.compile(r"\.(csv|tsv|txt)(\.gz)?$", re.IGNORECASE)  # of a file, whose name names its model
SHOWN = 3  # images that a message names


def candidates(tables: Mapping[str, pd.DataFrame]) -> list[Candidate]:
    """A candidate for each model and seed in `tables`, by the name of each table.

    Raises UserError for a table that cannot be read, and for models that were scored on other images, labels
    or patients than the first.
    """
    found: dict[tuple[str, int], Candidate] = {}
    for place, table in tables.items():
        for candidate in _of_table(place, _named(place, table)):
            mark = (candidate.name, candidate.seed)
            if mark in found:
                raise UserError(
                    f"{place}: model {candidate.name} with seed {candidate.seed} is in another table too. "
                    "Give each its own seed (a column seed), or its own name (a column model)."
                )
            found[mark] = candidate
    runs = list(found.values())
    if not runs:
        raise UserError("predictions=[]: name one table of predictions or more.")
    for run in runs[1:]:
        _same_images(runs[0], run)
    if not all(len(run.val.paths) for run in runs):  # a choice by validation needs it of every model
        for run in runs:
            run.val = _none_of(run.test)
    return runs


def compare(runs: Sequence[Candidate], *, command: str = "", **options: Any) -> Comparison:
    """The whole comparison of `candidates`; `options` are those of result.build."""
    about = result.about(runs, experiment="predictions", sweep=None, command=command)
    built = result.build(runs, **options)
    return {**built, "about": about, "left_out": [], "unscored": [], "splits": None}


def _named(place: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns under the names of their roles, and those of classes as they are."""
    names = [str(name) for name in table.columns]
    roles: dict[str, str] = {}
    for role, known in COLUMNS.items():
        by_name = {plain(name): name for name in reversed(names)}
        here = [by_name[name] for name in known if name in by_name]
        if here:
            roles[role] = here[0]
    of_classes = [name for name in names if name.startswith(PREFIX) and len(name) > len(PREFIX)]
    if of_classes:
        roles.pop("probability", None)
        if len(of_classes) == 1:
            raise UserError(
                f"{place}: {of_classes[0]} is the only column of a class. Give p_<class> for each class, or "
                "probability for the class that is positive."
            )
    for role in ("path", "label", *(() if of_classes else ("probability",))):
        if role not in roles:
            raise UserError(
                f"{place} has no column {role}; it has {', '.join(names[:12])}. Known names are "
                f"{', '.join(COLUMNS[role])}" + (", or p_<class>." if role == "probability" else ".")
            )
    kept = table.rename(columns={name: role for role, name in roles.items()})
    return kept[[*roles, *of_classes]].reset_index(drop=True)


def _of_table(place: str, table: pd.DataFrame) -> list[Candidate]:
    if not len(table):
        raise UserError(f"{place} has no rows.")
    classes = [name.removeprefix(PREFIX) for name in table.columns if name.startswith(PREFIX)]
    name = place
    if Path(place).is_file() or _SUFFIX.search(place):
        name = Path(place).name.removesuffix(".gz").rpartition(".")[0] or place
    models = _texts(table["model"]) if "model" in table else [name] * len(table)
    seeds = _seeds(place, table["seed"]) if "seed" in table else [0] * len(table)
    splits = _splits(place, table)
    labels = _labels(place, table["label"], classes)
    chances = _chances(place, table, classes)
    paths = _texts(table["path"])
    if "" in paths:
        raise UserError(f"{place}: row {paths.index('') + 1} names no image (column path).")
    patients = [text or None for text in _texts(table["patient"])] if "patient" in table else None
    marks = np.array([f"{model}\x00{seed}" for model, seed in zip(models, seeds, strict=True)])
    parts = np.array(splits)
    found = []
    for mark in dict.fromkeys(marks.tolist()):
        model, _, seed = mark.rpartition("\x00")
        each = {}
        for part in ("test", "val"):
            rows = np.flatnonzero((marks == mark) & (parts == part))
            rows = rows[np.argsort(np.array([paths[row] for row in rows]), kind="stable")]
            each[part] = SplitResult(
                paths=[paths[row] for row in rows],
                patients=[patients[row] if patients else None for row in rows],
                labels=labels[rows],
                probabilities=chances[rows],
                class_names=tuple(classes) if len(classes) > 2 else CLASS_NAMES,
            )
            _refuse_twice(f"{place}, model {model}, seed {seed}", each[part].paths)
        if not each["test"].paths:
            raise UserError(
                f"{place}, model {model}, seed {seed}: no row is of the test images. Rows without a split "
                "count as test."
            )
        found.append(_candidate(model, int(seed), each["test"], each["val"]))
    return found


def _candidate(model: str, seed: int, test: SplitResult, val: SplitResult) -> Candidate:
    rows = "\n".join(f"{path} {label}" for path, label in zip(test.paths, test.labels.tolist(), strict=True))
    return Candidate(
        run_id=hashlib.sha256(f"{model} {seed}".encode(errors="surrogateescape")).hexdigest()[:32],
        name=model,
        seed=seed,
        config={"model.name": model},
        protocol=OUTSIDE,
        digest=hashlib.sha256(rows.encode(errors="surrogateescape")).hexdigest(),
        test=test,
        val=val,
    )


def _texts(column: "pd.Series[str]") -> list[str]:
    """The cells as text: a missing one is empty, and 12.0 of a column of numbers is 12."""
    if isinstance(column.dtype, pd.StringDtype):
        return column.fillna("").tolist()
    return [
        ""
        if pd.isna(cell)
        else str(int(cell))
        if isinstance(cell, float) and cell.is_integer()
        else str(cell)
        for cell in column.tolist()
    ]


def _seeds(place: str, column: "pd.Series[str]") -> list[int]:
    texts = _texts(column)
    for row, text in enumerate(texts):
        if not text.strip().isdigit():
            raise UserError(f"{place}: row {row + 1} has the seed {text!r}, which is not a whole number.")
    return [int(text) for text in texts]


def _splits(place: str, table: pd.DataFrame) -> list[str]:
    if "split" not in table:
        return ["test"] * len(table)
    texts = _texts(table["split"])
    names = {**SPLIT_NAMES, "": "test"}
    for row, text in enumerate(texts):
        if text.strip().lower() not in names:
            raise UserError(
                f"{place}: row {row + 1} has the split {text!r}; known are {', '.join(sorted(SPLIT_NAMES))}."
            )
    return [names[text.strip().lower()] for text in texts]


def _labels(place: str, column: "pd.Series[str]", classes: Sequence[str]) -> np.ndarray:
    """Numbers of classes: of the class's name, of its number, or 0 and 1 in words."""
    known = {str(number): number for number in range(max(2, len(classes)))}
    names = classes or CLASS_NAMES
    known |= {name.casefold(): number for number, name in enumerate(names)}
    if len(names) == 2:
        known |= TRUE
    texts = [text.strip().casefold() for text in _texts(column)]
    for row, text in enumerate(texts):
        if text not in known:
            raise UserError(
                f"{place}: row {row + 1} has the label {text!r}; known are {', '.join(names)}, or 0 to "
                f"{len(names) - 1}."
            )
    return np.array([known[text] for text in texts], dtype=np.int64)


def _chances(place: str, table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Probabilities of class 1 [N], or of more than two classes [N, K] with the sum 1."""
    columns = [PREFIX + name for name in classes] or ["probability"]
    values = np.stack(
        [pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in columns], 1
    )
    wrong = ~((values >= 0) & (values <= 1))  # written so that nan counts as wrong
    if wrong.any():
        row, column = (int(number) for number in np.argwhere(wrong)[0])
        raise UserError(
            f"{place}: row {row + 1} has the {columns[column]} {_texts(table[columns[column]])[row]!r}, and "
            f"{int(wrong.any(axis=1).sum())} of {len(values)} rows have none between 0 and 1. Give "
            "probabilities, not logits or classes."
        )
    if not classes:
        return values[:, 0]
    total = values.sum(axis=1)
    if (off := np.abs(total - 1) > SUM_TOLERANCE).any():
        row = int(np.argmax(off))
        raise UserError(
            f"{place}: the probabilities of row {row + 1} have the sum {total[row]:.4g}, and those of "
            f"{int(off.sum())} of {len(values)} rows are not 1. Give the softmax of each class."
        )
    values = values / total[:, None]
    return values if len(classes) > 2 else values[:, 1]


def _refuse_twice(place: str, paths: Sequence[str]) -> None:
    for one, other in pairwise(paths):
        if one == other:
            raise UserError(f"{place}: {one} has two rows. Give one for each image, model, seed and split.")


def _same_images(first: Candidate, other: Candidate) -> None:
    """Raise UserError unless both were scored on the same images, labels and patients."""
    if first.test.class_names != other.test.class_names:
        raise UserError(
            f"{first.name} has the classes {', '.join(first.test.class_names)}, and {other.name} "
            f"{', '.join(other.test.class_names)}. Compare models with the same classes in the same order."
        )
    here, there = set(first.test.paths), set(other.test.paths)
    if here != there:
        only = [
            f"{len(paths)} only in {run.name}, seed {run.seed} ({', '.join(sorted(paths)[:SHOWN])})"
            for run, paths in ((first, here - there), (other, there - here))
            if paths
        ]
        raise UserError(
            f"{first.name} and {other.name} were scored on different images: {'; '.join(only)}. Paired "
            "tests need the same images for each model: leave the others out, or score them too."
        )
    wrong = np.flatnonzero(first.test.labels != other.test.labels)
    if len(wrong):
        raise UserError(
            f"{first.name} and {other.name}, seed {other.seed}, have other labels for {len(wrong)} of "
            f"{len(here)} images, the first is {first.test.paths[wrong[0]]}."
        )
    if first.test.patients != other.test.patients:
        row = next(
            row
            for row, (one, two) in enumerate(zip(first.test.patients, other.test.patients, strict=True))
            if one != two
        )
        raise UserError(
            f"{first.name} and {other.name}, seed {other.seed}, name other patients for "
            f"{first.test.paths[row]}: {first.test.patients[row] or 'none'} and "
            f"{other.test.patients[row] or 'none'}."
        )


def _none_of(split: SplitResult) -> SplitResult:
    """A split without images."""
    return SplitResult(
        paths=[],
        patients=[],
        labels=split.labels[:0],
        probabilities=split.probabilities[:0],
        class_names=split.class_names,
    )
