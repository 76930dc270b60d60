"""What a sweep knows of its jobs: a small file each, because they may run in other processes and machines.

How a job ended is read from its run's journal. The job's file says it only where its run has no journal.
"""

import csv
import io
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from pneumo import UserError
from pneumo.files import write_atomically
from pneumo.tracking import heartbeat
from pneumo.tracking.journal import DONE, Journal, is_being_written

# Columns of the sweep's table: the last point of each metric.
COLUMNS = {
    "epoch": "best/epoch",
    "val AUROC": "best/val_auroc",
    "val accuracy": "best/val_accuracy",
    "test accuracy": "test/accuracy",
    "test AUROC": "test/auroc",
    "test F1": "test/f1",
}


class SweepJobRecord(TypedDict):
    """What a job's file holds."""

    key: str
    number: int | None  # of the job in its command; None while it waits
    overrides: list[str]
    issue: str  # the command that ran it last
    fingerprint: str | None  # of its run, once it is known
    state: str
    happened: str  # begins, continues ..., skipped
    reason: str | None  # of the state
    duration_s: float


class SweepJobRow(SweepJobRecord):
    """A job in the sweep's table: its record, brought up to date from its run's journal."""

    score: float | None
    rank: float  # the score as a number of which more is better
    figures: dict[str, float | int | None]  # by COLUMNS


def state_of(journal: Journal) -> str:
    """A run's state. "stale": it has not ended, and no process works on it; its command continues it."""
    if journal.status is None:
        return "empty"
    return "stale" if journal.status == "RUNNING" and not is_being_written(journal.folder) else journal.status


def close_dead(folder: Path) -> str | None:
    """Record that the run in `folder` was KILLED, if its process ended without a report; the reason then."""
    journal = Journal(folder)
    if journal.status != "RUNNING" or is_being_written(folder) or not journal.hold():
        return None
    try:
        if journal.status != "RUNNING":
            return None
        journal.end("KILLED", heartbeat.REASON)
        return heartbeat.REASON
    finally:
        journal.close()


def score_of(journal: Journal) -> float:
    """The validation score (trainer.monitor) of the chosen epoch, or the best so far; NaN before any."""
    points = dict(journal.history(_monitor(journal)))
    if chosen := journal.history("best/epoch"):
        return points.get(int(chosen[-1][1]), math.nan)
    return (min if _less_is_better(journal) else max)(points.values(), default=math.nan)


def rank_of(journal: Journal) -> float:
    """The score as a number of which more is better; minus infinity without a score."""
    score = score_of(journal)
    return -math.inf if math.isnan(score) else -score if _less_is_better(journal) else score


def _monitor(journal: Journal) -> str:
    return journal.params_logged.get("trainer.monitor", "val/auroc")


def _less_is_better(journal: Journal) -> bool:
    return _monitor(journal) == "val/loss"


class SweepJob:
    """The record of one combination of overrides in the sweep whose folder is `folder`."""

    def __init__(self, folder: Path, key: str, overrides: list[str], number: int, issue: str) -> None:
        self.folder, self._file = folder, folder / "jobs" / f"{key}.json"
        before = read_json(self._file)
        self._started, self._before_s = time.monotonic(), before.get("duration_s", 0.0)
        self._record = SweepJobRecord(
            key=key,
            number=number,
            overrides=overrides,
            issue=issue,
            fingerprint=None,
            state="RUNNING",
            happened="",
            reason=None,
            duration_s=self._before_s,
        )
        # An older record stays until the run's fingerprint is known: another terminal may show it meanwhile.
        if not before:
            self.update()

    def update(self, **fields: object) -> None:
        """Record the run's `fingerprint`, what `happened`, its `state`, and the `reason` for that."""
        self._record |= fields  # type: ignore[typeddict-item]
        self._record["duration_s"] = self._before_s + time.monotonic() - self._started
        _write(self._file, self._record)


def plan(folder: Path, issue: str, planned: dict[str, list[str]]) -> None:
    """Record which jobs the newest command means to run."""
    if planned and read_json(folder / "plan.json").get("issue") != issue:
        _write(folder / "plan.json", {"issue": issue, "jobs": planned})


def records(folder: Path) -> Iterator[SweepJobRecord]:
    """The record of every job of the sweep in `folder`."""
    for file in (folder / "jobs").glob("*.json"):
        if not file.name.startswith(".") and (record := read_json(file)):
            yield SweepJobRecord(**record)  # type: ignore[typeddict-item]


