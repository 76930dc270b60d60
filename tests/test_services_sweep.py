"""Real kills of a real sweep, small; `python tests/kill_a_sweep.py --kills 8 --failures --two` does more."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.services


def test_a_sweep_killed_twice_ends_as_if_undisturbed(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_a_sweep.py")
    options = ["--kills", "2", "--patients", "30", "--work-dir", str(tmp_path)]
    overrides = [
        "model.dropout=0.1",
        "optim.lr=1e-3,2e-3,3e-3",
        "trainer.limit_batches=2",
        "trainer.batch_size=16",
    ]
    command = [sys.executable, str(script), *options, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 2 times: 1 parent, 3 children" in done.stdout
    assert "equal in every row" in done.stdout and "no epoch was trained twice" in done.stdout
