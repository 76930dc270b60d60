"""A second process for a comparison of many runs.

It imports torch while the first process tests the runs, and draws half of the figures.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module

from pneumo.comparison import figures
from pneumo.comparison.content import Comparison, Cost
from pneumo.comparison.figures import Rendered

# By name, so that only the process that measures imports torch: it takes two seconds.
NETWORK_COST = "pneumo.comparison.network_cost"
MANY_RUNS = 20  # from here on, a second process saves more than its start costs


def start(runs: int) -> ProcessPoolExecutor | None:
    """A process that has begun to import torch; None for few runs."""
    if runs < MANY_RUNS:
        return None
    process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    process.submit(import_module, NETWORK_COST)
    return process


def network_cost(process: ProcessPoolExecutor | None, latency: bool) -> Callable[[str, int, int, int], Cost]:
    """What measures an architecture by its name, input channels, image size and classes, in `process` if any.

    The caller waits for it, so that nothing disturbs the measured time.
    """

    def measure(name: str, in_channels: int, image_size: int, classes: int) -> Cost:
        if process is None:
            return _network_cost(name, in_channels, image_size, classes, latency)
        return process.submit(_network_cost, name, in_channels, image_size, classes, latency).result()

    return measure


def render(comparison: Comparison, process: ProcessPoolExecutor | None) -> dict[str, Rendered]:
    """Every figure that `comparison` has the data for, by file name; half of them from `process`."""
    if process is None:
        return figures.render(comparison)
    others = process.submit(figures.render, comparison, slice(1, None, 2))
    return figures.render(comparison, slice(0, None, 2)) | others.result()


def _network_cost(name: str, in_channels: int, image_size: int, classes: int, latency: bool) -> Cost:
    cost: Cost = import_module(NETWORK_COST).of(name, in_channels, image_size, classes, latency)
    return cost
