"""The saved view of an experiment: what it shows, and that it fits into MLflow's tag."""

import base64
import json
import zlib
from typing import Any

from mlflow import MlflowClient

from pneumo.tracking import view


def state(client: MlflowClient, number: str, key: str = view.KEY) -> dict[str, Any]:
    value = json.loads(client.get_experiment(number).tags[view.PREFIX + key])
    return json.loads(zlib.decompress(base64.b64decode(value["state"].removeprefix("deflate;"))))


def test_the_view_shows_the_scores_and_the_params_that_differ(uri: str) -> None:
    client = MlflowClient(uri)
    number = client.create_experiment("viewed")
    assert not view.is_there(client.get_experiment(number))
    for lr in ("0.1", "0.2"):
        run = client.create_run(number)
        for key, value in (("model.name", "resnet18"), ("optim.lr", lr), ("device", f"cuda:{lr}")):
            client.log_param(run.info.run_id, key, value)
    view.save(client, number)
    assert view.is_there(client.get_experiment(number))
    shown = state(client, number)
    assert shown["selectedColumns"] == [
        *(f"metrics.`{score}`" for score in view.SCORES), "params.`optim.lr`",
    ]  # fmt: skip
    assert shown["orderByKey"] == "metrics.`best/val_auroc`" and shown["orderByAsc"] is False
    before = client.get_experiment(number).tags
    view.save(client, number)  # nothing has changed
    assert client.get_experiment(number).tags == before


def test_the_view_of_a_sweep_shows_its_runs_alone(uri: str) -> None:
    client = MlflowClient(uri)
    number = client.create_experiment("two sweeps")
    parents = [client.create_run(number).info.run_id for _ in range(2)]
    for parent, dropout in ((parents[0], "0.1"), (parents[0], "0.2"), (parents[1], "0.3")):
        run = client.create_run(number, tags={"mlflow.parentRunId": parent})
        client.log_param(run.info.run_id, "seed", parent)
        client.log_param(run.info.run_id, "model.dropout", dropout)
    view.save(client, number, parents[0], "one")
    shown = state(client, number, parents[0])
    assert shown["searchFilter"] == f"tags.mlflow.parentRunId = '{parents[0]}'"
    assert [key for key in shown["selectedColumns"] if "params" in key] == ["params.`model.dropout`"]


def test_a_view_of_many_params_fits_into_a_tag(uri: str) -> None:
    client = MlflowClient(uri)
    number = client.create_experiment("wide")
    for run in (client.create_run(number), client.create_run(number)):
        params = {f"group.a_rather_long_name_{index}": run.info.run_id for index in range(60)}
        for key, value in params.items():
            client.log_param(run.info.run_id, key, value)
    view.save(client, number)
    assert len(state(client, number)["selectedColumns"]) == len(view.SCORES) + view.MOST_PARAMS
