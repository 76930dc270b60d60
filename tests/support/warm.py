"""Starts train commands from a process that has loaded everything: in a second instead of ten.

Each command is still a separate process, forked by Python's fork server. A test can kill it.
"""

import importlib
import multiprocessing
import os
import runpy
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from itertools import count
from pathlib import Path
from typing import Any

from tqdm import tqdm

from support.commands import HOOKS, PROJECT, import_path

_LOADED = [
    *("pneumo.train", "pneumo.run", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"),
    *("matplotlib.figure", "sklearn.metrics", __name__),
]


class Train:
    """A running `python -m pneumo.train ARGUMENTS` in `folder`, whose output is appended to `log`.

    With `errors`, its error output goes there instead. `first` is called in the process before the command.
    It has the methods of subprocess.Popen that its users need.
    """

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        log: Path,
        environment: dict[str, str],
        errors: Path | None = None,
        first: Callable[[], None] | None = None,
    ) -> None:
        load()
        context = multiprocessing.get_context("forkserver")
        given = (arguments, folder, log, errors or log, environment, first)
        self._process = context.Process(target=_train, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        self._process.join(timeout_s)
        assert self._process.exitcode is not None, f"it still runs after {timeout_s} s"
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


@cache
def load() -> None:
    """Start the fork server, and wait until it has loaded what a train command loads."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = import_path(PROJECT, PROJECT / "tests")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    first = context.Process(target=os.getpid)
    first.start()
    os.environ["PYTHONPATH"] = before
    first.join()


def _train(
    arguments: list[str],
    folder: Path,
    log: Path,
    errors: Path,
    environment: dict[str, str],
    first: Callable[[], None] | None,
) -> None:
    os.setsid()
    for stream, file in ((sys.stdout, log), (sys.stderr, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream.fileno())
    os.environ |= environment
    os.chdir(folder)
    runpy.run_path(str(HOOKS / "sitecustomize.py"))  # Python has started already
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, and a kill would leave it behind
    sys.argv = [str(PROJECT / "pneumo" / "train.py"), *arguments]
    from pneumo import train

    if first is not None:
        first()
    train.main()


@dataclass(frozen=True)
class Signalled:
    """Lets a function send signals to its own process when it is called for the `call`-th time."""

    place: str  # module:name, or module:Class.name
    call: int
    numbers: tuple[int, ...]
    pause_s: float  # how long the function then waits before it does its work

    def __call__(self) -> None:
        module, _, name = self.place.partition(":")
        *path, last = name.split(".")
        owner = reduce(getattr, path, importlib.import_module(module))
        original, calls = getattr(owner, last), count(1)

        def sends(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == self.call:
                for number in self.numbers:
                    os.kill(os.getpid(), number)
                time.sleep(self.pause_s)
            return original(*args, **kwargs)

        setattr(owner, last, sends)
