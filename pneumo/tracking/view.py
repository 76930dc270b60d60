"""The saved view of an experiment in MLflow's UI: the scores and the params that differ, the best first.

MLflow keeps a shared view in a tag of the experiment; a link that names its key opens it in any browser.
"""

from typing import Any

KEY = "pneumo"
TAG = f"mlflow.sharedViewState.{KEY}"


def is_there(experiment: Any) -> bool:
    """True if the experiment has the view."""
    return TAG in experiment.tags
