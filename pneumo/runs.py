"""`pneumo runs status|sync|reproduce|register|recalibrate|export`: look at runs, and use their models."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pneumo import UserError, config
from pneumo.commands import RUN_FORMS
from pneumo.data.settings import DataSettings
from pneumo.names import CONFIG, FINGERPRINT_TAG, HEARTBEAT_TAG
from pneumo.reproduce import reproduce as reproduce_run
from pneumo.run_lookup import find_run, find_sweep, model_of, run_folders, run_id_of, uri_of
from pneumo.sweep import jobs
from pneumo.text import clock, table
from pneumo.tracking import heartbeat, reading, sender
from pneumo.tracking.courier import is_sweep, read_note
from pneumo.tracking.journal import DONE, Journal, redact
from pneumo.tracking.mlflow_client import sqlite_file
from pneumo.tracking.registry import FORMS, RUN_ID, Registry, resolve
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.settings import check_device

NOT_KNOWN = {"state": "", "epoch": "-", "score": "-", "time left": "-", "reason": ""}
MOST_COLUMNS = 120  # of the terminal
_OUTPUTS = "${pneumo.project:outputs}"


@dataclass(kw_only=True)
class StatusConfig:
    """What `runs status` shows."""

    which: str | None = None
    sweep_id: str | None = None
    watch: float | None = None  # seconds
    output_dir: str = _OUTPUTS
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        if self.watch is not None and self.watch < 0:
            raise UserError(f"watch={self.watch} must not be negative: give seconds, for example watch=5.")
        if self.which and self.sweep_id:
            raise UserError("a run and sweep_id= exclude each other: give one of them.")


@dataclass(kw_only=True)
class SyncConfig:
    """What `runs sync` sends, and where."""

    which: str | None = None
    verify: bool = False
    output_dir: str = _OUTPUTS
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass(kw_only=True)
class ReproduceConfig:
    """Which run `runs reproduce` explains or repeats."""

    which: str | None = None
    run: bool = False
    output_dir: str = _OUTPUTS
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        _require_run("reproduce", self.which)


@dataclass(kw_only=True)
class RegisterConfig:
    """Which run `runs register` makes a model of, and what it is called."""

    which: str | None = None
    alias: str | None = None
    name: str = "pneumo"
    force: bool = False
    require_external: str | None = None
    wheel: str | None = None
    output_dir: str = _OUTPUTS
    cache_dir: str | None = None
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        _require_run("register", self.which)
        if not self.alias:
            raise UserError("alias=: register the run as what? Give alias=champion, for example.")


@dataclass(kw_only=True)
class RecalibrateConfig:
    """Which model `runs recalibrate` calibrates for a new site, and on which images."""

    which: str | None = None
    alias: str | None = None
    name: str | None = None
    force: bool = False
    wheel: str | None = None
    output: str | None = None
    device: str = "auto"
    data: DataSettings = field(default_factory=DataSettings)
    output_dir: str = _OUTPUTS
    cache_dir: str | None = None
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        if not self.which:
            raise UserError(
                f"recalibrate which model? Give {FORMS}: pneumo runs recalibrate MODEL data=csv data.root=DIR"
            )
        if self.output and self.alias:
            raise UserError(
                f"output={self.output} writes a folder and registers nothing, so alias={self.alias} has no "
                "effect: give one of them."
            )
        check_device("device", self.device)


@dataclass(kw_only=True)
class ExportConfig:
    """Which model `runs export` writes, and where."""

    which: str | None = None
    output: str | None = None
    output_dir: str = _OUTPUTS
    cache_dir: str | None = None
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        _require_run("export", self.which)
        if not self.output:
            raise UserError("output=: write the model where? Give output=model.onnx, for example.")


def _require_run(action: str, which: str | None) -> None:
    if not which:
        raise UserError(f"{action} which run? Give {RUN_FORMS}: pneumo runs {action} RUN ...")


def main() -> None:
    """Run the sub-command; the exit code is 0 done, 1 failed, 2 wrong usage."""
    sys.exit(config.run_action("runs", ACTIONS))


# ---- status


def status(settings: StatusConfig) -> int:
    """Print a table of the runs, or of the jobs of one sweep."""
    while True:
        running = _sweep_status(settings, settings.sweep_id) if settings.sweep_id else _run_status(settings)
        if not settings.watch or not running:
            return 0
        time.sleep(settings.watch)
        print()


def _run_status(settings: StatusConfig) -> int:
    """Print the runs; the number of those that are running."""
    sweeps: list[Path] = []
    if settings.which:
        folders = [find_run(settings.output_dir, settings.which, settings.tracking.uri)]
    elif _is_remote(settings.tracking.uri) and not Path(settings.output_dir).expanduser().is_dir():
        folders = []  # other machines have some
    else:
        folders = run_folders(settings.output_dir)
        sweeps = run_folders(settings.output_dir, "sweeps/*")
    rows = []
    for folder in folders:
        try:
            journal = Journal(folder)
        except UserError as error:
            rows.append(
                {"run": "-", "fingerprint": folder.name, "MLflow": "-", **NOT_KNOWN, "state": "damaged"}
            )
            config.complain(error)
            continue
        rows.append({"run": journal.name or "-", **_identity(folder, settings), **_progress(journal)})
    if not settings.which:
        rows += _elsewhere(settings, {folder.name for folder in folders})
    print(table(rows, MOST_COLUMNS))
    for folder in sweeps:
        print(f"sweep {folder.name}: {Journal(folder).status} (status sweep_id={folder.name} shows its jobs)")
    return sum(row["state"] == "RUNNING" for row in rows)


def _is_remote(uri: str | None) -> bool:
    return bool(uri) and sqlite_file(uri or "") is None


def _elsewhere(settings: StatusConfig, here: set[str]) -> list[dict[str, Any]]:
    """Runs that the tracker shows as running and that have no folder here: those of other machines.

    A SQLite file is not asked: it is on this machine, as the folders are, and loading MLflow takes seconds.
    """
    if not _is_remote(settings.tracking.uri):
        return []
    try:
        running = reading.Reader(settings.tracking.uri or "").running()
    except UserError as error:
        config.complain(error, 1)
        return []
    rows = []
    for run in running:
        fingerprint, beat = run.tags.get(FINGERPRINT_TAG), run.tags.get(HEARTBEAT_TAG)
        if fingerprint is None or fingerprint in here:
            continue
        line = {"run": run.name, "fingerprint": fingerprint, "MLflow": run.run_id[:8], **NOT_KNOWN}
        passed = heartbeat.age(beat)
        line["reason"] = "another machine; last sign of life " + (
            f"{clock(passed.total_seconds())} ago" if passed else "unknown"
        )
        rows.append({**line, "state": "STALE" if heartbeat.is_stale(beat) else "RUNNING"})
    return rows


def _sweep_status(settings: StatusConfig, sweep_id: str) -> int:
    """Print the jobs of a sweep; the number of those that are running."""
    sweep = find_sweep(settings.output_dir, sweep_id)
    rows = jobs.table(sweep)
    shown = []
    for row, job in zip(rows, jobs.names(rows), strict=True):
        line: dict[str, Any] = {"run": job, "fingerprint": "-", "MLflow": "-"}
        run = sweep.parents[1] / row["fingerprint"] if row["fingerprint"] else None
        if run:
            line |= _identity(run, settings)
        if run and row["state"] != "FAILED":  # its journal could be what is damaged
            line |= _progress(Journal(run))
        else:
            line |= {**NOT_KNOWN, "state": row["state"], "reason": (row["reason"] or "")[:80]}
        shown.append(line)
    print(table(shown, MOST_COLUMNS))
    done_s = [row["duration_s"] for row in rows if row["state"] in DONE]
    undone = sum(row["state"] not in DONE for row in rows)
    guess = f", about {clock(undone * sum(done_s) / len(done_s))} one by one" if done_s and undone else ""
    print(f"sweep {sweep_id}: {len(done_s)} of {len(rows)} jobs done{guess}")
    return sum(row["state"] == "RUNNING" for row in rows)


def _identity(run: Path, settings: StatusConfig) -> dict[str, str]:
    """A run's fingerprint, and the beginning of its MLflow id."""
    run_id = read_note(run, settings.tracking.uri or "").run_id
    return {"fingerprint": run.name, "MLflow": (run_id or "-")[:8]}


