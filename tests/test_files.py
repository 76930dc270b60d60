"""Files that several processes share."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pneumo import UserError
from pneumo.files import Busy, locked, read_bounded, write_atomically

HOLDER = """
import sys, time
from pathlib import Path
from pneumo import UserError
from pneumo.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(Busy, match=str(path)), locked(path, wait_s=0.2):
            pass
        assert 0.2 <= time.monotonic() - started < 10
        holder.kill()
    with locked(path), pytest.raises(Busy), locked(path):
        pass
    with locked(path):
        pass


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"a long content")
    write_atomically(path, b"short")
    assert path.read_bytes() == b"short" and [file.name for file in path.parent.iterdir()] == ["file"]


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(UserError, match="more than the limit of 4"):
        read_bounded(path, 4)
    with pytest.raises(UserError, match="is missing or is not a file"):
        read_bounded(tmp_path, 4)
