"""`pneumo evaluate model=RUN|sweep_id=ID`: score finished runs on labelled images that chose nothing.

With split=test, the images are the run's own test set, which is read once. With data=csv data.root=DIR, they
are another labelled set.
"""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pneumo import UserError, config, one_of
from pneumo.commands import RUN_FORMS
from pneumo.data.found import SPLITS
from pneumo.data.settings import DataSettings
from pneumo.evaluation.statistics import DRAWS
from pneumo.names import CLASS_RANKED_BY
from pneumo.run_lookup import find_run, sweep_runs
from pneumo.tracking.run_log import RunLog
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.settings import check_device

OWN = "own"  # the name of the data if no set is given: the run's own
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,59}", re.ASCII)


@dataclass(kw_only=True)
class EvaluatedData(DataSettings):
    """The set to score, or where the run's own images are."""

    name: str = OWN

    def __post_init__(self) -> None:
        if self.name != OWN:
            super().__post_init__()


@dataclass(kw_only=True)
class EvaluateConfig:
    """One evaluation, whole and checked."""

    model: str | None = None
    sweep_id: str | None = None
    split: str | None = None
    name: str | None = None
    by: list[str] | None = None
    allow_overlap: bool = False
    rank_by: str = "auroc"
    margin: float = 0.02
    draws: int = DRAWS
    seed: int = 0
    output: str | None = None
    output_dir: str = "${pneumo.project:outputs}"
    cache_dir: str = "${pneumo.project:.cache}"
    device: str = "auto"
    data: EvaluatedData = field(default_factory=EvaluatedData)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        if not self.model and not self.sweep_id:
            raise UserError(
                f"model=: which run? Give {RUN_FORMS}: pneumo evaluate model=RUN split=test. "
                "sweep_id=ID scores all runs of a sweep."
            )
        if self.model and self.sweep_id:
            raise UserError(
                f"model={self.model} and sweep_id={self.sweep_id} both say which runs; give one of them."
            )
        if self.split is not None:
            one_of("split", self.split, SPLITS)
        check_device("device", self.device)
        if self.external:
            self._check_external()
        else:
            self._check_own()

    @property
    def external(self) -> bool:
        """Another set than the runs' own?"""
        return self.data.name != OWN

    @property
    def set_name(self) -> str:
        """What the other set is called."""
        if self.name is not None:
            return self.name
        base = Path(self.data.root or "").expanduser().resolve().name if self.data.root else ""
        name = self.data.name if self.data.layout == "drawn" else base or self.data.name
        return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip("_.-")[:60] or self.data.name

    def _check_own(self) -> None:
        if self.split not in (None, "test"):
            raise UserError(f"split={self.split}: only a run's test set is scored later, so give split=test.")
        for key in ("name", "by"):
            if getattr(self, key) is not None:
                raise UserError(
                    f"{key}={getattr(self, key)} is for another set than the run's own; name the set with "
                    "data=csv data.root=DIR."
                )

    def _check_external(self) -> None:
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise UserError(
                f"name={self.name} names a folder and metrics: give at most 60 letters, digits, '_', '-' and "
                "'.', for example name=city_hospital."
            )
        one_of("rank_by", self.rank_by, CLASS_RANKED_BY)
        if not 0 < self.margin < 1:
            raise UserError(f"margin={self.margin} must be between 0 and 1, for example 0.02.")
        if not 50 <= self.draws <= 100_000:
            raise UserError(f"draws={self.draws}: give 50 to 100,000; 2000 is usual.")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative.")


def main() -> None:
    """Evaluate what the command line names; the exit code is 0 done, 1 failed, 2 wrong usage."""
    sys.exit(config.run_typed(evaluate, "evaluate", EvaluateConfig))


def evaluate(settings: EvaluateConfig) -> int:
    """Score a run or a sweep's runs on another set, or on their own test set.

    Returns 1 if a run could not be scored or sent. In a sweep, the others are scored all the same.
    """
    if settings.external:
        from pneumo import external_set  # it imports torch, which takes seconds: --help does without

        return external_set.evaluate(external_set.Request(**_request(settings)))
    if settings.sweep_id is None:
        return _score(settings, find_run(settings.output_dir, str(settings.model)))
    code = 0
    for folder in sweep_runs(settings.output_dir, settings.sweep_id):
        try:
            code = max(code, _score(settings, folder))
        except UserError as error:
            code = config.complain(error, 1)
    return code


def _request(settings: EvaluateConfig) -> dict[str, Any]:
    keys = (
        *("model", "sweep_id", "split", "by", "allow_overlap", "rank_by", "margin", "draws", "seed"),
        *("output", "output_dir", "cache_dir", "device", "data", "tracking"),
    )
    return {key: getattr(settings, key) for key in keys} | {"name": settings.set_name}


def _score(settings: EvaluateConfig, folder: Path) -> int:
    """Score a run's test set, or print what was recorded when it was scored; 1 if it could not be sent."""
    from pneumo import run_scores  # it imports torch, which takes seconds: --help does without

    log = RunLog(folder, settings.tracking)
    try:
        if log.journal.status != "FINISHED":
            raise UserError(
                f"{folder.name} is {log.journal.status}: only a finished run is scored on its test set. "
                "Its training command continues it."
            )
        if not log.journal.hold():
            raise UserError(f"another process works on {folder}; wait for it, or stop it first.")
        if run_scores.is_scored(log.journal):
            print(f"{folder.name}: {run_scores.recorded(log.journal)}")
        else:
            places = settings.data
            plan = run_scores.plan_again(
                log, root=places.root, cache_dir=places.cache_dir, device=settings.device
            )
            run_scores.score_test(plan, log)
        log.send()
        left = log.sender.finish()
    finally:
        log.close()
    return 1 if left else 0


if __name__ == "__main__":
    main()
