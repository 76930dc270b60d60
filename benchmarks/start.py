"""Question: with a warm cache, how long does it take from the command to the first training step?

    python benchmarks/start.py [--rounds 5]

Takes turns between `python -c "import torch, torchvision"` and `python -m pneumo.train` up to the end of its
first optimiser step (synthetic images with an existing cache, tracking on). Target: at most 1.3 times the
imports plus four seconds.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

sys.path.insert(0, str(measure.PROJECT / "tests"))
ALLOWED, SPARE_S = 1.3, 4.0
# The real command, except that the process ends with exit code 77 after the first optimiser step.
FIRST_STEP = """
import os, sys
from pneumo import train
from pneumo.training import trainer
step = trainer.Trainer._step
def first(self, *args):
    step(self, *args)
    os._exit(77)
trainer.Trainer._step = first
sys.argv = ["pneumo.train", *sys.argv[1:]]
train.main()
"""


def main() -> None:
    args = measure.options(__doc__).parse_args()
    from support.commands import environment

    with tempfile.TemporaryDirectory(prefix="pneumo-bench-") as name:
        folder = Path(name)
        own = environment(folder)
        fresh = iter(range(1000))
        small = ["data=phantom", "data.image_size=64", "trainer.batch_size=16", "trainer.epochs=1"]

        def imports() -> None:
            subprocess.run([sys.executable, "-c", "import torch, torchvision"], check=True)

        def command() -> float:
            overrides = [*small, f"seed={next(fresh)}", f"output_dir={folder}/outputs"]
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", FIRST_STEP, *overrides], env=own, capture_output=True, text=True
            )
            taken = time.perf_counter() - began
            if done.returncode != 77:
                raise SystemExit(f"the command ended with {done.returncode}:\n{done.stdout}{done.stderr}")
            return taken

        taken = measure.interleaved({"imports": imports, "command": command}, args.rounds)
    middle = args.rounds // 2
    imports_s, command_s = (sorted(taken[name])[middle] for name in ("imports", "command"))
    allowed_s = ALLOWED * imports_s + SPARE_S
    measure.table(
        ["", "seconds"],
        [
            ["import torch, torchvision", imports_s],
            ["command to first step", command_s],
            ["allowed", allowed_s],
        ],
    )
    measure.record(
        "start/command to first step",
        allowed_s / command_s,
        1.0,
        seconds=round(command_s, 2),
        imports_s=round(imports_s, 2),
    )


if __name__ == "__main__":
    main()
