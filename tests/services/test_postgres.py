"""Real runs tracked by a real MLflow server on a real PostgreSQL, which is killed or never there."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.commands import Hold, environment
from support.servers import Mlflow, Postgres
from support.tracked import without_ids
from support.warm import Train

from pneumo.names import HEARTBEAT_TAG, JOURNAL_TAG, MEASURED, SCORED_TAG, STARTS
from pneumo.tracking import view
from pneumo.tracking.journal import Journal

pytestmark = pytest.mark.services
OUTAGES = 3
OUTAGE_S = float(os.environ.get("PNEUMO_OUTAGE_S", 5))  # 5 to 30
EPOCHS = 8
FLUSH_S = 10
PASSWORD = "xyzzy-4711"
OVERRIDES = (
    "data=phantom data.phantom.train_patients=60 data.phantom.test_patients=20 data.image_size=32 "
    "trainer.batch_size=32 trainer.deterministic=true trainer.device=cpu trainer.ema_decay=null "
    f"trainer.epochs={EPOCHS} tracking.flush_s={FLUSH_S} output_dir=outputs"
).split()


@dataclass
class Job:
    """A run in a separate folder. All its paths are relative, so that two runs can be equal."""

    folder: Path
    uri: str
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, module: str = "train", *arguments: str) -> "subprocess.Popen[str]":
        self.folder.mkdir(exist_ok=True)
        # All jobs share one cache. One thread each, because the servers also need a core.
        own = environment(
            self.folder.parent, MLFLOW_TRACKING_URI=self.uri, OMP_NUM_THREADS="1", **self.environment
        )
        command = [sys.executable, "-m", f"pneumo.{module}", *(arguments or OVERRIDES)]
        with self.log(module).open("a") as log:
            return subprocess.Popen(command, cwd=self.folder, env=own, stdout=log, stderr=log, text=True)

    def sync(self, times_at_once: int = 1) -> str:
        """Run this many `runs sync` at once; return their output. Every one must succeed."""
        self.log("runs").unlink(missing_ok=True)
        processes = [self.start("runs", "sync", "output_dir=outputs") for _ in range(times_at_once)]
        endings = [(process.wait(), self.log("runs").read_text()) for process in processes]
        assert not any(code for code, _ in endings), endings
        return endings[-1][1]

    def says(self, *arguments: str) -> str:
        """The output of a command that succeeds."""
        module, *rest = arguments
        self.log(module).unlink(missing_ok=True)
        code = self.start(module, *rest, "output_dir=outputs").wait()
        assert code == 0, self.log(module).read_text()
        return self.log(module).read_text()

    def log(self, module: str) -> Path:
        return self.folder / f"{module}.log"

    @property
    def journal(self) -> Journal:
        (path,) = self.folder.glob("outputs/*/journal.jsonl")
        return Journal(path.parent)

    @property
    def output(self) -> str:
        return self.log("train").read_text()


def held(server: Mlflow, job: Job) -> dict[str, Any]:
    """What PostgreSQL and the artifact store hold of a run, without times and ids."""
    journal = job.journal
    (run_id,) = server.run_ids(journal)
    assert server.rows(run_id) == sorted(journal.metric_rows())

    def table(columns: str, where: str) -> Counter[tuple[Any, ...]]:
        return Counter(server.query(f"SELECT {columns} FROM {where} = :run_id", run_id=run_id))

    measured = " OR ".join(f"key LIKE '{prefix}%'" for prefix in MEASURED)
    value = f"CASE WHEN {measured} THEN NULL ELSE value END"
    downloads = job.folder / "downloads"
    downloads.mkdir()
    MlflowClient(server.uri).download_artifacts(run_id, "", str(downloads))
    artifacts = contents(downloads)
    assert_equal({"local": artifacts}, {"local": contents(journal.folder / "artifacts")})
    del artifacts[STARTS]  # each start's time and command
    # The only file that contains the tracking URI.
    artifacts["config.yaml"] = artifacts["config.yaml"].replace(server.uri.encode(), b"URI")
    return {
        "run": table("name, status, lifecycle_stage, experiment_id", "runs WHERE run_uuid"),
        "metrics": table(f"key, step, is_nan, {value}", "metrics WHERE run_uuid"),
        "latest_metrics": table(f"key, step, is_nan, {value}", "latest_metrics WHERE run_uuid"),
        "params": table("key, value", "params WHERE run_uuid"),
        "tags": Counter(
            (key, "a time" if key == SCORED_TAG else without_ids(value))
            for key, value in table("key, value", "tags WHERE run_uuid")
            if key not in (JOURNAL_TAG, HEARTBEAT_TAG)  # a run whose server was never there has no beat
        ),
        "datasets": table(
            "name, digest, dataset_source",
            "datasets JOIN inputs ON inputs.source_id = dataset_uuid WHERE destination_id",
        ),
        "artifacts": artifacts,
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Name the keys that differ, without the 45 MB of their values."""
    for table, rows in one.items():
        differing = sorted(
            {str(key) for key in {*rows, *other[table]} if rows.get(key) != other[table].get(key)}
        )
        assert not differing, f"{table}: {differing}"


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    server = Mlflow(tmp_path_factory.mktemp("server"), postgres.uri)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def late_server(
    postgres: Postgres, server: Mlflow, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mlflow]:
    """A second server for the same database and artifacts. The test starts it after the run."""
    late = Mlflow(tmp_path_factory.mktemp("late"), postgres.uri)
    late.artifacts = server.artifacts
    yield late
    late.kill()


