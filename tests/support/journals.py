"""Journals like those that runs write, and their rows in MLflow's store."""

import sqlite3
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

from pneumo.tracking.journal import Journal, artifact_file


def begun(folder: Path, epochs: int = 3) -> Journal:
    """The journal of a run that trains."""
    journal = Journal(folder)
    journal.start(folder.name, "pneumo", {"pneumo.fingerprint": folder.name})
    journal.params({"model.name": "resnet18", "long": "x" * 7000})
    for epoch in range(1, epochs + 1):
        journal.metrics({f"train/m{i}": i / 7 + epoch for i in range(20)}, epoch)
    return journal


def artifact(journal: Journal, name: str, content: bytes) -> None:
    """Write an artifact and record it."""
    path = artifact_file(journal.folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    journal.artifact(name)


def whole(folder: Path) -> Journal:
    """The journal of a finished run, with records of every kind."""
    journal = begun(folder)
    artifact(journal, "config.yaml", b"seed: 0\n")
    artifact(journal, "figures/roc test.png", bytes(range(256)) * 40)
    journal.dataset("chest_xray", "a" * 64, "/data/chest_xray", "train")
    journal.end("FINISHED")
    return journal


def rows(database: Path, run_id: str | None = None) -> list[tuple[Any, ...]]:
    """The metric rows of one run, or of all."""
    query = "SELECT key, value, timestamp, step FROM metrics WHERE run_uuid = coalesce(?, run_uuid)"
    with sqlite3.connect(database) as connection:
        return sorted(connection.execute(query, (run_id,)).fetchall())


def runs(uri: str, view: int = ViewType.ALL) -> list[Any]:
    client = MlflowClient(uri)
    return client.search_runs([e.experiment_id for e in client.search_experiments()], run_view_type=view)
