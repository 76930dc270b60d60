"""What `pneumo predict` leaves on disk: a CSV or JSON file of predictions, and a folder of overlays."""

import csv
import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from pneumo import UserError
from pneumo.data import dicom
from pneumo.data.limits import BadImage
from pneumo.evaluation.predictions import PREFIX
from pneumo.files import sync, write_atomically
from pneumo.inference import explain, side_file
from pneumo.inference.inputs import OVERLAYS_MARK, InputFiles, relative_name
from pneumo.inference.predictor import Prediction, Predictor, PreparedImage
from pneumo.names import CLASS_NAMES, many_classes

COLUMNS = ("path", "probability", "decision", "threshold", "model", "warnings", "error", "overlay")
# Columns that came later are last: readers that count columns go on.
LATER = ("withheld", "differences", "answer", "prediction_set", "window")
THRESHOLD = "threshold_"  # before the name of a class; its probability has the prefix of predictions/*.csv
MAX_NAME_BYTES = 200  # of an image's name in the name of its overlay; file systems take 255 in all
UIDS = ("study_uid", "sop_uid")
SKIPPED = "skipped: "  # before the kind of a file that is not a radiograph, in the outcomes
SHOWN = 10  # of the files that could not be read, in the terminal
UNREADABLE = "could not be read"
WITHHELD = "unlike the training images, decision withheld"
OTHER_SHAPE = "of another shape than the training images"
NO_FINDING = "without a finding"  # images of several findings that reach none of their thresholds


def columns(class_names: Sequence[str], dicom_uids: bool = False) -> tuple[str, ...]:
    """The columns of a file of predictions, which are the keys of a JSON's rows."""
    if dicom_uids:
        return (*columns(class_names), *UIDS)
    if not many_classes(class_names):
        return (*COLUMNS, *LATER)
    chances, thresholds = ([prefix + name for name in class_names] for prefix in (PREFIX, THRESHOLD))
    known = ("path", "prediction", *chances, "reached", *thresholds)
    return (*known, "model", "warnings", "error", "overlay", *LATER)


def overlays_of(path: Path) -> Path:
    """The folder of the overlays of an output."""
    return path.with_name(f"{path.stem}_overlays")


def provenance_of(path: Path) -> Path:
    """The file that says what made an output."""
    return path.with_name(f"{path.name}.provenance.json")


def own_files(path: Path) -> list[Path]:
    """What a prediction writes beside its output, and the output: not its input."""
    return [path, path.with_name(path.name + side_file.SUFFIX), provenance_of(path), overlays_of(path)]


class PredictionFile:
    """The output file. It holds what it held before until the `with` block ends without an error.

    Until then the rows are in a side file (see `side_file`), which stays if the command is stopped. With
    `resume`, the rows of a stopped command whose `record` was equal are kept; `side` has their number.
    """

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str] = CLASS_NAMES,
        *,
        dicom_uids: bool = False,
        record: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.path = path
        self.columns = columns(class_names, dicom_uids)
        self.with_uids = dicom_uids
        self.provenance: Callable[[str], Mapping[str, Any]] | None = None  # of the output's SHA-256
        self.rows = 0
        self.unreadable: list[str] = []
        self.as_json = path.suffix.lower() == ".json"
        self.record, self.resume = record or {}, resume
        self._pending: list[side_file.Entry] = []

    def __enter__(self) -> "PredictionFile":
        self.side = side_file.SideFile(
            self.path, {**self.record, "columns": [*self.columns]}, resume=self.resume
        )
        return self

    def write(self, prediction: Prediction, outcomes: Sequence[str] = ()) -> None:
        """Take a row, which is on the disk after `flush`; it counts for `outcomes`."""
        self._pending.append(side_file.Entry(row_of(prediction, self.columns), [*outcomes]))

    def skip(self, outcome: str) -> None:
        """Take a file without a row; it counts for `outcome`."""
        self._pending.append(side_file.Entry(None, [outcome]))

    def flush(self) -> None:
        pending, self._pending = self._pending, []
        self.side.append(pending)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
                self._finish()
            else:
                with suppress(UserError):  # what stopped the command is reported, not this
                    self.flush()
        finally:
            self.side.close(remove=kind is None)

    def _finish(self) -> None:
        """Replace the output by the rows of the side file."""
        temporary = self.path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            # A file's name may not be valid text: its bytes are kept.
            with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                self._compose(file)
                file.flush()
                os.fsync(file.fileno())
            if self.provenance is not None:
                with temporary.open("rb") as written:
                    digest = hashlib.file_digest(written, "sha256").hexdigest()
                facts = json.dumps(self.provenance(digest), indent=1)
                write_atomically(provenance_of(self.path), f"{facts}\n".encode())
            temporary.replace(self.path)
            sync(self.path.parent)
        except OSError as error:
            raise UserError(
                f"output={self.path} cannot be written: {error.strerror}. All rows are in {self.side.path}: "
                "add resume=true to the command to write it from there."
            ) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _compose(self, file: IO[str]) -> None:
        table = csv.writer(file, lineterminator="\n")
        if self.as_json:
            file.write("[")
        else:
            table.writerow(self.columns)
        before = "\n"
        for entry in self.side.entries():
            if entry.row is None:
                continue
            self.rows += 1
            if error := entry.row["error"]:
                self.unreadable.append(f"{entry.row['path']}: {error}")
            if self.as_json:
                file.write(before + json.dumps(entry.row))
                before = ",\n"
            else:
                table.writerow(cell(value) for value in entry.row.values())
        if self.as_json:
            file.write("\n]\n")


