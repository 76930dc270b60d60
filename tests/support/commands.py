"""What the tests and benchmarks share that start the project's commands as processes of their own."""

import os
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Ending:
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours, with this checkout first to be imported, and tracking and cache in `folder`; `more` wins."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
        "PNEUMO_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        **more,
    }


def data_overrides(root: Path | None, **phantom: int) -> list[str]:
    """The images in `root`, a chest_xray folder; else synthetic ones, with these keys of data.phantom."""
    if root:
        return ["data=chest_xray", f"data.root={root.resolve()}"]
    return ["data=phantom", *(f"data.phantom.{key}={value}" for key, value in phantom.items())]
