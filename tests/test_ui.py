"""`pneumo ui`: which store is served, on which port, and what is opened."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.commands import Command, environment

from pneumo import UserError, ui
from pneumo.tracking.courier import note_path
from pneumo.tracking.journal import Journal
from pneumo.tracking.settings import TrackingSettings


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < ui.free_port(port) < port + ui.PORTS_TRIED


def test_a_server_that_runs_already_is_only_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(ui, "_page", lambda uri, settings: f"/#/experiments/{settings.tracking.experiment}")
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    monkeypatch.setenv("BROWSER", "a")
    tracking = TrackingSettings(uri="http://me:s3cret@127.0.0.1:5000/", experiment="x")
    assert ui.show(ui.UiConfig(tracking=tracking)) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:5000/#/experiments/x\n"
    assert opened == ["http://me:s3cret@127.0.0.1:5000/#/experiments/x"]
    opened.clear()
    assert ui.show(ui.UiConfig(tracking=tracking, open=False)) == 0 and not opened


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server process that answers /health, as MLflow's does, and its port."""
    (tmp_path / "health").write_text("OK")
    port = ui.free_port(5000)
    line = [
        sys.executable,
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(tmp_path),
        str(port),
    ]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        yield server, port
        server.kill()


def test_the_answer_of_our_own_server_counts(answering: tuple[subprocess.Popen[bytes], int]) -> None:
    assert ui._wait_until_ready(*answering, io.BytesIO())


@pytest.mark.parametrize("ours", [["sleep", "60"], ["false"]], ids=["starting", "ended"])
def test_the_answer_of_another_program_on_the_port_does_not_count(
    answering: tuple[subprocess.Popen[bytes], int], ours: list[str]
) -> None:
    another, port = answering
    assert ui._wait_until_ready(another, port, io.BytesIO())  # it listens by now
    with subprocess.Popen(ours) as server:
        assert not ui._wait_until_ready(server, port, io.BytesIO())
        server.kill()


def test_the_store_reaches_the_server_by_environment(tmp_path: Path) -> None:
    made = ui.server_environment(f"sqlite:///{tmp_path}/mlflow.db")
    assert made["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert made["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == f"{tmp_path}/mlartifacts"


def test_a_server_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ui, "_page", lambda uri, settings: "/")
    monkeypatch.setattr(ui.sys, "executable", "/bin/false")
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match="the server did not start: it printed nothing"):
        ui.show(ui.UiConfig(tracking=tracking, open=False))


@pytest.mark.parametrize(("argument", "words"), [("port=0", "port=0"), ("prot=1", "Did you mean port?")])
def test_wrong_usage(command: Command, argument: str, words: str) -> None:
    ending = command("ui", argument)
    assert ending.code == 2 and words in ending.err


def start_ui(folder: Path, experiment: str) -> tuple[subprocess.Popen[str], str]:
    """`pneumo ui` of a new store in `folder` that holds `experiment`, and the experiment's id."""
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(experiment)
    number = known.experiment_id if known else client.create_experiment(experiment)
    line = [sys.executable, "-m", "pneumo", "ui", f"tracking.experiment={experiment}", "open=false"]
    variables = environment(folder, MLFLOW_TRACKING_URI=uri)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=variables, cwd=folder)
    return process, number


def served(base: str, number: str) -> bytes:
    """What the server at `base` answers about an experiment; no proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address = f"{base}/ajax-api/2.0/mlflow/experiments/get?experiment_id={number}"
    with opener.open(address, timeout=60) as page:
        return page.read()


@pytest.mark.services
def test_two_at_once_serve_their_own_stores(tmp_path: Path, empty_store: Path) -> None:
    started = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_store, tmp_path / name / "mlflow.db")
        started[name] = start_ui(tmp_path / name, name)
    try:
        bases = {}
        for name, (process, number) in started.items():
            assert process.stdout
            bases[name] = process.stdout.readline().partition("/#")[0]
            assert f'"{name}"'.encode() in served(bases[name], number)
        assert bases["one"] != bases["two"]
    finally:
        for process, _ in started.values():
            process.terminate()  # not killed: it ends its server
            process.wait(60)


@pytest.mark.services
def test_the_experiments_page_is_served_until_terminated(tmp_path: Path) -> None:
    process, number = start_ui(tmp_path, "mine")
    assert process.stdout
    try:
        address = process.stdout.readline().strip()
        page = rf"http://127.0.0.1:\d+/#/experiments/{number}/runs\?workflowType=machine_learning"
        assert re.fullmatch(page, address)
        again, _ = start_ui(tmp_path, "mine")  # a second one opens the page of the first one's server
        assert again.communicate(timeout=60)[0].strip() == address and again.returncode == 0
        base = address.partition("/#")[0]
        assert b'"mine"' in served(base, number)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
        with pytest.raises(OSError):
            served(base, number)
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"run": "aa11"}, "/#/experiments/7/runs/" + "c" * 32),
        ({"run": "the name"}, "/#/experiments/7/runs/" + "c" * 32),
        ({"sweep_id": "one"}, "/#/experiments/7/runs?"),
    ],
)
def test_a_run_and_a_sweep_are_opened(
    tmp_path: Path, settings: dict[str, str], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "http://127.0.0.1:9"  # it is not asked
    for folder, name in (("aa11", "the name"), ("sweeps/one", "one")):
        journal = Journal(tmp_path / folder)
        journal.start(name, "pneumo", {})
        journal.close()
        note = {"uri": uri, "run_id": "c" * 32, "experiment_id": "7", "sequence": 1}
        note_path(journal.folder, uri).write_text(json.dumps(note))
    tracking = TrackingSettings(uri=uri)
    assert ui.show(ui.UiConfig(**settings, open=False, output_dir=str(tmp_path), tracking=tracking)) == 0
    assert capsys.readouterr().out.startswith(f"{uri}{path}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sweep_id": "two"}, "sweep_id=two is not known; there are one"),
        ({"sweep_id": "one"}, "one is not in http://127.0.0.1:9 yet: `pneumo runs sync` sends it"),
        ({"run": "a", "sweep_id": "one"}, "exclude each other"),
    ],
)
def test_a_page_that_is_not_there_is_named(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    journal = Journal(tmp_path / "sweeps/one")
    journal.start("one", "pneumo", {})
    journal.close()
    tracking = TrackingSettings(uri="http://127.0.0.1:9")
    with pytest.raises(UserError, match=words):
        ui.show(ui.UiConfig(**settings, open=False, output_dir=str(tmp_path), tracking=tracking))
