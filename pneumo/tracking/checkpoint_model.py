"""A run's kept checkpoint as a logged model of MLflow 3: listed under Models, with its scores and data sets.

The run's own artifacts stay where they are, and the logged model holds the same files. A store on this
machine shares their blocks on disk (hard links). A server stores them a second time. Where retention drops
the weights of a run, both go.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from pneumo.files import local_folder, sync
from pneumo.names import BEST_WEIGHTS, FINGERPRINT_TAG
from pneumo.tracking.journal import Journal
from pneumo.tracking.mlflow_client import artifact_repository, file_sizes, lacks_logged_models
from pneumo.tracking.registry import RUN_FILES

KIND_TAG = "pneumo.checkpoint"  # marks these models: registering a run makes another one
_SCORES = {"best/": "validation", "test/": "testing"}  # the first part of a metric, and the data set it is of
_MAX_VALUE_CHARS = 500
_log = logging.getLogger(__name__)


def save(client: Any, uri: str, run_id: str, folder: Path) -> None:
    """Make the logged model of the finished run in `folder`, or bring it up to date.

    Safe to repeat. A server that has no logged models (MLflow 2) gets none.
    """
    journal = Journal(folder)
    if BEST_WEIGHTS not in journal.artifacts:
        return
    try:
        _save(client, uri, run_id, journal)
    except Exception as error:
        if not lacks_logged_models(error):
            raise
        _log.debug("no logged model: the server is older than MLflow 3")


def delete(client: Any, uri: str, run_id: str, experiment_id: str) -> None:
    """Delete the logged model of a run, and its files."""
    try:
        models = _models(client, run_id, experiment_id)
    except Exception as error:
        if not lacks_logged_models(error):
            raise
        return
    for model in models:
        artifact_repository(model.artifact_location, uri).delete_artifacts()
        client.delete_logged_model(model.model_id)


def _models(client: Any, run_id: str, experiment_id: str) -> list[Any]:
    query = f"source_run_id = '{run_id}' AND tags.`{KIND_TAG}` = 'true'"
    return list(client.search_logged_models([experiment_id], query))


def _save(client: Any, uri: str, run_id: str, journal: Journal) -> None:
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    model = next(iter(_models(client, run_id, experiment_id)), None)
    if model is None:
        fingerprint = journal.tags_logged.get(FINGERPRINT_TAG, "")
        name = f"{journal.params_logged.get('model.name', 'model')} {fingerprint[:6]}"
        model = client.create_logged_model(
            experiment_id,
            name="".join(char if char.isalnum() or char in " -_" else "_" for char in name),
            source_run_id=run_id,
            tags={KIND_TAG: "true", FINGERPRINT_TAG: fingerprint},
            params={key: value[:_MAX_VALUE_CHARS] for key, value in journal.params_logged.items()},
            model_type="classifier",
        )
    _copy_files(journal, run.info.artifact_uri, model.artifact_location, uri)
    _link_scores(client, run, journal, model)
    if model.status != LoggedModelStatus.READY:
        steps = [step for key, _, _, step in journal.metric_rows() if key == "best/epoch"]
        client.log_outputs(run_id, models=[LoggedModelOutput(model.model_id, max(steps, default=0))])
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _copy_files(journal: Journal, run_location: str, model_location: str, uri: str) -> None:
    from mlflow.utils.file_utils import local_file_uri_to_path

    store = local_folder(run_location)
    source = store or journal.folder / "artifacts"
    names = [name for name in RUN_FILES if name in journal.artifacts and (source / name).is_file()]
    if store is None:
        repository = artifact_repository(model_location, uri)
        held = file_sizes(repository, names)
        for name in names:
            if name not in held or name != BEST_WEIGHTS:  # the small ones may have changed
                repository.log_artifact(str(source / name), str(Path(name).parent).strip(".") or None)
        return
    target = Path(local_file_uri_to_path(model_location))
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.exists() and not copy.samefile(store / name):
            copy.unlink()  # the run's file was replaced
        if not copy.exists():
            try:
                os.link(store / name, copy)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(store / name, copy)
                sync(copy)
            sync(copy.parent)


def _link_scores(client: Any, run: Any, journal: Journal, model: Any) -> None:
    """Link the run's scores to the model, each with the data set that it was measured on."""
    from mlflow.entities import Metric

    sets = {
        tag.value: data.dataset
        for data in run.inputs.dataset_inputs
        for tag in data.tags
        if tag.key == "mlflow.data.context"
    }
    known = {metric.key for metric in model.metrics or []}
    scores = []
    for key, value, time_ms, step in journal.metric_rows():
        used = next((use for part, use in _SCORES.items() if key.startswith(part)), None)
        if used is not None and key not in known:
            data = sets.get(used)
            named = {"dataset_name": data.name, "dataset_digest": data.digest} if data else {}
            scores.append(Metric(key, value, time_ms, step, model_id=model.model_id, **named))
    if scores:
        client.log_batch(run.info.run_id, scores, synchronous=True)
