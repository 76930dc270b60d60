"""What `pneumo predict` leaves on disk: a CSV or JSON file of predictions, and a folder of overlays."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from pneumo import UserError
from pneumo.evaluation.predictions import PREFIX
from pneumo.inference import explain
from pneumo.inference.inputs import InputFiles, relative_name
from pneumo.inference.predictor import Prediction, Predictor, PreparedImage
from pneumo.names import CLASS_NAMES, many_classes

COLUMNS = ("path", "probability", "decision", "threshold", "model", "warnings", "error", "overlay")
# Columns that came later are last: readers that count columns go on.
LATER = ("withheld", "differences", "answer", "prediction_set", "window")
THRESHOLD = "threshold_"  # before the name of a class; its probability has the prefix of predictions/*.csv
MAX_NAME_LENGTH = 200  # characters of an image's name in the name of its overlay
UNREADABLE = "could not be read"
WITHHELD = "unlike the training images, decision withheld"
OTHER_SHAPE = "of another shape than the training images"
NO_FINDING = "without a finding"  # images of several findings that reach none of their thresholds


def columns(class_names: Sequence[str]) -> tuple[str, ...]:
    """The columns of a file of predictions, which are the keys of a JSON's rows."""
    if not many_classes(class_names):
        return (*COLUMNS, *LATER)
    chances, thresholds = ([prefix + name for name in class_names] for prefix in (PREFIX, THRESHOLD))
    known = ("path", "prediction", *chances, "reached", *thresholds)
    return (*known, "model", "warnings", "error", "overlay", *LATER)


class PredictionFile:
    """The output file. Each prediction is written when it is known, and stays if the command is stopped."""

    def __init__(self, path: Path, class_names: Sequence[str] = CLASS_NAMES) -> None:
        self.path, self.count = path, 0
        self.columns = columns(class_names)
        self.as_json = path.suffix.lower() == ".json"

    def __enter__(self) -> "PredictionFile":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A file's name may not be valid text: its bytes are kept.
            self.file: IO[str] = self.path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise UserError(f"output={self.path} cannot be written: {error.strerror}.") from None
        self.csv = csv.writer(self.file, lineterminator="\n")
        if self.as_json:
            self.file.write("[")
        else:
            self.csv.writerow(self.columns)
        return self

    def write(self, prediction: Prediction) -> None:
        known = {**asdict(prediction), **_of_classes(prediction)}
        if prediction.withheld:
            known |= dict.fromkeys(("decision", "prediction", "reached"))
        row = {key: known.get(key) for key in self.columns}
        for key, value in row.items():
            if isinstance(value, float):
                row[key] = round(value, 6) if math.isfinite(value) else None
        if self.as_json:
            self.file.write(",\n" if self.count else "\n")
            self.file.write(json.dumps(row))
        else:
            cells = ("; ".join(value) if isinstance(value, list) else value for value in row.values())
            self.csv.writerow("" if cell is None else cell for cell in cells)
        self.count += 1

    def flush(self) -> None:
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        if self.as_json:
            self.file.write("\n]\n")
        self.file.close()


def _of_classes(prediction: Prediction) -> dict[str, Any]:
    """What a row of more than two classes has beside a row of two."""
    return {
        "prediction": prediction.decision,
        "reached": prediction.reached,
        **{PREFIX + one.name: one.probability for one in prediction.classes},
        **{THRESHOLD + one.name: one.threshold for one in prediction.classes},
    }


def write_all(
    predictor: Predictor,
    found: InputFiles,
    output: PredictionFile,
    counts: dict[str, int],
    *,
    batch_size: int,
    explain_below: Path | None = None,
) -> None:
    """Predict all files of `found` into `output`; `counts` has the number of each outcome at any time.

    Of several findings, an image counts for each finding that it is predicted to have.
    With `explain_below`, each image gets an overlay under its name relative to that folder.
    """

    def write(prediction: Prediction) -> None:
        output.write(prediction)
        outcomes = [UNREADABLE] if prediction.error else [prediction.decision]
        if predictor.bundle.multilabel and not prediction.error:
            outcomes = prediction.reached or [NO_FINDING]
        if prediction.withheld:
            outcomes = [WITHHELD]
        for outcome in outcomes:
            counts[outcome] = counts.get(outcome, 0) + 1
        if prediction.warnings:
            counts["with warnings"] = counts.get("with warnings", 0) + 1
        if prediction.differences:
            counts[OTHER_SHAPE] = counts.get(OTHER_SHAPE, 0) + 1

    for path in found.outside:
        write(predictor.refused(path, "a link that leads out of the folder"))
    batches = predictor.predict(found.files, batch_size=batch_size)
    overlays = output.path.with_name(f"{output.path.stem}_overlays")
    with tqdm(total=len(found.files), desc="Predict", disable=None, leave=False) as bar:
        for batch in batches:
            if explain_below:
                _write_overlays(overlays, explain_below, predictor, batch)
            for prediction, _ in batch:
                write(prediction)
            output.flush()
            bar.update(len(batch))


def _write_overlays(
    folder: Path,
    root: Path,
    predictor: Predictor,
    batch: Sequence[tuple[Prediction, PreparedImage | None]],
) -> None:
    """Write an overlay for each image of a batch below `folder`, under the image's own name."""
    good = [(prediction, image) for prediction, image in batch if image is not None]
    if not good:
        return
    squares = np.stack([image.square for _, image in good])
    maps = predictor.overlays([prediction for prediction, _ in good], squares)
    for (prediction, image), heat in zip(good, maps, strict=True):
        name = relative_name(Path(prediction.path), root)
        file = folder / name.with_name(
            name.name[:MAX_NAME_LENGTH] + ".png"
        )  # x.jpeg and x.png may both exist
        explain.write(file, image.square, heat, predictor.caption(prediction))
        prediction.overlay = str(file)
