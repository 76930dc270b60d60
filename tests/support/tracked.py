"""What a tracker and an output folder hold of every run, and how two pairs of them differ.

Two equal trainings differ in what is measured (time/, memory/), in MLflow's ids, and in the record of starts.
"""

import csv
import hashlib
import io
import json
import re
import sqlite3
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pneumo import names
from pneumo.files import local_folder
from pneumo.tracking.journal import Journal

# Tags with ids that MLflow or the journal made, which differ in every tracker.
_IDS = (names.JOURNAL_TAG, names.PARENT_TAG, names.BEST_CHILD_TAG, names.SCORED_TAG, names.HEARTBEAT_TAG)
_OF_A_START = ("happened", "duration_s")  # what a sweep's table says of the last start of a job
# What a killed process may leave that is large. The same command removes it.
_LEFTOVERS = (
    *("outputs/*/state", "outputs/*/artifacts/**/.*.tmp", "cache/*.tmp*"),
    "mlartifacts/**/.artifact.uploading.*",  # MLflow's own
)


@dataclass(kw_only=True)
class Tracked:
    """A run or the parent of a sweep as a tracker holds it, without what differs between equal ones."""

    status: str
    rows: Counter[tuple[str, int, float | None]]  # key, step, value
    params: dict[str, str]
    tags: dict[str, str]
    files: dict[str, str]  # name -> digest


def tracked(folder: Path) -> dict[str, Tracked]:
    """The runs in `folder`/mlflow.db by fingerprint, and the parents by sweep id. There is one of each."""
    found: dict[str, Tracked] = {}
    with sqlite3.connect(folder / "mlflow.db") as store:

        def pairs(table: str, run_id: str) -> dict[str, str]:
            return dict(store.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", (run_id,)))

        query = "SELECT run_uuid, status, artifact_uri FROM runs WHERE lifecycle_stage = 'active'"
        for run_id, status, uri in store.execute(query).fetchall():
            tags = pairs("tags", run_id)
            query = "SELECT key, step, value FROM metrics WHERE run_uuid = ?"
            points = store.execute(query, (run_id,)).fetchall()
            if names.FINGERPRINT_TAG in tags:
                name = tags[names.FINGERPRINT_TAG]
                rows = Counter((k, s, None if k.startswith(names.MEASURED) else v) for k, s, v in points)
            else:  # a parent's steps count its records, so only the last points are the same
                name = tags.get(names.SWEEP_TAG, run_id)
                last = {key: value for key, _, value in sorted(points, key=lambda point: point[1])}
                rows = Counter((key, 0, value) for key, value in last.items())
            if name in found:
                raise AssertionError(f"{name} is twice in {folder / 'mlflow.db'}")
            own = {key: without_ids(value) for key, value in tags.items() if key not in _IDS}
            store_folder = local_folder(uri)
            files = _files(store_folder) if store_folder else {}
            found[name] = Tracked(
                status=status, rows=rows, params=pairs("params", run_id), tags=own, files=files
            )
    return found


def without_ids(text: str) -> str:
    """`text` without MLflow's run ids, which the links of a description hold."""
    return re.sub(r"\b[0-9a-f]{32}\b", "ID", text)


def differences(whole: Path, other: Path) -> list[str]:
    """How the trainings in `other` differ from the undisturbed ones in `whole`, and what is wrong in them."""
    expected, found = tracked(whole), tracked(other)
    faults = [f"{name}: there is no such run" for name in expected.keys() - found.keys()]
    faults += [f"{name}: a run too many" for name in found.keys() - expected.keys()]
    for name in sorted(expected.keys() & found.keys()):
        for field in fields(Tracked):
            one, two = getattr(expected[name], field.name), getattr(found[name], field.name)
            faults += [f"{name}: {field.name}: {text}" for text in _differences(one, two)]
    return faults + inconsistencies(other)


def _differences(expected: Any, found: Any) -> list[str]:
    if isinstance(expected, Counter):
        return [f"missing {row}" for row in expected - found] + [
            f"too many {row}" for row in found - expected
        ]
    if not isinstance(expected, dict):
        return [] if expected == found else [f"{found} instead of {expected}"]
    keys = sorted(expected.keys() | found.keys())
    return [
        f"{key}: {found.get(key, 'missing')} instead of {expected.get(key, 'none')}"
        for key in keys
        if expected.get(key) != found.get(key)
    ]


def inconsistencies(folder: Path) -> list[str]:
    """What is wrong with the runs in `folder` by themselves: copies, records that are not sent, leftovers."""
    faults = []
    with sqlite3.connect(folder / "mlflow.db") as store:
        faults += [f"SQLite: {row}" for (row,) in store.execute("PRAGMA integrity_check") if row != "ok"]
        uris = dict(store.execute("SELECT value, artifact_uri FROM tags JOIN runs USING (run_uuid) "
                                  "WHERE key = ?", (names.JOURNAL_TAG,)))  # fmt: skip
    for file in sorted(folder.glob("outputs/**/journal.jsonl")):
        run, journal = file.parent, Journal(file.parent)
        artifacts = run / "artifacts"
        there = local_folder(uris.get(journal.journal_id or "", ""))
        if journal.status != "FINISHED":
            faults.append(f"{run.name}: its journal says {journal.status}")
        notes = [json.loads(note.read_text())["sequence"] for note in run.glob("sent-*.json")]
        if notes != [journal.last]:
            faults.append(f"{run.name}: of {journal.last} records, {notes} are noted as sent")
        for name in journal.artifacts if there else ():
            copy, here = there / name, artifacts / name
            if not copy.is_file() or copy.read_bytes() != here.read_bytes():
                faults.append(f"{run.name}: the tracker's copy of {name} is not the run's file")
    left = (path for pattern in _LEFTOVERS for path in sorted(folder.glob(pattern)))
    return faults + [f"left behind: {path.relative_to(folder)}" for path in left]


def _files(folder: Path) -> dict[str, str]:
    """The digest of every file below `folder`, hidden ones too."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(_repeatable(path)).hexdigest()[:16]
        for path in files
    }


def _repeatable(path: Path) -> bytes:
    """The content of an artifact without what the last start alone decides."""
    content = path.read_bytes()
    if path.name == names.STARTS:
        return b"a list of starts" if json.loads(content) else b"no start"
    if path.name == "sweep.json":
        facts = json.loads(content)
        facts["jobs"] = [{k: v for k, v in job.items() if k not in _OF_A_START} for job in facts["jobs"]]
        return json.dumps(facts).encode()
    if path.name == "sweep.csv":
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        return json.dumps([{k: v for k, v in row.items() if k not in _OF_A_START} for row in rows]).encode()
    return content
