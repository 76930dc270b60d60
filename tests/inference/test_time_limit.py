"""A time limit for each read: what takes longer is given up, and nothing waits for it for ever."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.commands import environment

from pneumo.data.limits import BadImage
from pneumo.inference.time_limit import TimeLimit


def failing() -> None:
    raise TimeoutError("the disk's own")


@pytest.mark.parametrize("seconds", [None, 30])
def test_a_read_returns_or_raises_what_it_would_alone(seconds: float | None) -> None:
    limit = TimeLimit(seconds, 2)
    assert [limit.run("x.png", lambda number=number: number) for number in range(5)] == [*range(5)]
    with pytest.raises(TimeoutError, match="the disk's own"):
        limit.run("x.png", failing)


def test_a_slow_read_is_given_up_and_the_next_one_begins() -> None:
    may, limit = threading.Event(), TimeLimit(0.2, 2)
    with pytest.raises(BadImage, match=r"slow\.png: it took more than 0\.2 seconds to read"):
        limit.run("slow.png", may.wait)
    assert limit.run("next.png", lambda: 1) == 1
    may.set()


def test_no_more_reads_run_than_may_and_the_next_file_waits_its_time() -> None:
    may, limit = threading.Event(), TimeLimit(0.2, 2)
    for name in ("1.png", "2.png"):
        with pytest.raises(BadImage, match=r"took more than"):
            limit.run(name, may.wait)
    before = time.monotonic()
    with pytest.raises(BadImage, match=r"3\.png: not read: 2 files that are slow to read were before it"):
        limit.run("3.png", pytest.fail)
    assert time.monotonic() - before >= 0.2
    may.set()
    assert TimeLimit(30, 1).run("4.png", lambda: 1) == 1
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # the two have ended, so both places are free again
        try:
            assert limit.run("5.png", lambda: 1) == 1
            break
        except BadImage:
            continue
    else:
        pytest.fail("a read that ended late keeps its place")


def test_a_command_ends_while_a_read_does_not(tmp_path: Path) -> None:
    code = (
        "import threading\n"
        "from pneumo.data.limits import BadImage\n"
        "from pneumo.inference.time_limit import TimeLimit\n"
        "try:\n    TimeLimit(0.1, 1).run('x', threading.Event().wait)\n"
        "except BadImage as error:\n    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0 and "took more than 0.1 seconds" in ended.stdout, ended.stderr
