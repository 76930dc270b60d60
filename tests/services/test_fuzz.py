"""A short run of each coverage-guided fuzzer; the long ones are started by hand (see fuzz_readers.py)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PROJECT

SCRIPT = PROJECT / "tools" / "fuzz_readers.py"
# Two cores that also trained did 2,200 images, 790 tables and 900 checkpoints in 10 s; far less is asked.
EXECUTIONS = {"image": 100, "dicom": 50, "csv": 20, "checkpoint": 90}

pytestmark = pytest.mark.services


@pytest.mark.parametrize("target", EXECUTIONS)
def test_fuzzing_finds_nothing(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer is made for Linux")
    command = [sys.executable, str(SCRIPT), target, "--seconds", "10", "--findings", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "0 findings" in done.stdout, done.stdout + done.stderr
    match = re.search(rf"{target}: (\d+) executions .* (\d+) edges", done.stdout)
    assert match is not None, done.stdout
    assert int(match[1]) >= EXECUTIONS[target] and int(match[2]) > 50, done.stdout
