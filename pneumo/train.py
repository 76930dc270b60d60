"""python -m pneumo.train: one run, or with --multirun one for each combination."""

import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from pneumo import UserError, config
from pneumo.config import Config
from pneumo.run import Outcome, Run, last_line, rank

if TYPE_CHECKING:
    from pneumo.data.cache import ImageCache
    from pneumo.sweep.jobs import Job
    from pneumo.sweep.parent import Sweep
    from pneumo.tracking.settings import TrackingSettings

outcomes: list[Outcome] = []


def main() -> None:
    """Run the command line; the exit code is 0 done, 1 failed, 2 wrong usage, 143 or 130 stopped."""
    from pneumo.sweep import parent as sweep
    from pneumo.training.signals import Interrupted, StopRequest

    code, sweep.launched = 1, None
    try:
        with StopRequest():  # while Hydra composes, and between the jobs of a sweep
            code = config.run_hydra(job, "train")
    except Interrupted as error:
        code = config.complain(error, error.code)
    except SystemExit as end:  # Hydra's own, or of a job that was asked to stop
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        failed = [outcome.code for outcome in outcomes if outcome.code]
        if sweep.launched is not None and (outcomes or code != config.USAGE):
            undone = _end_sweep(*sweep.launched, code)
            failed = failed if len(outcomes) == 1 else [1] * undone
    sys.exit(code or next(iter(failed), 0))


def _end_sweep(issued: "Sweep", tracking: "TrackingSettings", code: int) -> int:
    """Bring the sweep's parent run up to date and show its jobs; the number of them that are not done."""
    from pneumo.sweep import jobs, retention
    from pneumo.text import table as terminal_table
    from pneumo.tracking import sender
    from pneumo.tracking.journal import DONE

    rows = issued.finish(code)
    if not rows:
        return 0
    for message in retention.keep_best(issued.folder, issued.keep_best, tracking):
        print(f"note: {message}")
    if tracking.enabled and (left := sender.sync(issued.folder, tracking, tracking.uri or "").left):
        print(f"{left} records of the sweep are still to be sent: `python -m pneumo.runs sync` sends them")
    shown = []
    for row, name in zip(rows, jobs.names(rows), strict=True):
        state = f"{row['state']} ({row['happened']})" if row["happened"] == "skipped" else row["state"]
        figures = {column: "-" if row[column] is None else row[column] for column in jobs.COLUMNS}
        shown.append({"run": name, "state": state, **figures})
    print("\n" + terminal_table(shown))
    for row, line in zip(rows, shown, strict=True):
        if row["state"] not in DONE:
            print(f"{line['run']}: {row['state']}: {row['reason'] or 'it was not begun'}")
    print(f"sweep {issued.id}: {issued.folder}")
    return sum(row["state"] not in DONE for row in rows)


def job(composed: DictConfig) -> float:
    """Train one configuration and return its validation score; a failure ends this job alone."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from pneumo.sweep import parent as sweep

    # As typed: resolved, an override could show a secret that it takes from the environment.
    typed: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    try:
        if "RANK" in os.environ and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError("a sweep does not go with torchrun: every process would run the whole of it.")
        if sweep.current is None:
            outcome = run(config.to_config(composed))
        else:
            outcome = _isolated(composed, sweep.current, typed, HydraConfig.get().job.num)
    except UserError as error:
        outcome = _failed(str(error), config.USAGE)
    outcomes.append(outcome)
    if outcome.stop_code and (outcome.code or HydraConfig.get().mode == RunMode.MULTIRUN):
        sys.exit(outcome.stop_code)  # asked to stop: no further job of a sweep starts
    return outcome.score


def _isolated(composed: DictConfig, member: "Sweep", typed: list[str], number: int) -> Outcome:
    """A job of a sweep: whatever happens in it, the others run, as if it had never been in their process."""
    if reason := member.stopped():
        print(f"job {number} is not started: {reason}")
        return Outcome(state="waiting", reason=reason, code=1)
    entry = member.job(typed, number)
    from pneumo.tracking.journal import redact
    from pneumo.training.runtime import isolated

    with isolated():
        try:
            settings = config.to_config(composed)  # before the sweep begins: a typo must leave nothing behind
            outcome = run(settings, member, entry)
        except UserError as error:
            outcome = _failed(str(error), config.USAGE)
        except (Exception, SystemExit) as error:
            print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
            outcome = _failed(last_line(error))
    entry.note(state=outcome.state, reason=outcome.reason)
    return outcome


def run(settings: Config, member: "Sweep | None" = None, entry: "Job | None" = None) -> Outcome:
    """Prepare the data, find out what is to do, and do it."""
    from pneumo.training.signals import Interrupted, StopRequest

    started = time.monotonic()
    try:
        with StopRequest(settings.trainer.grace_s) as stop:
            data = _prepare_data(settings)
            outcome = Run(settings, data, stop, member, entry).carry_out(started)
            outcome.stop_code = stop.exit_code
            return outcome
    except UserError as error:
        return _failed(str(error))
    except Interrupted as error:  # before the run began
        outcome = _failed(f"{error}; the same command continues", error.code)
        outcome.stop_code = error.code
        return outcome


def _failed(message: str, code: int = 1) -> Outcome:
    config.complain(message)
    return Outcome(state="FAILED" if code < 128 else "KILLED", reason=message, code=code)


def _prepare_data(settings: Config) -> "ImageCache":
    from pneumo.data import cache, manifest

    table = manifest.build(settings.data)
    data = cache.prepare(table, settings.data)
    if rank() == 0:
        for note in table.notes:
            print(f"note: {note}")
        if data.bad:
            print(f"note: {len(data.bad)} unreadable images are left out (data.on_bad_image=skip)")
        for split, counts in table.counts().items():
            text = ", ".join(f"{count} {name}" for name, count in counts.items())
            print(
                f"{split:<5}  {sum(counts.values()):6d} images of {table.patients()[split]} patients: {text}"
            )
    return data


if __name__ == "__main__":
    from pneumo import train  # a job that is pickled for another process names this module, not __main__

    train.main()
