"""A disk that is quicker than any training, for tests that count states."""

import pytest

from pneumo.training.state_writer import Snapshot, StateWriter


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state is written: none is replaced by the next while it waits."""
    submit = StateWriter.submit

    def submit_and_wait(writer: StateWriter, snapshot: Snapshot) -> None:
        submit(writer, snapshot)
        writer.drain()

    monkeypatch.setattr(StateWriter, "submit", submit_and_wait)