def row_of(prediction: Prediction, keys: Sequence[str]) -> dict[str, Any]:
    """The row of a prediction with these columns, as JSON has it."""
    known = {**asdict(prediction), **_of_classes(prediction)}
    if prediction.withheld:
        known |= dict.fromkeys(("decision", "prediction", "reached"))
    row = {key: known.get(key) for key in keys}
    for key, value in row.items():
        if isinstance(value, float):
            row[key] = round(value, 6) if math.isfinite(value) else None
    return row


def cell(value: Any) -> Any:
    """A value of a row as CSV has it."""
    if value is None:
        return ""
    return "; ".join(value) if isinstance(value, list) else value


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

    Of several findings, an image counts for each finding that it is predicted to have. Files whose rows
    `output` has kept are counted and not predicted again.
    With `explain_below`, each image gets an overlay under its name relative to that folder.
    """

    def write(prediction: Prediction) -> None:
        if prediction.skipped and prediction.path not in found.named:
            output.skip(SKIPPED + prediction.skipped)
            count([SKIPPED + prediction.skipped])
            return
        if output.with_uids:
            with suppress(BadImage):  # as slow to read as its pixels
                prediction.study_uid, prediction.sop_uid = predictor.time_limit.run(
                    prediction.path, partial(dicom.uids, prediction.path)
                )
        outcomes = [UNREADABLE] if prediction.error else [prediction.decision]
        if predictor.bundle.multilabel and not prediction.error:
            outcomes = prediction.reached or [NO_FINDING]
        if prediction.withheld:
            outcomes = [WITHHELD]
        outcomes += ["with warnings"] if prediction.warnings else []
        outcomes += [OTHER_SHAPE] if prediction.differences else []
        output.write(prediction, outcomes)
        count(outcomes)

    def count(outcomes: Sequence[str]) -> None:
        for outcome in outcomes:
            counts[outcome] = counts.get(outcome, 0) + 1

    done = _keep_whole_batches(output.side, found, predictor.files_per_batch(batch_size))
    for entry in output.side.entries():
        count(entry.outcomes)
    if not len(output.side):
        for path in found.outside:
            write(predictor.refused(path, "a link that leads out of the folder"))
        output.flush()
    batches = predictor.predict(
        found.files[done:], batch_size=batch_size, keep_grey=explain_below is not None
    )
    overlays = overlays_of(output.path)
    with tqdm(total=len(found.files), initial=done, desc="Predict", disable=None, leave=False) as bar:
        for batch in batches:
            if explain_below:
                _write_overlays(overlays, explain_below, predictor, batch)
            for prediction, _ in batch:
                write(prediction)
            output.flush()
            bar.update(len(batch))


def _keep_whole_batches(side: side_file.SideFile, found: InputFiles, files_per_batch: int) -> int:
    """How many of the files have a row already; a batch that has only some begins again.

    So a batch has the same images in a command that was stopped as in one that was not, and its
    probabilities are equal to the last bit.
    """
    links, files = len(found.outside), len(found.files)
    done = max(0, len(side) - links)
    if done < files:
        done = done // files_per_batch * files_per_batch
    side.keep(links + done if len(side) >= links else 0)
    return done


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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OVERLAYS_MARK).touch()
    squares = np.stack([image.square for _, image in good])
    maps = predictor.overlays([prediction for prediction, _ in good], squares)
    for (prediction, image), heat in zip(good, maps, strict=True):
        file = folder / overlay_name(relative_name(Path(prediction.path), root))
        explain.write(file, predictor.overlay_on(prediction, image, heat))
        prediction.overlay = str(file)


def overlay_name(name: Path) -> Path:
    """The name of an image's overlay: its own, and .png, because x.jpeg and x.png may both exist.

    A long name is cut by bytes, which is what file systems count. Then a hash of the whole name is in it.
    """
    whole = os.fsencode(name.name)
    if len(whole) <= MAX_NAME_BYTES:
        return name.with_name(name.name + ".png")
    cut = whole[:MAX_NAME_BYTES].decode("utf-8", errors="ignore")
    return name.with_name(f"{cut}-{hashlib.sha256(whole).hexdigest()[:16]}.png")
