"""Question: does a run end the same after `kill -9` at random moments, each followed by the same command?

    python tools/kill_and_resume.py --kills 40 --data-root DIR --epochs 4 --image-size 64

Trains ResNet-18 once undisturbed and once with N kills, both with trainer.deterministic=true. Compares every
bit of the final weights and every metric row in MLflow's store (time/* may differ, but must exist once).
Without --data-root it uses synthetic images. Ends with 1 on any difference.
"""

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.commands import Hold, data_overrides, environment

from pneumo.names import MEASURED


@dataclass
class Side:
    """One of the two trainings: its folder and its command."""

    folder: Path
    overrides: list[str]
    hold: Hold | None = field(default=None, kw_only=True)

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        more = self.hold.environment if self.hold else {}
        with self.log.open("ab") as log:
            log.write(b"---- start\n")
            line = [
                sys.executable,
                "-m",
                "pneumo.train",
                *self.overrides,
                f"output_dir={self.folder / 'outputs'}",
            ]
            return subprocess.Popen(
                line,
                cwd=self.folder,
                env=environment(self.folder, PYTHONUNBUFFERED="1", **more),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def output(self) -> str:
        """What the last start printed."""
        return self.log.read_text(errors="replace").rpartition("---- start\n")[2]

    @property
    def state(self) -> tuple[int, int]:
        """(epoch, step) of the newest saved state."""
        steps = [int(path.stem[5:]) for path in self.folder.glob("outputs/*/state/step-*.pt")]
        return (max(steps) // 1_000_000 + 1, max(steps) % 1_000_000) if steps else (1, 0)

    def where(self, epochs: int) -> str:
        """What the process was doing when it was killed, judged by its files and output."""
        if list(self.folder.glob("cache/*.tmp*")):
            return "building the cache"
        if "begins" not in self.output and "continues" not in self.output:
            return "start-up, before the run"
        if "ready after" not in self.output:
            return "start-up, in the run"
        if list(self.folder.glob("outputs/*/state/.*.tmp")):
            return "writing a state or weights"
        if "chosen: epoch" in self.output:
            return "the very end"
        if self.state[0] > epochs:
            return "the final report"
        return "training or validation"

    def weights(self) -> bytes:
        (file,) = self.folder.glob("outputs/*/artifacts/checkpoints/best.safetensors")
        return file.read_bytes()

    def rows(self) -> tuple[Counter[tuple[str, int, float | None]], list[str]]:
        """The metric rows as (key, step, value), time/* without value; and the states of all runs."""
        with sqlite3.connect(self.folder / "mlflow.db") as store:
            rows = store.execute("SELECT key, step, value FROM metrics").fetchall()
            states = [status for (status,) in store.execute("SELECT status FROM runs")]
        return Counter(
            (k, step, None if k.startswith(MEASURED) else value) for k, step, value in rows
        ), states


def train(side: Side) -> float:
    """Run to the end; return the seconds."""
    started = time.monotonic()
    code = side.start().wait()
    if code:
        raise SystemExit(f"the command failed with exit code {code}:\n{side.output}")
    return time.monotonic() - started


def kill_until_done(
    side: Side, kills: int, whole_s: float, epochs: int, steps: int, rng: random.Random
) -> list[str]:
    """Start and kill until the run is done or all kills are used. Returns a table line for each kill."""
    table = []
    startup_s = 0.5 * whole_s / epochs  # a guess; every start that gets that far corrects it
    while len(table) < kills:
        epoch, step = side.state
        left = 1 - min(1.0, (epoch - 1 + step / max(steps, 1)) / epochs)
        # Every fourth kill comes early; the first one comes before there is a cache. The others come late, so
        # that the remaining kills are spread evenly over the remaining training.
        spread_s = 2 * left * whole_s / (kills - len(table) + 1) if len(table) % 4 else 0.0
        after_s = rng.uniform(0, startup_s + spread_s)
        started = time.monotonic()
        process = side.start()
        while process.poll() is None and time.monotonic() - started < after_s:
            time.sleep(0.005)
            if "ready after" in side.output:
                startup_s = (
                    min(startup_s, time.monotonic() - started) if table else time.monotonic() - started
                )
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        with suppress(ProcessLookupError):  # helper processes of a cache build that are still alive
            os.killpg(process.pid, signal.SIGKILL)
        if code == 0:
            return table
        if code != -signal.SIGKILL:
            raise SystemExit(f"after {len(table)} kills the command failed with {code}:\n{side.output}")
        saved_epoch, saved_step = side.state
        table.append(f"{after_s:8.2f} s  {side.where(epochs):<28}  {saved_epoch}, {saved_step}")
        print(f"{len(table):4d}  {table[-1]}", flush=True)
    return table


def differences(whole: Side, killed: Side) -> list[str]:
    faults = []
    if whole.weights() != killed.weights():
        faults.append("the final weights differ")
    (expected, _), (rows, states) = whole.rows(), killed.rows()
    if states != ["FINISHED"]:
        faults.append(f"the store holds runs in the states {states}, not one FINISHED")
    faults += [
        f"metric {key} at step {step} is there {n} times" for (key, step, _), n in rows.items() if n > 1
    ]
    faults += [f"missing metric row: {row}" for row in sorted(expected - rows, key=str)]
    faults += [f"metric row too many: {row}" for row in sorted(rows - expected, key=str)]
    return faults


def arguments(text: str | None, **defaults: int) -> argparse.ArgumentParser:
    """The options of a script that kills. `defaults` sets --kills, --patients, --epochs and --image-size."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--data-root", type=Path, help="chest_xray folder; default: the synthetic images")
    parser.add_argument("--patients", type=int, help="of the synthetic training images")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--checkpoint-every-s", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--work-dir", type=Path, help="kept; default: a temporary folder, removed")
    parser.set_defaults(**defaults)
    return parser


def run_overrides(options: argparse.Namespace) -> list[str]:
    """The overrides for `options`: a ResNet-18 run that is equal to the last bit every time."""
    return [
        *data_overrides(options.data_root, train_patients=options.patients, test_patients=20),
        f"data.image_size={options.image_size}",
        f"trainer.epochs={options.epochs}",
        f"trainer.checkpoint_every_s={options.checkpoint_every_s}",
        *("model=resnet18", "trainer.deterministic=true", "trainer.device=cpu"),
    ]


def main() -> int:
    parser = arguments(__doc__, kills=40, patients=200, epochs=4, image_size=64)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    work = options.work_dir or Path(tempfile.mkdtemp(prefix="kill_and_resume-"))
    overrides = [*run_overrides(options), f"trainer.batch_size={options.batch_size}"]
    rng = random.Random(options.seed)
    whole = Side(work / "undisturbed", overrides)
    whole_s = train(whole)
    images = int(whole.output.partition("train ")[2].split()[0])
    steps = -(-images // options.batch_size)
    print(f"undisturbed: {whole_s:.1f} s, {options.epochs} epochs of {steps} steps\n")
    print("kill  after start  during                        newest saved state: epoch, step")
    used, faults = 0, []
    for number in range(1, options.kills + 2):  # if a run ends before all kills are used, start another one
        killed = Side(work / f"killed-{number}", overrides)
        used += len(kill_until_done(killed, options.kills - used, whole_s, options.epochs, steps, rng))
        train(killed)
        one = differences(whole, killed)
        print(
            f"run {number} is done after {used} kills: {'; '.join(one) or 'equal in every bit and row'}",
            flush=True,
        )
        faults += one
        if used >= options.kills or faults:
            break
    if not options.work_dir:
        shutil.rmtree(work)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
