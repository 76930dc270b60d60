"""Writes the states of a run in a thread, so that training does not wait for the disk.

A snapshot is a copy on the host. Only the newest snapshot waits, so several epochs share a write if they are
shorter than it. An epoch's metrics are recorded only after a state that contains the epoch is on the disk.
So an epoch whose metrics are recorded is never trained again.
"""

import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pneumo.training.checkpoint import KEEP, save_resume, save_weights


@dataclass(kw_only=True)
class BestWeights:
    """The weights of the best epoch so far: their file, tensors on the host, and facts stored with them."""

    path: Path
    state: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(kw_only=True)
class Snapshot:
    """A state to write. `step` orders the states, `epochs` counts the finished epochs that it contains.

    The state refers to the weights of `best_epoch`. `best` holds them if they are not on the disk yet.
    """

    step: int
    epochs: int
    state: dict[str, Any]
    best_epoch: int
    best: BestWeights | None


def host_copy(value: Any) -> Any:
    """A copy of `value` with every tensor on the host; later steps do not change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: host_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(host_copy(item) for item in value)
    return value


class StateWriter:
    """Writes snapshots into `folder`, one at a time, in a thread that starts with the first.

    `written` is the number of finished epochs that a state on the disk contains. An error in the thread is
    raised in the caller's next `submit`, `check` or `drain`. The newest state on the disk refers to the
    weights of `best_epoch`.
    """

    def __init__(self, folder: Path, written: int = 0, best_epoch: int = 0) -> None:
        self.folder = folder
        self.written = written
        self._best_epochs = deque([best_epoch], maxlen=KEEP)  # of the states that stay on the disk
        self._waiting: Snapshot | None = None
        self._busy = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """True if a snapshot submitted now would be written at once."""
        return not self._busy and self._waiting is None

    def submit(self, snapshot: Snapshot) -> None:
        """Write `snapshot` as soon as the disk is free. It replaces a snapshot that still waits."""
        self.check()
        with self._changed:
            waiting = self._waiting
            if waiting is not None and snapshot.best is None:
                snapshot.best = waiting.best  # not on the disk yet
            self._waiting = snapshot
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="state writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def check(self) -> None:
        """Raise the thread's error, if there is one."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def drain(self) -> None:
        """Wait until everything submitted is on the disk."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self.idle)
        self.check()

    def close(self) -> None:
        """Drop the waiting snapshot, let the current write finish, and end the thread."""
        with self._changed:
            self._waiting, self._closed = None, True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting is not None)
                snapshot, self._waiting = self._waiting, None
                if snapshot is None:
                    return
                self._busy = True
            error: BaseException | None = None
            try:
                self._write(snapshot)
            except BaseException as problem:
                error = problem
            with self._changed:
                self._busy = False
                if error is not None:  # the caller decides what happens next
                    self._error, self._waiting = error, None
                self._changed.notify_all()

    def _write(self, snapshot: Snapshot) -> None:
        if snapshot.best is not None:  # first, so that a state on the disk refers only to existing weights
            save_weights(snapshot.best.path, snapshot.best.state, snapshot.best.facts)
        save_resume(self.folder, snapshot.state, snapshot.step)
        self._best_epochs.append(snapshot.best_epoch)
        for weights in self.folder.glob("best-*.safetensors"):
            if int(weights.stem.removeprefix("best-")) not in self._best_epochs:
                weights.unlink()
                weights.with_suffix(".json").unlink(missing_ok=True)
        self.written = max(self.written, snapshot.epochs)
