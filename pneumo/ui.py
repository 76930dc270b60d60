"""`pneumo ui`: MLflow's pages of the configured store, on 127.0.0.1."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

import psutil

from pneumo import UserError, config
from pneumo.config_files import project_dir
from pneumo.run_lookup import find_run, find_sweep
from pneumo.tracking import pages, view
from pneumo.tracking.courier import Note, read_note
from pneumo.tracking.journal import redact
from pneumo.tracking.mlflow_client import describe, open_client, sqlite_file
from pneumo.tracking.settings import TrackingSettings

PORTS_TRIED = 100
START_S = 300.0  # MLflow takes 10 s to start, a minute on a busy machine
STOP_S = 10.0


@dataclass(kw_only=True)
class UiConfig:
    """What to serve, and where."""

    run: str | None = None
    sweep_id: str | None = None
    port: int = 5000
    open: bool = True
    output_dir: str = "${pneumo.project:outputs}"
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"port={self.port} must be between 1 and 65535.")
        if self.run and self.sweep_id:
            raise UserError("run= and sweep_id= exclude each other: give one of them.")


def main() -> None:
    """Serve until Ctrl-C; the exit code is 0 ended by Ctrl-C, 1 failed, 2 wrong usage, 143 terminated."""
    sys.exit(config.run_typed(show, "ui", UiConfig))


def show(settings: UiConfig) -> int:
    """Serve the store and open a page of it; only open it where a server shows the store already."""
    uri = settings.tracking.uri or ""
    page = _page(uri, settings)
    if address := pages.base(uri):
        print(f"{address}{page}")
        server = uri.rstrip("/") if uri.startswith(("http://", "https://")) else address
        _open(f"{server}{page}", settings.open)
        return 0
    port = free_port(settings.port)
    while not _serve(uri, port, page, settings.open):
        port = free_port(port + 1)
    return 0


def _serve(uri: str, port: int, page: str, wanted: bool) -> bool:
    """Serve the store until Ctrl-C; False if another program took the port before the server did."""
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log, _server(uri, port, log) as server:
        if not _wait_until_ready(server, port, log):
            return False
        print(f"{address}{page}\nCtrl-C ends it.", flush=True)
        _open(f"{address}{page}", wanted)
        pages.note_server(uri, port)
        try:
            with suppress(KeyboardInterrupt):
                server.wait()
                raise UserError(f"the server ended: {_last_line(log)}")
        finally:
            pages.forget_server(uri)
    return True


def free_port(first: int) -> int:
    """`first`, or the next port on 127.0.0.1 that nothing listens on."""
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        if _is_free(port):
            return port
    raise UserError(f"port={first}: the {PORTS_TRIED} ports from there are all taken; give another one.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def server_environment(uri: str) -> dict[str, str]:
    """Settings of the server, by environment: an argument would show the store's password to `ps`."""
    database = sqlite_file(uri)
    folder = database.parent if database else project_dir()
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(folder / "mlartifacts"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 GB of helper processes that nothing here needs
    }


def _page(uri: str, settings: UiConfig) -> str:
    """The path of the page to open: of a run, of a sweep's runs, or of the experiment's.

    Of all experiments where there is none of this name.
    """
    if settings.run or settings.sweep_id:
        note = _note(uri, settings)
        assert note.experiment_id is not None and note.run_id is not None
        if settings.run:
            return pages.run(note.experiment_id, note.run_id)
        return pages.sweep(note.experiment_id, note.run_id)
    experiment = settings.tracking.experiment
    try:
        found = open_client(uri).get_experiment_by_name(experiment)
    except Exception as error:  # whatever a database driver or a server raises
        raise UserError(f"tracking.uri={redact(uri)} does not answer: {describe(error, uri)}") from None
    if found is None:
        print(
            f"note: the experiment {experiment} does not exist yet; `pneumo train` creates it.",
            file=sys.stderr,
        )
        return pages.experiments()
    return pages.experiment(found.experiment_id, saved=view.is_there(found))


def _note(uri: str, settings: UiConfig) -> Note:
    """What this machine knows of a run or a sweep in the store at `uri`; UserError where it is not there."""
    if settings.run:
        folder = find_run(settings.output_dir, settings.run, uri)
    else:
        folder = find_sweep(settings.output_dir, str(settings.sweep_id))
    note = read_note(folder, uri)
    if note.run_id is None or note.experiment_id is None:
        raise UserError(f"{folder.name} is not in {redact(uri)} yet: `pneumo runs sync` sends it.")
    return note


@contextmanager
def _server(uri: str, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server as a process group, which ends with the block."""

    def terminated(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--workers", "1"],
        env=server_environment(uri),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield server
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
            return


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> bool:
    """Wait until `server` answers on `port`; False if another program took the port first.

    The server takes 10 s to start, so a second `pneumo ui` may choose the same port. Without this check it
    would open the pages of the first one's store.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach 127.0.0.1
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            if not _is_free(port):
                return False
            raise UserError(f"the server did not start: {_last_line(log)}")
        with suppress(OSError), opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
            return _listens(server.pid, port)
        time.sleep(0.2)
    raise UserError(f"the server did not answer within {START_S:.0f} s: {_last_line(log)}")


def _listens(pid: int, port: int) -> bool:
    """True if the process `pid` or one that it started listens on `port`."""
    with suppress(psutil.NoSuchProcess):
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                        return True
    return False


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return redact(lines[-1]) if lines else "it printed nothing"


def _open(address: str, wanted: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Open a browser, but not one that would take over the terminal."""
    shown = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if wanted and (sys.platform != "linux" or any(environment.get(name) for name in shown)):
        webbrowser.open(address)


if __name__ == "__main__":
    main()
