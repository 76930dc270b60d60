"""One run: a configuration on a data set, from its folder and journal to its report."""

import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pneumo import UserError, config, fingerprint, models, names, places, provenance, run_note, run_scores
from pneumo.config import Config
from pneumo.data import cache, manifest, training_images
from pneumo.data.cache import ImageCache
from pneumo.data.loader import Split, splits
from pneumo.data.training_images import KnownImages
from pneumo.models.stages import freeze_backbone
from pneumo.provenance import StartRecord
from pneumo.run_plan import RunPlan, plan_run
from pneumo.sweep import context, retention, trial
from pneumo.sweep.jobs import SweepJob, score_of
from pneumo.sweep.parent import Sweep
from pneumo.text import last_line
from pneumo.tracking.journal import DONE, Journal, redact
from pneumo.tracking.run_log import RunLog
from pneumo.training import runtime
from pneumo.training.checkpoint import load_resume
from pneumo.training.signals import Interrupted, Pruned, Stopped, StopRequest
from pneumo.training.trainer import Recipe, Trainer
from pneumo.versions import CORE

WORDS = {"KILLED": "stopped", "PRUNED": "pruned"}  # how the terminal names an end; all others are errors


@dataclass(kw_only=True)
class Outcome:
    """How a job ended: its state and the reason for it, its exit code and its validation score."""

    state: str
    reason: str | None = None
    code: int = 0
    stop_code: int = 0  # 143 or 130 where a signal came, also if the run could still finish
    score: float = float("nan")
    folder: Path | None = None  # of the run, if it began


def rank() -> int:
    """The number of this process under torchrun; 0 without."""
    return int(os.environ.get("RANK", 0))


def run(
    settings: Config,
    sweep: Sweep | None = None,
    job: SweepJob | None = None,
    overrides: Sequence[str] = (),
) -> Outcome:
    """Prepare the data, skip a run that is done, else train and report. The journal says how it ended.

    `overrides` are what was typed; they name the run.
    """
    started = time.monotonic()
    try:
        with StopRequest(settings.trainer.grace_s) as stop:
            plan = plan_run(settings, _prepare_data(settings), sweep, job, overrides)
            plan.update_job(fingerprint=plan.fingerprint)
            log = RunLog(
                plan.folder,
                settings.tracking,
                writes=rank() == 0,
                after_epoch=partial(_report_trial, settings),
            )
            try:
                if _is_done(plan, log):
                    outcome = _skip(plan, log, stop)
                else:
                    _refuse_leaks(plan)
                    start, state = _saved_state(plan, log)
                    if rank() > 0:
                        log.keep_in_memory()  # rank 0 writes
                    else:
                        _print_start(plan, log)
                    try:
                        _start_record(plan, log, start)
                        trainer = build_trainer(
                            _with_precision(settings, start.precision),
                            plan.data,
                            log,
                            identity=plan.identity,
                            start=start.as_dict(),
                            should_stop=stop.reason,
                        )
                        _print_ready(trainer, settings, time.monotonic() - started)
                        stop.deferred = True  # from here on the trainer asks between steps
                        trainer.fit(state)
                        run_scores.report(plan, log, trainer)
                        runtime.close_runtime(trainer.runtime)
                        stop.shielded = True
                        ending = Outcome(state="FINISHED")
                    except (Exception, Interrupted, SystemExit) as error:
                        stop.shielded = True
                        ending = _ending_of(error, plan, log, stop)
                    outcome = _finish(plan, log, stop, ending)
            finally:
                log.close()
            outcome.stop_code, outcome.folder = stop.exit_code, plan.folder
            return outcome
    except UserError as error:
        return failed(str(error))
    except Interrupted as error:  # before the run began
        outcome = failed(f"{error}; the same command continues", error.code)
        outcome.stop_code = error.code
        return outcome


def failed(message: str, code: int = 1) -> Outcome:
    """The outcome of a job that ended before its run began; the message is printed."""
    config.complain(message)
    return Outcome(state="FAILED" if code < 128 else "KILLED", reason=message, code=code)


# ---- before the training


