"""The rows of a prediction that is not finished: whole rows are kept, and only for the same settings."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import environment

from pneumo import UserError
from pneumo.inference.side_file import Entry, SideFile

ROWS = [Entry({"path": f"{number}.png\udcff"}, ["NORMAL"]) for number in range(3)]
RECORD = {"model": "pneumo 3", "threshold": None}


def filled(output: Path) -> Path:
    side = SideFile(output, RECORD)
    side.append(ROWS)
    side.close()
    return side.path


def test_a_row_that_was_cut_short_is_dropped_wherever_the_cut_is(tmp_path: Path) -> None:
    path = filled(tmp_path / "out.csv")
    content = path.read_bytes()
    ends = [0, *(at + 1 for at, byte in enumerate(content) if byte == 10)]
    for cut in range(0, len(content), 7):
        path.write_bytes(content[:cut])
        side = SideFile(tmp_path / "out.csv", RECORD, resume=True)
        whole = max(0, sum(end <= cut for end in ends) - 2)
        assert [*side.entries()] == ROWS[:whole] and len(side) == whole
        side.append(ROWS[whole:])
        side.close()
        assert path.read_bytes() == content


def test_what_differs_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = filled(tmp_path / "out.csv")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"3 rows .*threshold was null and is 0\.5; more was null and is 1"):
        SideFile(tmp_path / "out.csv", {**RECORD, "threshold": 0.5, "more": 1}, resume=True)
    assert path.read_bytes() == before
    side = SideFile(tmp_path / "out.csv", {**RECORD, "threshold": 0.5})
    assert side.given_up == 3 and len(side) == 0 and not [*side.entries()]
    side.close(remove=True)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"[]\n", b'{"format": 9, "record": {}}\n', b"\xff\n{}\n"])
def test_another_file_of_that_name_is_begun_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.csv.part").write_bytes(content)
    side = SideFile(tmp_path / "out.csv", RECORD, resume=True)
    assert len(side) == 0
    side.append(ROWS)
    side.close()
    assert [*SideFile(tmp_path / "out.csv", RECORD, resume=True).entries()] == ROWS


def test_only_one_process_writes_it(tmp_path: Path) -> None:
    side = SideFile(tmp_path / "out.csv", RECORD)
    side.append(ROWS)
    with pytest.raises(UserError, match="another prediction is writing it"):
        SideFile(tmp_path / "out.csv", RECORD)
    side.close()
    assert len(SideFile(tmp_path / "out.csv", RECORD, resume=True)) == 3


def test_a_folder_cannot_be_the_output(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(UserError, match=r"out\.csv is a folder"):
        SideFile(tmp_path / "out.csv", RECORD)


def test_a_full_disk_keeps_whole_rows(tmp_path: Path) -> None:
    """A limit on the size of files is refused in the middle of a write, as a full disk is."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from pneumo import UserError\n"
        "from pneumo.inference.side_file import Entry, SideFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "side = SideFile(Path('out.csv'), {})\n"
        "try:\n"
        "    for number in range(100):\n"
        "        side.append([Entry({'path': f'{number}.png'}, ['NORMAL'])])\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert "the disk is full" in done.stdout and "add resume=true" in done.stdout, done.stderr
    assert (tmp_path / "out.csv.part").read_bytes().endswith(b"}\n")
    side = SideFile(tmp_path / "out.csv", {}, resume=True)
    rows = [entry.row for entry in side.entries()]
    assert len(rows) > 5 and rows == [{"path": f"{number}.png"} for number in range(len(rows))]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv.part"]
