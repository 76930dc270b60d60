"""Runs read back from MLflow."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.journals import begun, whole

from pneumo import UserError
from pneumo.tracking.reading import Reader, local_folder
from pneumo.tracking.sender import sync
from pneumo.tracking.settings import TrackingSettings

SETTINGS = TrackingSettings(flush_s=20)


@pytest.fixture
def reader(tmp_path: Path, uri: str) -> Reader:
    """Of a store with one finished run and one that still trains."""
    for journal in (whole(tmp_path / "finished"), begun(tmp_path / "trains")):
        journal.close()
        assert sync(journal.folder, SETTINGS, uri).left == 0
    return Reader(uri)


def test_finished_runs_come_with_their_files(reader: Reader) -> None:
    runs = reader.find("pneumo")
    (run,), (unfinished,) = runs.runs, runs.unfinished
    assert (run.name, run.status, unfinished.name) == ("finished", "FINISHED", "trains")
    assert run.files == {"config.yaml": "seed: 0\n"} and run.weights_bytes is None
    assert run.facts == {} and runs.parent is None
    assert [row["epoch"] for row in reader.history(run)] == [1, 2, 3]
    assert reader.history(run)[0]["train/m7"] == 2.0


def test_a_run_costs_its_peak_of_memory_and_the_median_of_its_times(tmp_path: Path, uri: str) -> None:
    journal = begun(tmp_path / "run")
    for epoch, (time_s, memory_mib) in enumerate([(5.0, 900.0), (1.0, 1200.0), (2.0, 1100.0)], start=1):
        journal.metrics({"time/epoch_s": time_s, "memory/peak_mib": memory_mib}, epoch)
    journal.end("FINISHED")
    sync(journal.folder, SETTINGS, uri)
    (run,) = Reader(uri).find("pneumo").runs
    assert run.measured == {"time/epoch_s": 2.0, "memory/peak_mib": 1200.0}


def test_what_is_missing_is_named(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"experiment=other is not in .*it holds Default, pneumo"):
        reader.find("other")
    with pytest.raises(UserError, match=r"sweep_id=s is not in experiment pneumo, which holds no sweep"):
        reader.find("pneumo", "s")
    with pytest.raises(UserError, match=r"none\.db does not exist"):
        Reader(f"sqlite:///{tmp_path}/none.db")


def test_uploaded_files_are_artifacts_of_the_run(reader: Reader, tmp_path: Path, uri: str) -> None:
    (tmp_path / "page" / "figures").mkdir(parents=True)
    for name in ("index.html", "figures/a.png"):
        (tmp_path / "page" / name).write_text(name)
    (run,) = reader.find("pneumo").runs
    reader.upload(run, tmp_path / "page", ["index.html", "figures/a.png"], "comparison")
    client = MlflowClient(uri)
    assert {file.path for file in client.list_artifacts(run.run_id, "comparison")} == {
        "comparison/index.html",
        "comparison/figures",
    }


def test_only_folders_of_this_machine_are_local(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    assert (
        local_folder((tmp_path / "a b").as_uri()) == tmp_path / "a b" == local_folder(str(tmp_path / "a b"))
    )
    for uri in (
        "s3://bucket/a",
        "mlflow-artifacts:/1/a",
        f"file://elsewhere{tmp_path}",
        f"{tmp_path}/missing",
    ):
        assert local_folder(uri) is None
