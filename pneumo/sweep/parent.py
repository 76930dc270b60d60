"""A sweep: its id, its parent run, and the Hydra callback that starts it."""

import hashlib
import json
import sys
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pneumo import UserError
from pneumo.config import check_sweep
from pneumo.fingerprint import IRRELEVANT
from pneumo.names import BEST_TAG, SWEEP_TAG
from pneumo.sweep import jobs
from pneumo.tracking.journal import DONE, Journal, redact
from pneumo.tracking.settings import TrackingSettings

# ---- a sweep

LOCK_WAIT_S = 60.0


def choices(overrides: Iterable[str]) -> list[str]:
    """The overrides that can change a result, the last for a key, sorted: equal for equal questions."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    chosen = {}
    for text in overrides:
        key, _, value = text.partition("=")
        group, _, name = key.lstrip("+~").partition(".")
        where = ("cache_dir", "num_workers") if group == "data" else IRRELEVANT.get(group, ())
        if group in (*IRRELEVANT[""], "sweep") or name in where:
            continue
        try:
            override = OverridesParser.create().parse_override(text)
            if override.is_discrete_sweep():
                value = ",".join(sorted(override.sweep_string_iterator()))
            elif not override.is_sweep_override():
                value = override.get_value_element_as_str()
        except (HydraException, ValueError):
            pass  # as typed; if it is no override, composing the jobs says so
        chosen[key] = value
    return [f"{key}={value}" for key, value in sorted(chosen.items())]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(kw_only=True)
class Sweep:
    """One sweep, as one command issues it; pickled along to jobs in other processes.

    Its folder holds the journal that becomes the parent run, and what pneumo.sweep.jobs knows of the jobs.
    """

    id: str
    root: str  # output_dir, absolute
    experiment: str
    overrides: list[str]
    planned: dict[str, list[str]]  # key -> overrides of each job, where they are known beforehand
    question: str | None = None
    on_failure: str = "continue"
    keep_best: int | None = 3
    issue: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def folder(self) -> Path:
        return Path(self.root) / "sweeps" / self.id

    def job(self, overrides: list[str], number: int) -> jobs.Job:
        """The record of the job with these overrides, as typed, begun now."""
        shown = [redact(choice) for choice in choices(overrides)]
        return jobs.Job(self.folder, _digest(choices(overrides)), shown, number, self.issue)

    def begin(self, trains: bool) -> None:
        """Open the parent's record; any process may, the first one does. `trains`: a job is not skipped."""
        jobs.plan(self.folder, self.issue, self.planned)
        journal = Journal(self.folder)
        if journal.status == "RUNNING" or (journal.status is not None and not trains):
            return
        if not journal.hold(LOCK_WAIT_S):
            raise UserError(f"{journal.path} is held by another process; stop it, or try again.")
        tags = {SWEEP_TAG: self.id, "pneumo.overrides": " ".join(self.overrides)}
        if self.question:
            tags |= {"pneumo.question": self.question, "mlflow.note.content": self.question}
        try:
            journal.start(self.id, self.experiment, tags)
            journal.tags(tags)
            journal.resume()
        finally:
            journal.close()

    def stopped(self) -> str | None:
        """Why no further job of this command starts; None where they do."""
        if self.on_failure != "stop":
            return None
        failed = (job for job in jobs.records(self.folder) if job["issue"] == self.issue)
        names = [" ".join(job["overrides"]) for job in failed if job["state"] == "FAILED"]
        return f"on_failure=stop, and {names[0]} failed" if names else None

    def finish(self, code: int) -> list[jobs.Row]:
        """Bring the parent's record up to date with the jobs; the rows of those that this command names.

        To be called however the command ended; after a kill, the same command given again catches up.
        """
        rows = jobs.table(self.folder)
        if not rows:
            return []
        self.begin(trains=False)
        journal = Journal(self.folder)
        if not journal.hold(LOCK_WAIT_S):
            raise UserError(
                f"{journal.path} is held by another process; stop it, and give the command again."
            )
        try:
            self._record(journal, rows, code)
        finally:
            journal.close()
        return [row for row in rows if row["issue"] == self.issue or row["key"] in self.planned]

    def _record(self, journal: Journal, rows: list[jobs.Row], code: int) -> None:
        facts = {"sweep": self.id, "question": self.question, "overrides": self.overrides}
        artifacts = self.folder / "artifacts"
        jobs.write_table(artifacts, rows, facts)
        for file in sorted(artifacts.rglob("[!.]*")):  # also what a search put there
            if file.is_file():
                journal.artifact(file.relative_to(artifacts).as_posix())
        counts = Counter(row["state"] for row in rows)
        figures = {
            f"jobs/{state.lower()}": float(counts[state]) for state in ("FINISHED", "FAILED", "PRUNED")
        }
        figures["jobs/all"] = float(len(rows))
        if best := jobs.best(rows):
            journal.tags(
                {BEST_TAG: best["fingerprint"], "pneumo.best_overrides": " ".join(best["overrides"])}
            )
            figures |= {"best/score": best["score"]}
            figures |= {jobs.COLUMNS[name]: best[name] for name in jobs.COLUMNS if best[name] is not None}
        held = {key: journal.history(key)[-1][1] for key in figures if journal.history(key)}
        if held != figures:
            journal.metrics(figures, journal.last)
        if counts["RUNNING"]:
            return  # another command trains it, and will say how the sweep ended
        status, reason = "KILLED" if code >= 128 else "FAILED", None
        if counts.total() == sum(counts[state] for state in DONE) and not code:
            status = "FINISHED"
        else:
            words = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            reason = f"of {len(rows)} jobs: {words}"
        if (status, reason) != (journal.status, journal.reason):
            journal.resume()  # takes the reason of an earlier end back
            journal.end(status, reason)


