"""Question: how much time does tracking add to an epoch?

    python benchmarks/tracking.py [--rounds 3] [--epochs 4] [--limit-batches 40] [--data-root DIR]

Trains the same ResNet-18 in turns: with tracking.enabled=false, into SQLite, and to an MLflow server (with
SQLite) on this machine. Each training has a separate process. The first epoch does not count (warm-up, import
of mlflow). Choose --limit-batches so that an epoch takes about ten seconds. Then the target is a ratio of at
most 1.01. All three trainings write the journal between two epochs. Its time is added only to the epochs with
tracking, so that the ratio includes it.

On a busy machine the ratio is noise, but the time of the parts is not. The parts are the journal's calls
(with fsync, on the training thread) and the CPU time of the sending thread. Their sum is also printed as a
share of ten seconds.
"""

import argparse
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure as benchmark

from pneumo.tracking.journal import Journal

PROJECT = Path(__file__).resolve().parents[1]
TARGET, EPOCH_S = 1.01, 10.0


def train_timed(result: Path, overrides: list[str]) -> None:
    """Run `pneumo.train` in this process. Writes (part, end time, seconds, CPU seconds) of every call."""
    from pneumo import train
    from pneumo.tracking.courier import Courier

    calls: list[tuple[str, float, float, float]] = []

    def time_calls(owner: type, name: str, part: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **keys: Any) -> Any:
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **keys)
            finally:
                seconds, cpu_s = time.perf_counter() - began, time.thread_time() - cpu
                calls.append((part, time.time(), seconds, cpu_s))

        setattr(owner, name, timed)

    for name in ("params", "tags", "metrics", "artifact", "dataset"):
        time_calls(Journal, name, "journal")
    time_calls(Courier, "carry", "sender")
    sys.argv = ["pneumo.train", *overrides]
    try:
        train.main()
    finally:
        result.write_text(json.dumps(calls))


def measure(folder: Path, overrides: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Train once in `folder`. Returns the seconds of every epoch but the first, and tracking's part."""
    result, script = folder.with_suffix(".json"), Path(__file__).resolve()
    command = [sys.executable, str(script), "--timed-run", str(result), *overrides, f"output_dir={folder}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder.parent)
    if done.returncode:
        raise SystemExit(f"{' '.join(overrides)} failed:\n{done.stdout}{done.stderr}")
    (path,) = folder.glob("*/journal.jsonl")
    journal = Journal(path.parent)
    epochs = [seconds for _, seconds in journal.history("time/epoch_s")]
    recorded_s = [t / 1000 for key, _, t, _ in journal.metric_rows() if key == "time/epoch_s"]
    calls = json.loads(result.read_text())
    # The sender's first pass imports mlflow and creates the run. It happens once, not in every epoch, so it
    # is left out. From the record of the first epoch to that of the last, there is one record per epoch.
    first = next((call for call in calls if call[0] == "sender"), None)
    inside = [call for call in calls if recorded_s[0] <= call[1] < recorded_s[-1] and call is not first]
    count = len(epochs) - 1
    return {
        "epochs": epochs[1:],
        "journal_s": sum(seconds for part, _, seconds, _ in inside if part == "journal") / count,
        "sender_s": sum(cpu_s for part, _, _, cpu_s in inside if part == "sender") / count,
        "first_s": first[3] if first else 0.0,
    }


def table(measured: dict[str, list[dict[str, Any]]]) -> str:
    share, first = f"of {EPOCH_S:g} s", "first contact CPU s"
    lines = [
        f"{'tracking':<8} {'epochs':>6} {'median s':>9} {'ratio':>7} {'journal ms':>11} "
        f"{'sender CPU ms':>14} {share:>8} {first:>20}"
    ]
    base_s = math.nan
    for name, runs in measured.items():
        epochs = [seconds for run in runs for seconds in run["epochs"]]
        journal_s, sender_s, first_s = (
            statistics.median(run[part] for run in runs) for part in ("journal_s", "sender_s", "first_s")
        )
        median_s = statistics.median(epochs) + (journal_s if name != "off" else 0.0)
        base_s = median_s if name == "off" else base_s
        lines.append(
            f"{name:<8} {len(epochs):6d} {median_s:9.3f} {median_s / base_s:7.4f} {journal_s * 1e3:11.2f} "
            f"{sender_s * 1e3:14.1f} {(journal_s + sender_s) / EPOCH_S:8.3%} {first_s:20.2f}"
        )
    if "off" in measured:
        lines.append(f"target: a ratio of at most {TARGET} at an epoch of {EPOCH_S:g} s")
    return "\n".join(lines)


def keep(measured: dict[str, list[dict[str, Any]]]) -> None:
    """Record the share of a ten-second epoch that the journal and the sending thread take."""
    for name, runs in measured.items():
        if name == "off":
            continue
        parts = {part: statistics.median(run[part] for run in runs) for part in ("journal_s", "sender_s")}
        share = sum(parts.values()) / EPOCH_S
        benchmark.record(
            f"tracking/{name}, share of an epoch of {EPOCH_S:g} s",
            (TARGET - 1) / share,
            1.0,
            share=round(share, 5),
            **{part: round(seconds, 5) for part, seconds in parts.items()},
        )


def main() -> None:
    if sys.argv[1:2] == ["--timed-run"]:
        return train_timed(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of each run; the first one does not count")
    parser.add_argument("--limit-batches", type=int, default=40)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--patients", type=int, default=1200, help="of the synthetic training images")
    parser.add_argument("--without-off", action="store_true", help="only the parts, no ratio of the epochs")
    parser.add_argument("--data-root", type=Path, help="chest_xray folder; default: the synthetic images")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the first one does not count")
    sys.path.insert(0, str(PROJECT / "tests"))
    from support.commands import data_overrides, environment
    from support.servers import Mlflow

    common = [
        *data_overrides(args.data_root, train_patients=args.patients),
        f"data.image_size={args.image_size}",
        f"trainer.epochs={args.epochs}",
        f"trainer.limit_batches={args.limit_batches}",
        f"trainer.device={args.device}",
    ]
    with tempfile.TemporaryDirectory(prefix="pneumo-tracking-") as name:
        work = Path(name)
        own = environment(work)
        own["PNEUMO_CACHE"] = os.environ.get("PNEUMO_CACHE", own["PNEUMO_CACHE"])
        server = Mlflow(work)
        kinds = {
            "off": ["tracking.enabled=false"],
            "SQLite": [f"tracking.uri=sqlite:///{work}/mlflow.db"],
            "server": [f"tracking.uri={server.uri}"],
        }
        if args.without_off:
            del kinds["off"]
        measured: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        server.start()
        try:
            server.wait()
            for number in range(1, args.rounds + 1):
                for kind, overrides in kinds.items():
                    measured[kind].append(measure(work / f"{kind}-{number}", common + overrides, own))
                    seconds = ", ".join(f"{epoch:.2f}" for epoch in measured[kind][-1]["epochs"])
                    print(f"round {number}, {kind}: epochs of {seconds} s", flush=True)
        finally:
            server.kill()
    print("\n" + table(measured))
    keep(measured)


if __name__ == "__main__":
    main()
