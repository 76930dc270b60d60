"""Which weights a sweep keeps."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.sweep_runs import HOLDER, finished, parent, weights

from pneumo.sweep import retention
from pneumo.tracking.sender import sync
from pneumo.tracking.settings import TrackingSettings

pytestmark = pytest.mark.usefixtures("store")


def test_registered_running_and_foreign_weights_are_spared(tmp_path: Path) -> None:
    output_dir, uri = tmp_path / "outputs", f"sqlite:///{tmp_path}/mlflow.db"
    names = ["a", "b", "c", "d", "e"]
    folder = parent(output_dir, names)
    for number, name in enumerate(names):
        finished(output_dir, name, 0.9 - number / 10, "other" if name == "c" else "s")
    settings = TrackingSettings(uri=uri, flush_s=20)
    run_ids = {name: sync(output_dir / name, settings, uri).run_id for name in names}
    client = MlflowClient(uri)
    client.create_registered_model("best")
    client.create_model_version("best", f"runs:/{run_ids['d']}/checkpoints", run_ids["d"])
    away = TrackingSettings(uri="http://127.0.0.1:9", flush_s=1)
    messages = retention.keep_best(folder, 1, away)
    assert weights(tmp_path) == set(names) and len(messages) == 3 and "keeps its weights" in messages[0]
    assert retention.keep_best(folder, None, settings) == []
    holding = [sys.executable, "-c", HOLDER, str(output_dir / "e"), str(tmp_path / "never"), "dies"]
    with subprocess.Popen(holding, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert retention.keep_best(folder, 1, settings) == []
        holder.kill()
    assert weights(tmp_path) == {"a", "c", "d", "e"}  # the best, the foreign, the registered, the running one
    assert not client.list_artifacts(run_ids["b"], "checkpoints")
    result = sync(output_dir / "b", settings, uri)
    assert (result.left, result.error) == (0, None)
    # To a tracker that never saw the run, it is sent without them, and nothing is refused.
    other = f"sqlite:///{tmp_path}/other.db"
    result = sync(output_dir / "b", TrackingSettings(uri=other), other)
    assert (result.left, result.error, result.refused) == (0, None, 0)


def test_all_weights_stay_until_every_run_is_scored(tmp_path: Path) -> None:
    """Models that were not scored are chosen later, and any of them can be the chosen one."""
    folder = parent(tmp_path / "outputs", ["a", "b"])
    finished(tmp_path / "outputs", "a", 0.9)
    finished(tmp_path / "outputs", "b", 0.8, scored=False)
    settings = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db", flush_s=20)
    assert retention.keep_best(folder, 0, settings) == []
    assert weights(tmp_path) == {"a", "b"}
