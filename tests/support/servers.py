"""Real servers on 127.0.0.1 for the tests: PostgreSQL, and MLflow over any database."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import psutil
import sqlalchemy

from pneumo.tracking.journal import Journal


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Service:
    """A server process in a separate process group, on a port that stays the same over restarts."""

    start_s = 300  # seconds on an idle machine, minutes on a busy one
    user: str | None = None  # None: ours
    environment: ClassVar[Mapping[str, str]] = {}
    end = signal.SIGKILL

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> None:
        """Raise OSError while the server does not answer."""
        raise NotImplementedError

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(),
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.identity,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + self.start_s
        while time.monotonic() < deadline and self.process and self.process.poll() is None:
            try:
                return self.ready()
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(f"{self.log}:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, self.end)  # with its workers
            self.process.wait()
            self.process = None

    @property
    def identity(self) -> dict[str, Any]:
        """The arguments with which subprocess runs as `user`."""
        return {"user": self.user, "group": self.user, "extra_groups": [], "cwd": "/"} if self.user else {}


class Postgres(Service):
    """A new cluster in `folder`, which its user must be able to read. LookupError if it is not installed."""

    end = signal.SIGQUIT  # it ends at once, together with its children

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[4])
        initdb = Path(versions[-1] if versions else shutil.which("initdb") or "")
        if not initdb.is_file():
            raise LookupError("PostgreSQL is not installed: no initdb in /usr/lib/postgresql/*/bin or PATH")
        self.postgres, self.data = initdb.with_name("postgres"), folder / "data"
        self.data.mkdir()
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            self.user = "postgres"
            shutil.chown(self.data, self.user, self.user)
        make = [initdb, "--pgdata", self.data, "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        subprocess.run([*make, "--no-locale", "--no-sync"], check=True, capture_output=True, **self.identity)
        self.uri = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        return [str(self.postgres), "-D", str(self.data), "-p", str(self.port), *options]

    def ready(self) -> None:
        import psycopg

        try:
            psycopg.connect(self.uri, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            raise OSError from error


class Mlflow(Service):
    """`mlflow server` over the database `store` (None: SQLite) with proxied artifacts."""

    environment: Mapping[str, str] = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def __init__(self, folder: Path, store: str | None = None) -> None:
        super().__init__(folder)
        self.database, self.artifacts = folder / "server.db", folder / "artifacts"
        self.store = store or f"sqlite:///{self.database}"
        self.uri = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        files = ["--serve-artifacts", "--artifacts-destination", str(self.artifacts)]
        return [sys.executable, "-m", "mlflow", "server", *where, "--backend-store-uri", self.store, *files]

    def ready(self) -> None:
        urllib.request.urlopen(self.uri + "/health", timeout=2).close()

    @cached_property
    def _engine(self) -> sqlalchemy.Engine:
        return sqlalchemy.create_engine(self.store, poolclass=sqlalchemy.NullPool)

    def query(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Rows read directly from the database, without the server."""
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(statement), values)]

    def rows(self, run_id: str | None) -> list[tuple[Any, ...]]:
        where = "FROM metrics WHERE run_uuid = :run_id"
        return sorted(self.query(f"SELECT key, value, timestamp, step {where}", run_id=run_id))

    def run_ids(self, journal: Journal) -> list[str]:
        """Every run that holds this journal, deleted ones too."""
        where = "FROM tags WHERE key = 'pneumo.journal_id' AND value = :journal_id"
        return [run_id for (run_id,) in self.query(f"SELECT run_uuid {where}", journal_id=journal.journal_id)]


def copy_run(uri: str, fingerprint: str, count: int) -> None:
    """Give the database `count` more runs like the one with this fingerprint: row, tags, params, metrics."""
    engine = sqlalchemy.create_engine(uri.replace("postgresql:", "postgresql+psycopg:"))
    names = ("runs", "tags", "params", "metrics", "latest_metrics")
    known = sqlalchemy.MetaData()
    known.reflect(engine, only=names)
    tags = known.tables["tags"].c
    wanted = (tags.key == "pneumo.fingerprint") & (tags.value == fingerprint)
    with engine.begin() as connection:
        run_id = connection.execute(sqlalchemy.select(tags.run_uuid).where(wanted)).scalar_one()
        for table in (known.tables[name] for name in names):
            result = connection.execute(sqlalchemy.select(table).where(table.c.run_uuid == run_id))
            rows = [dict(row) for row in result.mappings()]
            copies = [row | {"run_uuid": f"{number:032x}"} for number in range(count) for row in rows]
            connection.execute(sqlalchemy.insert(table), copies)


