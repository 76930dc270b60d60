"""Run the benchmarks at a size that takes a quarter of an hour in total, and list every ratio.

    python benchmarks/run_all.py [NAME ...]

Ratios and figures go to results/bench.json. The tables of each benchmark go to the terminal. Missed targets
are listed, but the exit code is 1 only if a benchmark fails to run.
"""

import subprocess
import sys
import time

import measure

# Run alone, without these arguments, most take longer and measure more precisely. The benchmarks for other
# questions (augment, compare, serving, statistics_simulation) are run separately.
QUICK = {
    "ceiling": [],
    # Small batches, so that a short epoch does not mostly wait for the baseline's first batch.
    "against_baseline": ["--images", "48", "--batch", "8", "--figure", str(measure.RESULTS / "epoch.png")],
    # Many images, because starting the processes takes a second. One round, because it takes about a minute.
    "cache_build": ["--pool", "3000", "--pool-rounds", "1"],
    "start": [],
    "inference": ["--images", "48"],
    "packing": [],
    "tracking": "--rounds 1 --epochs 3 --limit-batches 4 --patients 250 --without-off".split(),
    "sweep_overhead": [],
}


def main() -> int:
    chosen = sys.argv[1:] or list(QUICK)
    if unknown := [name for name in chosen if name not in QUICK]:
        raise SystemExit(f"{unknown[0]} is not a benchmark; the options are {', '.join(QUICK)}")
    measure.RESULTS.mkdir(exist_ok=True)
    (measure.RESULTS / "bench.json").unlink(missing_ok=True)
    broken, spent = [], {}
    for name in chosen:
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        script = measure.PROJECT / "benchmarks" / f"{name}.py"
        if subprocess.run([sys.executable, str(script), *QUICK[name]]).returncode:
            broken.append(name)
        spent[name] = time.monotonic() - began
    rows = measure.recorded()
    print()
    measure.table(
        ["every ratio (larger is better)", "ratio", "target", ""],
        [
            [row["name"], f"{row['ratio']:.3f}", f"{row['target']:g}", "" if good(row) else "MISSED"]
            for row in rows
        ],
    )
    print(
        f"\n{sum(map(good, rows))} of {len(rows)} targets reached; {sum(spent.values()) / 60:.1f} minutes: ",
        end="",
    )
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items()))
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def good(row: dict) -> bool:
    return row["ratio"] >= row["target"]


if __name__ == "__main__":
    sys.exit(main())