def _progress(journal: Journal) -> dict[str, Any]:
    """State, epochs done and planned, score, the time left if it trains, and the reason of its end."""
    state, score = jobs.state_of(journal), jobs.score_of(journal)
    epochs = journal.history("time/epoch_s")
    planned = journal.params_logged.get("trainer.epochs", "?")
    left = "-"
    if state == "RUNNING" and epochs and planned.isdigit():
        left = clock(max(0, int(planned) - len(epochs)) * sum(s for _, s in epochs[-3:]) / len(epochs[-3:]))
    return {
        "state": state,
        "epoch": f"{epochs[-1][0] if epochs else 0}/{planned}",
        "score": "-" if score != score else score,
        "time left": left,
        "reason": (journal.reason or "")[:80],
    }


# ---- sync


def sync(settings: SyncConfig) -> int:
    """Send what is left of one run, or of every sweep and run; 1 if something could not be sent.

    A run whose process died without a report is closed as KILLED, also one of another machine.
    """
    if settings.which:
        folders = [find_run(settings.output_dir, settings.which, settings.tracking.uri)]
    elif settings.tracking.uri and not Path(settings.output_dir).expanduser().is_dir():
        folders = []  # another machine's runs can still be closed
    else:
        folders = run_folders(settings.output_dir, "sweeps/*") + run_folders(settings.output_dir)
    failed: dict[str, int] = {}
    for folder in folders:
        uri = settings.tracking.uri or uri_of(folder)
        failed.setdefault(uri, 0)
        try:
            closed = None if is_sweep(folder) else jobs.close_dead(folder)
        except UserError as error:  # damaged: sending names it
            closed = None
            config.complain(error, 1)
        if closed:
            print(f"{folder.name}: closed as KILLED ({closed}); its command continues it")
        result = sender.sync(folder, settings.tracking, uri)
        refused = f", {result.refused} refused (see {folder}/refused.jsonl)" if result.refused else ""
        print(f"{folder.name}: {result.sent} records sent, {result.left} left{refused}")
        if result.error:
            config.complain(f"{folder.name}: {result.error}", 1)
        elif settings.verify and (again := sender.verify(folder, uri)):
            print(
                f"{folder.name}: {len(again)} files differed in the tracker and were sent again: "
                f"{', '.join(again)}"
            )
        failed[uri] += bool(result.left or result.error)
    if settings.tracking.uri and not settings.which:
        failed.setdefault(settings.tracking.uri, 0)
    for uri, count in failed.items():
        if not count and not settings.which:
            for name in reading.Reader(uri).close_stale():
                print(f"{name}: closed as KILLED in {redact(uri)}; no sign of life for five minutes")
        print(
            f"{redact(uri)}: " + (f"{count} runs are not complete there yet" if count else "has everything")
        )
    return 1 if any(failed.values()) else 0