def _prepare_data(settings: Config) -> ImageCache:
    table = manifest.build(settings.data)
    data = cache.prepare(table, settings.data)
    known = context.current().data_shown
    if rank() == 0 and data.digest not in known:  # once a sweep
        known.add(data.digest)
        for message in table.notes:
            print(f"note: {message}")
        if data.bad:
            print(f"note: {len(data.bad)} unreadable images are left out (data.on_bad_image=skip)")
        images = table.images()
        for split, counts in table.counts().items():
            text = ", ".join(f"{count} {name}" for name, count in counts.items())
            print(f"{split:<5}  {images[split]:6d} images of {table.patients()[split]} patients: {text}")
    return data


def _is_done(plan: RunPlan, log: RunLog) -> bool:
    """True if the run is done already. If not, this process is now the only one that trains it.

    A sweep waits for another process that trains the run, and takes its result. `force` sets aside what is
    there. Every rank looks; rank 0 writes.
    """
    force = plan.settings.force
    if rank() == 0 and (force or log.journal.status not in DONE):
        if not log.journal.hold():
            if force or plan.sweep is None or "WORLD_SIZE" in os.environ:
                words = "force=true: another process" if force else "another process"
                raise UserError(f"{words} trains in {plan.folder}; wait for it, or stop it first.")
            print(f"{plan.name}: waits, another process trains it")
            _wait_for_journal(log)
        if force and log.journal.started:
            log.set_aside(time.strftime("%Y%m%dT%H%M%S"))
    return log.journal.status in DONE and not force


def _refuse_leaks(plan: RunPlan) -> None:
    """UserError where the weights that a run begins with were trained on its validation or test images."""
    weights, data = plan.settings.model.weights, plan.settings.data
    known = KnownImages.beside(weights)
    if known is None:
        return
    found = training_images.leaks(known, plan.data, data.patient_namespace)
    if found.paths:
        raise UserError(
            f"model.weights={weights} was trained on images that would now choose or test: "
            f"{training_images.shown(found)}. Keep them in training, or begin with other weights."
        )


def _wait_for_journal(log: RunLog) -> None:
    """Become the one process that writes the run's record. A signal interrupts the wait."""
    while not log.journal.hold():
        time.sleep(0.5)


def _skip(plan: RunPlan, log: RunLog, stop: StopRequest) -> Outcome:
    state = str(log.journal.status)
    if state == "PRUNED":
        trial.note_pruned(plan.settings.search)
    if rank() == 0:
        if plan.sweep:
            plan.sweep.begin(trains=False)
        if state == "FINISHED":
            _change_naming(plan, log)
        if state == "FINISHED" and plan.settings.trainer.score_test and not run_scores.is_scored(log.journal):
            happened = _score(plan, log)
        else:
            done = "done already" if state == "FINISHED" else "pruned before"
            print(f"{plan.name}: {done}, skipped (force=true trains it again)")
            _tidy_state(plan, log)
            happened = "skipped"
        plan.update_job(happened=happened)
        log.send()
        _wait_until_sent(plan, log, stop)
    return Outcome(state=state, score=score_of(log.journal))


def _tidy_state(plan: RunPlan, log: RunLog) -> None:
    """Delete the state of a run that is done, unless it was to be kept: a kill may have come before."""
    state = log.folder / "state"
    if plan.settings.keep_state and not state.is_dir():
        print("note: keep_state=true: its state was deleted when it ended. force=true keeps it")
    elif state.is_dir():
        with suppress(UserError):  # a configuration that this version cannot read: leave all as it is
            if not config.from_saved(log.artifacts / names.CONFIG).keep_state:
                shutil.rmtree(state, ignore_errors=True)


def _score(plan: RunPlan, log: RunLog) -> str:
    """Score the test set of a run that was trained without it; returns what happened."""
    _wait_for_journal(log)  # another process may score it
    if run_scores.is_scored(log.journal):
        return "skipped"
    print(f"{plan.name}: done already; its test set is scored now (trainer.score_test=true)")
    run_scores.score_test(plan, log)
    return "scored"


