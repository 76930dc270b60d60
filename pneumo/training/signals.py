"""SIGTERM, SIGINT and Slurm's warning signal, turned into a request to stop that training obeys between steps."""

import signal
from types import FrameType, TracebackType

from pneumo.training.settings import TrainerSettings

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}


class Interrupted(BaseException):
    """A signal came where nothing needs to be saved first. No Exception, so that no library swallows it."""


class StopRequest:
    """Within `with`, notes the first signal; `reason()` says it, and outside `deferred` it interrupts at once.

    A second signal, or one not obeyed within `trainer.grace_s`, ends the process the hard way.
    """

    def __init__(self, settings: TrainerSettings) -> None:
        self.grace_s = settings.grace_s
        self.deferred = False
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def reason(self) -> str | None:
        return None if self.signal is None else f"stopped by {self.signal.name}"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.signal] if self.signal is not None else 1

    def __enter__(self) -> "StopRequest":
        for number in EXIT_CODES:
            self._before[number] = signal.signal(number, self._handle)
        signal.signal(signal.SIGALRM, self._too_late)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.alarm(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self._too_late(number, frame)
        self.signal = signal.Signals(number)
        signal.setitimer(signal.ITIMER_REAL, self.grace_s)
        if not self.deferred:
            raise Interrupted(self.reason())

    def _too_late(self, number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"{self.reason()} and did not end within trainer.grace_s={self.grace_s:g}")
