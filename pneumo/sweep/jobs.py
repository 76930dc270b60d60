"""What a sweep knows of its jobs: a small file each, for they may run in other processes and machines.

How a job ended is read from its run's journal; its file says it only where the run never came to have one.
"""

import csv
import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pneumo import UserError
from pneumo.files import write_atomically
from pneumo.tracking.journal import DONE, Journal, is_being_written

Row = dict[str, Any]
# Columns of the table: the last point of each metric.
COLUMNS = {
    "epoch": "best/epoch",
    "val AUROC": "best/val_auroc",
    "val accuracy": "best/val_accuracy",
    "test accuracy": "test/accuracy",
    "test AUROC": "test/auroc",
    "test F1": "test/f1",
}


def state_of(journal: Journal) -> str:
    """How a run stands; "stale": not ended, and no process works on it. Its command continues it."""
    if journal.status is None:
        return "empty"
    return "stale" if journal.status == "RUNNING" and not is_being_written(journal.folder) else journal.status


def score_of(journal: Journal) -> float:
    """The validation score (trainer.monitor) of the chosen epoch, or the best so far; NaN before any."""
    points = dict(journal.history(_monitor(journal)))
    if chosen := journal.history("best/epoch"):
        return points.get(int(chosen[-1][1]), math.nan)
    return (min if _less_is_better(journal) else max)(points.values(), default=math.nan)


def rank_of(journal: Journal) -> float:
    """The score as a number of which more is better; minus infinity where there is none."""
    score = score_of(journal)
    return -math.inf if math.isnan(score) else -score if _less_is_better(journal) else score


def _monitor(journal: Journal) -> str:
    return journal.params_logged.get("trainer.monitor", "val/auroc")


def _less_is_better(journal: Journal) -> bool:
    return _monitor(journal) == "val/loss"


class Job:
    """The record of one combination of overrides in the sweep whose folder is `folder`, begun anew."""

    def __init__(self, folder: Path, key: str, overrides: list[str], number: int, issue: str) -> None:
        self.folder, self._file = folder, folder / "jobs" / f"{key}.json"
        before = read_json(self._file)
        self._began, self._before_s = time.monotonic(), before.get("duration_s", 0.0)
        self._record: Row = {"key": key, "number": number, "overrides": overrides, "issue": issue}
        self._record |= {"fingerprint": None, "state": "RUNNING", "happened": "", "reason": None}
        # An older record stands until the run's fingerprint is known: another terminal may show it meanwhile.
        if not before:
            self.note()

    @property
    def root(self) -> Path:
        """Where the runs' folders lie."""
        return self.folder.parents[1]

    def note(self, **fields: object) -> None:
        """Note the run's `fingerprint`, what `happened`, its `state`, and the `reason` for that."""
        self._record |= fields
        self._record["duration_s"] = self._before_s + time.monotonic() - self._began
        _write(self._file, self._record)


def plan(folder: Path, issue: str, planned: dict[str, list[str]]) -> None:
    """Note which jobs the newest command means to run."""
    if planned and read_json(folder / "plan.json").get("issue") != issue:
        _write(folder / "plan.json", {"issue": issue, "jobs": planned})


def records(folder: Path) -> Iterator[Row]:
    for file in (folder / "jobs").glob("*.json"):
        if not file.name.startswith(".") and (record := read_json(file)):
            yield record


def table(folder: Path) -> list[Row]:
    """A row for every job of the sweep in `folder`, in the order of the jobs; those not begun come last."""
    rows = [_row(folder.parents[1], record) for record in records(folder)]
    rows.sort(key=lambda row: (row["number"], row["key"]))
    known = {row["key"] for row in rows}
    planned = read_json(folder / "plan.json")
    blank: Row = {"number": None, "fingerprint": None, "happened": "", "reason": None, "duration_s": 0.0}
    blank |= {"state": "waiting", "score": None, "rank": -math.inf, **dict.fromkeys(COLUMNS)}
    for key, overrides in planned.get("jobs", {}).items():
        if key not in known:
            rows.append({**blank, "key": key, "overrides": overrides, "issue": planned["issue"]})
    return rows


def _row(root: Path, record: Row) -> Row:
    row = {**record, "score": None, "rank": -math.inf, **dict.fromkeys(COLUMNS)}
    if record["fingerprint"] is None:
        row["state"] = "stale" if record["state"] == "RUNNING" else record["state"]
        return row
    try:
        journal = Journal(root / record["fingerprint"])
        state = state_of(journal)
    except (UserError, OSError) as error:
        return {**row, "state": "FAILED", "reason": str(error)}
    if state in DONE or record["state"] == "RUNNING":  # perhaps by another command since
        row |= {"state": state, "reason": journal.reason}
    score = score_of(journal)
    row |= {"score": None if math.isnan(score) else score, "rank": rank_of(journal)}
    trained_s = sum(seconds for _, seconds in journal.history("time/epoch_s"))
    row["duration_s"] = max(row["duration_s"], trained_s)  # what a kill cut off was not noted
    for column, metric in COLUMNS.items() if state == "FINISHED" else ():
        if points := journal.history(metric):
            row[column] = int(points[-1][1]) if column == "epoch" else points[-1][1]
    return row


def names(rows: list[Row]) -> list[str]:
    """Each job by the overrides that it does not share with all the others."""
    shared = set.intersection(*(set(row["overrides"]) for row in rows)) if len(rows) > 1 else set()
    own = (", ".join(choice for choice in row["overrides"] if choice not in shared) for row in rows)
    return [name or "defaults" for name in own]


def best(rows: list[Row]) -> Row | None:
    """The finished job with the best score; the first of equals."""
    ranked = [row for row in rows if row["state"] == "FINISHED" and row["rank"] > -math.inf]
    return max(ranked, key=lambda row: row["rank"], default=None)


def write_table(folder: Path, rows: list[Row], facts: Row) -> None:
    """Write sweep.csv (a column for each key that the jobs set) and sweep.json, whole, into `folder`."""
    jobs = [{key: row[key] for key in row if key not in ("issue", "key", "rank")} for row in rows]
    chosen = [dict(override.partition("=")[::2] for override in row["overrides"]) for row in rows]
    keys = sorted({key for one in chosen for key in one})
    own = ["number", "fingerprint", "state", "happened", "reason", "score", "duration_s", *COLUMNS]
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow([*keys, *own])
    for row, one in zip(rows, chosen, strict=True):
        writer.writerow([*(one.get(key, "") for key in keys), *(row[key] for key in own)])
    _write(folder / "sweep.csv", page.getvalue())
    _write(folder / "sweep.json", json.dumps({**facts, "jobs": jobs}, indent=1) + "\n")


def _write(path: Path, content: object) -> None:
    write_atomically(path, (content if isinstance(content, str) else json.dumps(content)).encode())


def read_json(path: Path) -> Row:
    """What `path` holds; nothing where it is missing or torn by a power cut: it is written again."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