def champion(folder: Path, artifacts: Path) -> str:
    """The URI of a tracker below `folder` where a run with these artifacts is pneumo@champion."""
    from pneumo.inference import registration
    from pneumo.tracking.mlflow_client import open_client
    from pneumo.tracking.registry import Registry

    uri = f"sqlite:///{folder}/mlflow.db"
    client = open_client(uri)
    experiment = client.create_experiment("pneumo", (folder / "mlartifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    shutil.copytree(artifacts, folder / "mlartifacts" / run_id / "artifacts")
    client.set_terminated(run_id)
    there = Registry(uri, folder / "cache")
    registration.register(there, run_id, name="pneumo", alias="champion", force=False)
    return uri


class Serving(Service):
    """`mlflow models serve` of models:/pneumo@champion in the tracker at `uri`."""

    environment: Mapping[str, str] = {"MLFLOW_DISABLE_TELEMETRY": "true"}  # type: ignore[misc]

    def __init__(self, folder: Path, uri: str) -> None:
        super().__init__(folder)
        bin_folder = str(Path(sys.executable).parent)  # it starts uvicorn by name
        path = os.pathsep.join([bin_folder, os.environ["PATH"]])
        self.environment = {**type(self).environment, "MLFLOW_TRACKING_URI": uri, "PATH": path}
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        model = ["-m", "models:/pneumo@champion", "--env-manager", "local"]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [sys.executable, "-m", "mlflow", "models", "serve", *model, *where]

    def ready(self) -> None:
        urllib.request.urlopen(self.url + "/ping", timeout=2).close()

    def post(self, body: object, kind: str = "application/json") -> tuple[int, Any]:
        """The status and the JSON answer. A `body` of bytes is sent unchanged, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + "/invocations", content, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


class Fork:
    """A process that has imported MLflow and forks servers: see mlflow_fork.py."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("mlflow_fork.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {**os.environ, **Mlflow.environment}
        self.process = subprocess.Popen([sys.executable, str(script)], env=environment, **pipes)

    def server(self, words: list[str], environment: Mapping[str, str], log: Path) -> "Forked":
        """The process of `mlflow server WORDS`."""
        assert self.process.stdin and self.process.stdout
        order = {"words": words, "environment": dict(environment), "log": str(log)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Forked(int(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class Forked(psutil.Process):
    """A process that is not our child, with what Service needs of a Popen."""

    def poll(self) -> int | None:
        return None if self.is_running() else 1


class ForkedMlflow(Mlflow):
    """`mlflow server` with `options`, from a Fork: over a copy of `empty`, with `tls` as its certificate."""

    def __init__(self, folder: Path, fork: Fork, empty: Path, tls: Path | None = None) -> None:
        super().__init__(folder)
        shutil.copy(empty, self.database)
        self.fork, self.tls = fork, tls
        self.options: list[str] = []
        if tls:
            self.uri = self.uri.replace("http:", "https:")

    def start(self) -> None:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words = [*where, "--backend-store-uri", self.store, *self.options]
        self.process = self.fork.server(words, self.environment, self.log)  # type: ignore[assignment]

    def ready(self) -> None:
        context = ssl.create_default_context(cafile=self.tls) if self.tls else None
        urllib.request.urlopen(self.uri + "/health", timeout=2, context=context).close()


class OldMlflow(Mlflow):
    """The server of the MLflow that is installed in the virtual environment `venv`."""

    def __init__(self, folder: Path, venv: Path) -> None:
        super().__init__(folder)
        self.python = venv / "bin" / "python"
        path = os.pathsep.join([str(venv / "bin"), os.environ["PATH"]])  # it starts gunicorn by name
        self.environment = {**Mlflow.environment, "PYTHONPATH": "", "PATH": path}

    def command(self) -> list[str]:
        return [str(self.python), *super().command()[1:]]
