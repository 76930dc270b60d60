"""Question: does a run end the same after `kill -9` at random moments, each followed by the same command?

    python tools/kill_and_resume.py --kills 40 --torn 10 --data-root DIR --epochs 4 --image-size 64

Trains ResNet-18 once undisturbed and once with N kills, both with trainer.deterministic=true. Of the kills,
--torn come while a file is being written, which is then half there: each kind of file in its turn. Compares
every metric row (of time/* and memory/* only that it exists once), parameter, tag and file in the tracker,
the weights among them, and the tracker's files with the run's. Without --data-root it uses synthetic images.
Ends with 1 on any difference. Killed commands start from a process that has loaded all libraries.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import warm
from support.commands import Hold, data_overrides, environment
from support.tracked import differences
from support.warm import Train

# Files that a run writes, in this order: how many of them at least, and their full path as a pattern. A name
# with a dot in front is the file before it is renamed.
TORN_BEFORE_THE_REPORT = {
    "the cache's index": (1, "*/cache/*/index.json"),
    "the configuration": (1, "*/artifacts/.config.yaml.*"),
    "the best weights": (1, "*/state/.best-*.safetensors.*"),
    "a state": (2, "*/state/.step-*"),
    "an early journal line": (2, "*/journal.jsonl"),
}
TORN_IN_THE_REPORT = {
    "the report's weights": (1, "*/artifacts/checkpoints/.best.safetensors.*"),
    "a figure": (9, "*/artifacts/figures/.*"),
    "a late journal line": (20, "*/journal.jsonl"),
    "the tracker's weights": (2, "*/mlartifacts/*/checkpoints/.artifact*"),
    "the sender's note": (2, "*/.sent-*"),
}
TORN = TORN_BEFORE_THE_REPORT | TORN_IN_THE_REPORT


@dataclass
class Side:
    """One of the two trainings: its folder and its command. A warm one starts from a loaded process."""

    folder: Path
    overrides: list[str]
    hold: Hold | None = field(default=None, kw_only=True)
    warm: bool = field(default=False, kw_only=True)
    environment: dict[str, str] = field(default_factory=dict, kw_only=True)

    def start(self, **more: str) -> "subprocess.Popen[bytes] | Train":
        """Start the command; `more` is added to its environment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Relative paths, so that the configuration is the same in every folder.
        places = {"PNEUMO_CACHE": "cache", "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
        held = self.hold.environment if self.hold else {}
        own = environment(self.folder, PYTHONUNBUFFERED="1", **places, **self.environment, **held, **more)
        arguments = [*self.overrides, "output_dir=outputs"]
        with self.log.open("ab") as log:
            log.write(b"---- start\n")
            log.flush()
            if self.warm:
                return Train(arguments, self.folder, self.log, own)
            return subprocess.Popen(
                [sys.executable, "-m", "pneumo.train", *arguments],
                cwd=self.folder,
                env=own,
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


def train(side: Side) -> float:
    """Run to the end; return the seconds since the run began."""
    process = side.start()
    began = time.monotonic()
    while process.poll() is None:
        if "begins in" not in side.output:
            began = time.monotonic()
        time.sleep(0.02)
    if code := process.wait():
        raise SystemExit(f"the command failed with exit code {code}:\n{side.output}")
    return time.monotonic() - began


def kill_until_done(
    side: Side, kills: list[str], whole_s: float, epochs: int, steps: int, rng: random.Random
) -> int:
    """Start and kill until the run is done or all kills are used; the number of kills.

    A kill is a key of TORN, or "" for a random moment. Used ones are taken off `kills`.
    """
    count = 0
    startup_s = 0.5 * whole_s / epochs  # a guess; every start that gets that far corrects it
    while kills:
        began = time.monotonic()
        if kills[0]:
            number, pattern = TORN[kills[0]]
            process = side.start(PNEUMO_TEST_TEAR=f"{rng.randint(1, number)} {pattern}")
            during = f"writing {kills[0]}"
        else:
            epoch, step = side.state
            left = 1 - min(1.0, (epoch - 1 + step / max(steps, 1)) / epochs)
            # Every fourth kill comes in start-up; the first one comes before there is a cache. The others
            # come later, so that the remaining kills are spread evenly over the remaining training.
            spread_s = 2 * left * whole_s / (len(kills) + 1)
            after_s = startup_s + rng.uniform(0, spread_s) if count % 4 else rng.uniform(0, startup_s)
            process = side.start()
            while process.poll() is None and time.monotonic() - began < after_s:
                time.sleep(0.005)
                if "ready after" in side.output:
                    seen_s = time.monotonic() - began
                    startup_s = min(startup_s, seen_s) if count else seen_s
            process.kill()
            during = ""
        code = process.wait()
        with suppress(ProcessLookupError):  # helper processes of a cache build that are still alive
            os.killpg(process.pid, signal.SIGKILL)
        if code == 0:
            return count
        if code != -signal.SIGKILL:
            raise SystemExit(f"after {count} kills the command failed with {code}:\n{side.output}")
        count += 1
        del kills[0]
        epoch, step = side.state
        print(
            f"{len(kills):4d}  {time.monotonic() - began:8.2f} s  {during or side.where(epochs):<28}  "
            f"{epoch}, {step}",
            flush=True,
        )
    return count


def planned(kills: int, torn: int) -> list[str]:
    """The kills in their order: "" for a random moment, or a key of TORN."""
    names = [list(TORN)[number % len(TORN)] for number in range(torn)]
    early = sorted((name for name in names if name in TORN_BEFORE_THE_REPORT), key=list(TORN).index)
    late = sorted((name for name in names if name in TORN_IN_THE_REPORT), key=list(TORN).index)
    plan = [""] * (kills - torn)
    for number, name in enumerate(early):
        plan.insert(number * (1 + (kills - torn) // max(len(early), 1)), name)
    return plan + late


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
    parser.add_argument("--torn", type=int, default=0, help="of the kills: inside a write")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    work = options.work_dir or Path(tempfile.mkdtemp(prefix="kill_and_resume-"))
    overrides = [*run_overrides(options), f"trainer.batch_size={options.batch_size}"]
    rng = random.Random(options.seed)
    whole = Side(work / "undisturbed", overrides)
    whole_s = train(whole)
    warm.load()
    images = int(whole.output.partition("train ")[2].split()[0])
    steps = -(-images // options.batch_size)
    print(f"undisturbed: {whole_s:.1f} s, {options.epochs} epochs of {steps} steps\n")
    print("left  after start   during                        newest saved state: epoch, step")
    kills, used, faults = planned(options.kills, min(options.torn, options.kills)), 0, []
    for number in range(1, options.kills + 2):  # if a run ends before all kills are used, start another one
        killed = Side(work / f"killed-{number}", overrides, warm=True)
        used += kill_until_done(killed, kills, whole_s, options.epochs, steps, rng)
        train(killed)
        one = differences(whole.folder, killed.folder)
        verdict = "; ".join(one) or "equal in every row and file"
        print(f"run {number} is done after {used} kills: {verdict}", flush=True)
        faults += one
        if not kills or faults:
            break
    if not options.work_dir:
        shutil.rmtree(work)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
