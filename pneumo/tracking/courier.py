"""Carries a run's journal to MLflow, one pass at a time; pneumo.tracking.sender says when.

Sending again is harmless: a metric row's key holds its recorded time and value, params and tags are equal,
files are replaced whole. So after each success a note says how far a tracker got, and what follows it is sent
again. mlflow is imported inside functions only: the import costs seconds.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pneumo import UserError
from pneumo.files import LOCK_WAIT_S, Busy, local_folder, locked, sync, write_atomically
from pneumo.names import (
    BEST_CHILD_TAG,
    BEST_TAG,
    BEST_WEIGHTS,
    HEARTBEAT_TAG,
    JOURNAL_TAG,
    NOTE_TAG,
    PARENT_TAG,
    REASON_TAG,
    SWEEP_TAG,
)
from pneumo.text import utc_now
from pneumo.tracking import checkpoint_model, pages, view
from pneumo.tracking.journal import DONE, Journal, Record, artifact_file, read_records, redact
from pneumo.tracking.mlflow_client import (
    NotSent,
    artifact_repository,
    checked_id,
    describe,
    error_code,
    experiment_id,
    is_refusal,
    open_client,
)
from pneumo.tracking.registry import RUN_FILES

MAX_ITEMS = 1000  # a call: MLflow's own limit on metrics; its client splits params and tags by 100
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
LINK_WAIT_S = 10.0
_UPLOADING = ".artifact.uploading.*"  # MLflow's name for a file that it copies into a local store
_BATCHED = ("start", "params", "tags", "metrics")
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_LINK = re.compile(r"\]\(run:(?P<run>[0-9a-f]*)/?(?P<name>[\w./-]*)\)")
_log = logging.getLogger(__name__)


class Item(NamedTuple):
    """One metric point, param or tag of record `n`."""

    n: int
    kind: str
    key: str
    value: Any
    t: int = 0
    step: int = 0


@dataclass(kw_only=True)
class Note:
    """How far one tracker got: it has the records up to `sequence`."""

    uri: str
    experiment_id: str | None = None
    run_id: str | None = None
    sequence: int = 0


def is_sweep(folder: Path) -> bool:
    """True if `folder` is a sweep's, False if it is a run's."""
    return folder.parent.name == "sweeps"


def note_path(folder: Path, uri: str) -> Path:
    """The file in a run's folder that holds the note of the tracker at `uri`."""
    return folder / f"sent-{hashlib.sha1(redact(uri).encode()).hexdigest()[:12]}.json"


