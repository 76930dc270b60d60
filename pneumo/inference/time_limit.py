"""A time limit for reading a file: a read that takes longer is given up, and others go on.

A thread cannot be stopped. A read that is given up continues in a separate thread, and its result is dropped.
The limits of size and scans (pneumo.data.limits) end it, usually within seconds. On a disk that does not
answer it never ends; it does not keep the command from ending.

Reads that were given up take memory and a core each, so there are only `at_once` reads in all. If all of them
run, the next file waits for one to end, at most its own time limit.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TypeVar

from pneumo.data.limits import BadImage

T = TypeVar("T")


class TimeLimit:
    """At most `seconds` for each read; None: no limit, and reads are in the caller's thread."""

    def __init__(self, seconds: float | None, at_once: int) -> None:
        self.seconds, self.at_once = seconds, at_once
        self._free = threading.Semaphore(at_once)

    def run(self, path: str | Path, read: Callable[[], T]) -> T:
        """What `read` returns for the file `path`; BadImage if it takes too long."""
        if self.seconds is None:
            return read()
        if not self._free.acquire(timeout=self.seconds):
            raise BadImage(path, f"not read: {self.at_once} files that are slow to read were before it")
        outcome: Future[T] = Future()

        def work() -> None:
            try:
                result = read()
            except BaseException as error:  # the caller's thread raises it
                outcome.set_exception(error)
            else:
                outcome.set_result(result)
            finally:
                self._free.release()

        # A thread for each file takes 0.2 ms; the command does not wait for it at its end (daemon).
        threading.Thread(target=work, name="read", daemon=True).start()
        if not wait([outcome], self.seconds).done:
            raise BadImage(path, f"it took more than {self.seconds:g} seconds to read")
        return outcome.result()