def _change_naming(plan: RunPlan, log: RunLog) -> None:
    """Name patients in a finished run as data.pseudonymise and data.patient_namespace ask for."""
    if not run_scores.naming_changes(plan.settings.data, log):
        return
    _wait_for_journal(log)  # another process may do it
    changes = run_scores.naming_changes(plan.settings.data, log)
    if changes:
        run_scores.change_naming(plan, log, changes)
    if "pseudonymise" in changes:
        print(
            f"{plan.name}: patients and files have pseudonyms now, also in the tracker. Pages of older "
            "comparisons still name them: run pneumo compare again"
        )
    if "patient_namespace" in changes:
        print(f"{plan.name}: data.patient_namespace={changes['patient_namespace']} is recorded now")


def _saved_state(plan: RunPlan, log: RunLog) -> tuple[StartRecord, dict[str, Any] | None]:
    """What this start computes with, and the state that it goes on from, if any.

    Raises UserError where the state comes from other code, another precision or another number of processes,
    and `on_code_change` is stop; the run stays as it was. `keep` continues in the state's precision.
    """
    settings = plan.settings
    resolved = runtime.resolve(settings.trainer)
    start = provenance.start_record(
        pixels=settings.data.pixel_rule,
        precision=resolved.precision,
        world_size=resolved.world_size,
        device=resolved.device_name,
        torch=runtime.TORCH_VERSION,
        command=redact(shlex.join(sys.argv)),
    )
    if rank() > 0:
        return start, None  # every process loads it for itself
    state = load_resume(log.folder / "state")
    if state is None:
        if log.journal.status is None:
            _print_older(plan)
        return start, None
    if not state.get("start"):
        print("note: the saved state is of version 0.1, which recorded neither code nor machine with it")
        return start, state
    before = StartRecord.from_dict(state["start"])
    changes = provenance.changes(before, start)
    stopping = [str(change) for change in changes if change.stops]
    if stopping and settings.on_code_change == "stop":
        raise UserError(
            f"{plan.name} was saved under other conditions. {'; '.join(stopping)}. Give on_code_change=keep "
            f"to continue all the same (the run is tagged {names.MIXED_TAG}), on_code_change=retrain to "
            "train it again from the start, or go back to what it was saved under."
        )
    for change in changes:
        print(f"note: {change}")
    if stopping and settings.on_code_change == "retrain":
        log.set_aside(time.strftime("%Y%m%dT%H%M%S"))
        log.journal.hold()
        return start, None
    if stopping:
        log.journal.tags({names.MIXED_TAG: "; ".join(stopping)})
        start.precision = before.precision
    return start, state


def _with_precision(settings: Config, precision: str) -> Config:
    """`settings` in a resolved precision. The run's own keep what was asked for, its identity."""
    return replace(settings, trainer=replace(settings.trainer, precision=precision))


def _print_older(plan: RunPlan) -> None:
    """Name a run of this configuration that older versions made, and why it is not this one."""
    older = fingerprint.older_fingerprints(plan.settings.as_dict(), plan.data.digest)
    now = f"core {CORE} and pixels {plan.settings.data.pixel_rule} give other figures"
    for versions, known in older.items():
        folder = plan.folder.with_name(known)
        status = Journal(folder).status if (folder / "journal.jsonl").is_file() else None
        if status is not None:
            end = "a finished" if status in DONE else "an unfinished"
            print(
                f"note: {end} run under {versions} exists ({folder}); {now}, so this is a new run beside it"
            )


def _print_start(plan: RunPlan, log: RunLog) -> None:
    """Print whether the run begins or continues, and record it with the sweep."""
    status, reason = log.journal.status, log.journal.reason
    if status is None:
        happened = "begins"
    elif status == "FAILED":
        happened = f"is tried again (it FAILED: {reason})"
    else:
        happened = f"continues (was {'killed' if status == 'RUNNING' else status})"
    print(f"{plan.name}: {happened} in {plan.folder}")
    plan.update_job(happened=happened)
    if plan.sweep:
        plan.sweep.begin(trains=True)


