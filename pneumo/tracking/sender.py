"""When a run's journal is carried to MLflow: while it trains (Sender), or any time later (sync)."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pneumo import UserError
from pneumo.files import Busy
from pneumo.tracking.courier import Courier
from pneumo.tracking.heartbeat import BEAT_S
from pneumo.tracking.mlflow_client import NotSent, describe
from pneumo.tracking.settings import TrackingSettings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
GATHER_S = 0.1  # what is written close together goes in one call
SYNC_TRIES = 3  # failures in a row without progress
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    sent: int
    left: int
    error: str | None = None
    run_id: str | None = None
    refused: int = 0  # points, params, tags, files that MLflow refused: see refused.jsonl


class Sender:
    """Sends a run's journal from a daemon thread while it is written. Nothing here raises or blocks."""

    def __init__(
        self,
        folder: Path,
        settings: TrackingSettings,
        uri: str,
        on_trouble: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.error: str | None = None  # the last failure, without credentials
        self.reached = False  # the tracker took something
        self._on_trouble: Callable[[str], None] | None = on_trouble  # None: called already
        self._beat_at = 0.0
        self._courier = Courier(folder, uri)
        self._flush_s = settings.flush_s
        self._wake, self._closing, self._stopped = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._run, name="pneumo-sender", daemon=True)

    @property
    def run_id(self) -> str | None:
        return self._courier.note.run_id

    def start(self) -> None:
        self._thread.start()
        self.notify()

    def notify(self) -> None:
        """Something was written."""
        self._wake.set()

    def finish(self, timeout_s: float | None = None) -> int:
        """Wait at most `timeout_s` (None: tracking.flush_s) until all is sent; the number of records left."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(self._flush_s if timeout_s is None else timeout_s)
        self._stopped.set()
        try:
            return self._courier.left()
        except Exception as error:
            self.error = describe(error, self._courier.uri)
            return 1

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopped.is_set():
            self._wake.wait(BEAT_S)
            self._closing.wait(GATHER_S)
            self._wake.clear()
            closing = self._closing.is_set()  # read after clear(): finish() sets it before it wakes
            try:
                self._courier.carry(self._stopped.is_set)
                self.error, self.reached, pause_s = None, True, FIRST_PAUSE_S
                if closing:
                    return
                if time.monotonic() >= self._beat_at:
                    self._beat_at = time.monotonic() + BEAT_S
                    self._courier.beat()
            except Exception as error:
                self.error = describe(error, self._courier.uri)
                _log.debug("not sent yet: %s", self.error)
                if self._on_trouble is not None:
                    self._on_trouble(self.error)
                    self._on_trouble = None
                self._wake.set()
                if not closing:
                    self._closing.wait(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                elif isinstance(error, NotSent | UserError):
                    return  # waiting does not help
                else:
                    self._stopped.wait(FIRST_PAUSE_S)


class NullSender:
    """Sends nothing: for ranks above 0 and tracking.enabled=false."""

    run_id: str | None = None
    error: str | None = None
    reached = False

    def start(self) -> None: ...

    def notify(self) -> None: ...

    def finish(self, timeout_s: float | None = None) -> int:
        return 0


def verify(folder: Path, uri: str) -> list[str]:
    """Compare the tracker's files with those in `folder`, and send again what differs; the names of these."""
    try:
        return Courier(folder, uri).verify()
    except (NotSent, Busy) as error:
        raise UserError(describe(error, uri)) from None


def sync(folder: Path, settings: TrackingSettings, uri: str) -> SyncResult:
    """Send now what is left of the run in `folder`; safe to repeat, and for two processes at once."""
    courier = Courier(folder, uri)
    error, failures, left = None, 0, 1
    deadline = time.monotonic() + settings.flush_s
    while True:
        before = replace(courier.note)
        try:
            courier.carry(wait_s=settings.flush_s)
            error = None
            break
        except Exception as problem:
            error = describe(problem, uri)
            failures = failures + 1 if courier.note == before else 0
            late = failures > 0 and time.monotonic() > deadline
            if late or failures == SYNC_TRIES or isinstance(problem, NotSent | Busy | UserError):
                break
            time.sleep(failures * FIRST_PAUSE_S)
    with contextlib.suppress(UserError):  # a damaged journal: error says so
        left = courier.left()
    return SyncResult(
        sent=courier.sent, left=left, error=error, run_id=courier.note.run_id, refused=courier.refused
    )
