"""`pneumo runs`: sub-commands with keys of their own."""

import json
import re
from pathlib import Path

import pytest
from support.commands import Command
from support.model_tracker import ModelTracker

from pneumo import runs
from pneumo.tracking.courier import note_path
from pneumo.tracking.journal import Journal


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two runs and a sweep, as training leaves their journals."""
    root = tmp_path / "outputs"
    for folder, status in (("aa11", "FINISHED"), ("bb22", "FAILED"), ("sweeps/one", "FINISHED")):
        journal = Journal(root / folder)
        journal.start(f"name of {folder}", "pneumo", {"pneumo.fingerprint": folder})
        journal.params({"model.name": "resnet18", "trainer.epochs": 3})
        journal.metrics({"time/epoch_s": 1.0, "val/auroc": 0.75}, 2)
        journal.end(status, None if status == "FINISHED" else "no more disk")
        journal.close()
    return root


def test_bare_runs_prints_the_sub_commands(command: Command) -> None:
    ending = command("runs")
    assert ending.code == 2 and not ending.out
    for action in runs.ACTIONS:
        assert f"  {action} " in ending.err


@pytest.mark.parametrize("action", runs.ACTIONS)
def test_help_of_each_sub_command(command: Command, action: str) -> None:
    ending = command("runs", action, "-h")
    assert ending.code == 0 and ending.out.count(f"\n  pneumo runs {action}") == 3
    assert "output_dir" in ending.out and "trainer" not in ending.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("stats",), "'stats' is not a sub-command of pneumo runs; .* Did you mean status?"),
        (("status", "wacth=5"), "key wacth is not known; runs status has which, .* Did you mean watch?"),
        (("status", "watch=x"), "watch=x is not a number or null"),
        (("status", "watch=-1"), "watch=-1.0 must not be negative"),
        (("status", "aa11", "sweep_id=one"), "exclude each other"),
        (("reproduce",), "reproduce which run?"),
        (("reproduce", "x", "run=maybe"), "run=maybe is not true or false"),
        (("register", "x"), "alias=champion"),
        (("export", "x"), "output=model.onnx"),
    ],
)
def test_wrong_usage_ends_with_two(command: Command, arguments: tuple[str, ...], words: str) -> None:
    ending = command("runs", *arguments)
    assert ending.code == 2 and re.search(words.replace("?", r"\?"), ending.err), ending.err
    assert "Traceback" not in ending.err and ending.err.count("error:") == 1


def test_status_shows_runs_and_one_run(command: Command, outputs: Path) -> None:
    ending = command("runs", "status", f"output_dir={outputs}")
    assert ending.code == 0 and "no more disk" in ending.out and "0.7500" in ending.out
    assert "status sweep_id=one shows its jobs" in ending.out and "2/3" in ending.out
    one = command("runs", "status", "name of aa11", f"output_dir={outputs}")
    assert one.code == 0 and "aa11" in one.out and "bb22" not in one.out and "sweep" not in one.out


@pytest.mark.parametrize("action", ["status", "reproduce"])
def test_a_run_is_found_by_its_id_in_the_given_tracker(
    command: Command, outputs: Path, action: str, tmp_path: Path
) -> None:
    uris = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two")]
    for folder, uri, run_id in zip(("aa11", "bb22"), uris, ("ca" * 16, "cb" * 16), strict=True):
        note_path(outputs / folder, uri).write_text(json.dumps({"uri": uri, "run_id": run_id, "sequence": 1}))
    assert "2 runs" in command("runs", action, "c", f"output_dir={outputs}").err
    ending = command("runs", action, "c", f"output_dir={outputs}", f"tracking.uri={uris[1]}")
    assert "2 runs" not in ending.err and "bb22" in ending.out + ending.err
    assert not any(Path(uri.removeprefix("sqlite:///")).exists() for uri in uris)  # MLflow is not asked


def test_the_old_spelling_of_a_sweep_works(command: Command, outputs: Path) -> None:
    ending = command("runs", "status", "sweep=two", f"output_dir={outputs}")
    assert ending.code == 1 and "note: sweep= is the old spelling; write sweep_id=" in ending.err
    assert "sweep_id=two is not known; there are one" in ending.err


def test_sync_sends_one_run(command: Command, outputs: Path) -> None:
    ending = command("runs", "sync", "aa11", f"output_dir={outputs}")
    assert ending.code == 0, ending.err
    assert re.search(r"aa11: [1-9]\d* records sent, 0 left", ending.out) and "bb22" not in ending.out


@pytest.mark.parametrize("action", [("register", "alias=champion"), ("export", "output=x.onnx")])
def test_an_unknown_run_is_named(command: Command, outputs: Path, action: tuple[str, str]) -> None:
    ending = command("runs", action[0], "nothing", action[1], f"output_dir={outputs}")
    assert ending.code == 1 and re.search("not a (known )?run|nor a known run", ending.err), ending.err
    assert "Traceback" not in ending.err


def test_register_prints_the_command_that_uses_the_model(command: Command, tracker: ModelTracker) -> None:
    uri, cache = f"tracking.uri={tracker.uri}", f"cache_dir={tracker.folder}/cache"
    ending = command("runs", "register", tracker.run(), "alias=champion", uri, cache)
    assert ending.code == 0, ending.err
    assert ending.out.endswith("\nuse it: pneumo predict model=models:/pneumo@champion input=DIR\n")
