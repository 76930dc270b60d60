"""What a user reads when a tracker refuses, and what works after the printed remedy. All causes are real.

With PNEUMO_OLD_MLFLOW, virtual environments with older versions of MLflow, their servers are tested too:

    python -m venv /tmp/mlflow2 && /tmp/mlflow2/bin/pip install mlflow==2.22.0 'sqlalchemy<2.1'
    PNEUMO_OLD_MLFLOW=/tmp/mlflow2 python -m pytest tests/services/test_tracker_causes.py
"""

import http.client
import logging
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from mlflow import MlflowClient
from support.certificates import self_signed
from support.commands import Command, Ending, small_run
from support.model_runs import image_folder
from support.servers import Fork, ForkedMlflow, Mlflow, OldMlflow, Postgres

from pneumo import places
from pneumo.names import BEST_WEIGHTS
from pneumo.tracking.journal import Journal, artifact_file
from pneumo.tracking.sender import sync
from pneumo.tracking.settings import TrackingSettings

pytestmark = pytest.mark.services
ADMIN, WRITER, PASSWORD = "admin", "writer", "xyzzy-4711-plugh"
OLD = [Path(folder) for folder in os.environ.get("PNEUMO_OLD_MLFLOW", "").split(os.pathsep) if folder]
RUN = ["data.num_workers=1", "augment=none", "schedule=constant"]


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    fork = Fork()
    yield fork
    fork.close()


@pytest.fixture(scope="module")
def serve(
    fork: Fork, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., ForkedMlflow]]:
    """Start an `mlflow server` with these options and environment `keys`; its artifacts go to `files`."""
    made: list[ForkedMlflow] = []

    def start(*options: str, files: Path | None = None, tls: Path | None = None, **keys: str) -> ForkedMlflow:
        folder = tmp_path_factory.mktemp("server")
        made.append(server := ForkedMlflow(folder, fork, empty_store, tls=tls))
        takes = [] if "--no-serve-artifacts" in options else takes_artifacts(files or server.artifacts)
        server.options, server.environment = [*options, *takes], keys
        server.start()
        server.wait()
        return server

    yield start
    for server in made:
        server.kill()


def takes_artifacts(folder: Path) -> list[str]:
    return ["--serve-artifacts", "--artifacts-destination", str(folder)]


