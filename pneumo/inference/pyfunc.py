"""The model behind `mlflow models serve`: base64 images in, probabilities, decisions and warnings out.

A table of one column, `image`: a JPEG, PNG or DICOM file as base64 text. Sizes are bounded before anything is
decoded; an image that cannot be read makes the whole request a 400 that names its row.
"""

import base64
import binascii
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pneumo.inference import bundle
from pneumo.tracking import registry

if TYPE_CHECKING:
    import pandas as pd

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


def description() -> registry.Served:
    """What MLflow is told of such a model."""
    return registry.Served(
        loader=__name__, inputs={COLUMN: "string"}, outputs=OUTPUTS, example={COLUMN: _example()}
    )


def _example() -> str:
    """A synthetic X-ray: nobody's."""
    import io

    from PIL import Image

    from pneumo.data import phantom
    from pneumo.data.settings import PhantomSettings

    settings = PhantomSettings()
    picture = Image.fromarray(phantom.render(phantom.table(settings)["path"][0], settings))
    picture.thumbnail((256, 256))
    page = io.BytesIO()
    picture.save(page, "JPEG", quality=80)
    return base64.b64encode(page.getvalue()).decode()


class Served:
    """What MLflow calls: `predict(table)`."""

    def __init__(self, folder: str) -> None:
        from pneumo.inference.predictor import Predictor

        self.predictor = Predictor(bundle.read(folder, registry.version_in(Path(folder))))

    def predict(self, table: "pd.DataFrame", params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """A dict of OUTPUTS for each row."""
        texts = _texts(table)
        with TemporaryDirectory(prefix="pneumo-") as folder:  # the one reader takes files
            files = [Path(folder, str(row)) for row in range(len(texts))]
            for row, (file, text) in enumerate(zip(files, texts, strict=True)):
                file.write_bytes(_decoded(text, row))
            batches = self.predictor.predict([str(file) for file in files])
            answers = [answer for batch in batches for answer, _ in batch]
        for row, answer in enumerate(answers):
            if answer.error:
                raise registry.bad_request(f"row {row}: {answer.error}")
        return [
            {
                "probability": answer.probability,
                "decision": answer.decision == self.predictor.bundle.class_names[1],
                "class": answer.decision,
                "threshold": answer.threshold,
                "warnings": answer.warnings,
                "version": answer.model,
            }
            for answer in answers
        ]


def _texts(table: Any) -> list[str]:
    columns = [str(column) for column in getattr(table, "columns", [])]
    if columns != [COLUMN]:
        raise registry.bad_request(
            f"give a table with one column, {COLUMN}: JPEG or PNG files as base64 text"
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
        raise registry.bad_request(f"row {row}: {COLUMN} is no base64 text") from None


def _load_pyfunc(path: str) -> Served:
    """MLflow's entry: `path` is the model folder."""
    return Served(path)
