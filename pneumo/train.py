"""`pneumo train`: one run, or with --multirun one for each combination."""

import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pneumo import UserError, config, places
from pneumo.config_effects import without_effect
from pneumo.sweep import context, jobs, retention
from pneumo.sweep.context import SweepContext
from pneumo.sweep.parent import Sweep
from pneumo.text import clock, last_line, table
from pneumo.tracking import sender
from pneumo.tracking.journal import DONE, redact
from pneumo.training.signals import Interrupted, StopRequest

SHOWN = ("epoch", "val AUROC", "test AUROC", "test accuracy")  # columns of a sweep's last table
MOST_COLUMNS = 100  # of the terminal


def main() -> None:
    """Run the command line; the exit code is 0 done, 1 failed, 2 wrong usage, 143 or 130 stopped."""
    code, command = 1, context.begin()
    try:
        with StopRequest():  # while Hydra composes, and between the jobs of a sweep
            code = config.run_hydra(job, "train")
    except Interrupted as error:
        code = config.complain(error, error.code)
    except SystemExit as end:  # Hydra's own, or of a job that was asked to stop
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        failed = [code for code in command.exit_codes if code]
        if command.sweep is not None and (command.exit_codes or code != config.USAGE):
            undone = _end_sweep(command, code)
            failed = failed if len(command.exit_codes) == 1 else [1] * undone
    sys.exit(code or next(iter(failed), 0))


def job(composed: DictConfig) -> float:
    """Train one configuration and return its validation score; a failure ends this job alone."""
    # Imported here because torch takes seconds, and --help needs none of it.
    from pneumo.run import Outcome, failed, run
    from pneumo.training.runtime import isolated

    hydra, command = HydraConfig.get(), context.current()
    sweep = command.sweep_of_job
    # As typed: resolved, an override could show a secret that it takes from the environment.
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    record = None
    try:
        if "RANK" in os.environ and hydra.mode == RunMode.MULTIRUN:
            raise UserError("a sweep does not go with torchrun: every process would run all of it.")
        if sweep is not None and (reason := sweep.stopped()):
            print(f"job {hydra.job.num} is not started: {reason}")
            outcome = Outcome(state="waiting", reason=reason, code=1)
        else:
            record = sweep.job(typed, hydra.job.num) if sweep else None
            if sweep is not None:
                print(_progress(sweep, hydra.job.num), flush=True)
            # The jobs of a sweep share a process: each leaves it as if it had never run there.
            with isolated() if sweep else nullcontext():
                settings = config.to_config(composed)
                for line in without_effect(settings, typed):
                    print(f"note: {line}")
                outcome = run(settings, sweep, record, typed)
    except UserError as error:
        outcome = failed(str(error), config.USAGE)
    except (Exception, SystemExit) as error:
        if sweep is None:
            raise
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        outcome = failed(last_line(error))
    if record is not None:
        record.update(state=outcome.state, reason=outcome.reason)
    command.exit_codes.append(outcome.code)
    if outcome.stop_code and (outcome.code or hydra.mode == RunMode.MULTIRUN):
        sys.exit(outcome.stop_code)  # asked to stop: no further job of a sweep starts
    return outcome.score


def _progress(sweep: Sweep, number: int) -> str:
    """`job 3 of 12; about 0:40:00 left, one by one`."""
    done = [job for job in jobs.records(sweep.folder) if job["issue"] == sweep.issue and job["state"] in DONE]
    trained_s = [job["duration_s"] for job in done if job["happened"] != "skipped"]
    if not sweep.planned:
        return f"job {number + 1}"
    left = len(sweep.planned) - len(done)
    guess = f"; about {clock(left * sum(trained_s) / len(trained_s))} left, one by one" if trained_s else ""
    return f"job {number + 1} of {len(sweep.planned)}{guess}"


def _end_sweep(command: SweepContext, code: int) -> int:
    """Bring the sweep's parent run up to date and print its jobs; the number of them that are not done."""
    sweep, tracking = command.sweep, command.tracking
    assert sweep is not None and tracking is not None
    rows = sweep.finish(code)
    if not rows:
        return 0
    for message in retention.keep_best(sweep.folder, sweep.keep_best, tracking):
        print(f"note: {message}")
    if tracking.enabled:
        waits = replace(tracking, flush_s=0.0) if sweep.tracker_is_down else tracking
        result = sender.sync(sweep.folder, waits, tracking.uri or "")
        if result.left:
            print(f"{result.left} records of the sweep are still to be sent: {result.error}")
            print(f"This sends all: {places.command('runs sync', uri=tracking.uri, output_dir=sweep.root)}")
    lines = []
    for row, name in zip(rows, jobs.names(rows), strict=True):
        state = f"{row['state']} ({row['happened']})" if row["happened"] == "skipped" else row["state"]
        figures = {column: row["figures"][column] for column in SHOWN}
        lines.append({"run": name, "state": state, **figures})
    print("\n" + table(lines, MOST_COLUMNS))
    undone = [(row, line) for row, line in zip(rows, lines, strict=True) if row["state"] not in DONE]
    for row, line in undone:
        print(f"{line['run']}: {row['state']}: {row['reason'] or 'it was not begun'}")
    print(f"sweep {sweep.id}: {sweep.folder}")
    if tracking.enabled:
        print(f"MLflow:  {places.page(sweep.folder, tracking.uri or '')}")
    experiment = {} if sweep.experiment == "pneumo" else {"tracking.experiment": sweep.experiment}
    print(f"next:    {places.command('compare', uri=tracking.uri, **experiment, sweep_id=sweep.id)}")
    return len(undone)


if __name__ == "__main__":
    from pneumo import train  # a job that is pickled for another process names this module, not __main__

    train.main()
