"""Question: how long does comparing ten models take whose predictions have 100,000 rows each?

Command: python benchmarks/compare_tables.py [rows] [models]. It writes a table for each model, with 1.7
images a patient, and measures time and memory of pneumo compare predictions=[...] on them.
Expected: less than 60 s and 2 GB on two cores.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
TARGET_S, TARGET_GB = 60.0, 2.0
IMAGES_A_PATIENT = 1.7


def tables(folder: Path, rows: int, models: int) -> list[str]:
    rng = np.random.default_rng(0)
    label = (rng.random(rows) < 0.3).astype(int)
    hard = rng.normal(size=rows)
    patient = rng.integers(int(rows / IMAGES_A_PATIENT), size=rows)
    found = []
    for model in range(models):
        logit = hard + rng.normal(0, 0.5, rows) + (1.5 + 0.03 * model) * label - 1.5
        table = pd.DataFrame(
            {
                "path": [f"{row}.png" for row in range(rows)],
                "patient": [f"p{number}" for number in patient],
                "label": label,
                "probability": 1 / (1 + np.exp(-logit)),
            }
        )
        found.append(str(folder / f"model{model}.csv"))
        table.to_csv(found[-1], index=False)
    return found


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    models = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with tempfile.TemporaryDirectory() as folder:
        given = f"predictions=[{','.join(tables(Path(folder), rows, models))}]"
        line = [sys.executable, "-m", "pneumo", "compare", given, f"output={folder}/page"]
        began = time.monotonic()
        subprocess.run(line, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
        wall = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\n{models} models with {rows:,} rows: {wall:.1f} s (target {TARGET_S:.0f}), {peak:.2f} GB")
    facts = {"seconds": round(wall, 1), "peak_gb": round(peak, 2)}
    measure.record(f"compare/{models} models, {rows} rows", TARGET_S / wall, 1.0, **facts)
    measure.record(f"compare/{models} models, {rows} rows, memory", TARGET_GB / peak, 1.0, **facts)


if __name__ == "__main__":
    main()