def _start_record(plan: RunPlan, log: RunLog, start: StartRecord) -> None:
    """Open the journal, record what the run is, and begin to send."""
    settings, data = plan.settings, plan.data
    log.start(plan.name, settings.tracking.experiment, plan.tags())
    log.journal.tags({names.NOTE_TAG: run_note.begun(plan)})
    log.journal.params(plan.params())
    source = "phantom" if plan.synthetic else str(settings.data.root)
    log.journal.dataset(settings.data.name, data.digest[:36], source, "training")
    for part, use in (("split", "validation"), ("test_set", "testing")):
        if digest := data.digests.get(part):
            log.journal.dataset(f"{settings.data.name} {use}", digest[:36], source, use)
    if rank() == 0:
        log.keep_text(names.CONFIG, settings.as_yaml())
        log.append_json(names.STARTS, start.as_dict())
        if data.bad:
            log.keep_text(names.BAD_IMAGES, run_scores.bad_images(plan, settings.data))
    log.sender.notify()


# ---- the training


def build_trainer(
    settings: Config,
    data: ImageCache | dict[str, Split],
    log: RunLog,
    *,
    identity: dict[str, Any],
    start: dict[str, Any] | None = None,
    should_stop: Callable[[], str | None] = lambda: None,
    quiet: bool = False,
) -> Trainer:
    """The trainer of a run: its device, its model with seeded weights, and its data on the device.

    `data` is the prepared images, or splits that are on the device already.
    """
    machine = runtime.open_runtime(settings.trainer)
    runtime.seed_everything(settings.seed)
    num_classes = len(settings.data.class_names)
    model = models.build_model(num_classes=num_classes, **settings.model.network())
    if settings.model.freeze == "backbone":
        freeze_backbone(model)
    log.journal.params({"model.parameters": sum(parameter.numel() for parameter in model.parameters())})
    if "device" not in log.journal.params_logged:  # a run may go on elsewhere; MLflow takes a param once
        log.journal.params({"device": str(machine.device), "precision": machine.precision})
    recipe = Recipe(
        trainer=settings.trainer,
        optim=settings.optim,
        schedule=settings.schedule,
        sampler=settings.sampler,
        augment=settings.augment,
        in_channels=settings.model.in_channels,
        num_classes=num_classes,
        multilabel=settings.data.multilabel,
        seed=settings.seed,
    )
    return Trainer(
        recipe,
        model,
        data if isinstance(data, dict) else splits(data, machine.device),
        machine,
        folder=log.folder / "state",
        record=log,
        identity=identity,
        start=start,
        should_stop=should_stop,
        quiet=quiet,
    )


def _print_ready(trainer: Trainer, settings: Config, seconds: float) -> None:
    machine = trainer.runtime
    if machine.rank == 0:
        size = sum(parameter.numel() for parameter in trainer.network.parameters())
        print(
            f"{settings.model.name}: {size / 1e6:.1f} million weights, {machine.device}, "
            f"{machine.precision}; ready after {seconds:.1f} s"
        )


def _report_trial(settings: Config, values: Mapping[str, float], epoch: int) -> None:
    """Report an epoch's score to the search that this run is a trial of, if any."""
    score = values.get(settings.trainer.monitor, float("nan"))
    trial.report(settings.search, score, epoch, settings.trainer.epochs)


# ---- the end


def _ending_of(error: BaseException, plan: RunPlan, log: RunLog, stop: StopRequest) -> Outcome:
    """How `error` ends the run: pruned, stopped by a signal, or failed."""
    if isinstance(error, Pruned):
        log.journal.tags({names.STATE_TAG: "PRUNED"})
        return Outcome(state="PRUNED", reason=str(error) or "pruned by the search")
    if stop.signal is not None:
        reason = f"{stop.reason()}; and then: {error}"
        if isinstance(error, Stopped):
            reason = f"{error}; the same command continues"
        elif isinstance(error, Interrupted):
            reason = f"{error}; the same command continues, from the last saved state"
        return Outcome(state="KILLED", reason=reason, code=stop.exit_code)
    return Outcome(state="FAILED", reason=_reason_of(error, plan, log), code=1)


