"""A run's own record of everything that is tracked: an append-only file, written before MLflow gets it.

One JSON object a line, each with a running number and a checksum. A process killed inside a write, or a
full disk, can only tear the last line: it is ignored on reading and cut off before the next write.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from pneumo import UserError
from pneumo.files import DISK_FULL

Record = dict[str, Any]

ENDS = ("FINISHED", "FAILED", "KILLED", "PRUNED")
DONE = ("FINISHED", "PRUNED")  # the same command does not train these again
_DURABLE = (
    "start",
    "metrics",
    "resume",
    "drop",
    "end",
)  # fsynced; the others are covered by the next of these
_BEFORE_AT = re.compile(r"""(\w://)([^\s'"<>]*)@""")
_SECRET_QUERY = re.compile(r"""(?i)([?&](?:password|passwd|pwd|token|secret)=)[^&\s'"]*""")
_HEAD = len('{"crc":"00000000",')
_NAME_PART = re.compile(r"\w[\w. -]*", re.ASCII)


def redact(text: str) -> str:
    """`text` with user, password and token of every URI in it removed."""

    def strip(match: re.Match[str]) -> str:
        before = match[2]
        if ":" in before or not re.search("[/?#]", before):
            return match[1]  # also a password with a raw '/' or '@' in it
        return match[1] + re.sub("^[^/?#]*@", "", before) + "@"

    return _SECRET_QUERY.sub(r"\1...", _BEFORE_AT.sub(strip, text))


def encode(record: Record) -> bytes:
    rest = json.dumps(record, separators=(",", ":"), allow_nan=False)[1:]
    return f'{{"crc":"{zlib.crc32(rest.encode()):08x}",{rest}\n'.encode()


def decode(line: bytes) -> Record | None:
    """The record of one line without its newline; None if the line is damaged."""
    head, rest = line[:_HEAD], line[_HEAD:]
    return json.loads(b"{" + rest) if head == b'{"crc":"%08x",' % zlib.crc32(rest) else None


def read_records(path: Path, offset: int = 0, last: int = 0) -> tuple[list[Record], int]:
    """The whole records after byte `offset` (where record `last` ended), and the byte where they end.

    Raises UserError for damage anywhere but in the last line.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return [], 0
    records: list[Record] = []
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        record = decode(data[start:end])
        if record is None and end + 1 == len(data):
            break  # the last line: torn
        number = last + len(records) + 1
        if record is None or record["n"] != number:
            raise UserError(
                f"{path}, line {number}: damaged (not what was written there). Restore the file from a copy, "
                f"or keep what is intact before it: head -n {number - 1} '{path}' > intact.jsonl && "
                f"mv intact.jsonl '{path}'"
            )
        records.append(record)
        start = end + 1
    return records, offset + start


def artifact_file(folder: Path, name: str) -> Path:
    """The file of the artifact `name` of the run in `folder`; a name that could leave it is refused."""
    root = folder / "artifacts"
    if not all(_NAME_PART.fullmatch(part) for part in name.split("/")):
        raise UserError(
            f"artifact name {name!r}: give a relative path of letters, digits, '_', '-', '.' and spaces, "
            f"for example figures/roc_test.png."
        )
    if not (root / name).resolve().is_relative_to(root.resolve()):
        raise UserError(f"artifact {name!r} leads out of {root}: copy the file there instead of linking it.")
    return root / name


def is_being_written(folder: Path) -> bool:
    """True while a process writes the journal in `folder`.

    The writing process itself must not ask: it would lose its POSIX lock, as closing any handle on the file
    does.
    """
    try:
        with (folder / "journal.lock").open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


class Journal:
    """The record of the run in `folder`. For one thread; a second process that writes is refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.jsonl"
        self._fd = -1
        self._load()

    # -- writing

    def hold(self, wait_s: float = 0.0) -> bool:
        """Become the one process that writes, and read again what was written before.

        Returns False if another process writes and does not end within `wait_s`. The lock ends with the
        process, however that dies."""
        deadline = time.monotonic() + wait_s
        while self._fd < 0:
            try:
                self._open()
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.05)
            except OSError as error:
                raise UserError(
                    f"{self.folder}: {error.strerror}; a run's folder must be writable, or be missing."
                ) from error
        return True

    def start(self, name: str, experiment: str, tags: dict[str, str]) -> None:
        """Open the record; a journal that was started before keeps its first start."""
        if not self.started:
            tags = {key: redact(str(value)) for key, value in tags.items()}
            run = {"journal_id": uuid.uuid4().hex, "name": name, "experiment": experiment, "tags": tags}
            self._append("start", run)

    def params(self, values: dict[str, Any]) -> None:
        self._append_new("params", values, self.params_logged)

    def tags(self, values: dict[str, Any]) -> None:
        self._append_new("tags", values, self.tags_logged)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record `values` at `step`; recorded points stay, so a resumed run repeats none.

        Raises ValueError for a value that is not finite: MLflow would store another number.
        """
        numbers = {key: float(value) for key, value in values.items()}
        for key, number in numbers.items():
            if not math.isfinite(number):
                raise ValueError(f"metric {key}={number} at step {step} is not finite: leave it out.")
        new = {key: number for key, number in numbers.items() if (key, step) not in self._points}
        if new:
            self._append("metrics", {"step": int(step), "values": new})

    def artifact(self, name: str) -> None:
        """Record the file `artifacts/<name>`, which must be whole (write it aside, then rename it)."""
        path = artifact_file(self.folder, name)
        with path.open("rb") as file:
            body = {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}
        if self.artifacts.get(name) != body:
            self._append("artifact", {"name": name, **body})

    def drop(self, name: str) -> None:
        """Delete the file `artifacts/<name>` here. The tracker deletes it when this record is sent."""
        if name in self.artifacts:
            self._append("drop", {"name": name})
        artifact_file(self.folder, name).unlink(missing_ok=True)

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        body = {"name": name, "digest": digest, "source": redact(source), "context": context}
        if body not in self._datasets:
            self._append("dataset", body)

    def resume(self) -> None:
        """Record that an ended run goes on."""
        if self.status in ENDS:
            self._append("resume", {})

    def end(self, status: str, reason: str | None = None) -> None:
        if status not in ENDS:
            raise ValueError(f"status {status}: give one of {', '.join(ENDS)}.")
        reason = None if reason is None else redact(reason)
        if (self.status, self.reason) != (status, reason):
            self._append("end", {"status": status, "reason": reason})

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._lock)
            self._fd = -1

    # -- reading

    @property
    def started(self) -> bool:
        return self.last > 0

    def history(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one metric, by step."""
        return sorted((step, value) for (name, step), (value, _) in self._points.items() if name == key)

    def metric_rows(self) -> list[tuple[str, float, int, int]]:
        """(key, value, timestamp in ms, step) of every point, as MLflow holds them."""
        return [(key, value, t, step) for (key, step), (value, t) in self._points.items()]

    # -- inside

    def _load(self) -> None:
        self.status: str | None = None
        self.reason: str | None = None
        self.journal_id: str | None = None
        self.name: str | None = None
        self.started_ms = 0
        self.params_logged: dict[str, str] = {}
        self.tags_logged: dict[str, str] = {}
        self.artifacts: dict[str, Record] = {}
        self._points: dict[tuple[str, int], tuple[float, int]] = {}
        self._datasets: list[Record] = []
        self.last = 0  # number of the last record
        records, self._end = read_records(self.path)
        for record in records:
            self._apply(record)

    def _apply(self, record: Record) -> None:
        kind, body = record["kind"], record["body"]
        self.last = record["n"]
        if kind == "start":
            self.status, self.journal_id, self.name = "RUNNING", body["journal_id"], body["name"]
            self.started_ms = record["t"]
            self.tags_logged.update(body["tags"])
        elif kind == "params":
            self.params_logged.update(body)
        elif kind == "tags":
            self.tags_logged.update(body)
        elif kind == "metrics":
            points = {(key, body["step"]): (value, record["t"]) for key, value in body["values"].items()}
            self._points.update(points)
        elif kind == "artifact":
            self.artifacts[body["name"]] = {"sha256": body["sha256"], "size": body["size"]}
        elif kind == "drop":
            self.artifacts.pop(body["name"], None)
        elif kind == "dataset":
            self._datasets.append(body)
        elif kind == "resume":
            self.status, self.reason = "RUNNING", None
        elif kind == "end":
            self.status, self.reason = body["status"], body["reason"]

    def _append_new(self, kind: str, values: dict[str, Any], held: dict[str, str]) -> None:
        texts = {key: redact(str(value)) for key, value in values.items()}
        new = {key: text for key, text in texts.items() if held.get(key) != text}
        if new:
            self._append(kind, new)

    def _append(self, kind: str, body: Record) -> None:
        if not self.started and kind != "start":
            raise RuntimeError(f"the journal in {self.folder} was not started before {kind} was written")
        record = {"n": self.last + 1, "t": time.time_ns() // 1_000_000, "kind": kind, "body": body}
        self._write(encode(record), durable=kind in _DURABLE)
        self._apply(record)

    def _write(self, line: bytes, durable: bool) -> None:
        try:
            if self._fd < 0:
                self._open_unchanged()
            if os.fstat(self._fd).st_size != self._end:
                os.ftruncate(self._fd, self._end)  # a torn line: of a killed process, or of our last try
            rest = line
            while rest:  # once; a second turn only meets the error that cut the first one short
                rest = rest[os.write(self._fd, rest) :]
            if durable:
                os.fsync(self._fd)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._end)
            full = error.errno in DISK_FULL
            remedy = "Free space on this disk" if full else "Make the file writable"
            raise UserError(
                f"{self.path}: {'the disk is full' if full else error.strerror}. Its {self.last} records are "
                f"intact. {remedy} and start the same command again: it goes on from there."
            ) from error
        self._end += len(line)

    def _open_unchanged(self) -> None:
        last = self.last
        try:
            self._open()
        except BlockingIOError as error:
            raise UserError(
                f"{self.path} is being written by another process: the same run is going on. "
                f"Wait for it, or stop it first."
            ) from error
        if self.last != last:
            self.close()
            raise UserError(f"{self.path} has grown since it was read: start the same command again.")

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # A POSIX lock, on a separate file: a data loader's worker that outlives a killed run does not
        # inherit it, and a reader that closes the journal in this process does not drop it.
        self._lock = os.open(self.folder / "journal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if error.errno == errno.EACCES:  # POSIX allows either for a lock that is taken
                raise BlockingIOError(*error.args) from error
            raise
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._load()
        directory = os.open(self.folder, os.O_RDONLY)
        os.fsync(directory)  # the file's name survives a power cut too
        os.close(directory)


class NullJournal(Journal):
    """The same in memory only: for ranks above 0, and where nothing is tracked."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def artifact(self, name: str) -> None:
        pass

    def _write(self, line: bytes, durable: bool) -> None:
        pass
