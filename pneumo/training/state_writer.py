"""Writes the states of a training in a thread, so that training does not wait for the disk.

A snapshot is a copy on the host. Only the newest one waits: where epochs are shorter than a write, several
share one. What an epoch shows outside (metrics, best weights) follows the first state that contains it, so an
epoch that was once shown is never trained again.
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
    """The weights of the best epoch so far: their file, tensors on the host, and what is stored with them."""

    path: Path
    state: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(kw_only=True)
class Snapshot:
    """A state to write. `step` orders the states, `epochs` counts the finished epochs that it contains.

    `best_epoch` is the epoch whose weights it names; `best` holds them where they are not on the disk yet.
    """

    step: int
    epochs: int
    state: dict[str, Any]
    best_epoch: int
    best: BestWeights | None


def host_copy(value: Any) -> Any:
    """`value` with every tensor copied to the host: later steps do not change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: host_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(host_copy(item) for item in value)
    return value


class StateWriter:
    """Writes snapshots into `folder`, one at a time, in a thread that starts with the first.

    `written` is the number of finished epochs that a state on the disk contains. An error of the thread is
    raised in the caller's next `submit`, `check` or `drain`. `best_epoch` is the epoch whose weights the
    newest state on the disk names.
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
        """True where a snapshot submitted now would be written at once."""
        return not self._busy and self._waiting is None

    def submit(self, snapshot: Snapshot) -> None:
        """Write `snapshot` as soon as the disk is free; one that still waits is replaced by it."""
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
        """Raise what went wrong in the thread."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def drain(self) -> None:
        """Wait until everything submitted is on the disk."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self.idle)
        self.check()

    def close(self) -> None:
        """Drop what waits, let a write under way end, and end the thread."""
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
                if error is not None:  # the caller decides what follows
                    self._error, self._waiting = error, None
                self._changed.notify_all()

    def _write(self, snapshot: Snapshot) -> None:
        if snapshot.best is not None:  # first: a state on the disk names only weights that are there
            save_weights(snapshot.best.path, snapshot.best.state, snapshot.best.facts)
        save_resume(self.folder, snapshot.state, snapshot.step)
        self._best_epochs.append(snapshot.best_epoch)
        for weights in self.folder.glob("best-*.safetensors"):
            if int(weights.stem.removeprefix("best-")) not in self._best_epochs:
                weights.unlink()
                weights.with_suffix(".json").unlink(missing_ok=True)
        self.written = max(self.written, snapshot.epochs)
