"""Sending the journal to a real MLflow server that is killed, is silent, gives errors or drops requests."""

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.servers import Mlflow

from pneumo.tracking.journal import Journal, artifact_file
from pneumo.tracking.sender import Sender, sync
from pneumo.tracking.settings import TrackingSettings

pytestmark = pytest.mark.services
SETTINGS = TrackingSettings(flush_s=60)
PASSWORD = "xyzzy-4711"


class Between(BaseHTTPRequestHandler):
    """A proxy that can be silent, answer 500, or drop every third request or its answer."""

    protocol_version = "HTTP/1.1"
    upstream, mode, count, credentials = 0, "pass", 0, ""
    lock = threading.Lock()

    def answer(self) -> None:
        kind = type(self)
        with kind.lock:
            kind.count += 1
            turn = kind.count
        kind.credentials = self.headers.get("Authorization", "")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.close_connection = True
        if kind.mode == "silent":
            time.sleep(8)
        elif kind.mode == "wrong":
            self.reply(500, b"<html>Internal error</html>")
        elif kind.mode == "third" and turn % 6 == 0:
            pass  # the request is lost
        else:
            upstream = http.client.HTTPConnection("127.0.0.1", kind.upstream, timeout=20)
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if not (kind.mode == "third" and turn % 3 == 0):  # otherwise its answer is lost
                self.reply(answer.status, content)

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    server = Mlflow(tmp_path_factory.mktemp("server"))
    server.start()
    server.wait()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Mlflow, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    Between.upstream = server.port
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Between)
    listener.daemon_threads = True
    listener.block_on_close = False
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://me:{PASSWORD}@127.0.0.1:{listener.server_port}"
    listener.shutdown()
    listener.server_close()


def trained(folder: Path, sender: Sender | None = None, epochs: int = 6, epoch_s: float = 0.0) -> Journal:
    journal = Journal(folder)
    journal.start(folder.name, "pneumo", {"pneumo.fingerprint": folder.name})
    journal.params({f"key{i}": i for i in range(30)})
    journal.dataset("chest_xray", "a" * 64, "/data/chest_xray", "train")
    if sender:
        sender.start()
    for epoch in range(1, epochs + 1):
        journal.metrics({f"train/m{i}": i / 7 + epoch for i in range(20)}, epoch)
        artifact = artifact_file(folder, f"figures/epoch{epoch}.bin")
        artifact.parent.mkdir(parents=True, exist_ok=True)
        artifact.write_bytes(bytes((i * epoch) % 251 for i in range(30_000)))
        journal.artifact(f"figures/epoch{epoch}.bin")
        if sender:
            sender.notify()
        time.sleep(epoch_s)
    journal.end("FINISHED")
    return journal


def check(server: Mlflow, journal: Journal, tmp_path: Path) -> None:
    """Rows and files on the server equal the journal's, in one run."""
    (run_id,) = server.run_ids(journal)
    expected = sorted(row for row in journal.metric_rows() if row[0] != "bad@name")
    assert server.rows(run_id) == expected
    client = MlflowClient(server.uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and len(run.inputs.dataset_inputs) == 1
    assert run.data.params == journal.params_logged and journal.tags_logged.items() <= run.data.tags.items()
    last = sorted(expected, key=lambda row: row[3])
    assert run.data.metrics == {key: value for key, value, _, _ in last}
    copies = Path(client.download_artifacts(run_id, "figures", str(tmp_path)))
    assert {path.name for path in copies.iterdir()} == {Path(name).name for name in journal.artifacts}
    for name in journal.artifacts:
        assert (copies / Path(name).name).read_bytes() == artifact_file(journal.folder, name).read_bytes()


def test_a_server_killed_in_the_middle(
    server: Mlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    sender = Sender(tmp_path / "run", SETTINGS, server.uri)

    def kill_and_start() -> None:
        while not server.rows(sender.run_id):
            time.sleep(0.05)
        server.kill()
        time.sleep(1)
        server.start()

    killer = threading.Thread(target=kill_and_start)
    killer.start()
    journal = trained(tmp_path / "run", sender, epochs=20, epoch_s=0.1)
    killer.join(60)
    server.wait()
    assert sender.finish(60) == 0, sender.error
    check(server, journal, tmp_path)


@pytest.mark.parametrize("mode", ["silent", "wrong"])
def test_a_server_that_never_answers_or_only_500(
    server: Mlflow, proxy: str, tmp_path: Path, mode: str
) -> None:
    Between.mode = mode
    began = time.monotonic()
    sender = Sender(tmp_path / "run", SETTINGS, proxy)
    journal = trained(tmp_path / "run", sender)
    assert time.monotonic() - began < SETTINGS.flush_s / 3  # training does not notice
    assert sender.finish(3) == journal.last
    assert time.monotonic() - began < SETTINGS.flush_s / 2
    assert sender.error and PASSWORD not in sender.error
    failed = sync(journal.folder, TrackingSettings(flush_s=1), proxy)
    assert failed.left == journal.last and failed.error and PASSWORD not in failed.error
    Between.mode = "pass"
    assert sync(journal.folder, SETTINGS, proxy).left == 0
    check(server, journal, tmp_path)


@pytest.mark.parametrize("phase", range(6))
def test_every_third_request_or_its_answer_lost(
    server: Mlflow, proxy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], phase: int
) -> None:
    Between.mode, Between.count = "third", phase
    journal = trained(tmp_path / "run")
    journal.end("KILLED", "SIGTERM")
    journal.resume()
    journal.metrics({"bad@name": 1.0}, 1)
    journal.end("FINISHED")
    result = sync(journal.folder, SETTINGS, proxy)
    Between.mode = "pass"
    assert (result.left, result.error, result.refused) == (0, None, 1)
    check(server, journal, tmp_path)
    # The credentials were used, but nothing stores or prints them.
    assert Between.credentials.startswith("Basic ")
    shown = capfd.readouterr()
    assert PASSWORD not in shown.out + shown.err
    for path in [server.database, *(p for p in journal.folder.rglob("*") if p.is_file())]:
        assert PASSWORD.encode() not in path.read_bytes()


EXIT = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_tracking import SETTINGS, Sender, trained
sender = Sender(Path(sys.argv[1]), SETTINGS, sys.argv[2])
journal = trained(Path(sys.argv[1]), sender, epoch_s=0.5)
left = sender.finish(1)
print(left, journal.last, flush=True)
"""


def test_a_silent_server_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        paths = [str(folder) for folder in Path(__file__).parents[:2]]  # of this module, and of support
        command = [sys.executable, "-c", EXIT, str(tmp_path / "run"), uri, *paths]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        left, last = process.stdout.readline().split()
        began = time.monotonic()
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == 0 and left == last, complaints
        assert time.monotonic() - began < SETTINGS.flush_s / 2  # mostly the end of the interpreter
