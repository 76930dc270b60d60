"""A tracker with finished runs whose models can be registered."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pneumo.evaluation.predictions import predictions_csv, read_any_predictions
from pneumo.inference import registration
from pneumo.tracking.mlflow_client import open_client
from pneumo.tracking.registry import Registry


class ModelTracker:
    """A SQLite tracker with runs that hold the artifacts of `made`."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.folder, self.made, self.uri = folder, made, f"sqlite:///{folder}/mlflow.db"
        self.client = open_client(self.uri)
        self.experiment = self.client.create_experiment("pneumo", (folder / "mlartifacts").as_uri())
        self.registry = Registry(self.uri, folder / "cache")

    def run(
        self,
        change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        *,
        status: str = "FINISHED",
        protocol: str = "patient_val",
        path: str = "",
    ) -> str:
        """A run. `change` computes its test probabilities from labels and probabilities."""
        run_id = self.client.create_run(self.experiment, tags={"pneumo.protocol": protocol}).info.run_id
        folder = self.folder / "mlartifacts" / run_id / "artifacts"
        shutil.copytree(self.made, folder, copy_function=_link)
        if change or path:
            file = folder / "predictions" / "test.csv"
            test = read_any_predictions(file.read_text())
            test.probabilities = change(test.labels, test.probabilities) if change else test.probabilities
            test.paths = [f"{path}{name}" for name in test.paths]
            file.unlink()
            file.write_bytes(predictions_csv(test))
        self.client.set_terminated(run_id, status)
        return run_id

    def register(
        self, run_id: str, alias: str = "champion", force: bool = False, wheel: Path | None = None
    ) -> str:
        return registration.register(
            self.registry, run_id, name="pneumo", alias=alias, force=force, wheel=wheel
        )

    def versions(self) -> list[Any]:
        return list(self.client.search_model_versions("name = 'pneumo'"))


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
