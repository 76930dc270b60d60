"""Question: does a sweep end the same after `kill -9` at random moments, each followed by the same command?

    python tools/kill_a_sweep.py --kills 8 --data-root DIR      sweep=dropout_lr, 12 jobs, real X-rays
    python tools/kill_a_sweep.py --kills 8 --failures --two     3 of the jobs fail until fixed; two terminals

Runs the sweep once undisturbed and once with N kills. Compares every metric row in MLflow's store (for time/*
only that it exists once), and the numbers and states of parents and children; without --failures also every
parameter, tag and file in the tracker. Checks in the logs that every start continues each run at its last
saved state and trains nothing twice. With --failures, a run's folder is a file, a journal is damaged and a
report cannot be written; at the end this is fixed. With --two, a third sweep is started in two terminals at
once. Further arguments are overrides. Ends with 1 on any difference.
"""

import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kill_and_resume import Side, arguments, run_overrides
from support import tracked
from support.commands import Hold

from pneumo.names import MEASURED

BEGAN = re.compile(r"^.+: (?:begins|continues .*|is tried again .*) in .*/([0-9a-f]{16})$")
EPOCH = re.compile(r"^epoch +(\d+)  train/loss")
Rows = dict[str, Counter[tuple[str, int, float | None]]]


@dataclass
class Terminal(Side):
    """A side with a separate log, because two may run in one folder."""

    name: str = "log"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.txt"

    def saved(self) -> dict[str, int]:
        """The epoch at which each started run would continue: that of its newest state, or 1."""
        epochs = {}
        for journal in self.folder.glob("outputs/*/journal.jsonl"):
            steps = [int(path.stem[5:]) for path in journal.parent.glob("state/step-*.pt")]
            epochs[journal.parent.name] = max(steps, default=0) // 1_000_000 + 1
        return epochs

    def trained(self) -> dict[str, list[int]]:
        """The epochs that the last start printed, by fingerprint."""
        epochs: dict[str, list[int]] = {}
        fingerprint = ""
        for line in self.output.replace("\r", "\n").splitlines():
            if began := BEGAN.match(line):
                fingerprint = began[1]
                epochs.setdefault(fingerprint, [])
            elif epoch := EPOCH.match(line):
                epochs[fingerprint].append(int(epoch[1]))
        return epochs


def store(folder: Path) -> tuple[Rows, list[str], list[str]]:
    """The metric rows of each child by fingerprint, and the states of the children and of the parents."""
    with sqlite3.connect(folder / "mlflow.db") as connection:
        tags: dict[str, dict[str, str]] = {}
        for run_id, key, value in connection.execute("SELECT run_uuid, key, value FROM tags"):
            tags.setdefault(run_id, {})[key] = value
        states = dict(connection.execute("SELECT run_uuid, status FROM runs"))
        points = connection.execute("SELECT run_uuid, key, step, value FROM metrics").fetchall()
    parents = [run_id for run_id in states if "pneumo.overrides" in tags.get(run_id, {})]
    children = {
        run_id: one["pneumo.fingerprint"]
        for run_id, one in tags.items()
        if one.get("mlflow.parentRunId") in parents
    }
    rows: Rows = {fingerprint: Counter() for fingerprint in children.values()}
    for run_id, key, step, value in points:
        if run_id in children:
            rows[children[run_id]][(key, step, None if key.startswith(MEASURED) else value)] += 1
    return rows, [states[run_id] for run_id in children], [states[run_id] for run_id in parents]


def differences(title: str, whole: Path, other: Path) -> list[str]:
    (expected, _, _), (rows, children, parents) = store(whole), store(other)
    faults = []
    if children != ["FINISHED"] * len(expected):
        faults.append(f"the children are {dict(Counter(children))}, not {len(expected)} FINISHED")
    if parents != ["FINISHED"]:
        faults.append(f"the parents are {parents}, not one FINISHED")
    faults += [f"{fingerprint}: no such run" for fingerprint in expected.keys() - rows.keys()]
    for fingerprint in sorted(expected.keys() & rows.keys()):
        for row in sorted((expected[fingerprint] - rows[fingerprint]).keys(), key=str):
            faults.append(f"{fingerprint}: missing or once too few: {row}")
        for row in sorted((rows[fingerprint] - expected[fingerprint]).keys(), key=str):
            faults.append(f"{fingerprint}: once too many: {row}")
    jobs, points = len(children), sum(counter.total() for counter in rows.values())
    verdict = "; ".join(faults) or "equal in every row"
    print(f"{title}: {len(parents)} parent, {jobs} children, {points} metric rows: {verdict}", flush=True)
    return faults


def repeated(title: str, saved: dict[str, int], trained: dict[str, list[int]], done: set[str]) -> list[str]:
    """What a start trained without need: a finished run, or an epoch before that of the saved state."""
    faults = [f"{title}: {one} was finished and is trained again" for one in trained if one in done]
    for fingerprint, epochs in trained.items():
        first = saved.get(fingerprint, 1)
        if epochs != list(range(first, first + len(epochs))):
            faults.append(
                f"{title}: {fingerprint} printed the epochs {epochs}; its state was at epoch {first}"
            )
    return faults


