"""python -m pneumo.predict model=URI input=FILE_OR_DIR [output=FILE]: what a model says of X-rays."""

import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pneumo import UserError, config, one_of
from pneumo.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from pneumo.inference.predictor import Inputs, Predictor, Prepared, Row

COLUMNS = ("path", "probability", "decision", "threshold", "model", "warnings", "error", "overlay")
SUFFIXES = (".csv", ".json")
MAX_NAME = 200  # characters of an image's name in that of its overlay


@dataclass(kw_only=True)
class PredictConfig:
    """One prediction, whole and checked."""

    model: str | None = None
    input: str | None = None
    output: str = "predictions.csv"
    threshold: float | None = None
    explain: bool = False
    ui: bool = False
    port: int = 7860
    batch_size: int = 64
    device: str = "auto"
    num_workers: int | None = None
    cache_dir: str | None = None
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        from pneumo.tracking.registry import FORMS

        if not self.model:
            raise UserError(f"model={self.model or ''}: which model? Give {FORMS}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold={self.threshold} is a probability: give 0 to 1.")
        if not 1 <= self.batch_size <= 4096:
            raise UserError(f"batch_size={self.batch_size} must lie between 1 and 4096; 64 is usual.")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port={self.port} must lie between 0 (any free one) and 65535.")
        if self.num_workers is not None and self.num_workers < 1:
            raise UserError(f"num_workers={self.num_workers} must be at least 1, or null for all cores.")
        one_of("device", self.device.partition(":")[0], ("auto", "cpu", "cuda"))
        if self.ui:
            return
        if not self.input:
            raise UserError("input=: which images? Give an X-ray (JPEG, PNG, DICOM) or a folder of them.")
        if not Path(self.input).expanduser().exists():
            raise UserError(f"input={self.input} does not exist: give a file or a folder that does.")
        if Path(self.output).suffix.lower() not in SUFFIXES:
            raise UserError(f"output={self.output} must end with {' or '.join(SUFFIXES)}.")


def main() -> None:
    """Predict what the command line names; 0 done, 1 a file or the model could not be read, 2 wrong usage."""
    sys.exit(config.run_typed(predict, "predict", PredictConfig))


def predict(settings: PredictConfig) -> int:
    """Write a row for every file as soon as it is known; 1 if some file could not be read."""
    if settings.ui:
        from pneumo.inference import web_page as page

        return page.serve(load(settings), settings.port)
    from pneumo.inference.predictor import NO_DEVICE, inputs

    assert settings.input is not None
    found = inputs(settings.input)
    if found.left_out:
        print(f"note: {len(found.left_out)} other files are left out: {', '.join(found.left_out[:3])}")
    predictor = load(settings)
    output = Path(settings.output).expanduser()
    counts: dict[str, int] = {}
    try:
        with Rows(output) as rows:
            _write_all(settings, predictor, found, rows, counts)
    finally:  # also after Ctrl-C: what is written stays
        done = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        print(f"{done}; {output}\n{NO_DEVICE}")
    return 1 if counts.get("could not be read") else 0


def load(settings: PredictConfig) -> "Predictor":
    """The model that `settings` name, and notes on what it is."""
    from pneumo.inference import bundle
    from pneumo.inference import ood as familiarity
    from pneumo.inference.predictor import Predictor
    from pneumo.tracking.registry import resolve

    assert settings.model is not None
    cache_dir = Path(settings.cache_dir or ".cache")
    resolved = resolve(settings.model, settings.tracking.uri or "", cache_dir)
    found = bundle.read(resolved.folder, version=resolved.version)
    if found.familiarity is None:
        try:
            found.familiarity = familiarity.fit_again(
                found.weights.parent.parent / "config.yaml", found.data_digest, str(cache_dir)
            )
            print("note: the model keeps no picture of its training images; made again from the data set.")
        except UserError as error:
            print(f"note: the model keeps no picture of its training images: {error}")
    predictor = Predictor(
        found,
        device=_device(settings.device),
        threshold=settings.threshold,
        num_workers=settings.num_workers,
    )
    for note in predictor.notes():
        print(f"note: {note}")
    return predictor


def _device(name: str) -> str:
    import torch

    if name != "auto":
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device={name}, but there is no CUDA device here: give device=cpu or auto.")
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _write_all(
    settings: PredictConfig, predictor: "Predictor", found: "Inputs", rows: "Rows", counts: dict[str, int]
) -> None:
    from tqdm import tqdm

    def put(row: "Row") -> None:
        rows.write(row)
        what = "could not be read" if row.error else row.decision
        counts[what] = counts.get(what, 0) + 1
        if row.warnings:
            counts["with warnings"] = counts.get("with warnings", 0) + 1

    for path in found.outside:
        put(predictor.refused(path, "a link that leads out of the folder"))
    batches = predictor.predict(found.files, batch_size=settings.batch_size)
    overlays = rows.path.with_name(f"{rows.path.stem}_overlays")
    root = Path(str(settings.input)).expanduser()
    with tqdm(total=len(found.files), desc="Predict", disable=None, leave=False) as bar:
        for batch in batches:
            if settings.explain:
                _explain(overlays, root, predictor, batch)
            for row, _ in batch:
                put(row)
            rows.flush()
            bar.update(len(batch))


def _explain(
    folder: Path, root: Path, predictor: "Predictor", batch: Sequence[tuple["Row", "Prepared | None"]]
) -> None:
    """Write an overlay for each image of a batch below `folder`, under the image's own name."""
    import numpy as np

    from pneumo.inference import explain

    good = [(row, image) for row, image in batch if image is not None]
    if not good:
        return
    maps = explain.overlay(predictor.bundle, np.stack([image.square for _, image in good]), predictor.network)
    for (row, image), heat in zip(good, maps, strict=True):
        path = Path(row.path)
        name = path.relative_to(root) if path != root else Path(path.name)
        file = folder / name.with_name(name.name[:MAX_NAME] + ".png")  # beside x.jpeg may lie an x.png
        explain.write(file, image.square, heat)
        row.overlay = str(file)


class Rows:
    """The output file: each row is written when it is known, whatever ends the command leaves it."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.as_json = path.suffix.lower() == ".json"

    def __enter__(self) -> "Rows":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A file's name may be no text: its bytes are kept.
            self.file: IO[str] = self.path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise UserError(f"output={self.path} cannot be written: {error.strerror}.") from None
        self.csv = csv.writer(self.file, lineterminator="\n")
        if self.as_json:
            self.file.write("[")
        else:
            self.csv.writerow(COLUMNS)
        return self

    def write(self, row: "Row") -> None:
        shown = {key: value for key, value in asdict(row).items() if key in COLUMNS}
        for key in ("probability", "threshold"):
            if (value := shown[key]) is not None:
                shown[key] = round(value, 6) if math.isfinite(value) else None
        if self.as_json:
            self.file.write(",\n" if self.count else "\n")
            self.file.write(json.dumps(shown))
        else:
            shown["warnings"] = "; ".join(row.warnings)
            self.csv.writerow("" if shown[key] is None else shown[key] for key in COLUMNS)
        self.count += 1

    def flush(self) -> None:
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        if self.as_json:
            self.file.write("\n]\n")
        self.file.close()


if __name__ == "__main__":
    main()
