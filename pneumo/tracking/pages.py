"""The addresses of MLflow's pages, and which server shows a store now.

MLflow's pages open in the mode for generative AI unless the address names the other one.
"""

import json
from contextlib import suppress
from pathlib import Path

import psutil

from pneumo.files import write_atomically
from pneumo.tracking import view
from pneumo.tracking.journal import redact
from pneumo.tracking.mlflow_client import sqlite_file

MODE = "workflowType=machine_learning"


def experiments() -> str:
    """The path of the list of experiments."""
    return f"/#/experiments?{MODE}"


def experiment(experiment_id: str, saved: bool = False) -> str:
    """The path of an experiment's runs; with `saved`, as the saved view shows them."""
    return f"/#/experiments/{experiment_id}/runs?{MODE}" + (f"&viewStateShareKey={view.KEY}" if saved else "")


def sweep(experiment_id: str, parent_id: str) -> str:
    """The path of the runs of one sweep, as its saved view shows them: the best on validation first."""
    return f"/#/experiments/{experiment_id}/runs?{MODE}&viewStateShareKey={parent_id}"


def run(experiment_id: str, run_id: str) -> str:
    """The path of a run's page."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?{MODE}"


def base(uri: str) -> str | None:
    """The address of a server that shows the store at `uri` now; None where none is known."""
    if uri.startswith(("http://", "https://")):
        return redact(uri).rstrip("/")
    if (note := _note(uri)) is None:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
        known = json.loads(note.read_text())
        process = psutil.Process(known["pid"])
        if process.create_time() == known["started"]:
            return f"http://127.0.0.1:{int(known['port'])}"
    return None


def note_server(uri: str, port: int) -> None:
    """Note, beside a SQLite file, that this process serves it on `port`."""
    if note := _note(uri):
        process = psutil.Process()
        content = {"pid": process.pid, "started": process.create_time(), "port": port}
        write_atomically(note, json.dumps(content).encode())


def forget_server(uri: str) -> None:
    """Delete the note of this process."""
    if note := _note(uri):
        note.unlink(missing_ok=True)


def _note(uri: str) -> Path | None:
    """The file beside a SQLite database that says who serves it."""
    database = sqlite_file(uri)
    return database.with_name(f"{database.name}.ui.json") if database else None