# ---- reproduce


def reproduce(settings: ReproduceConfig) -> int:
    """Print a run's command; with run=true carry it out elsewhere and compare. 1 if a figure differs."""
    assert settings.which is not None
    folder = find_run(settings.output_dir, settings.which, settings.tracking.uri)
    return reproduce_run(folder, settings.output_dir, run=settings.run)


# ---- register, export


def register(settings: RegisterConfig) -> int:
    """Register a run's model under name and alias; UserError for a run that should not be."""
    from pneumo.inference import registration

    assert settings.which is not None and settings.alias is not None
    uri = settings.tracking.uri or ""
    run_id = settings.which.removeprefix("runs:/")
    if not RUN_ID.fullmatch(run_id):
        run_id = run_id_of(settings.output_dir, run_id, uri)
    registry = Registry(uri, Path(settings.cache_dir or ".cache"))
    wheel = Path(settings.wheel).expanduser() if settings.wheel else None
    print(
        registration.register(
            registry,
            run_id,
            name=settings.name,
            alias=settings.alias,
            force=settings.force,
            wheel=wheel,
            require_external=settings.require_external,
        )
    )
    print(f"use it: pneumo predict model=models:/{settings.name}@{settings.alias} input=DIR")
    return 0


def recalibrate(settings: RecalibrateConfig) -> int:
    """Register or write a model with calibration and thresholds of a new site."""
    from pneumo import recalibrate  # it imports torch, which takes seconds: --help does without

    keys = {one.name: getattr(settings, one.name) for one in fields(settings)}
    return recalibrate.recalibrate(
        recalibrate.Request(**{**keys, "cache_dir": settings.cache_dir or ".cache"})
    )


def export(settings: ExportConfig) -> int:
    """Write a model as ONNX."""
    from pneumo.inference import export, model_folder

    assert settings.which is not None and settings.output is not None
    uri, cache = settings.tracking.uri or "", Path(settings.cache_dir or ".cache")
    found = resolve(model_of(settings.which, settings.output_dir, uri), uri, cache)
    bundle = model_folder.read(found.folder, found.version)
    config_file = bundle.weights.parent.parent / CONFIG
    if not config_file.is_file() and bundle.run_id:  # a registered model: its run knows the data set
        with suppress(UserError):
            registry = Registry(uri, cache)
            config_file = registry.run_folder(registry.run(bundle.run_id)) / CONFIG
    real = export.validation_images(bundle, config_file)
    print(export.onnx(bundle, Path(settings.output).expanduser(), real))
    return 0


ACTIONS: Mapping[str, tuple[Callable[[Any], int], type]] = {
    "status": (status, StatusConfig),
    "sync": (sync, SyncConfig),
    "reproduce": (reproduce, ReproduceConfig),
    "register": (register, RegisterConfig),
    "recalibrate": (recalibrate, RecalibrateConfig),
    "export": (export, ExportConfig),
}

if __name__ == "__main__":
    main()
