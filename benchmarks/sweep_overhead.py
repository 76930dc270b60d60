"""Question: what does a sweep add to the training itself? Six tiny jobs, basic launcher, one process.

    python benchmarks/sweep_overhead.py

Prints three times per job. The first is the wall time. The second is the time of the run, from its journal:
the model, epochs with validation and saved states, and the report (final scores, nine figures, predictions).
The third is the rest, the overhead of the sweep: process start, configuration, data, waiting for MLflow,
retention and the parent run. Target: the rest is under 1.5 s per job.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

from pneumo.tracking.journal import read_records

JOBS, TARGET_S = 6, 1.5
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
SMALL = (
    "data=phantom data.phantom.train_patients=40 data.phantom.test_patients=16 data.image_size=32 "
    "trainer.epochs=2 trainer.limit_batches=2 trainer.batch_size=16 trainer.device=cpu"
).split()


def sweep(folder: Path, *overrides: str) -> float:
    """Run one sweep; return its seconds."""
    from support.commands import environment

    line = [sys.executable, "-m", "pneumo.train", "--multirun", *overrides, *SMALL]
    began = time.monotonic()
    subprocess.run(
        [*line, f"output_dir={folder}/outputs"], env=environment(folder), check=True, stdout=subprocess.PIPE
    )
    return time.monotonic() - began


def shares(journal: Path) -> tuple[float, float, float]:
    """Seconds of one run: in its epochs, from the last epoch's record to the end, and in total."""
    records, _ = read_records(journal)
    epochs = [record for record in records if "time/epoch_s" in record["body"].get("values", {})]
    (end,) = (record for record in records if record["kind"] == "end")
    trained = sum(record["body"]["values"]["time/epoch_s"] for record in epochs)
    return trained, (end["t"] - epochs[-1]["t"]) / 1000, (end["t"] - records[0]["t"]) / 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep(folder, "seed=100")  # the cache, the database and the operating system's page cache
        before = set(folder.glob("outputs/*/journal.jsonl"))
        wall_s = sweep(folder, f"seed=range({JOBS})") / JOBS
        parts = [shares(file) for file in set(folder.glob("outputs/*/journal.jsonl")) - before]
        assert len(parts) == JOBS
        skip_s = sweep(folder, f"seed=range({JOBS})")
    trained_s, report_s, run_s = (sum(part) / JOBS for part in zip(*parts, strict=True))
    rest_s = wall_s - run_s
    print(f"{'a job, of ' + str(JOBS):<28}{wall_s:8.2f} s")
    print(f"{'  the run itself':<28}{run_s:8.2f} s")
    print(f"{'    training and validation':<28}{trained_s:8.2f} s")
    print(f"{'    its report':<28}{report_s:8.2f} s")
    print(f"{'    model and saved states':<28}{run_s - trained_s - report_s:8.2f} s")
    print(f"{'  the rest: overhead':<28}{rest_s:8.2f} s   (target: under {TARGET_S} s)")
    print(f"{'again, all jobs skipped':<28}{skip_s:8.2f} s")
    parts = {"wall": wall_s, "run": run_s, "training": trained_s, "report": report_s, "all_skipped": skip_s}
    measure.record(
        "sweep/overhead of a job",
        TARGET_S / rest_s,
        1.0,
        seconds=round(rest_s, 3),
        **{f"{part}_s": round(seconds, 3) for part, seconds in parts.items()},
    )


if __name__ == "__main__":
    main()