def _reason_of(error: BaseException, plan: RunPlan, log: RunLog) -> str:
    """The reason in one line. A traceback is printed and kept unless the mistake is the user's."""
    if isinstance(error, UserError):
        return str(error)
    text = redact("".join(traceback.format_exception(error)))
    message = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in message or "can't allocate memory" in message:
        trainer = plan.settings.trainer
        return (
            f"out of memory with trainer.batch_size={trainer.batch_size} and trainer.precision="
            f"{trainer.precision}; take a smaller batch (trainer.grad_accum_steps keeps the effective "
            "size) or trainer.precision=bf16"
        )
    print(text, file=sys.stderr)
    with suppress(UserError):  # on a full disk it is only printed
        log.keep_text(names.TRACEBACK, text)
    return redact(last_line(error))


def _finish(plan: RunPlan, log: RunLog, stop: StopRequest, ending: Outcome) -> Outcome:
    """Record the end, send it, and keep only the weights that the sweep wants."""
    if log.journal.started:
        try:
            if ending.state != "FINISHED":
                log.journal.tags({names.NOTE_TAG: run_note.stopped(plan, ending.state, ending.reason)})
            log.journal.end(ending.state, ending.reason)
        except UserError as error:  # a full disk: the run stays open, and the same command continues it
            if not ending.code:
                ending.state, ending.code = "FAILED", 1
            ending.reason = ending.reason or str(error)
        # No start needs it any more, and it has five times the size of the weights.
        if ending.state in DONE and not plan.settings.keep_state:
            shutil.rmtree(log.folder / "state", ignore_errors=True)
    log.journal.close()
    all_sent = _wait_until_sent(plan, log, stop)
    if ending.reason:
        print(f"{WORDS.get(ending.state, 'error')}: {ending.reason}", file=sys.stderr)
    if plan.sweep and all_sent and ending.state == "FINISHED":
        keep, tracking = plan.sweep.keep_best, plan.settings.tracking
        for message in retention.keep_best(plan.sweep.folder, keep, tracking):
            print(f"note: {message}")
    if plan.sweep is None and ending.state == "FINISHED":
        _print_next(plan, log)
    # A run pruned just now has no score: the search must not take it for a finished one.
    if not ending.code and ending.state != "PRUNED":
        ending.score = score_of(log.journal)
    return ending


def _print_next(plan: RunPlan, log: RunLog) -> None:
    """Print where the run's results are, and what to do with them."""
    figure = log.artifacts / names.FIGURES / "roc_test.png"
    print(f"results: {log.folder}" + (f"; ROC curve: {figure}" if figure.is_file() else ""))
    tracking = plan.settings.tracking
    if tracking.enabled and log.sender.run_id:
        print(f"MLflow:  {places.page(log.folder, tracking.uri or '')}")
    print(f"next:    pneumo predict model={plan.fingerprint} input=DIR")


def _wait_until_sent(plan: RunPlan, log: RunLog, stop: StopRequest) -> bool:
    """Wait for the tracking server, at most tracking.flush_s; a signal cuts the wait short.

    A server that has taken nothing costs a sweep this wait once. Returns True if the server has everything.
    """
    tracking, sweep, grace_s = plan.settings.tracking, plan.sweep, stop.seconds_left
    is_down = sweep is not None and sweep.tracker_is_down and not log.sender.reached
    wait_s = 0.0 if is_down else tracking.flush_s
    try:
        stop.deferred = stop.shielded = False
        left = log.sender.finish(wait_s if grace_s is None else min(wait_s, grace_s))
        stop.shielded = True
    except Interrupted:
        left = log.sender.finish(0)
    if sweep is not None and (bool(left) and not log.sender.reached) != is_down:
        with suppress(UserError):  # a full disk: the next job waits, too
            sweep.note_tracker(not is_down)
    if left:
        reason = f": {log.sender.error}" if log.sender.error else ""
        print(f"{left} records are still to be sent to {redact(tracking.uri or '')}{reason}")
        sync = places.command(
            f"runs sync {plan.fingerprint}", uri=tracking.uri, output_dir=plan.folder.parent
        )
        print(f"Nothing is lost. This sends them: {sync}")
    elif log.sender.error:
        print(f"note: {log.sender.error}")
    return not left
