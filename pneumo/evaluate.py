"""`pneumo evaluate model=RUN|sweep_id=ID split=test`: score finished runs on their own test set, once."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from pneumo import UserError, config, one_of
from pneumo.commands import RUN_FORMS
from pneumo.run_lookup import find_run, find_sweep
from pneumo.sweep import jobs
from pneumo.tracking.run_log import RunLog
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.settings import check_device


@dataclass(kw_only=True)
class Images:
    """Where the images and their prepared copies are; null: where the run had them."""

    root: str | None = None
    cache_dir: str | None = None


@dataclass(kw_only=True)
class EvaluateConfig:
    """One evaluation, whole and checked."""

    model: str | None = None
    sweep_id: str | None = None
    split: str = "test"
    output_dir: str = "${pneumo.project:outputs}"
    device: str = "auto"
    data: Images = field(default_factory=Images)
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
        one_of("split", self.split, ("test",))
        check_device("device", self.device)


def main() -> None:
    """Evaluate what the command line names; the exit code is 0 done, 1 failed, 2 wrong usage."""
    sys.exit(config.run_typed(evaluate, "evaluate", EvaluateConfig))


def evaluate(settings: EvaluateConfig) -> int:
    """Score the test set of a run or of a sweep's runs, or print what was recorded when it was scored.

    Returns 1 if a run could not be scored or sent. In a sweep, the others are scored all the same.
    """
    if settings.sweep_id is None:
        return _score(settings, find_run(settings.output_dir, str(settings.model)))
    code = 0
    for folder in _runs_of(settings.output_dir, settings.sweep_id):
        try:
            code = max(code, _score(settings, folder))
        except UserError as error:
            code = config.complain(error, 1)
    return code


def _runs_of(output_dir: str, sweep_id: str) -> list[Path]:
    """The folders of the runs of a sweep's jobs, in the order of the jobs; UserError if none has a run."""
    sweep = find_sweep(output_dir, sweep_id)
    records = sorted(jobs.records(sweep), key=lambda job: (job["number"] or 0, job["key"]))
    runs = dict.fromkeys(sweep.parents[1] / job["fingerprint"] for job in records if job["fingerprint"])
    found = [folder for folder in runs if (folder / "journal.jsonl").is_file()]
    if not found:
        raise UserError(f"sweep_id={sweep_id} has no run in output_dir={output_dir}. Train it first.")
    return found


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