@pytest.fixture(scope="module")
def jobs(server: Mlflow, late_server: Mlflow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two finished runs that trained at the same time: one undisturbed, one without a server."""
    folder = tmp_path_factory.mktemp("jobs")
    with_credentials = late_server.uri.replace("//", f"//me:{PASSWORD}@")
    alone, whole = Job(folder / "alone", with_credentials), Job(folder / "whole", server.uri)
    processes = [alone.start()]
    try:
        server.wait()
        processes.append(whole.start())
        codes = [processes[0].wait()]
        ended = time.time()
        codes.append(processes[1].wait())
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], alone.output + whole.output
    assert "sync" not in whole.output  # the server got all of it
    return {"whole": whole, "alone": alone, "alone_ended": ended, "expected": held(server, whole)}


def test_the_server_has_what_is_in_the_folder_of_the_undisturbed_run(jobs: dict[str, Any]) -> None:
    expected, journal = jobs["expected"], jobs["whole"].journal
    assert {*expected["artifacts"], STARTS} == set(journal.artifacts)
    assert expected["params"] == Counter(journal.params_logged.items())
    assert len(journal.history("val/auroc")) == EPOCHS
    assert [status for _, status, *_ in expected["run"]] == ["FINISHED"]


def test_a_server_killed_three_times_in_a_run(jobs: dict[str, Any], server: Mlflow) -> None:
    folder = jobs["whole"].folder.with_name("killed")
    hold = Hold(folder.with_name("hold"), 1)
    job = Job(folder, server.uri, hold.environment)
    process = job.start()

    def wait_for(count: Callable[[], int], least: int) -> None:
        deadline = time.monotonic() + 300
        while count() < least:
            assert process.poll() is None and time.monotonic() < deadline, job.output
            time.sleep(0.1)

    def journals() -> int:
        return len(list(job.folder.glob("outputs/*/journal.jsonl")))

    def epochs() -> int:
        return len(job.journal.history("val/auroc"))

    def rows() -> int:
        return sum(len(server.rows(run_id)) for run_id in server.run_ids(job.journal))

    seen = 0
    try:
        wait_for(journals, 1)
        for outage in range(1, OUTAGES + 1):
            wait_for(rows, seen + 1)  # it has just sent something
            server.kill()
            assert process.poll() is None and job.journal.status == "RUNNING", job.output
            seen = rows()
            hold.allow(1 + 2 * outage)
            wait_for(epochs, 1 + 2 * outage)  # without a server it trains on
            time.sleep(OUTAGE_S)
            server.start()
            server.wait()
        hold.release()
        assert process.wait() == 0, job.output
    finally:
        process.kill()
    assert " 0 left" in job.sync()
    assert_equal(held(server, job), jobs["expected"])


def test_a_server_that_was_never_there_is_synced_later(jobs: dict[str, Any], late_server: Mlflow) -> None:
    job = jobs["alone"]
    journal = job.journal
    end = next(line for line in reversed(journal.path.read_text().splitlines()) if '"kind":"end"' in line)
    ended_s = int(re.findall(r'"t":(\d+)', end)[0]) / 1000
    assert FLUSH_S - 1 < jobs["alone_ended"] - ended_s < FLUSH_S + 20  # the process has to end, too
    (line,) = [line for line in job.output.splitlines() if "still to be sent" in line]
    assert line.startswith(f"{journal.last} records are still to be sent")
    late_server.start()
    late_server.wait()
    assert " 0 left" in job.sync(times_at_once=2)
    assert ": 0 records sent, 0 left" in job.sync()
    assert_equal(held(late_server, job), jobs["expected"])
    # The credentials in its address are nowhere.
    for path, content in contents(job.folder).items():
        assert PASSWORD.encode() not in content, path


def test_a_run_killed_on_one_machine_is_closed_from_another(jobs: dict[str, Any], server: Mlflow) -> None:
    folder = jobs["whole"].folder.with_name("one_machine")
    hold = Hold(folder.with_name("held"), 1)
    folder.mkdir()
    own = environment(folder.parent, MLFLOW_TRACKING_URI=server.uri, OMP_NUM_THREADS="1", **hold.environment)
    run = Train([*OVERRIDES, "seed=1"], folder, folder / "train.log", own)

    def beats() -> int:
        return len(server.query("SELECT value FROM tags WHERE key = :key", key=HEARTBEAT_TAG))

    before = beats()
    deadline = time.monotonic() + 300
    while beats() == before:
        assert run.poll() is None and time.monotonic() < deadline, (folder / "train.log").read_text()
        time.sleep(0.1)
    (path,) = folder.glob("outputs/*/journal.jsonl")
    fingerprint = path.parent.name
    other = Job(folder.with_name("other_machine"), server.uri)
    try:
        assert re.search(rf"{fingerprint} .* RUNNING .*last sign of life 0:0", other.says("runs", "status"))
    finally:
        run.kill()
    client = MlflowClient(server.uri)
    (run_id,) = server.run_ids(Journal(path.parent))
    assert client.get_run(run_id).info.status == "RUNNING"  # nobody could report its end
    client.set_tag(run_id, HEARTBEAT_TAG, "2026-01-01T00:00:00Z")  # as if five minutes had passed
    assert re.search(rf"{fingerprint} .* STALE ", other.says("runs", "status"))
    assert "closed as KILLED" in other.says("runs", "sync", f"tracking.uri={server.uri}")
    assert client.get_run(run_id).info.status == "KILLED"
    assert fingerprint not in other.says("runs", "status")
    hold.release()
    again = Train([*OVERRIDES, "seed=1"], folder, folder / "train.log", own)
    assert again.wait(300) == 0, (folder / "train.log").read_text()
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(server.run_ids(Journal(path.parent))) == 1


def test_the_saved_view_of_the_experiment_is_in_the_database(jobs: dict[str, Any], server: Mlflow) -> None:
    (experiment,) = {run.info.experiment_id for run in MlflowClient(server.uri).search_runs(["1"])}
    tags = MlflowClient(server.uri).get_experiment(experiment).tags
    assert f"mlflow.sharedViewState.{view.KEY}" in tags
