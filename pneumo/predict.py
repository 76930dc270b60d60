"""`pneumo predict model=URI input=FILE_OR_DIR [output=FILE]`: apply a trained model to X-rays."""

import math
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumo import UserError, config
from pneumo.run_lookup import model_of
from pneumo.text import printable, utc_now
from pneumo.tracking.journal import redact
from pneumo.tracking.registry import FORMS
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.settings import check_device

if TYPE_CHECKING:
    from pneumo.inference.output import PredictionFile
    from pneumo.inference.predictor import Predictor
    from pneumo.inference.side_file import SideFile

SUFFIXES = (".csv", ".json")
# Keys that do not change a row, or whose part in it a record names otherwise: the model and the files.
SAME_ROWS = (
    *("model", "input", "output", "resume", "ui", "port", "device", "num_workers"),
    *("output_dir", "cache_dir", "tracking"),
)


@dataclass(kw_only=True)
class PredictConfig:
    """One prediction, whole and checked."""

    model: str | None = None
    input: Any = None  # a path, or a list of them
    output: str = "predictions.csv"
    resume: bool = False
    threshold: float | None = None
    abstain: bool = True
    prevalence: Any = None  # a share, or a list of them
    coverage: float | None = 0.9
    window: Any = "file"  # full, file, or C,W
    dicom_uids: bool = False
    explain: bool = False
    explain_class: str | None = None
    ui: bool = False
    port: int = 7860
    batch_size: int = 64
    device: str = "auto"
    num_workers: int | None = None
    file_timeout_s: float | None = 60.0
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
        if self.file_timeout_s is not None and not 0 < self.file_timeout_s < math.inf:
            raise UserError(
                f"file_timeout_s={self.file_timeout_s} must be above 0: give seconds, such as 60, or null "
                "for no limit."
            )
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
    """Write a row for every file; 1 if some file could not be read."""
    # They import torch, which takes seconds: --help does without.
    from pneumo.inference import explain, inputs, output, predictor, record, web_page

    given = [] if settings.ui else settings.inputs
    path = Path(settings.output).expanduser()
    found = inputs.find_all(given, output.own_files(path))
    if found.left_out:
        names = printable(", ".join(found.left_out[:3]))
        print(f"note: {len(found.left_out)} other files are left out: {names}")
    model, notes = load(settings)
    alarms = [] if model.bundle.many else [alarm.both() for alarm in model.alarms]
    for note in (*notes, *alarms):
        print(f"note: {printable(note)}")
    if settings.ui:
        return web_page.serve(model, settings.port)
    if settings.explain:
        explain.check(model.bundle)
    changing = {key: value for key, value in asdict(settings).items() if key not in SAME_ROWS}
    known, started = record.of(model, found, changing), utc_now()
    rows = output.PredictionFile(
        path,
        model.bundle.class_names,
        dicom_uids=settings.dicom_uids,
        record=known,
        resume=settings.resume,
    )
    counts: dict[str, int] = {}
    with rows as file:
        _print_start(file.side, settings.resume)
        try:
            output.write_all(
                model,
                found,
                file,
                counts,
                batch_size=settings.batch_size,
                explain_below=inputs.common_root(given) if settings.explain else None,
            )
        except BaseException:  # also Ctrl-C
            with suppress(UserError):  # a full disk: what is not written is not counted
                file.flush()
            print(
                f"stopped after {len(file.side):,} of {len(found.files) + len(found.outside):,} files. "
                f"{printable(path)} is as it was; add resume=true to the same command to continue."
            )
            raise
        file.provenance = lambda digest: record.provenance(
            model,
            known,
            output=path,
            output_sha256=digest,
            command=redact(shlex.join(["pneumo", "predict", *sys.argv[1:]])),
            started=started,
            inputs=given,
            outcomes=counts,
        )
    _print_end(counts, rows)
    print(predictor.DISCLAIMER)
    return 1 if rows.unreadable or not rows.rows else 0


def load(settings: PredictConfig) -> "tuple[Predictor, list[str]]":
    """The predictor that `settings` ask for, and notes on it for the user."""
    from pneumo.inference import predictor

    uri = settings.tracking.uri or ""
    return predictor.load(
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
        file_timeout_s=settings.file_timeout_s,
    )


def _print_end(counts: Mapping[str, int], rows: "PredictionFile") -> None:
    """Print the outcomes, what was skipped, and the first files that could not be read."""
    from pneumo.inference.output import SHOWN, SKIPPED

    skipped = {name.removeprefix(SKIPPED): n for name, n in counts.items() if name.startswith(SKIPPED)}
    done = ", ".join(f"{n} {name}" for name, n in counts.items() if not name.startswith(SKIPPED))
    print(f"{done or 'nothing'}; {printable(rows.path)}")
    if skipped:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(skipped.items(), key=lambda item: -item[1]))
        print(f"{sum(skipped.values())} DICOM files are not radiographs and were skipped: {kinds}")
    for line in rows.unreadable[:SHOWN]:
        print(f"could not be read: {printable(line)}")
    if len(rows.unreadable) > SHOWN:
        print(f"and {len(rows.unreadable) - SHOWN:,} more: see the column error")


def _print_start(side: "SideFile", resume: bool) -> None:
    name = printable(side.path)
    if len(side):
        print(f"note: {len(side):,} rows are in {name} already; the prediction continues after them.")
    elif resume:
        print(f"note: resume=true: {name} holds no row, so the prediction begins.")
    elif side.given_up:
        print(
            f"note: {side.given_up:,} rows of a stopped prediction are given up and computed again; "
            "resume=true keeps such rows."
        )


if __name__ == "__main__":
    main()
