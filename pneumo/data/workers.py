"""The processes that prepare images: how many there are, how they start and end, and the work of each.

This module is separate from the cache, which needs pandas. Without pandas, a new process prepares its first
image a third of a second earlier.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from pneumo.data.images import largest_undeclared, preprocess, read_image
from pneumo.data.limits import BadImage, Grey

Load = Callable[[str], Grey | Image.Image]


def worker_count(wanted: int | None) -> int:
    """`wanted`, or the number of cores that this process may use."""
    return wanted or len(os.sched_getaffinity(0))


def processes(count: int) -> Executor:
    """An executor of `count` processes that end with this one. For a count of 1 it uses this process."""
    if count <= 1:
        return _InProcess()
    # spawn, because a process that has imported torch has threads, and a fork breaks them.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=spawn, initializer=_end_with_parent)


class _InProcess(Executor):
    """Runs each task at once in this process."""

    def submit(self, task, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        future: Future = Future()
        future.set_result(task(*args, **kwargs))
        return future


def _end_with_parent() -> None:
    """End when the parent is killed. Without this, a worker would wait for tasks for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def fill(file: Path, load: Load, pixels: dict, chunk: tuple[int, list[str]]) -> dict[int, str]:
    """Preprocess a chunk (first row, sources) into `file`; return the reason for each bad row."""
    start, sources = chunk
    images = np.load(file, mmap_mode="r+")
    bad = {}
    for row, source in enumerate(sources, start):
        try:
            images[row] = preprocess(load(source), **pixels)
        except BadImage as error:
            bad[row] = error.reason
    return bad


def unreadable(load: Load, chunk: tuple[int, list[str]]) -> dict[int, str]:
    """Read a chunk (first row, sources) and keep nothing; return the reason for each bad row."""
    start, sources = chunk
    bad = {}
    for row, source in enumerate(sources, start):
        try:
            load(source)
        except BadImage as error:
            bad[row] = error.reason
    return bad


def read_below(root: str, pixels: int, path: str, white: int | None = None) -> Image.Image:
    return read_image(os.path.join(root, path), pixels=pixels, white=white)  # noqa: PTH118


def largest_below(root: str, paths: list[str]) -> int:
    """The largest value of the files that do not declare their range; 0 if none can be read."""
    largest = 0
    for path in paths:
        with suppress(BadImage):  # reported when the images are prepared
            largest = max(largest, largest_undeclared(os.path.join(root, path)) or 0)  # noqa: PTH118
    return largest
