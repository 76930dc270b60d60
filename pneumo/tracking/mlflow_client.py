"""MLflow's client: opening a store once and safely, finding an experiment, and what its errors mean.

mlflow and SQLAlchemy are imported inside functions only: the import costs seconds.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pneumo import UserError
from pneumo.files import LOCK_WAIT_S, Busy, locked
from pneumo.tracking import diagnosis
from pneumo.tracking.journal import redact

CONNECT_S = 10
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"}
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # No retries inside a call: a repeated create_run whose first answer got lost would make a second run.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the printed link would hold the URI's credentials
}


class NotSent(Exception):
    """What keeps a run from being sent until the user fixes it; the message says how."""


def open_client(uri: str) -> Any:
    """MLflow's client for the store or server at `uri`. A SQLite file that does not exist is created."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it prints a page of migrations
    # It prints those too, and the traceback of an error that is also raised.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    database = sqlite_file(uri)
    with database_lock(uri):  # the client creates the tables
        if database is not None and not database.exists():
            # Aside, then renamed: a kill inside the migrations leaves a file that MLflow never opens again.
            aside = database.with_name(database.name + ".new")
            aside.unlink(missing_ok=True)
            MlflowClient(tracking_uri=f"sqlite:///{aside}")
            aside.rename(database)
        _connect(uri)
        return MlflowClient(tracking_uri=uri)


def _connect(uri: str) -> None:
    """Fail at once where a database server is dead or refuses: MLflow would try for 100 s."""
    if uri.startswith(("postgresql", "mysql")):
        import sqlalchemy

        options = {"connect_timeout": CONNECT_S}
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=options)
        engine.connect().close()


def artifact_repository(location: str, uri: str) -> Any:
    """MLflow's access to the files below `location`, for the store or server at `uri`.

    MlflowClient's own calls ask for logged models first, which a server older than MLflow 3 does not have.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(location, tracking_uri=uri)


def error_code(error: Exception) -> str | None:
    """MLflow's own error code; None when something else answered (a proxy, an HTML page) or nothing did."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return None if error.message.startswith("API request to") else error.error_code
    response = getattr(error, "response", None)  # requests.HTTPError, from an artifact's upload
    if response is not None and response.status_code == 400:
        with contextlib.suppress(ValueError, AttributeError):
            return response.json().get("error_code")
    return None


def is_refusal(error: Exception) -> bool:
    """True where MLflow refuses what was sent, so that sending it again would not help."""
    return isinstance(error, UserError | FileNotFoundError) or error_code(error) in _REFUSALS


def file_sizes(repository: Any, names: Iterable[str]) -> dict[str, int]:
    """The files in the folders of `names`, with their sizes in bytes."""
    held: dict[str, int] = {}
    for folder in sorted({str(Path(name).parent) for name in names}):
        entries = repository.list_artifacts(None if folder == "." else folder)
        held |= {entry.path: int(entry.file_size or 0) for entry in entries if not entry.is_dir}
    return held


def lacks_logged_models(error: Exception) -> bool:
    """True where a server older than MLflow 3 was asked for a logged model."""
    return error_code(error) == "ENDPOINT_NOT_FOUND" or "error code 404" in str(error)


def describe(error: Exception, uri: str) -> str:
    """The error in one line: reason and remedy where known, no credentials of `uri` or of the environment."""
    text = str(error).replace(uri, redact(uri))
    for key in _SECRETS:
        if os.environ.get(key):
            text = text.replace(os.environ[key], "...")
    text = redact(" ".join(text.split()))
    if isinstance(error, NotSent | Busy | UserError):
        return text[:500]
    return diagnosis.explain(f"{type(error).__name__}: {text}"[:500])


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other store and for one in memory."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(match[1]).absolute() if match and match[1] != ":memory:" else None


def database_lock(uri: str) -> contextlib.AbstractContextManager[None]:
    """One at a time on a SQLite file: of four processes on a new one, three die (table already exists)."""
    database = sqlite_file(uri)
    if database is None:
        return contextlib.nullcontext()
    return locked(database.with_name(database.name + ".lock"), wait_s=LOCK_WAIT_S)


def experiment_id(client: Any, uri: str, name: str) -> str:
    """The experiment's id. The first to ask creates it; artifacts are kept beside a SQLite file."""
    database = sqlite_file(uri)
    folder = re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
    location = (database.parent / "mlartifacts" / folder).as_uri() if database else None
    with database_lock(uri):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return checked_id(client.create_experiment(name, artifact_location=location))
            except Exception as error:
                if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(name)  # another process was first
    if experiment is None or experiment.lifecycle_stage != "active":
        raise NotSent(
            f"experiment {name} was deleted in MLflow: restore it (mlflow experiments restore), "
            f"or give another name with tracking.experiment=NAME"
        )
    return checked_id(experiment.experiment_id)


def checked_id(identifier: str) -> str:
    """`identifier`, unless it is empty: ConnectionError.

    MLflow's client takes an empty 200 (from a proxy) for an answer; an empty id must not be noted.
    """
    if not identifier:
        raise ConnectionError("the answer holds no id: is this an MLflow server?")
    return identifier
