"""The rows of a prediction that is not finished yet: a file beside the output, from which it can go on.

A line of JSON for each row, after a first line with what the rows follow from: model, files and settings.
The output itself is replaced when the last row is there, so a kill or a full disk leaves the one before.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pneumo import UserError
from pneumo.files import DISK_FULL

SUFFIX = ".part"
FORMAT = 1


@dataclass
class Entry:
    """One file's row, None where it is skipped, and the outcomes that it counts for."""

    row: dict[str, Any] | None
    outcomes: list[str]


class SideFile:
    """The rows so far of the prediction that is written to `output`.

    `record` has what the rows follow from. With `resume`, whole rows of a stopped prediction are kept if
    their record is equal; UserError with the differences if it is not. Without it they are given up, and
    `given_up` is their number. The file is locked: UserError if another process writes it.
    """

    def __init__(self, output: Path, record: Mapping[str, Any], *, resume: bool = False) -> None:
        self.output = output
        self.path = output.with_name(output.name + SUFFIX)
        self.given_up = 0
        self._ends: list[int] = []  # where each row ends
        self._file = self._locked()
        try:
            self._begin(json.loads(json.dumps(record)), resume)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._ends)

    def keep(self, rows: int) -> None:
        """Keep the first `rows` rows."""
        if rows < len(self._ends):
            self._file.truncate(self._ends[rows - 1] if rows else self._start)
            del self._ends[rows:]

    def append(self, entries: Sequence[Entry]) -> None:
        """Add rows; UserError, with the rows before intact, if the disk is full."""
        lines = [json.dumps(asdict(entry)).encode() + b"\n" for entry in entries]
        end = self._ends[-1] if self._ends else self._start
        self._write(b"".join(lines), end)
        for line in lines:
            end += len(line)
            self._ends.append(end)

    def entries(self) -> Iterator[Entry]:
        """The rows, in their order."""
        with self.path.open("rb") as file:
            next(file)
            for _, line in zip(self._ends, file, strict=False):
                yield Entry(**json.loads(line))

    def close(self, *, remove: bool = False) -> None:
        """Give the lock back; `remove` the file, of which nothing is needed any more."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _locked(self) -> IO[bytes]:
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.output.is_dir():
                    raise UserError(f"output={self.output} is a folder: give the name of a file in it.")
                file = self.path.open("a+b", buffering=0)
            except OSError as error:
                raise UserError(f"output={self.output} cannot be written: {error.strerror}.") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    return file
            except BlockingIOError:
                file.close()
                raise UserError(
                    f"output={self.output}: another prediction is writing it; wait, or give another output."
                ) from None
            except FileNotFoundError:
                pass
            file.close()  # the process that held it has just finished and removed it

    def _begin(self, record: dict[str, Any], resume: bool) -> None:
        head = json.dumps({"format": FORMAT, "record": record}).encode() + b"\n"
        known, start, ends = self._found()
        if resume and known is not None and ends:
            if different := _differences(known, record):
                raise UserError(
                    f"resume=true: the {len(ends):,} rows in {self.path} were made with other settings: "
                    f"{'; '.join(different)}. Give the same settings to continue, or resume=false to begin "
                    "again."
                )
            self._start, self._ends = start, ends
            self._file.truncate(ends[-1])
            return
        self.given_up = len(ends)
        self._file.truncate(0)
        self._start = len(head)
        self._write(head, 0)

    def _found(self) -> tuple[dict[str, Any] | None, int, list[int]]:
        """The record of an earlier process, the place of its first row, and where each whole row ends."""
        self._file.seek(0)
        content = self._file.read()
        lines = content.splitlines(keepends=True)
        try:
            head = json.loads(lines[0])
            if head["format"] != FORMAT or not isinstance(head["record"], dict):
                return None, 0, []
        except (IndexError, ValueError, KeyError, TypeError, RecursionError):
            return None, 0, []
        ends, end = [], len(lines[0])
        for line in lines[1:]:
            if not _is_entry(line):  # cut short by a kill or a full disk
                break
            end += len(line)
            ends.append(end)
        return head["record"], len(lines[0]), ends

    def _write(self, content: bytes, start: int) -> None:
        try:
            done = 0
            while done < len(content):
                done += self._file.write(content[done:]) or 0
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(start)
            if error.errno not in DISK_FULL:
                raise UserError(f"output={self.output} cannot be written: {error.strerror}.") from None
            raise UserError(
                f"the disk is full: {self.path} keeps the {len(self):,} rows so far, and {self.output} is as "
                "it was. Free some space and add resume=true to the command to continue."
            ) from None


def _is_entry(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() == {"row", "outcomes"}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    return [f"{key} was {_shown(before.get(key))} and is {_shown(now.get(key))}" for key in keys]


def _shown(value: object) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)
