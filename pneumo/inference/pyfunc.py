"""The model behind `mlflow models serve`: base64 images in, probabilities, decisions and warnings out.

A request is a table with one column, `image`: a JPEG, PNG, TIFF, BMP, WebP or DICOM file as base64 text.
Sizes are bounded before anything is decoded. An image that cannot be read makes the whole request a 400 that
names its row.
"""

import base64
import binascii
import io
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from PIL import Image

from pneumo.data import phantom
from pneumo.data.settings import PhantomSettings
from pneumo.evaluation.predictions import PREFIX
from pneumo.inference import model_folder
from pneumo.inference.output import THRESHOLD
from pneumo.inference.predictor import Prediction, Predictor
from pneumo.names import CLASS_NAMES, many_classes
from pneumo.tracking import registry

COLUMN = "image"
MAX_ROWS = 64
MAX_CHARS = 64 * 2**20  # of base64 in one request: a 16-bit X-ray of 20 megapixels takes 53
OUTPUTS = {
    "probability": "double",
    "decision": "boolean",
    "class": "string",
    "threshold": "double",
    "warnings": "strings",
    "version": "string",
}
LATER = {  # fields that came later are last
    "withheld": "string",
    "differences": "strings",
    "answer": "string",
    "prediction_set": "strings",
    "window": "string",
}


def outputs(class_names: Sequence[str], multilabel: bool = False) -> dict[str, str]:
    """The fields of an answer and their types: OUTPUTS, or of more than two classes fields of each class.

    With `multilabel` the classes are findings, of which an image may have several.
    """
    if not many_classes(class_names):
        return OUTPUTS | LATER
    chances, thresholds = (
        dict.fromkeys([prefix + name for name in class_names], "double") for prefix in (PREFIX, THRESHOLD)
    )
    rest = {"reached": "strings", **thresholds, "warnings": "strings", "version": "string"}
    return {"prediction" if multilabel else "class": "string", **chances, **rest, **LATER}


def serving_spec(class_names: Sequence[str] = CLASS_NAMES, multilabel: bool = False) -> registry.ServingSpec:
    """How MLflow loads and calls such a model."""
    return registry.ServingSpec(
        loader=__name__,
        inputs={COLUMN: "string"},
        outputs=outputs(class_names, multilabel),
        example={COLUMN: _example()},
    )


def _example() -> str:
    """A synthetic X-ray, of no real person."""
    settings = PhantomSettings()
    picture = Image.fromarray(phantom.render(phantom.table(settings)["path"][0], settings))
    picture.thumbnail((256, 256))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


class ServedModel:
    """The object that MLflow calls: `predict(table)`."""

    def __init__(self, folder: str) -> None:
        self.predictor = Predictor(model_folder.read(folder, registry.version_in(Path(folder))))

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """A dict of the fields of `outputs` for each row."""
        texts = _texts(table)
        with TemporaryDirectory(prefix="pneumo-") as folder:  # the one image reader takes files
            files = [Path(folder, str(row)) for row in range(len(texts))]
            for row, (file, text) in enumerate(zip(files, texts, strict=True)):
                file.write_bytes(_decoded(text, row))
            batches = self.predictor.predict([str(file) for file in files])
            answers = [answer for batch in batches for answer, _ in batch]
        for row, answer in enumerate(answers):
            if answer.error:
                raise registry.bad_request(f"row {row}: {answer.error}")
        return [self._fields(answer) for answer in answers]

    def _fields(self, answer: Prediction) -> dict[str, Any]:
        fields = self._decided(answer) | {key: getattr(answer, key) for key in LATER}
        if answer.withheld:
            fields |= dict.fromkeys(fields.keys() & {"decision", "class", "prediction", "reached"})
        return fields

    def _decided(self, answer: Prediction) -> dict[str, Any]:
        if self.predictor.bundle.many:
            return {
                "prediction" if self.predictor.bundle.multilabel else "class": answer.decision,
                **{PREFIX + one.name: one.probability for one in answer.classes},
                "reached": answer.reached,
                **{THRESHOLD + one.name: one.threshold for one in answer.classes},
                "warnings": answer.warnings,
                "version": answer.model,
            }
        return {
            "probability": answer.probability,
            "decision": answer.decision == self.predictor.bundle.class_names[1],
            "class": answer.decision,
            "threshold": answer.threshold,
            "warnings": answer.warnings,
            "version": answer.model,
        }


def _texts(table: Any) -> list[str]:
    columns = [str(column) for column in getattr(table, "columns", [])]
    if columns != [COLUMN]:
        raise registry.bad_request(
            f"give a table with one column, {COLUMN}: files such as JPEG, PNG or DICOM as base64 text"
        )
    texts = table[COLUMN].tolist()
    if not 1 <= len(texts) <= MAX_ROWS:
        raise registry.bad_request(f"{len(texts)} rows; give 1 to {MAX_ROWS} images in a request")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise registry.bad_request(f"row {row}: {COLUMN} is {type(text).__name__}, not base64 text")
    if (size := sum(map(len, texts))) > MAX_CHARS:
        raise registry.bad_request(f"{size:,} characters of base64, more than the limit of {MAX_CHARS:,}")
    return texts


def _decoded(text: str, row: int) -> bytes:
    try:
        return base64.b64decode(re.sub(r"\s", "", text) if "\n" in text else text, validate=True)
    except (binascii.Error, ValueError):
        raise registry.bad_request(f"row {row}: {COLUMN} is not base64 text") from None


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry point: `path` is the model folder."""
    return ServedModel(path)