def read_note(folder: Path, uri: str) -> Note:
    """How far the tracker at `uri` got with the run in `folder`."""
    try:
        return Note(**json.loads(note_path(folder, uri).read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # damaged: sending all again is harmless
        return Note(uri=redact(uri))


def _write_note(folder: Path, uri: str, note: Note) -> None:
    write_atomically(note_path(folder, uri), json.dumps(asdict(note)).encode())


def _text(value: str, limit: int) -> str:
    """`value` as every database takes it: PostgreSQL refuses NUL; UTF-8 cannot encode lone surrogates."""
    return value.replace("\0", "").encode("utf-8", "replace").decode()[:limit]


def _items(record: Record) -> list[Item]:
    """What of a record goes through log_batch."""
    n, kind, body = record["n"], record["kind"], record["body"]
    if kind == "metrics":
        return [Item(n, kind, key, value, record["t"], body["step"]) for key, value in body["values"].items()]
    limit = MAX_PARAM_CHARS if kind == "params" else MAX_TAG_CHARS
    kind, pairs = ("tags", body["tags"]) if kind == "start" else (kind, body)
    return [Item(n, kind, _text(key, 250), _text(value, limit)) for key, value in pairs.items()]


def _head(records: list[Record]) -> tuple[int, list[Item]]:
    """How many of the first records fit in one log_batch, and their items; 0 if the first goes alone."""
    items: list[Item] = []
    for count, record in enumerate(records):
        if record["kind"] not in _BATCHED:
            return count, items
        new = _items(record)
        if count and len(items) + len(new) > MAX_ITEMS:
            return count, items
        items += new
    return len(records), items


class Courier:
    """One pass at a time: sends what the journal holds beyond the note. Raises on the first failure."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self.note = read_note(folder, uri)
        self.sent = self.refused = 0
        self._client: Any = None
        self._checked = False  # the noted run was seen to be there
        self._rewind()

    def beat(self) -> None:
        """Show in the tracker that the run's process lives. Take back an end that others recorded meanwhile.

        A machine that sees no beat for long closes the run as KILLED, and an outage looks like that.
        """
        if not self._checked or not self._running or self.note.run_id is None:
            return
        client, run_id = self._client, self.note.run_id
        client.set_tag(run_id, HEARTBEAT_TAG, utc_now())
        if client.get_run(run_id).info.status != "RUNNING":
            self._untag(REASON_TAG)
            client.update_run(run_id, status="RUNNING")

    def left(self) -> int:
        """Records not yet sent; from the files alone, so it may be asked while a pass hangs."""
        records, _ = read_records(self.folder / "journal.jsonl")
        return max(0, len(records) - read_note(self.folder, self.uri).sequence)

    def carry(self, stopped: Callable[[], bool] = lambda: False, wait_s: float = 0.0) -> None:
        """Send what is left, unless `stopped`. Busy if another process sends it for longer than `wait_s`."""
        if not (self.folder / "journal.jsonl").exists():
            return
        with locked(self.folder / "sync.lock", wait_s):
            self._read()
            if self._records and (self._unsent or not self._checked):
                self._connect()
            while self._unsent and not stopped():
                self._send_head()

    # -- the journal's side

    def _rewind(self) -> None:
        self._records, self._offset = 0, 0
        self._start: Record = {}
        self._running = False  # by the last record read
        self._finish: int | None = None  # the record that finished the run
        self._unsent: list[Record] = []
        # What of the first unsent records is through: where every third request is lost, a step that takes
        # several must not start over each time.
        self._through: set[Item | str] = set()
        self._part = MAX_ITEMS

    def _read(self) -> None:
        noted = read_note(self.folder, self.uri)  # another process may have sent meanwhile
        if noted.run_id != self.note.run_id or noted.sequence < self.note.sequence:
            self._checked = False
            self._rewind()
        self.note = noted
        journal = self.folder / "journal.jsonl"
        new, self._offset = read_records(journal, self._offset, self._records)
        if new:  # the note must not outlive what it counts: later records would have the numbers of lost ones
            sync(journal)
        if new and not self._records:
            self._start = new[0]
        for record in new:
            if record["kind"] in ("start", "resume", "end"):
                self._running = record["kind"] != "end"
                done = not self._running and record["body"]["status"] in DONE
                self._finish = record["n"] if done else None
        self._records += len(new)
        self._unsent = [record for record in self._unsent + new if record["n"] > noted.sequence]

    def _done(self, count: int) -> None:
        self.note.sequence = self._unsent[count - 1]["n"]
        _write_note(self.folder, self.uri, self.note)
        del self._unsent[:count]
        self._through, self._part = set(), MAX_ITEMS
        self.sent += count

    # -- MLflow's side

    def _connect(self) -> None:
        """Find or create the run; later calls cost nothing."""
        if self._checked:
            return
        self._client = self._client or open_client(self.uri)
        if self.note.run_id is not None and not self._still_there(self.note.run_id):
            # The database was replaced: everything is sent again, into a new run.
            self.note = Note(uri=redact(self.uri))
            _write_note(self.folder, self.uri, self.note)
            self._rewind()
            self._read()
        if self.note.experiment_id is None:
            name = self._start["body"]["experiment"]
            self.note.experiment_id = experiment_id(self._client, self.uri, name)
            _write_note(self.folder, self.uri, self.note)
        if self.note.run_id is None:
            self.note.run_id = self._only_run() or self._create_run()
        _write_note(self.folder, self.uri, self.note)
        self._checked = True

    def _still_there(self, run_id: str) -> bool:
        try:
            run = self._client.get_run(run_id)
        except Exception as error:
            if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if run.info.lifecycle_stage != "active":
            raise NotSent(
                f"run {run_id} was deleted in MLflow. Restore it (mlflow runs restore --run-id {run_id}), or "
                "train it again with force=true"
            )
        return True

    def _create_run(self) -> str:
        body = self._start["body"]  # its tags follow in a batch, where one may be refused alone
        tags, name = {JOURNAL_TAG: body["journal_id"]}, _text(body["name"], 250)
        run = self._client.create_run(self.note.experiment_id, self._start["t"], tags, run_name=name)
        return checked_id(run.info.run_id)

    def _only_run(self) -> str | None:
        """This journal's run, if it exists.

        A create_run that timed out may still succeed on the server. Of several runs of one journal, all but
        one are deleted.
        """
        query = f"tags.`{JOURNAL_TAG}` = '{self._start['body']['journal_id']}'"
        runs = self._client.search_runs([self.note.experiment_id], query)
        ids = sorted(run.info.run_id for run in runs)
        keep = self.note.run_id if self.note.run_id in ids else next(iter(ids), None)
        for run_id in ids:
            if run_id != keep:
                self._client.delete_run(run_id)
        return keep

    def _send_head(self) -> None:
        count, items = _head(self._unsent)
        first = self._unsent[0]
        try:
            if count:
                kept = self._without_edited([self._linked(item) for item in items])
                self._log_batch(kept + self._links(kept))
            else:
                self._send_single(first)
        except Exception as error:
            if not count and is_refusal(error):
                self._refused(first["n"], first["kind"], first["body"].get("name", ""), error)
            else:
                self._checked = error_code(error) is None  # the run may be gone: look at the next pass
                raise
        if any(self._changes_model(record) for record in self._unsent[: count or 1]):
            checkpoint_model.save(self._client, self.uri, self.note.run_id or "", self.folder)
        self._done(count or 1)

    def _changes_model(self, record: Record) -> bool:
        """True for the record that finishes the run, and for its model's scores and files that come later."""
        if self._finish is None or record["n"] < self._finish:
            return False
        kind, name = record["kind"], record["body"].get("name")
        return kind in ("end", "metrics") or (kind == "artifact" and name in RUN_FILES)

    def _log_batch(self, items: list[Item]) -> None:
        """Log `items`; one that MLflow refuses is found by halving, noted, and left out."""
        from mlflow.entities import Metric, Param, RunTag

        while rest := [item for item in items if item not in self._through]:
            part = rest[: self._part]
            metrics = [Metric(i.key, i.value, i.t, i.step) for i in part if i.kind == "metrics"]
            params = [Param(i.key, i.value) for i in part if i.kind == "params"]
            tags = [RunTag(i.key, i.value) for i in part if i.kind == "tags"]
            try:
                self._client.log_batch(self.note.run_id, metrics, params, tags, synchronous=True)
            except Exception as error:
                if not is_refusal(error):
                    raise
                if len(part) > 1:
                    self._part = len(part) // 2
                    continue
                self._refused(part[0].n, part[0].kind, part[0].key, error)
            self._through.update(part)
            self._part = min(2 * self._part, MAX_ITEMS)

    def _without_edited(self, items: list[Item]) -> list[Item]:
        """`items` without a description where a user has edited it in MLflow: theirs stays."""
        if not any(item.key == NOTE_TAG and item.kind == "tags" for item in items):
            return items
        there = self._client.get_run(self.note.run_id).data.tags.get(NOTE_TAG)
        if there is None or there in self._descriptions():
            return items
        return [item for item in items if item.key != NOTE_TAG]

    def _descriptions(self) -> set[str]:
        """Every description that the journal has held."""
        records, _ = read_records(self.folder / "journal.jsonl")
        items = [item for record in records if record["kind"] in ("start", "tags") for item in _items(record)]
        return {self._linked(item).value for item in items if item.key == NOTE_TAG}

    def _linked(self, item: Item) -> Item:
        """`item`; in a description, with links to MLflow's pages instead of `run:FINGERPRINT/NAME`."""
        if (item.kind, item.key) != ("tags", NOTE_TAG):
            return item

        def address(match: re.Match[str]) -> str:
            fingerprint, name = match["run"], match["name"]
            run_id = self.note.run_id
            if fingerprint:
                run_id = read_note(self._beside(fingerprint), self.uri).run_id
            if run_id is None:
                return match[0]
            where = f"/artifacts/{name}" if name else ""
            return f"](#/experiments/{self.note.experiment_id}/runs/{run_id}{where}?{pages.MODE})"

        return item._replace(value=_LINK.sub(address, item.value))

    def _beside(self, fingerprint: str) -> Path:
        """The folder of another run, seen from a run's folder or from a sweep's."""
        root = self.folder.parents[1] if is_sweep(self.folder) else self.folder.parent
        return root / fingerprint

    def _links(self, items: list[Item]) -> list[Item]:
        """The tags by which a sweep and its runs name each other: run ids, which differ in every tracker."""
        links = []
        for item in items:
            key, other = "", self.folder
            if (item.kind, item.key) == ("tags", SWEEP_TAG):
                key, other = PARENT_TAG, self.folder.parent / "sweeps" / item.value
            elif (item.kind, item.key) == ("tags", BEST_TAG):
                key, other = BEST_CHILD_TAG, self.folder.parents[1] / item.value
            # A sweep's own folder has no sweeps beside it: it links to none.
            if key and (other / "journal.jsonl").exists() and (run_id := self._run_of(other)):
                links.append(item._replace(key=key, value=run_id))
        return links

    def _run_of(self, folder: Path) -> str | None:
        """The run of another folder in this tracker, made now if need be; None where it was deleted there."""
        other = Courier(folder, self.uri)
        other._client = self._client
        try:
            # Without the lock where it is there: a sweep and its run may look for one another at once.
            if other.note.run_id is None or not other._still_there(other.note.run_id):
                with locked(folder / "sync.lock", LINK_WAIT_S):
                    other._read()
                    other._connect()
            if is_sweep(folder):
                with contextlib.suppress(Busy):
                    other.carry()  # its name and question are wanted before its end
        except NotSent:
            return None
        return other.note.run_id

    def registered(self) -> bool:
        """True where a version of a registered model stems from this run. Asks the tracker; may raise."""
        self._read()
        self._connect()
        return self._registered()

    def _registered(self) -> bool:
        return bool(self._client.search_model_versions(f"run_id = '{self.note.run_id}'"))

    def _drop(self, name: str) -> None:
        if self._registered():  # in this tracker; here the run's folder may lack the file all the same
            raise UserError("it belongs to a registered model and stays.")
        where = self._client.get_run(self.note.run_id).info.artifact_uri
        if name == BEST_WEIGHTS:
            checkpoint_model.delete(
                self._client, self.uri, self.note.run_id or "", self.note.experiment_id or ""
            )
        try:
            artifact_repository(where, self.uri).delete_artifacts(name)
        except NotImplementedError:
            raise UserError("this artifact store deletes nothing: the file stays there.") from None

    def _once(self, step: str, send: Callable[[], object]) -> None:
        if step not in self._through:
            send()
            self._through.add(step)

    def _refused(self, n: int, kind: str, key: str, error: Exception) -> None:
        """Note what MLflow refuses for good, so that it does not hold up the rest."""
        self._still_there(self.note.run_id or "")  # a deleted run refuses everything
        reason = describe(error, self.uri)
        refused = {"uri": self.note.uri, "sequence": n, "kind": kind, "key": key, "reason": reason}
        line = json.dumps(refused) + "\n"
        with (self.folder / "refused.jsonl").open("a+") as file:
            file.seek(0)
            if line not in file.readlines():  # not again when all is sent again
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        self.refused += 1
        _log.warning("MLflow refused %s %s: %s", kind, key, reason)

    def _send_single(self, record: Record) -> None:
        body, client, run_id = record["body"], self._client, self.note.run_id
        if record["kind"] == "artifact":
            drop = {"name": body["name"]}
            if any(later["kind"] == "drop" and later["body"] == drop for later in self._unsent):
                return
            self._log_artifact(body["name"])
        elif record["kind"] == "drop":
            self._drop(body["name"])
        elif record["kind"] == "dataset":
            client.log_inputs(run_id, datasets=[_dataset_input(body)])
        elif record["kind"] == "resume":
            self._once("untag", lambda: self._untag(REASON_TAG))
            client.update_run(run_id, status="RUNNING")
        elif record["kind"] == "end":
            if reason := body["reason"]:
                self._once("tag", lambda: client.set_tag(run_id, REASON_TAG, _text(reason, MAX_TAG_CHARS)))
            self._once("only", self._only_run)
            status = "KILLED" if body["status"] == "PRUNED" else body["status"]  # MLflow knows no PRUNED
            client.set_terminated(run_id, status, end_time=record["t"])
            self._save_view()

    def _save_view(self) -> None:
        """Bring the saved view of the experiment up to date, or that of the sweep which has ended.

        It is for people's eyes only: a tracker that takes no such tag is not a failure.
        """
        try:
            if is_sweep(self.folder):
                view.save(self._client, self.note.experiment_id or "", self.note.run_id, self.folder.name)
            else:
                view.save(self._client, self.note.experiment_id or "")
        except Exception as error:
            _log.debug("no view was saved: %s", describe(error, self.uri))

    def _log_artifact(self, name: str) -> None:
        """Copy an artifact to the tracker; done only when the store cannot lose it.

        MLflow copies into a local store without fsync: after a power cut, files that were noted as sent were
        empty. A server has the file once it answers.
        """
        path = artifact_file(self.folder, name)
        self._client.log_artifact(self.note.run_id, str(path), str(Path(name).parent).strip(".") or None)
        if store := local_folder(self._client.get_run(self.note.run_id).info.artifact_uri):
            copy = store / name
            for leftover in copy.parent.glob(_UPLOADING):  # of killed processes: we hold the lock
                leftover.unlink(missing_ok=True)
            above = [folder for folder in copy.parents if folder.is_relative_to(store.parent.parent)]
            for written in (copy, *above):
                sync(written)

    def verify(self) -> list[str]:
        """Compare every artifact in the tracker with the run's folder, and send again what differs there.

        Returns the names of what was sent again. Raises what `carry` raises.
        """
        with locked(self.folder / "sync.lock", LOCK_WAIT_S):
            self._read()
            if not self._records:
                return []
            self._connect()
            sent_again = []
            for name, known in Journal(self.folder).artifacts.items():
                here = artifact_file(self.folder, name)
                if here.is_file() and self._hash_there(name) != known["sha256"]:
                    self._log_artifact(name)
                    sent_again.append(name)
            return sent_again

    def _hash_there(self, name: str) -> str | None:
        """The SHA-256 of the tracker's copy of an artifact; None where there is none."""
        with tempfile.TemporaryDirectory(prefix="pneumo-") as folder:
            try:
                where = self._client.get_run(self.note.run_id).info.artifact_uri
                copy = artifact_repository(where, self.uri).download_artifacts(name, folder)
                with Path(copy).open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except Exception as error:
                if isinstance(error, OSError) or error_code(error) in _MISSING:
                    return None
                raise

    def _untag(self, key: str) -> None:
        try:
            self._client.delete_tag(self.note.run_id, key)
        except Exception as error:
            if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
                raise


def _dataset_input(body: Record) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": body["source"]})
    dataset = Dataset(body["name"], body["digest"][:36], source_type="local", source=source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", body["context"])])