def table(folder: Path) -> list[SweepJobRow]:
    """A row for every job of the sweep in `folder`, in the order of the jobs; those that wait come last."""
    rows = [_row(folder.parents[1], record) for record in records(folder)]
    rows.sort(key=lambda row: (row["number"], row["key"]))
    known = {row["key"] for row in rows}
    planned = read_json(folder / "plan.json")
    for key, overrides in planned.get("jobs", {}).items():
        if key not in known:
            waiting = SweepJobRecord(
                key=key,
                number=None,
                overrides=overrides,
                issue=planned["issue"],
                fingerprint=None,
                state="waiting",
                happened="",
                reason=None,
                duration_s=0.0,
            )
            rows.append(_blank_row(waiting))
    return rows


def _blank_row(record: SweepJobRecord) -> SweepJobRow:
    return SweepJobRow(**record, score=None, rank=-math.inf, figures=dict.fromkeys(COLUMNS))


def _row(root: Path, record: SweepJobRecord) -> SweepJobRow:
    row = _blank_row(record)
    if record["fingerprint"] is None:
        row["state"] = "stale" if record["state"] == "RUNNING" else record["state"]
        return row
    try:
        journal = Journal(root / record["fingerprint"])
        state = state_of(journal)
    except (UserError, OSError) as error:
        row["state"], row["reason"] = "FAILED", str(error)
        return row
    if state in DONE or record["state"] == "RUNNING":  # perhaps another command has trained it since
        row["state"], row["reason"] = state, journal.reason
    score = score_of(journal)
    row["score"], row["rank"] = None if math.isnan(score) else score, rank_of(journal)
    trained_s = sum(seconds for _, seconds in journal.history("time/epoch_s"))
    row["duration_s"] = max(row["duration_s"], trained_s)  # a kill cuts off the record's last part
    for column, metric in COLUMNS.items() if state == "FINISHED" else ():
        if points := journal.history(metric):
            row["figures"][column] = int(points[-1][1]) if column == "epoch" else points[-1][1]
    return row


def names(rows: list[SweepJobRow]) -> list[str]:
    """Each job by the overrides that it does not share with all the others."""
    shared = set.intersection(*(set(row["overrides"]) for row in rows)) if len(rows) > 1 else set()
    own = (", ".join(choice for choice in row["overrides"] if choice not in shared) for row in rows)
    return [name or "defaults" for name in own]


def best(rows: list[SweepJobRow]) -> SweepJobRow | None:
    """The finished job with the best score; the first of equals."""
    ranked = [row for row in rows if row["state"] == "FINISHED" and row["rank"] > -math.inf]
    return max(ranked, key=lambda row: row["rank"], default=None)


def write_table(folder: Path, rows: list[SweepJobRow], facts: Mapping[str, object]) -> None:
    """Write sweep.csv and sweep.json, whole, into `folder`.

    The CSV has a column for each key that the jobs set. Those that differ come first, then the scores.
    """
    flat = [{**row, **row["figures"]} for row in rows]
    hidden = ("issue", "key", "rank", "figures")
    chosen = [dict(override.partition("=")[::2] for override in row["overrides"]) for row in rows]
    keys = sorted({key for job in chosen for key in job})
    shared = [key for key in keys if len({job.get(key) for job in chosen}) == 1]
    varied = [key for key in keys if key not in shared]
    own = ["state", "score", *COLUMNS, "number", "fingerprint", "happened", "reason", "duration_s"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*varied, *own, *shared])
    for row, job in zip(flat, chosen, strict=True):
        cells = [row[key] for key in own]
        writer.writerow([*(job.get(key, "") for key in varied), *cells, *(job[key] for key in shared)])
    jobs = [{key: value for key, value in row.items() if key not in hidden} for row in flat]
    _write(folder / "sweep.csv", text.getvalue())
    _write(folder / "sweep.json", json.dumps({**facts, "jobs": jobs}, indent=1) + "\n")


def _write(path: Path, content: object) -> None:
    write_atomically(path, (content if isinstance(content, str) else json.dumps(content)).encode())


def read_json(path: Path) -> dict[str, Any]:
    """What `path` holds; nothing where it is missing or torn by a power cut: it is written again."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
