"""`pneumo ui`: which store is served, on which port, and what is opened."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.commands import Command, environment

from pneumo import UserError, ui
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
    monkeypatch.setattr(ui, "_page", lambda uri, experiment: f"/#/experiments/{experiment}")
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    monkeypatch.setenv("BROWSER", "a")
    tracking = TrackingSettings(uri="http://me:s3cret@127.0.0.1:5000/", experiment="x")
    assert ui.show(ui.UiConfig(tracking=tracking)) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:5000/#/experiments/x\n"
    assert opened == ["http://me:s3cret@127.0.0.1:5000/#/experiments/x"]
    opened.clear()
    assert ui.show(ui.UiConfig(tracking=tracking, open=False)) == 0 and not opened


def test_the_store_reaches_the_server_by_environment(tmp_path: Path) -> None:
    made = ui.server_environment(f"sqlite:///{tmp_path}/mlflow.db")
    assert made["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert made["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == f"{tmp_path}/mlartifacts"


def test_a_server_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ui, "_page", lambda uri, experiment: "/")
    monkeypatch.setattr(ui.sys, "executable", "/bin/false")
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match="the server did not start: it printed nothing"):
        ui.show(ui.UiConfig(tracking=tracking, open=False))


@pytest.mark.parametrize(("argument", "words"), [("port=0", "port=0"), ("prot=1", "Did you mean port?")])
def test_wrong_usage(command: Command, argument: str, words: str) -> None:
    ending = command("ui", argument)
    assert ending.code == 2 and words in ending.err


@pytest.mark.services
def test_the_experiments_page_is_served_until_terminated(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    number = MlflowClient(uri).create_experiment("mine")
    line = [sys.executable, "-m", "pneumo", "ui", "tracking.experiment=mine", "open=false"]
    variables = environment(tmp_path, MLFLOW_TRACKING_URI=uri)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=variables, cwd=tmp_path)
    assert process.stdout
    try:
        address = process.stdout.readline().strip()
        assert re.fullmatch(
            rf"http://127.0.0.1:\d+/#/experiments/{number}/runs\?workflowType=machine_learning", address
        )
        base = address.partition("/#")[0]
        with urllib.request.urlopen(
            f"{base}/ajax-api/2.0/mlflow/experiments/get?experiment_id={number}"
        ) as page:
            assert b'"mine"' in page.read()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{base}/health", timeout=5)
    finally:
        process.kill()
