"""Question: how long does comparing 50 runs take? Target: less than 20 s, including the start of the program.

Command: python benchmarks/compare.py [runs]. It writes runs with as many test images as the public set to a
SQLite store (one minute). Then it times python -m pneumo.compare on them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
TARGET_S = 20.0


def main() -> None:
    from support import comparison_runs

    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    comparison_runs.PATIENTS_A_SPLIT = 310  # about 620 images
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        for number in range(runs):
            comparison_runs.make(Path(folder) / "outputs", uri, epochs=20, lr=(1 + number) * 1e-5)
        line = [sys.executable, "-m", "pneumo.compare", f"tracking.uri={uri}", f"output={folder}/page"]
        began, before = time.monotonic(), os.times()
        subprocess.run(line, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
        wall, after = time.monotonic() - began, os.times()
        cpu = after.children_user - before.children_user + after.children_system - before.children_system
        comparison = json.loads((Path(folder) / "page" / "comparison.json").read_text())
        assert len(comparison["configurations"]) == runs
    print(f"\n{runs} runs compared in {wall:.1f} s ({cpu:.1f} s of processor time); target {TARGET_S:.0f} s")
    measure.record(
        f"compare/{runs} runs", TARGET_S / wall, 1.0, seconds=round(wall, 2), processor_s=round(cpu, 2)
    )


if __name__ == "__main__":
    main()
