"""Saved views of an experiment in MLflow's UI: the scores and the params that differ, the best first.

MLflow keeps a view in a tag of the experiment, as it was seen in its version 3.17. A link that names the
view's key opens it in any browser. `pneumo` is the key of the experiment's view; a sweep's is its run id.
"""

import base64
import json
import time
import zlib
from typing import Any

KEY = "pneumo"
PREFIX = "mlflow.sharedViewState."
SCORES = ("best/val_auroc", "test/auroc", "test/accuracy")
ORDER = "best/val_auroc"
NAME_WIDTH = 330  # pixels: a run's name with its fingerprint
MOST_RUNS, MOST_PARAMS = 200, 12  # that are looked at; that are shown
MAX_CHARS = 5000  # of an experiment's tag
# A title and the metrics of each chart: training and validation share one.
CHARTS = (
    ("Loss", ("train/loss", "val/loss")),
    ("Accuracy", ("train/accuracy", "val/accuracy")),
    ("F1", ("train/f1", "val/f1")),
    ("Validation AUROC", ("val/auroc",)),
    ("Learning rate", ("optim/lr",)),
)
# MLflow makes a section of charts for each of these beginnings: single points, and what is shown above.
FOLDED = ("best", "test", "val", "train", "optim", "time", "memory", "System metrics")


def is_there(experiment: Any) -> bool:
    """True if the experiment has its view."""
    return PREFIX + KEY in experiment.tags


def save(client: Any, experiment_id: str, sweep: str | None = None, title: str = "Scores") -> None:
    """Save the view of the experiment, or of the sweep whose parent run has the id `sweep`."""
    query = f"tags.mlflow.parentRunId = '{sweep}'" if sweep else ""
    runs = client.search_runs([experiment_id], query, max_results=MOST_RUNS)
    state = _state(query, differing([run.data.params for run in runs]))
    key = PREFIX + (sweep or KEY)
    known = client.get_experiment(experiment_id).tags.get(key)
    text = f"deflate;{base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()}"
    before = json.loads(known) if known else {}
    if before.get("state") == text:
        return
    now = time.time_ns() // 1_000_000
    value = {"name": title, "createdAt": before.get("createdAt", now), "updatedAt": now, "state": text}
    if len(encoded := json.dumps(value)) <= MAX_CHARS:
        client.set_experiment_tag(experiment_id, key, encoded)


def differing(params: list[dict[str, str]]) -> list[str]:
    """The params that do not have one value in all runs, in the order of the runs' params."""
    keys = list(dict.fromkeys(key for run in params for key in run))
    found = [key for key in keys if len({run.get(key) for run in params}) > 1]
    # Those follow from the model and the machine.
    return [key for key in found if key not in ("model.parameters", "device")][:MOST_PARAMS]


def _state(query: str, params: list[str]) -> dict[str, Any]:
    columns = [f"metrics.`{score}`" for score in SCORES] + [f"params.`{key}`" for key in params]
    return {
        "searchFilter": query,
        "orderByKey": f"metrics.`{ORDER}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {"attributes.`Run Name`": NAME_WIDTH},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunCharts": [_chart(number, title, keys) for number, (title, keys) in enumerate(CHARTS)],
        "compareRunSections": [
            _section("training", "Training and validation", shown=True),
            *(_section(name, name, shown=False) for name in FOLDED),
        ],
    }


def _section(key: str, name: str, shown: bool) -> dict[str, Any]:
    return {
        "uuid": key,
        "name": name,
        "display": shown,
        "isReordered": False,
        "deleted": False,
        "isGenerated": not shown,
    }


def _chart(number: int, title: str, keys: tuple[str, ...]) -> dict[str, Any]:
    return {
        "uuid": f"chart-{number}",
        "type": "LINE",
        "runsCountToCompare": 10,
        "metricSectionId": "training",
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
        "metricKey": keys[0],
        "selectedMetricKeys": list(keys),
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
