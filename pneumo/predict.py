"""`pneumo predict model=URI input=FILE_OR_DIR [output=FILE]`: apply a trained model to X-rays."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pneumo import UserError, config
from pneumo.run_lookup import model_of
from pneumo.tracking.registry import FORMS
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.settings import check_device

SUFFIXES = (".csv", ".json")


@dataclass(kw_only=True)
class PredictConfig:
    """One prediction, whole and checked."""

    model: str | None = None
    input: Any = None  # a path, or a list of them
    output: str = "predictions.csv"
    threshold: float | None = None
    abstain: bool = True
    prevalence: Any = None  # a share, or a list of them
    coverage: float | None = 0.9
    window: Any = "file"  # full, file, or C,W
    explain: bool = False
    explain_class: str | None = None
    ui: bool = False
    port: int = 7860
    batch_size: int = 64
    device: str = "auto"
    num_workers: int | None = None
    output_dir: str = "${pneumo.project:outputs}"
    cache_dir: str | None = None
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError(f"model={self.model or ''}: which model? Give {FORMS}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold={self.threshold} is a probability: give 0 to 1.")
        shares = self.prevalence if isinstance(self.prevalence, list) else [self.prevalence]
        if self.prevalence is not None and not all(
            isinstance(share, int | float) and 0 < share < 1 for share in shares
        ):
            raise UserError(
                f"prevalence={self.prevalence} is a share of the patients: give a number between 0 and 1, "
                "such as 0.05, or a list with one for each class or finding."
            )
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise UserError(f"coverage={self.coverage} is a share: give a number between 0 and 1, or null.")
        if not 1 <= self.batch_size <= 4096:
            raise UserError(f"batch_size={self.batch_size} must be between 1 and 4096; 64 is usual.")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port={self.port} must be between 0 (any free one) and 65535.")
        if self.num_workers is not None and self.num_workers < 1:
            raise UserError(f"num_workers={self.num_workers} must be at least 1, or null for all cores.")
        check_device("device", self.device)
        _ = self.shown_window
        if self.ui:
            return
        if not self.inputs:
            raise UserError("input=: which images? Give an X-ray (JPEG, PNG, DICOM) or a folder of them.")
        for path in self.inputs:
            if not Path(path).expanduser().exists():
                raise UserError(f"input={path} does not exist: give a file or a folder that does.")
        if Path(self.output).suffix.lower() not in SUFFIXES:
            raise UserError(f"output={self.output} must end with {' or '.join(SUFFIXES)}.")

    @property
    def shown_window(self) -> str | tuple[float, float]:
        """`window`, with a centre and a width as numbers."""
        if self.window in ("full", "file"):
            return str(self.window)
        parts = self.window if isinstance(self.window, list) else str(self.window).split(",")
        try:
            centre, width = (float(part) for part in parts)
        except (TypeError, ValueError):
            centre, width = 0.0, 0.0
        if not (math.isfinite(centre) and 0 < width < math.inf):
            raise UserError(
                f"window={self.window} is not a window: give file, full, or C,W such as 2048,4096."
            )
        return centre, width

    @property
    def inputs(self) -> list[str]:
        """The files and folders to predict."""
        given = self.input if isinstance(self.input, list) else [self.input]
        return [str(path) for path in given if path is not None and str(path)]


def main() -> None:
    """Predict what the command line names; 0 done, 1 a file or the model could not be read, 2 wrong usage."""
    sys.exit(config.run_typed(predict, "predict", PredictConfig))


def predict(settings: PredictConfig) -> int:
    """Write a row for every file as soon as it is known; 1 if some file could not be read."""
    # They import torch, which takes seconds: --help does without.
    from pneumo.inference import inputs, output, predictor, web_page

    given = [] if settings.ui else settings.inputs
    found = inputs.find_all(given)
    if found.left_out:
        print(f"note: {len(found.left_out)} other files are left out: {', '.join(found.left_out[:3])}")
    uri = settings.tracking.uri or ""
    model, notes = predictor.load(
        model_of(str(settings.model), settings.output_dir, uri),
        uri,
        Path(settings.cache_dir or ".cache"),
        device=settings.device,
        threshold=settings.threshold,
        num_workers=settings.num_workers,
        explain_class=settings.explain_class,
        abstain=settings.abstain,
        prevalence=settings.prevalence,
        coverage=settings.coverage,
        window=settings.shown_window,
    )
    alarms = [] if model.bundle.many else [alarm.both() for alarm in model.alarms]
    for note in (*notes, *alarms):
        print(f"note: {note}")
    if settings.ui:
        return web_page.serve(model, settings.port)
    path = Path(settings.output).expanduser()
    counts: dict[str, int] = {}
    try:
        with output.PredictionFile(path, model.bundle.class_names) as file:
            output.write_all(
                model,
                found,
                file,
                counts,
                batch_size=settings.batch_size,
                explain_below=inputs.common_root(given) if settings.explain else None,
            )
    finally:  # also after Ctrl-C: what is written stays
        done = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        print(f"{done}; {path}\n{predictor.DISCLAIMER}")
    return 1 if counts.get(output.UNREADABLE) else 0


if __name__ == "__main__":
    main()
