"""Shared parts of the benchmarks: taking turns, tables, and the file of ratios.

A benchmark compares things on the same machine at the same time, in turns (A B A B ...), and prints medians
and ratios. Larger ratios are better. A ratio is good if it reaches its target.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"


def options(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"taken in turns (default {rounds})")
    return parser


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every run in every round, after `warm_up` rounds that do not count.

    If a run returns a float, that is its own measurement in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-warm_up, rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            result = run()
            taken = result if isinstance(result, float) else time.perf_counter() - began
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median of the rounds' ratios: a slow round as a whole does not change it."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


class Stopwatch:
    """Seconds by part, of the wall clock and of the processor (all threads of this process)."""

    def __init__(self) -> None:
        self.wall_s: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall_s[name] = self.wall_s.get(name, 0.0) + time.perf_counter() - began
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + time.process_time() - cpu


def table(header: list[str], rows: list[list[Any]]) -> None:
    """Print rows under a header: the first column aligned left, the others right."""
    cells = [
        header,
        *([f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]), flush=True)


def record(name: str, ratio: float, target: float, **figures: Any) -> None:
    """Print a ratio with its target. In results/bench.json it replaces an older ratio of the same name."""
    word = "good" if ratio >= target else "MISSED"
    print(f"-> {name}: ratio {ratio:.3f}, target {target:g}: {word}", flush=True)
    rows = [row for row in recorded() if row["name"] != name]
    rows.append({"name": name, "ratio": round(ratio, 4), "target": target, **figures})
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps(rows, indent=1) + "\n")


def recorded() -> list[dict[str, Any]]:
    try:
        return json.loads((RESULTS / "bench.json").read_text())
    except FileNotFoundError:
        return []


def originals(folder: Path, count: int) -> list[Path]:
    """`count` X-rays at their original size.

    They come from the folder PNEUMO_ORIGINALS, repeated if it has fewer. Without it, synthetic X-rays with
    the public set's usual size and JPEG quality are drawn into `folder`.
    """
    if known := os.environ.get("PNEUMO_ORIGINALS"):
        files = sorted(path for path in Path(known).rglob("*.jp*g"))
        if not files:
            raise SystemExit(f"PNEUMO_ORIGINALS={known} holds no .jpeg files")
        print(f"originals: {len(files)} files of {known}")
        random.Random(0).shuffle(files)  # the classes have different image sizes and separate folders
        return [files[number % len(files)] for number in range(count)]
    print("originals: synthetic; set PNEUMO_ORIGINALS=DIR to use real ones")
    return [draw(folder / f"person{number}_virus_{number}.jpeg", number) for number in range(count)]


def draw(file: Path, seed: int, width: int = 1320, height: int = 980, quality: int = 85) -> Path:
    """A grey picture with soft shapes, film grain and a black border, saved as a JPEG."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 225, (7, 9), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.normal(0, 3, (height, width)).astype(np.float32)
    pixels = np.clip(smooth + grain, 1, 255).astype(np.uint8)
    pixels[:12], pixels[:, -9:] = 0, 0
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file
