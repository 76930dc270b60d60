"""SIGTERM, SIGINT and Slurm's warning signal become a request to stop. Training obeys it between steps."""

import signal
import threading
from types import FrameType, TracebackType

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}


class Interrupted(BaseException):
    """A signal that could not wait. `code` is the exit code.

    It is not an Exception, so that no library swallows it.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Stopped(Exception):
    """The run was asked to stop; its state is saved and the same command continues it."""


class Pruned(Exception):
    """A search ends this run before its last epoch: the other trials do better."""


class StopRequest:
    """Within `with`, records the first signal. `reason()` names it. Unless `deferred`, it interrupts at once.

    A second signal interrupts even if `deferred`. So does the first signal if it is not obeyed within
    `grace_s`. Code that catches Interrupted is `shielded` from further interrupts until it clears that flag.
    Outside the main thread, Python receives no signals, so nothing is recorded.
    """

    def __init__(self, grace_s: float = 30.0) -> None:
        self.grace_s = grace_s
        self.deferred = False
        self.shielded = False
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def reason(self) -> str | None:
        return None if self.signal is None else f"stopped by {self.signal.name}"

    @property
    def exit_code(self) -> int:
        """143 or 130 after a signal, 0 before."""
        return 0 if self.signal is None else EXIT_CODES[self.signal]

    @property
    def seconds_left(self) -> float | None:
        """How much of the grace period is left; None without a signal."""
        return None if self.signal is None else signal.getitimer(signal.ITIMER_REAL)[0]

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._too_late)
            for number in EXIT_CODES:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shielded = True
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            # The alarm repeats every second, because the first one may come while the run is shielded.
            signal.setitimer(signal.ITIMER_REAL, self.grace_s, 1)
            if not self.deferred:
                self._interrupt("")
        else:
            signal.setitimer(signal.ITIMER_REAL, 1, 1)
            self._interrupt(", and a second signal came")

    def _too_late(self, number: int, frame: FrameType | None) -> None:
        self._interrupt(f" and did not end within trainer.grace_s={self.grace_s:g}")

    def _interrupt(self, how: str) -> None:
        if not self.shielded:
            self.shielded = True
            raise Interrupted(f"{self.reason()}{how}", self.exit_code)