def finished(folder: Path) -> set[str]:
    """The runs whose journal says FINISHED. Their weights may still be deleted afterwards."""
    ends = {
        file.parent.name: file.read_bytes().splitlines() for file in folder.glob("outputs/*/journal.jsonl")
    }
    return {
        name for name, lines in ends.items() if any(b'"status":"FINISHED"' in line for line in lines[-2:])
    }


def sabotage(folder: Path, fingerprints: list[str]) -> list[Path]:
    """Make three runs fail in different ways. Removing the returned paths fixes them."""
    outputs = folder / "outputs"
    paths = [
        outputs / fingerprints[1],
        outputs / fingerprints[len(fingerprints) // 2] / "journal.jsonl",
        outputs / fingerprints[-2] / "artifacts" / "checkpoints",
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not\na journal\nnor a folder\n")
    return paths


def main() -> int:
    parser = arguments(__doc__, kills=8, patients=100, epochs=2, image_size=32)
    parser.add_argument("--failures", action="store_true", help="three jobs fail until they are fixed")
    parser.add_argument("--two", action="store_true", help="also from two terminals at once")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    work = options.work_dir or Path(tempfile.mkdtemp(prefix="kill_a_sweep-"))
    command = ["sweep=dropout_lr", *run_overrides(options), *options.overrides]
    rng, faults = random.Random(options.seed), []
    whole = Terminal(work / "undisturbed", command, warm=True)
    began = time.monotonic()
    if whole.start().wait():
        raise SystemExit(f"the undisturbed sweep failed:\n{whole.output}")
    whole_s, order = time.monotonic() - began, list(whole.trained())
    print(f"undisturbed: {len(order)} jobs of {options.epochs} epochs in {whole_s:.1f} s\n")

    # Until all kills are done, the last job waits before its last epoch, even on a fast machine.
    hold = Hold(work / "hold", options.epochs - 1, order[-1])
    killed = Terminal(work / "killed", command, hold=hold, warm=True)
    obstacles = sabotage(killed.folder, order) if options.failures else []
    print("kill  after start  finished runs  newest saved state of each started run: epoch")
    kills = 0
    while True:
        saved, done = killed.saved(), finished(killed.folder)
        if kills == options.kills:
            hold.release()
        process, began = killed.start(), time.monotonic()
        if kills < options.kills:
            # Every fourth kill comes during start-up. The others come early enough to leave work for later.
            after_s = rng.uniform(0.0, whole_s * (1 - len(done) / len(order)) / (options.kills - kills + 1))
            early = kills % 4 == 3
            while process.poll() is None and time.monotonic() - began < after_s:
                if not early and not killed.trained():
                    began = time.monotonic()
                time.sleep(0.02)
            process.kill()
        code = process.wait()
        faults += repeated(f"start {kills + 1}", saved, killed.trained(), done)
        if code != -signal.SIGKILL:
            break
        kills += 1
        states = " ".join(str(epoch) for epoch in killed.saved().values())
        print(f"{kills:4d}  {after_s:9.2f} s  {len(finished(killed.folder)):13d}  {states}", flush=True)
    if code != (1 if obstacles else 0):
        raise SystemExit(f"after {kills} kills the command ended with {code}:\n{killed.output}")
    if obstacles:
        _, children, parents = store(killed.folder)
        rows = [line for line in killed.output.splitlines() if ": FAILED: " in line]
        print(
            f"\nwith three made to fail: exit code 1, children {dict(Counter(children))}, parent {parents}:"
        )
        print("\n".join(f"  {row[:140]}" for row in rows))
        if len(rows) != 3 or parents != ["FAILED"] or len(finished(killed.folder)) != len(order) - 3:
            faults.append("not just the three jobs failed")
        for path in obstacles:
            path.unlink()
        saved, done = killed.saved(), finished(killed.folder)
        if code := killed.start().wait():
            raise SystemExit(f"after the fix, the command ended with {code}:\n{killed.output}")
        faults += repeated("fixed", saved, killed.trained(), done)
    faults += differences(f"killed {kills} times", whole.folder, killed.folder)
    if not obstacles:  # a failure leaves its traceback
        faults += tracked.differences(whole.folder, killed.folder)

    if options.two:
        both = [Terminal(work / "two", command, name) for name in ("first", "second")]
        for code in [process.wait() for process in [terminal.start() for terminal in both]]:
            if code:
                faults.append(f"one of two terminals ended with {code}")
        trained = [terminal.trained() for terminal in both]
        shares = [len(one) for one in trained]
        print(f"two terminals at once trained {shares[0]} and {shares[1]} of the {len(order)} jobs")
        faults += [f"{one}: trained in both terminals" for one in trained[0].keys() & trained[1].keys()]
        faults += differences("two terminals", whole.folder, work / "two")
    print("\n".join(faults) if faults else "no epoch was trained twice beyond its last saved state")
    if not options.work_dir:
        shutil.rmtree(work)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
