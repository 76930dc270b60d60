"""A disk that is full wherever a run writes: a clear error, exit 1, and the same command goes on."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.commands import Hold, environment, small_run
from support.warm import Train

from pneumo.tracking.journal import Journal

EPOCHS = 12  # their lines in the journal take more than a page
SMALL = small_run(
    epochs=EPOCHS,
    limit_batches=1,
    batch_size=4,
    more=["tracking.enabled=false", "trainer.precision=float32"],
)
PAGE = 4096


class Disk:
    """A file system in memory whose size is changed while it is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True)

    def used(self) -> int:
        info = os.statvfs(self.folder)
        return (info.f_blocks - info.f_bfree) * info.f_frsize

    def leave_free(self, room: int) -> None:
        assert self.mount("remount", f"size={max(self.used() + room, PAGE)}").returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    made = Disk(tmp_path / "disk")
    try:
        mounted = made.mount("size=64k")
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    yield made
    subprocess.run(["umount", "-l", str(made.folder)], check=True)


class Training:
    """The train command in a separate process, whose output is not on the disk."""

    def __init__(self, disk: Disk, hold: Hold | None = None) -> None:
        folder = disk.folder.parent
        self.out, self.errors = folder / "out", folder / "errors"
        for file in (self.out, self.errors):
            file.unlink(missing_ok=True)
        # The figures are drawn: one too many fills the disk.
        switches = {"PNEUMO_TEST_BLANK": "", **(hold.environment if hold else {})}
        line = [*SMALL, f"output_dir={disk.folder}"]
        self.process = Train(line, folder, self.out, environment(folder, **switches), errors=self.errors)

    def ends(self) -> tuple[int, str, str]:
        """The exit code, the output and the error output."""
        return self.process.wait(300), self.out.read_text(), self.errors.read_text()

    def fails(self, file: str) -> str:
        """It ends with exit code 1 and names the file that found no room."""
        code, out, err = self.ends()
        assert code == 1, out + err
        assert "Traceback" not in err and err.startswith("error: ") and err.count("error:") == 1, err
        assert "the disk is full" in err and file in err and "the same command" in err, err
        return err


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(disk: Disk, tmp_path: Path) -> None:
    """The journal at its start, the journal in training, the weights and a figure: each meets a full disk."""
    (disk.folder / "ballast").write_bytes(bytes(16 * PAGE))
    assert "0 records are intact" in Training(disk).fails("journal.jsonl")
    (disk.folder / "ballast").unlink()
    run = next(path.parent for path in disk.folder.glob("*/journal.jsonl"))

    # Resume states, of 180 MB, on another disk: so that it is the journal that runs out of room.
    (tmp_path / "state").mkdir()
    (run / "state").symlink_to(tmp_path / "state")
    disk.leave_free(16 * PAGE)
    hold = Hold(tmp_path / "hold", 1)
    running = Training(disk, hold)
    deadline = time.monotonic() + 300
    while not Journal(run).history("val/loss") and time.monotonic() < deadline:
        assert running.process.poll() is None, running.ends()
        time.sleep(0.05)
    disk.leave_free(0)  # lines still fit into the file's last page
    hold.release()
    running.fails("journal.jsonl")
    journal = Journal(run)
    seen = len(journal.history("val/loss"))
    assert 1 <= seen < EPOCHS and journal.status in ("RUNNING", "FAILED")  # its last word may fit
    assert list((tmp_path / "state").glob("step-*.pt"))

    disk.leave_free(2**20)
    Training(disk).fails("best.safetensors")
    journal = Journal(run)
    assert journal.status == "FAILED" and "the disk is full" in str(journal.reason)
    assert len(journal.history("val/loss")) == EPOCHS
    assert not list((run / "artifacts").rglob(".*.tmp"))

    best = next((tmp_path / "state").glob("best*.safetensors"))
    disk.leave_free(best.stat().st_size + 60 * PAGE)
    Training(disk).fails("figures")
    figures = list((run / "artifacts" / "figures").glob("*"))
    assert figures and all(file.suffix == ".png" for file in figures), figures

    disk.leave_free(64 * 2**20)
    code, out, err = Training(disk).ends()
    assert code == 0, out + err
    journal = Journal(run)
    assert journal.status == "FINISHED"
    rows = [(key, step) for key, _, _, step in journal.metric_rows()]
    assert len(rows) == len(set(rows))
    assert [step for step, _ in journal.history("val/loss")] == list(range(1, EPOCHS + 1))
    assert "figures/calibration_test.png" in journal.artifacts
    assert load_file(run / "artifacts" / "checkpoints" / "best.safetensors")
    assert json.loads((run / "artifacts" / "checkpoints" / "best.json").read_text())["history"]
