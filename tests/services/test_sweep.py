"""Real kills of a real sweep, small; `python tools/kill_a_sweep.py --kills 8 --failures --two` does more."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PROJECT, data_overrides, environment

from pneumo.tracking.journal import encode, read_records

pytestmark = pytest.mark.services


def test_a_sweep_killed_twice_ends_as_if_undisturbed(tmp_path: Path) -> None:
    script = PROJECT / "tools" / "kill_a_sweep.py"
    options = ["--kills", "2", "--patients", "30", "--work-dir", str(tmp_path)]
    overrides = [
        "model.dropout=0.1",
        "optim.lr=1e-3,2e-3,3e-3",
        "trainer.limit_batches=2",
        "trainer.batch_size=16",
    ]
    command = [sys.executable, str(script), *options, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 2 times: 1 parent, 3 children" in done.stdout
    assert "equal in every row" in done.stdout and "no epoch was trained twice" in done.stdout


def test_a_run_is_reproduced_or_what_differs_is_shown(tmp_path: Path) -> None:
    def pneumo(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", f"pneumo.{name}", *more, f"output_dir={tmp_path / 'outputs'}"]
        own = environment(tmp_path, OMP_NUM_THREADS="1")
        return subprocess.run(line, capture_output=True, text=True, timeout=600, env=own, cwd=tmp_path)

    small = "data.image_size=32 trainer.epochs=1 trainer.limit_batches=2 trainer.batch_size=16".split()
    data = data_overrides(None, train_patients=30, test_patients=10)
    assert pneumo("train", *data, *small, "tracking.enabled=false").returncode == 0
    (file,) = tmp_path.glob("outputs/*/journal.jsonl")
    again = pneumo("runs", "reproduce", file.parent.name, "run=true")
    equal, _, every = again.stdout.splitlines()[-1].partition(" of ")
    assert again.returncode == 0 and every == f"{equal} figures are equal to the last bit", again.stdout
    # As if the run had been made otherwise: one figure of its record is another.
    records, _ = read_records(file)
    next(r for r in records if "val/loss" in r["body"].get("values", {}))["body"]["values"]["val/loss"] = (
        0.125
    )
    file.write_bytes(b"".join(encode(record) for record in records))
    again = pneumo("runs", "reproduce", file.parent.name, "run=true")
    assert again.returncode == 1 and "Traceback" not in again.stderr
    assert re.search(r"val/loss +1 +0\.125 ", again.stdout), again.stdout
    assert f"{int(equal) - 1} of {equal} figures" in again.stdout