def train(command: Command, uri: str, *more: str) -> Ending:
    """A run of seconds whose record goes to `uri`."""
    shape: dict[str, int] = {"train_patients": 24, "test_patients": 12, "epochs": 1, "batch_size": 8}
    return command("train", *small_run(**shape, more=[*RUN, f"tracking.uri={uri}", *more]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first run is kept, so that each of the other trackers gets it without a training."""
    return tmp_path_factory.mktemp("trained") / "outputs"


def refused(command: Command, trained: Path, outputs: Path, uri: str, words: str) -> list[str]:
    """Give the training command a tracker that refuses. It prints why, does its work, and names the command
    that sends, which is returned."""
    if trained.is_dir() and not outputs.is_dir():
        shutil.copytree(trained, outputs, ignore=shutil.ignore_patterns("sent-*"))
    ending = train(command, uri, "tracking.flush_s=20")
    assert ending.code == 0 and ("chosen: epoch 1" in ending.out or "done already" in ending.out), ending
    if not trained.is_dir():
        shutil.copytree(outputs, trained)
    (note,) = [line for line in ending.out.splitlines() if line.startswith("note: not tracked yet")]
    assert note.startswith(f"note: not tracked yet, and the run goes on. {uri}: {words} ("), note
    (left,) = [line for line in ending.out.splitlines() if "records are still to be sent" in line]
    assert f"records are still to be sent to {uri}: {words} (" in left
    assert PASSWORD not in ending.out + ending.err
    sends = shlex.split(ending.out.split("\nNothing is lost. This sends them: ")[1].splitlines()[0])
    assert sends[0] == "pneumo" and f"tracking.uri={uri}" in sends
    return sends[1:]


def still_refused(ending: Ending, words: str) -> None:
    assert ending.code == 1 and f": {words} (" in ending.err and "Traceback" not in ending.err, ending
    assert PASSWORD not in ending.out + ending.err


def sent(ending: Ending) -> None:
    """Nothing is left, and what the server gives back is equal (verify=true)."""
    assert ending.code == 0 and " 0 left" in ending.out and "has everything" in ending.out, ending
    assert "differed" not in ending.out


def compare(command: Command, uri: str, tmp_path: Path) -> Ending:
    quick = ["draws=50", "latency=false", f"output={tmp_path}/page"]
    return command("compare", f"tracking.uri={uri}", *quick)


def register_and_predict(command: Command, uri: str, run: str, tmp_path: Path) -> None:
    """Register the run as champion, then predict with it as on a machine that has only the tracker."""
    ending = command("runs", "register", run, "alias=champion", f"tracking.uri={uri}")
    assert ending.code == 0 and "champion points to it" in ending.out, ending
    shutil.rmtree(tmp_path / "cache")
    model, images = "model=models:/pneumo@champion", f"input={image_folder(tmp_path, 2)}"
    ending = command("predict", model, images, f"tracking.uri={uri}", f"output={tmp_path}/found.csv")
    assert ending.code == 0 and len((tmp_path / "found.csv").read_text().splitlines()) == 3, ending


# ---- refusals


def test_a_wrong_password_and_a_missing_permission(
    serve: Callable[..., ForkedMlflow],
    command: Command,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("flask_wtf", reason="MLflow's basic authentication needs Flask-WTF")
    settings = tmp_path / "auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n"
        f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    keys = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": PASSWORD}
    server = serve("--app-name", "basic-auth", **keys)

    def ask(path: str, **body: str) -> None:
        address = f"{server.uri}/api/{path}"
        requests.post(address, json=body, auth=(ADMIN, PASSWORD), timeout=30).raise_for_status()

    ask("2.0/mlflow/experiments/create", name="pneumo")
    ask("2.0/mlflow/users/create", username=WRITER, password=PASSWORD)
    # 401
    reason = "the user or the password is wrong or missing. Set MLFLOW_TRACKING_USERNAME and"
    reason += " MLFLOW_TRACKING_PASSWORD (of a database: in its URI)."
    send = refused(command, trained, tmp_path / "outputs", server.uri, reason)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", WRITER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    still_refused(command(*send), reason)
    # 403
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    reason = "the server does not allow this. Ask its owner for permission to write; of an MLflow server,"
    reason += " --allowed-hosts must name this address."
    assert refused(command, trained, tmp_path / "outputs", server.uri, reason) == send
    still_refused(command(*send), reason)
    may_write = {"resource_type": "experiment", "resource_id": "1", "permission": "EDIT"}
    ask("3.0/mlflow/users/permissions/grant", username=WRITER, **may_write)
    sent(command(*send, "verify=true"))
    ending = compare(command, server.uri, tmp_path)
    assert ending.code == 0 and f"Runs: {server.uri}/#/experiments/1/" in ending.out, ending


def test_a_certificate_that_nobody_knows(
    serve: Callable[..., ForkedMlflow],
    command: Command,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, key = self_signed(tmp_path)
    server = serve("--uvicorn-opts", f"--ssl-certfile={certificate} --ssl-keyfile={key}", tls=certificate)
    assert server.uri.startswith("https:")
    reason = "its certificate cannot be verified. Name the file of its authority:"
    reason += " MLFLOW_TRACKING_SERVER_CERT_PATH=FILE or REQUESTS_CA_BUNDLE=FILE."
    send = refused(command, trained, tmp_path / "outputs", server.uri, reason)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    sent(command(*send, "verify=true"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MB. Skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)]
    try:
        subprocess.run(line, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {getattr(error, 'stderr', '') or error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk with one file, and return it."""
    filler = disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    return filler


def test_a_full_disk_of_the_server(
    serve: Callable[..., ForkedMlflow], command: Command, trained: Path, tmp_path: Path, small_disk: Path
) -> None:
    server = serve(files=small_disk / "artifacts")
    filler = fill(small_disk)
    reason = "the server failed to store a file. Read the server's log: its disk may be full, or its"
    reason += " artifact store not within reach."
    send = refused(command, trained, tmp_path / "outputs", server.uri, reason)
    assert "No space left on device" in server.log.read_text()
    still_refused(command(*send), reason)
    filler.unlink()
    sent(command(*send, "verify=true"))


def test_a_full_disk_of_a_database(
    command: Command, trained: Path, tmp_path: Path, small_disk: Path, empty_store: Path
) -> None:
    shutil.copy(empty_store, small_disk / "mlflow.db")
    filler, reason = fill(small_disk), "its disk is full. Free space there."
    send = refused(command, trained, tmp_path / "outputs", f"sqlite:///{small_disk}/mlflow.db", reason)
    still_refused(command(*send), reason)
    filler.unlink()
    sent(command(*send, "verify=true"))


def test_a_database_that_refuses_or_is_dead(
    postgres: Postgres, command: Command, trained: Path, tmp_path: Path
) -> None:
    """MLflow itself would try for 100 s."""
    outputs = tmp_path / "outputs"
    shutil.copytree(trained, outputs, ignore=shutil.ignore_patterns("sent-*"))

    def refuses(uri: str, reason: str) -> None:
        began = time.monotonic()
        ending = command("runs", "sync", f"output_dir={outputs}", f"tracking.uri={uri}")
        assert ending.code == 1 and f": {reason}" in ending.err and "Traceback" not in ending.err, ending
        assert PASSWORD not in ending.out + ending.err and time.monotonic() - began < 50

    rules = postgres.data / "pg_hba.conf"
    rules.write_text("host all writer 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE writer LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        connection.execute("CREATE DATABASE written")  # no server has made experiments there
        connection.execute("SELECT pg_reload_conf()")
    right = f"postgresql://writer:{PASSWORD}@127.0.0.1:{postgres.port}/written"
    refuses(right.replace(PASSWORD, "wrong"), "the user or the password is wrong or missing. Set ")
    sent(command("runs", "sync", f"output_dir={outputs}", f"tracking.uri={right}"))
    postgres.kill()
    try:
        refuses(right, "nothing answers there. Start the server, or correct tracking.uri. (")
    finally:
        postgres.start()  # other tests use it too
        postgres.wait()


def test_a_server_that_takes_no_artifacts(
    serve: Callable[..., ForkedMlflow], command: Command, trained: Path, tmp_path: Path
) -> None:
    server = serve("--no-serve-artifacts", "--default-artifact-root", "mlflow-artifacts:/")
    reason = "the server does not take artifacts. Start it with --serve-artifacts."
    send = refused(command, trained, tmp_path / "outputs", server.uri, reason)
    still_refused(command(*send), reason)
    server.kill()
    server.options = takes_artifacts(server.artifacts)
    server.start()
    server.wait()
    sent(command(*send, "verify=true"))
    # As an administrator's mistake after the run: its files cannot be fetched, and compare prints why.
    server.kill()
    server.options = ["--no-serve-artifacts"]
    server.start()
    server.wait()
    ending = compare(command, server.uri, tmp_path)
    assert ending.code == 1 and f"its artifacts cannot be fetched: {reason}" in ending.err, ending


# ---- a path before the server's own


class Prefix(BaseHTTPRequestHandler):
    """A reverse proxy that has an MLflow server at /ml."""

    protocol_version = "HTTP/1.1"
    upstream = 0

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content, kind = 404, b"<html>Nothing is here</html>", "text/html"
        if self.path.startswith("/ml/"):
            upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            upstream.request(self.command, self.path.removeprefix("/ml"), body, headers)
            answer = upstream.getresponse()
            status, content, kind = answer.status, answer.read(), answer.headers.get("Content-Type", "")
            upstream.close()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[str]:
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Prefix)
    listener.daemon_threads = True
    listener.block_on_close = False
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    listener.server_close()


def test_a_path_prefix(
    serve: Callable[..., ForkedMlflow], command: Command, trained: Path, proxy: str, tmp_path: Path
) -> None:
    Prefix.upstream = serve().port
    reason = "the address is not an MLflow server's, or the server is too old. Check the path in"
    reason += " tracking.uri; MLflow 2.14 or later is needed."
    send = refused(command, trained, tmp_path / "outputs", proxy, reason)
    uri = f"{proxy}/ml"
    sent(command(*send, "verify=true", f"tracking.uri={uri}"))
    (run,) = [file.parent for file in tmp_path.glob("outputs/*/journal.jsonl")]
    assert places.page(run, uri).startswith(f"{uri}/#/experiments/1/runs/")
    ending = compare(command, uri, tmp_path)
    assert ending.code == 0 and f"Runs: {uri}/#/experiments/1/runs?" in ending.out, ending
    assert f"{uri}/#/experiments/1/runs/" in (tmp_path / "page" / "index.html").read_text()
    register_and_predict(command, uri, run.name, tmp_path)


# ---- artifacts in S3


def with_one_file(folder: Path, experiment: str) -> Path:
    """The folder of a finished run that has one artifact."""
    journal = Journal(folder)
    journal.start(folder.name, experiment, {})
    file = artifact_file(folder, "note.txt")
    file.parent.mkdir(parents=True)
    file.write_text("a note")
    journal.artifact("note.txt")
    journal.end("FINISHED")
    journal.close()
    return folder


def test_artifacts_in_s3(
    serve: Callable[..., ForkedMlflow],
    command: Command,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server", reason="moto, an S3 server for tests, is not installed")
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)  # a line for each request
    store = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    try:
        _, port = store.get_host_and_port()
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        server = serve("--no-serve-artifacts", "--default-artifact-root", "s3://runs/pneumo")
        MlflowClient(server.uri).create_experiment("elsewhere", "s3://no-such-bucket/pneumo")

        def why(name: str, experiment: str = "notes", at: str = f"http://127.0.0.1:{port}") -> str:
            """Why a run's file cannot be stored. MLflow keeps an S3 client for each address."""
            monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", at)
            folder = with_one_file(tmp_path / "notes" / name, experiment)
            return sync(folder, TrackingSettings(flush_s=0), server.uri).error or "nothing: it was sent"

        key = "the artifact store wants a key, or does not know this one. Set AWS_ACCESS_KEY_ID and "
        key += "AWS_SECRET_ACCESS_KEY. ("
        assert why("a", at=f"http://localhost:{port}").startswith(key)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
        assert why("b", at="http://127.0.0.1:9").startswith(
            "the artifact store does not answer. Start it, or correct MLFLOW_S3_ENDPOINT_URL. ("
        )
        assert why("c", "elsewhere").startswith("the bucket of the artifact store does not exist. Create it,")
        s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        s3.create_bucket(Bucket="runs")
        assert why("d").startswith("nothing")

        if trained.is_dir():
            shutil.copytree(trained, tmp_path / "outputs", ignore=shutil.ignore_patterns("sent-*"))
        assert "still to be sent" not in train(command, server.uri).out
        ending = train(command, server.uri, "--multirun", "seed=1", "keep_best=0")
        assert ending.code == 0 and "still to be sent" not in ending.out, ending
        kept = [entry["Key"] for entry in s3.list_objects_v2(Bucket="runs")["Contents"]]
        weights = [name for name in kept if name.endswith(BEST_WEIGHTS)]
        assert len(weights) == 2  # of the first run only: its artifact, and its logged model
        (file,) = tmp_path.glob(f"outputs/*/artifacts/{BEST_WEIGHTS}")
        ending = compare(command, server.uri, tmp_path)
        assert ending.code == 0 and "cannot be fetched" not in ending.out, ending
        register_and_predict(command, server.uri, file.parents[2].name, tmp_path)
        # From here on the store checks keys, and does not know ours.
        requests.post(f"http://127.0.0.1:{port}/moto-api/reset-auth", data=b"0", timeout=30)
        assert why("e").startswith(key) and PASSWORD not in why("f")
    finally:
        store.stop()


# ---- older servers


@pytest.mark.parametrize("venv", OLD or [None], ids=lambda venv: venv.name if venv else "none")
def test_an_older_server(venv: Path | None, command: Command, tmp_path: Path) -> None:
    if venv is None:
        pytest.skip("PNEUMO_OLD_MLFLOW names no virtual environment with an older MLflow")
    server: Mlflow = OldMlflow(tmp_path, venv)
    server.start()
    try:
        server.wait()
        ending = train(command, server.uri)
        assert ending.code == 0 and "not tracked" not in ending.out and "note: " not in ending.err, ending
        run = shlex.split(ending.out.split("predict model=")[1])[0]
        sent(command("runs", "sync", "verify=true", f"tracking.uri={server.uri}"))
        ending = compare(command, server.uri, tmp_path)
        assert ending.code == 0 and "resnet18" in ending.out, ending
        register_and_predict(command, server.uri, run, tmp_path)
        (run_id,) = server.run_ids(Journal(tmp_path / "outputs" / run))
        models = server.query("SELECT name FROM sqlite_master WHERE name = 'logged_models'")
        if models:  # MLflow 3: the kept checkpoint, and the registered model
            query = "SELECT model_id FROM logged_models WHERE source_run_id = :run_id"
            assert len(server.query(query, run_id=run_id)) == 2
    finally:
        server.kill()
