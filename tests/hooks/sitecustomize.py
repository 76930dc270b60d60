"""Switches for the processes of a test run. Python runs this file when it starts.

    PNEUMO_TEST_BLANK=on       the figures of a run are white squares: drawing takes most of a tiny run's time
    PNEUMO_TEST_BLANK_PAGE=on  the figures of a comparison are white squares too, and empty on its page
    PNEUMO_TEST_BF16=on|off    pneumo believes that the CPU has bf16 units, or that it has none
    PNEUMO_TEST_HOLD=FILE      training waits while FILE holds its epoch back; commands.Hold writes FILE
    PNEUMO_TEST_TINY=on        every model is support.training.Tiny, whose states and weights have some 10 kB
    PNEUMO_TEST_ONE_CORE=on    images are prepared as on one core: a process costs more than tiny images take
    PNEUMO_TEST_TEAR=N GLOB    the N-th write to a file like GLOB (its full path) ends half-way, by kill -9

conftest.py runs this file for the test process itself and puts its folder on PYTHONPATH for child processes.
Each switch changes one module of pneumo right after its import, so start-up imports nothing more than before.
"""

import base64
import itertools
import os
import shutil
import signal
import sys
import time
from fnmatch import fnmatch
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


def force_bf16(precision: Any) -> None:
    answer = {"on": True, "off": False}[os.environ["PNEUMO_TEST_BF16"]]
    precision.cpu_has_bf16 = lambda: answer


BLANK = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


def leave_figures_blank(run_report: Any) -> None:
    run_report.plot = SimpleNamespace(png=lambda figure: BLANK)


def leave_page_blank(figures: Any) -> None:
    """The figures are still built from the numbers. Only drawing them, twice each, is left out."""
    figures.draw_twice = lambda figure, name, alt: figures.Rendered(png=BLANK, svg="<svg></svg>")


def hold_epochs(trainer: Any) -> None:
    """Before each epoch, wait while the file holds it back. A request to stop ends the wait."""
    train_epoch = trainer.Trainer._train_epoch

    def waits(self: Any) -> None:
        while held(self.folder.parent.name, self.progress.epoch) and self.should_stop() is None:
            self._record_saved()  # as between steps: the epochs before are seen outside
            time.sleep(0.05)
        train_epoch(self)

    trainer.Trainer._train_epoch = waits


def shrink_models(models: Any) -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from support.training import Tiny

    models.build_model = lambda name, dropout, **_: Tiny(dropout=dropout)


def prepare_on_one_core(cache: Any) -> None:
    cache.worker_count = lambda wanted: wanted or 1


def tear_a_write(_: Any) -> None:
    """Change the three calls that write files here: Path.open, os.write, and MLflow's copy."""
    number, pattern = os.environ["PNEUMO_TEST_TEAR"].split(maxsplit=1)
    turns = itertools.count(1)
    open_path, write, copy = Path.open, os.write, shutil.copyfileobj

    def comes_now(file: int) -> bool:
        return fnmatch(str(Path(f"/proc/self/fd/{file}").readlink()), pattern) and next(turns) == int(number)

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def open_path_to_tear(path: Path, mode: str = "r", *more: Any, **keys: Any) -> Any:
        file = open_path(path, mode, *more, **keys)
        if mode[0] in "wx" and comes_now(file.fileno()):

            def write_half(content: Any) -> None:
                type(file).write(file, content[: len(content) // 2])
                file.flush()
                end()

            file.write = write_half
        return file

    def write_or_tear(file: int, content: bytes) -> int:
        if comes_now(file):
            write(file, content[: len(content) // 2])
            end()
        return write(file, content)

    def copy_or_tear(source: Any, target: Any, length: int = 0) -> None:
        if comes_now(target.fileno()):
            content = source.read()
            target.write(content[: len(content) // 2])
            target.flush()
            end()
        copy(source, target, length)

    Path.open, os.write, shutil.copyfileobj = open_path_to_tear, write_or_tear, copy_or_tear  # type: ignore


def held(fingerprint: str, epoch: int) -> bool:
    """True where FILE says so. It holds a number of epochs that may be trained, and perhaps a fingerprint."""
    try:
        allowed, *runs = Path(os.environ["PNEUMO_TEST_HOLD"]).read_text().split()
    except FileNotFoundError:
        return False
    return epoch > int(allowed) and fingerprint in (runs or [fingerprint])


CHANGES = {
    "PNEUMO_TEST_BLANK": ("pneumo.evaluation.run_report", leave_figures_blank),
    "PNEUMO_TEST_BLANK_PAGE": ("pneumo.comparison.figures", leave_page_blank),
    "PNEUMO_TEST_BF16": ("pneumo.models.precision", force_bf16),
    "PNEUMO_TEST_HOLD": ("pneumo.training.trainer", hold_epochs),
    "PNEUMO_TEST_TINY": ("pneumo.models", shrink_models),
    "PNEUMO_TEST_ONE_CORE": ("pneumo.data.cache", prepare_on_one_core),
    "PNEUMO_TEST_TEAR": ("pneumo.files", tear_a_write),
}


class Change(MetaPathFinder):
    """Finds one module as usual, and changes it once it is loaded."""

    def __init__(self, name: str, change: Any) -> None:
        self.name, self.change = name, change

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == self.name else None
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_and_change(module: ModuleType) -> None:
                load(module)
                self.change(module)

            spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


for variable, (module, change) in CHANGES.items():
    if os.environ.get(variable):
        sys.meta_path.insert(0, Change(module, change))
        if module in sys.modules:
            change(sys.modules[module])
