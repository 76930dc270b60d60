"""A state that was saved under other conditions: nothing goes on from it without a word."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import HOOKS, PROJECT, Command, Hold, environment, import_path, small_run

from pneumo import provenance
from pneumo.tracking.journal import Journal
from pneumo.tracking.run_log import RunLog

LINE = [*small_run(train_patients=24, test_patients=12, batch_size=8), "trainer.precision=float32", "seed=4"]


@pytest.fixture
def stopped(command: Command, tiny: dict, tmp_path: Path, quick_disk: None) -> Path:
    """The folder of a run that failed after its first epoch, whose state is saved."""
    metrics = RunLog.metrics

    def fail(self: RunLog, values: dict[str, float], step: int) -> None:
        metrics(self, values, step)
        raise RuntimeError("the machine failed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "metrics", fail)
        assert command("train", *LINE).code == 1
    (folder,) = [path.parent for path in (tmp_path / "outputs").glob("*/journal.jsonl")]
    assert list((folder / "state").glob("step-*.pt"))
    return folder


def edit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "CODE", "0" * 16)


def test_the_same_conditions_go_on(stopped: Path, command: Command) -> None:
    ending = command("train", *LINE)
    assert ending.code == 0 and "epoch   2" in ending.out and "epoch   1" not in ending.out
    starts = json.loads((stopped / "artifacts" / "starts.json").read_text())
    assert len(starts) == 2 and starts[0]["code"] == starts[1]["code"] == provenance.CODE
    assert starts[0]["precision"] == "float32" and "seed=4" in starts[0]["command"]
    assert "pneumo.mixed" not in Journal(stopped).tags_logged


def test_edited_code_stops_and_leaves_the_run_as_it_was(
    stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_code(monkeypatch)
    before = (stopped / "journal.jsonl").read_bytes()
    ending = command("train", *LINE)
    assert ending.code == 1 and "Traceback" not in ending.err, ending.out
    offered = ("on_code_change=keep", "on_code_change=retrain")
    for words in ("the code that decides the numbers", "0" * 16, *offered):
        assert words in ending.err
    assert (stopped / "journal.jsonl").read_bytes() == before


def test_keep_goes_on_and_tags_the_run(
    stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_code(monkeypatch)
    assert command("train", *LINE, "on_code_change=keep").code == 0
    journal = Journal(stopped)
    assert journal.status == "FINISHED" and "the code" in journal.tags_logged["pneumo.mixed"]


def test_retrain_sets_the_old_run_aside(
    stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_code(monkeypatch)
    assert command("train", *LINE, "on_code_change=retrain").code == 0
    assert Journal(stopped).status == "FINISHED" and "pneumo.mixed" not in Journal(stopped).tags_logged
    (aside,) = stopped.parent.glob(f"{stopped.name}-*")
    assert Journal(aside).status == "FAILED"


def test_another_release_goes_on_with_one_line(
    stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_code(monkeypatch)
    monkeypatch.setattr("pneumo.__version__", "9.9.9")
    ending = command("train", *LINE)
    assert ending.code == 0
    (line,) = [line for line in ending.out.splitlines() if "the release" in line]
    assert "9.9.9 now" in line


def test_another_precision_stops_and_keep_takes_the_recorded_one(
    stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` means bf16 on one machine and float32 on another; the configuration is the same."""
    resolve = provenance.start_record

    def on_another_machine(**given: object) -> provenance.StartRecord:
        return resolve(**{**given, "precision": "bf16"})  # type: ignore[arg-type]

    monkeypatch.setattr(provenance, "start_record", on_another_machine)
    ending = command("train", *LINE)
    assert ending.code == 1 and "the precision: float32 in the saved state, bf16 now" in ending.err
    assert command("train", *LINE, "on_code_change=keep").code == 0
    starts = json.loads((stopped / "artifacts" / "starts.json").read_text())
    assert starts[-1]["precision"] == "float32"


