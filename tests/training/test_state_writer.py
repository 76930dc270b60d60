"""States written in a thread: the newest wins, errors come back, and states refer to existing weights."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pneumo.training import state_writer
from pneumo.training.checkpoint import load_resume
from pneumo.training.state_writer import BestWeights, Snapshot, StateWriter, host_copy


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[StateWriter]:
    made = StateWriter(tmp_path)
    yield made
    made.close()


def best(folder: Path, epoch: int) -> BestWeights:
    path = folder / f"best-{epoch:05d}.safetensors"
    return BestWeights(path=path, state={"w": torch.full((2,), float(epoch))}, facts={"epoch": epoch})


def snapshot(folder: Path, epoch: int, best_epoch: int, new_best: bool = False) -> Snapshot:
    return Snapshot(
        step=epoch * 1_000_000,
        epochs=epoch,
        state={"identity": {}, "epoch": epoch},
        best_epoch=best_epoch,
        best=best(folder, best_epoch) if new_best else None,
    )


class SlowDisk:
    """Holds the first write until `release` is set, and counts the writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.release, self.steps = threading.Event(), threading.Event(), list[int]()
        save = state_writer.save_resume

        def slow(folder: Path, state: dict[str, object], step: int) -> None:
            self.begun.set()
            assert self.release.wait(30)
            self.steps.append(step)
            save(folder, state, step)

        monkeypatch.setattr(state_writer, "save_resume", slow)


def test_a_state_is_written_in_the_background(tmp_path: Path, writer: StateWriter) -> None:
    writer.submit(snapshot(tmp_path, 1, 1, new_best=True))
    writer.drain()
    state = load_resume(tmp_path)
    assert state is not None and state["epoch"] == 1 and writer.written == 1
    assert (tmp_path / "best-00001.safetensors").is_file()


def test_epochs_shorter_than_a_write_share_one(
    tmp_path: Path, writer: StateWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    writer.submit(snapshot(tmp_path, 1, 1, new_best=True))
    assert disk.begun.wait(30)
    for epoch in (2, 3, 4):
        writer.submit(snapshot(tmp_path, epoch, epoch, new_best=True))
    assert writer.written == 0
    disk.release.set()
    writer.drain()
    assert disk.steps == [1_000_000, 4_000_000] and writer.written == 4


def test_best_weights_of_a_replaced_state_are_not_lost(
    tmp_path: Path, writer: StateWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    writer.submit(snapshot(tmp_path, 1, 1, new_best=True))
    assert disk.begun.wait(30)
    writer.submit(snapshot(tmp_path, 2, 2, new_best=True))
    writer.submit(snapshot(tmp_path, 3, 2))  # epoch 3 was not better
    disk.release.set()
    writer.drain()
    facts = json.loads((tmp_path / "best-00002.json").read_text())
    assert facts["epoch"] == 2 and writer.written == 3


def test_weights_that_a_kept_state_names_stay(tmp_path: Path, writer: StateWriter) -> None:
    for epoch in (1, 2, 3):
        writer.submit(snapshot(tmp_path, epoch, epoch, new_best=True))
        writer.drain()
    there = sorted(path.name for path in tmp_path.glob("best-*.safetensors"))
    assert there == ["best-00002.safetensors", "best-00003.safetensors"]


def test_an_error_comes_back_once(
    tmp_path: Path, writer: StateWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_writer, "save_resume", full)
        writer.submit(snapshot(tmp_path, 1, 1))
        with pytest.raises(OSError, match="No space"):
            writer.drain()
    writer.submit(snapshot(tmp_path, 2, 2))
    writer.drain()
    assert writer.written == 2


def test_close_lets_a_write_end_and_drops_what_waits(
    tmp_path: Path, writer: StateWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    writer.submit(snapshot(tmp_path, 1, 1))
    assert disk.begun.wait(30)
    writer.submit(snapshot(tmp_path, 2, 2))
    closing = threading.Thread(target=writer.close)
    closing.start()
    disk.release.set()
    closing.join(30)
    assert not closing.is_alive()
    assert disk.steps == [1_000_000] and writer.written == 1


def test_a_host_copy_does_not_change_with_its_source() -> None:
    source = {"a": torch.zeros(2), "b": [torch.zeros(1), 3], "c": (torch.zeros(1),)}
    copy = host_copy(source)
    source["a"].fill_(1)
    source["b"][0].fill_(1)  # type: ignore[index]
    assert copy["a"].sum() == 0 and copy["b"][0].sum() == 0 and copy["b"][1] == 3
    assert isinstance(copy["c"], tuple)
