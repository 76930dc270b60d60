"""A printed command finds the same store and folder; the page of a run is an address or a command."""

import json
import shlex
from pathlib import Path

import pytest

from pneumo import places
from pneumo.config_files import project_dir
from pneumo.tracking.courier import note_path

SERVER = "http://127.0.0.1:5000"


def test_defaults_are_not_repeated() -> None:
    found = places.command("runs sync", uri=places.default_uri(), output_dir=project_dir() / "outputs")
    assert found == "pneumo runs sync"


def test_what_differs_from_the_defaults_is_in_the_command() -> None:
    found = places.command("compare", uri=SERVER, output_dir="/my runs", sweep_id="one")
    assert shlex.split(found) == [
        *("pneumo", "compare", "sweep_id=one", "output_dir=/my runs", f"tracking.uri={SERVER}")
    ]


def test_a_password_is_not_printed() -> None:
    assert "secret" not in places.command("runs sync", uri="postgresql://me:secret@host/runs")


@pytest.mark.parametrize(("folder", "kind"), [("aa11", "run"), ("sweeps/one", "sweep_id")])
def test_the_page_of_a_run_and_of_a_sweep(tmp_path: Path, folder: str, kind: str) -> None:
    made = tmp_path / "outputs" / folder
    made.mkdir(parents=True)
    assert places.page(made, SERVER).startswith(f"pneumo ui {kind}={made.name} output_dir=")
    note = {"uri": SERVER, "run_id": "ab" * 16, "experiment_id": "7", "sequence": 1}
    note_path(made, SERVER).write_text(json.dumps(note))
    found = places.page(made, SERVER)
    assert found.startswith(f"{SERVER}/#/experiments/7/runs") and "ab" * 16 in found
