"""Starts train commands from a process that has loaded everything: in a second instead of ten.

Each command is a process of its own all the same, forked by Python's fork server: it can be killed like any.
"""

import multiprocessing
import os
import runpy
import sys
import threading
from functools import cache
from pathlib import Path

from tqdm import tqdm

from support.commands import HOOKS, PROJECT, import_path

_LOADED = [
    *("pneumo.train", "pneumo.run", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"),
    *("matplotlib.figure", "sklearn.metrics", __name__),
]


class Train:
    """A running `python -m pneumo.train ARGUMENTS` in `folder`, whose output is appended to `log`.

    It has the methods of subprocess.Popen that its users need.
    """

    def __init__(self, arguments: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
        load()
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_train, args=(arguments, folder, log, environment))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
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


def _train(arguments: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    os.environ |= environment
    os.chdir(folder)
    runpy.run_path(str(HOOKS / "sitecustomize.py"))  # Python has started already
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, and a kill would leave it behind
    sys.argv = [str(PROJECT / "pneumo" / "train.py"), *arguments]
    from pneumo import train

    train.main()