# Of the sweep that this process issued, and of the one whose job it runs: Hydra calls the callback for both.
launched: tuple[Sweep, TrackingSettings] | None = None
current: Sweep | None = None


class SweepCallback(Callback):
    """Tells every job which sweep it belongs to: what is set here in the parent process travels with it."""

    def __init__(self, files: str) -> None:
        self.files = files  # the folder of the sweep files
        self.sweep: Sweep | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global launched
        try:
            self.sweep = _sweep_of(config, self.files)
        except UserError as error:  # Hydra would make a warning of it
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        tracking = OmegaConf.to_object(config.tracking)
        assert isinstance(tracking, TrackingSettings)
        launched = (self.sweep, tracking)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        global current
        current = self.sweep


def _sweep_of(config: DictConfig, files: str) -> Sweep:
    """The sweep that a composed command line asks for."""
    check_sweep(config.sweep_id, config.on_failure, config.keep_best)
    typed = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    task: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    typed += task
    asked, name = choices(typed), config.hydra.runtime.choices.get("sweep")
    return Sweep(
        id=config.sweep_id or f"{name or 'sweep'}-{_digest([asked, config.tracking.experiment])}",
        root=str(Path(config.output_dir).expanduser().absolute()),
        experiment=config.tracking.experiment,
        overrides=[redact(choice) for choice in asked],
        planned=_planned(config, typed),
        question=_question(Path(files) / f"{name}.yaml"),
        on_failure=config.on_failure,
        keep_best=config.keep_best,
    )


def _planned(config: DictConfig, typed: list[str]) -> dict[str, list[str]]:
    """The jobs that Hydra's own sweeper will make of `typed`; empty for a search."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return {}
    try:
        (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed), None)
    except (HydraException, ValueError):
        return {}  # the sweeper will say what is wrong
    planned = [choices(overrides) for overrides in batch]
    return {_digest(chosen): [redact(choice) for choice in chosen] for chosen in planned}


def _question(file: Path) -> str | None:
    """The first comment line of a sweep's file."""
    try:
        lines = [line.lstrip("# ").rstrip() for line in file.read_text().splitlines() if line.startswith("#")]
    except OSError:
        return None
    return lines[0].removeprefix("Question:").strip() if lines else None