def test_keep_leaves_the_configuration_as_it_was_asked_for(
    command: Command, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_disk: None
) -> None:
    """The saved configuration is the run's identity: `auto` must not become what one machine made of it."""
    auto = [*LINE, "trainer.precision=auto"]
    metrics, start_record = RunLog.metrics, provenance.start_record

    def fail(self: RunLog, values: dict[str, float], step: int) -> None:
        metrics(self, values, step)
        raise RuntimeError("the machine failed")

    def in_another_precision(**given: object) -> provenance.StartRecord:
        other = "float32" if given["precision"] == "bf16" else "bf16"
        return start_record(**{**given, "precision": other})  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "metrics", fail)
        assert command("train", *auto).code == 1
    (file,) = (tmp_path / "outputs").glob("*/artifacts/config.yaml")
    before = file.read_text()
    monkeypatch.setattr(provenance, "start_record", in_another_precision)
    assert command("train", *auto, "on_code_change=keep").code == 0
    assert "precision: auto" in before
    assert file.read_text() == before.replace("on_code_change: stop", "on_code_change: keep")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout of this program that a test may change."""
    folder = tmp_path / "project"
    skipped = shutil.ignore_patterns("__pycache__")
    for part in ("pneumo", "conf", "sweeps"):
        shutil.copytree(PROJECT / part, folder / part, ignore=skipped)
    shutil.copy(PROJECT / "pyproject.toml", folder)
    git(folder, "init", "-q")
    commit(folder, "as started")
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, message: str) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)
    return git(folder, "rev-parse", "HEAD")


def pull(project: Path) -> None:
    """Commit a new key of data, in conf/ and in the code, and an edited module that decides the numbers."""
    settings, deciding = project / "pneumo/data/settings.py", project / "pneumo/training/optim.py"
    last = "    num_workers: int | None = None\n"
    settings.write_text(settings.read_text().replace(last, f"{last}    pulled: int = 0\n"))
    deciding.write_text(deciding.read_text() + "\n\nPULLED = 1\n")
    for file in project.glob("conf/data/*.yaml"):
        file.write_text(f"{file.read_text()}pulled: 0  # a new key\n")
    commit(project, "pulled")


def sweep_with_a_pull(project: Path, tmp_path: Path, *more: str) -> list[provenance.StartRecord]:
    """Pull while the first of two jobs trains; the record of each job's start, in turn."""
    hold = Hold(tmp_path / "hold", 1)
    switches = {"PYTHONPATH": import_path(project, HOOKS), "PNEUMO_TEST_TINY": "on"}
    paths = environment(tmp_path, **{**hold.environment, **switches})
    sweep = [sys.executable, "-m", "pneumo.train", "--multirun", *LINE[:-1], "seed=0,1", *more]
    running = subprocess.Popen(
        [*sweep, f"output_dir={tmp_path}/outputs"],
        env=paths,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("outputs/*/state/step-*.pt")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    pull(project)
    hold.release()
    out, _ = running.communicate(timeout=240)
    assert running.returncode == 0, out
    starts = [json.loads(file.read_text()) for file in tmp_path.glob("outputs/*/artifacts/starts.json")]
    assert len(starts) == 2
    return sorted((start for (start,) in starts), key=lambda start: start["time"])


def test_a_pull_during_a_sweep_changes_none_of_its_jobs(project: Path, tmp_path: Path) -> None:
    """The process has the code and the option files that it loaded, and its record says so."""
    before = git(project, "rev-parse", "HEAD")
    first, second = sweep_with_a_pull(project, tmp_path)
    assert first["commit"] == second["commit"] == before and first["code"] == second["code"]
    tags = [Journal(file.parent).tags_logged for file in tmp_path.glob("outputs/*/journal.jsonl")]
    assert {each["mlflow.source.git.commit"] for each in tags} == {before}


def test_jobs_in_other_processes_finish_after_a_pull(project: Path, tmp_path: Path) -> None:
    """A new process loads the pulled code, and has the option files of the process that began the sweep."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'pneumo[slurm]'")
    one_by_one = ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=1", "tracking.enabled=false"]
    # With a folder of the user's own, Hydra looks for the option files again for each job.
    first, second = sweep_with_a_pull(project, tmp_path, *one_by_one, f"hydra.searchpath=[{tmp_path}]")
    assert first["code"] != second["code"]
