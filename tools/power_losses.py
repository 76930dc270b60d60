"""Question: does a training end the same after power losses, each followed by the same command?

    python tools/power_losses.py --losses 20        10 of one run and 10 of a sweep of three jobs
    python tools/power_losses.py --losses 4 --network resnet18 --cache-size 2gb

Output folder, cache, SQLite store and artifacts are on LazyFS (see tests/support/lazyfs.py). At a random
moment the command gets `kill -9`, and LazyFS forgets what was not synced. One loss in five comes in start-up
or while the cache is built, the others in a run. The same command then runs again, until it ends. Then the
power fails once more. Compares every metric row, parameter, tag and file in the tracker with an undisturbed
training's, and the tracker's files with the run's. Without --network the models are one convolution, so that
a loss hits more than the training. Ends with 1 on any difference. Needs root.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from kill_and_resume import Side
from support import lazyfs, warm
from support.commands import small_run
from support.lazyfs import LazyDisk
from support.tracked import differences

RUN = small_run(
    train_patients=24,
    test_patients=8,
    epochs=20,  # so that training takes as long as the report
    more=[
        *("data.num_workers=1", "trainer.precision=float32", "trainer.deterministic=true"),
        *("trainer.device=cpu", "trainer.checkpoint_every_s=0.5"),
    ],
)
SWEEP = ["--multirun", *RUN, "seed=0,1,2", "keep_best=2"]
MOST_IN_A_ROW = 3  # losses of one training
EARLY, START_UP_S = 0.2, 3.0  # this share of the losses comes within so many seconds of the command's start


@dataclass
class Losses:
    """Power losses of one command, each followed by the same command, compared with its undisturbed end."""

    overrides: list[str]
    work: Path  # an empty folder
    built: Path  # LazyFS
    environment: dict[str, str] = field(default_factory=lambda: {"PNEUMO_TEST_TINY": "on"})
    cache_size: str = "128mb"

    def __post_init__(self) -> None:
        self._trainings = 0
        self.whole = Side(self.work / "undisturbed", self.overrides, warm=True, environment=self.environment)
        warm.load()
        code, self.whole_s = _start(self.whole)
        if code:
            raise SystemExit(f"the undisturbed command failed with {code}:\n{self.whole.output}")

    def training(self, at_most: int, rng: random.Random) -> tuple[int, list[str]]:
        """One training to its end, through at most so many losses: how many came, and what differs."""
        self._trainings += 1
        disk = LazyDisk(self.built, self.work / f"training-{self._trainings}", self.cache_size)
        disk.mount()
        try:
            side = Side(disk.folder, self.overrides, warm=True, environment=self.environment)
            count, code = 0, -signal.SIGKILL
            while code == -signal.SIGKILL:
                early = rng.random() < EARLY
                most_s = START_UP_S if early else self.whole_s / (count + 1)
                limit_s = None if count == at_most else rng.uniform(0, most_s)
                code, after_s = _start(side, limit_s, early)
                log = side.output
                disk.lose_power()
                if code == -signal.SIGKILL:
                    count += 1
                    print(f"  lost power after {after_s:6.2f} s: {_where(log)}", flush=True)
            if code:
                return count, [f"after {count} losses the command ended with {code}: {log[-2000:]}"]
            return count, differences(self.whole.folder, disk.folder)
        finally:
            disk.unmount()


def _start(side: Side, limit_s: float | None = None, early: bool = False) -> tuple[int, float]:
    """Run the command to its end, or until so many seconds after its first run begins.

    The seconds of an `early` loss count from the command's start. Returns the exit code and the seconds.
    """
    process, began, begun = side.start(), time.monotonic(), early
    while process.poll() is None and (limit_s is None or time.monotonic() - began < limit_s):
        if not begun:
            began = time.monotonic()
            begun = any(words in side.output for words in (": begins in", ": continues", ": done already"))
        time.sleep(0.005)
    seconds = time.monotonic() - began
    process.kill()
    code = process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return code, seconds


def _where(log: str) -> str:
    """What the command printed last before the power failed."""
    lines = log.replace("\r", "\n").strip().splitlines()
    return lines[-1].strip()[:90] if lines else "start-up"


def lose(title: str, losses: Losses, count: int, rng: random.Random) -> list[str]:
    """Let the power fail `count` times, in as many trainings as it takes; what differs."""
    faults = []
    while count > 0:
        came, one = losses.training(min(count, MOST_IN_A_ROW), rng)
        count -= came
        verdict = "; ".join(one) or "equal in every row and file"
        print(f"{title}: ended after {came} losses: {verdict}", flush=True)
        faults += one
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--losses", type=int, default=20, help="half of one run, half of a sweep")
    parser.add_argument("--network", help="a model by its name; default: one convolution")
    parser.add_argument("--cache-size", default="128mb", help="of LazyFS: more than the training writes")
    parser.add_argument("--seed", type=int, default=0, help="of the losses")
    parser.add_argument("--work-dir", type=Path, help="kept; default: a temporary folder, removed")
    options = parser.parse_args()
    try:
        built = lazyfs.build()
    except LookupError as error:
        raise SystemExit(str(error)) from None
    work = options.work_dir or Path(tempfile.mkdtemp(prefix="power_losses-"))
    rng, faults = random.Random(options.seed), []
    model = [f"model={options.network}"] if options.network else []
    own = {} if options.network else {"PNEUMO_TEST_TINY": "on"}
    halves = {"run": (RUN, options.losses // 2), "sweep": (SWEEP, options.losses - options.losses // 2)}
    for title, (overrides, count) in halves.items():
        losses = Losses([*overrides, *model], work / title, built, own, options.cache_size)
        print(f"{title}: undisturbed in {losses.whole_s:.1f} s", flush=True)
        faults += lose(title, losses, count, rng)
    if not options.work_dir:
        shutil.rmtree(work)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
