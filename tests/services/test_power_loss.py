"""Power losses on LazyFS; `python tools/power_losses.py --losses 20` does more."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from power_losses import RUN, SWEEP, Losses, lose
from support.journals import artifact
from support.lazyfs import LazyDisk, build

from pneumo.tracking.journal import Journal
from pneumo.tracking.sender import sync
from pneumo.tracking.settings import TrackingSettings

pytestmark = pytest.mark.services
# The tool's sweep, shorter.
SHORT = [text for text in SWEEP if not text.startswith(("seed=", "trainer.epochs="))]
SHORT += ["trainer.epochs=6", "seed=0,1"]
SETTINGS = TrackingSettings(flush_s=20)


@pytest.fixture(scope="module")
def lazyfs() -> Path:
    try:
        return build()
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def disk(lazyfs: Path, tmp_path: Path) -> Iterator[LazyDisk]:
    disk = LazyDisk(lazyfs, tmp_path / "lazy")
    try:
        disk.mount()
    except LookupError as error:
        pytest.skip(str(error))
    yield disk
    disk.unmount()


def test_only_synced_content_survives(disk: LazyDisk) -> None:
    """The disk does what the tests below rely on."""
    with (disk.folder / "file").open("wb", buffering=0) as file:
        file.write(bytes(10_000))
        os.fsync(file.fileno())
        file.write(bytes(5_000))
    (disk.folder / "unsynced").write_bytes(bytes(10_000))
    disk.lose_power()
    assert (disk.folder / "file").stat().st_size == 10_000
    assert (disk.folder / "unsynced").read_bytes() == b""


def test_what_the_tracker_has_is_not_lost_from_the_journal(
    disk: LazyDisk, tmp_path: Path, empty_store: Path
) -> None:
    """Records after a loss must not get the numbers of lost ones that are noted as sent."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    journal = Journal(disk.folder / "run")
    journal.start("run", "pneumo", {})
    artifact(journal, "starts.json", b"[1]")
    journal.close()
    assert sync(journal.folder, SETTINGS, uri).left == 0
    disk.lose_power()
    again = Journal(journal.folder)
    artifact(again, "starts.json", b"[1, 2]")
    again.close()
    assert sync(again.folder, SETTINGS, uri).left == 0
    (copy,) = (tmp_path / "mlartifacts").rglob("starts.json")
    assert copy.read_bytes() == b"[1, 2]"


@pytest.mark.parametrize("title, overrides, count", [("run", RUN, 2), ("sweep", SHORT, 1)])
def test_losses_leave_no_trace(
    title: str, overrides: list[str], count: int, lazyfs: Path, tmp_path: Path
) -> None:
    losses = Losses(overrides, tmp_path, lazyfs)
    assert lose(title, losses, count, random.Random()) == []
