"""What tests and benchmarks share that start the project's commands."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HOOKS = PROJECT / "tests" / "hooks"  # see its sitecustomize.py


@dataclass
class Ending:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ending]  # the fixture `command`


def import_path(*folders: Path) -> str:
    """PYTHONPATH with these folders first, then ours: a child imports what the test run imports."""
    return os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH")]))


class Hold:
    """Holds trainings back before an epoch: tests wait for events, not for a training's length."""

    def __init__(self, file: Path, epochs: int, fingerprint: str = "") -> None:
        self.file = file
        self.environment = {"PNEUMO_TEST_HOLD": str(file), "PYTHONPATH": import_path(PROJECT, HOOKS)}
        self.allow(epochs, fingerprint)

    def allow(self, epochs: int, fingerprint: str = "") -> None:
        """Every run, or the one named, trains this many epochs and then waits."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{epochs} {fingerprint}")
        new.replace(self.file)

    def release(self) -> None:
        self.file.unlink()


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours, with this checkout first to be imported, and tracking and cache in `folder`; `more` wins."""
    return {
        **os.environ,
        "PYTHONPATH": import_path(PROJECT),
        "PNEUMO_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        **more,
    }


def data_overrides(root: Path | None, **phantom: int) -> list[str]:
    """The images in `root`, a chest_xray folder; else synthetic ones, with these keys of data.phantom."""
    if root:
        return ["data=chest_xray", f"data.root={root.resolve()}"]
    return ["data=phantom", *(f"data.phantom.{key}={value}" for key, value in phantom.items())]


def small_run(
    *,
    train_patients: int = 40,
    test_patients: int = 16,
    epochs: int = 2,
    limit_batches: int = 2,
    batch_size: int = 16,
    more: Iterable[str] = (),
) -> list[str]:
    """The overrides of a run of seconds on synthetic images, followed by `more`."""
    return [
        *data_overrides(None, train_patients=train_patients, test_patients=test_patients),
        "data.image_size=32",
        f"trainer.epochs={epochs}",
        f"trainer.limit_batches={limit_batches}",
        f"trainer.batch_size={batch_size}",
        *more,
    ]
