"""Shared by the tests and benchmarks that start the project's commands."""

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
    """Stops trainings before an epoch, so that tests wait for events and not for a fixed time."""

    def __init__(self, file: Path, epochs: int, fingerprint: str = "") -> None:
        self.file = file
        self.environment = {"PNEUMO_TEST_HOLD": str(file), "PYTHONPATH": import_path(PROJECT, HOOKS)}
        self.allow(epochs, fingerprint)

    def allow(self, epochs: int, fingerprint: str = "") -> None:
        """Every run, or the run with this fingerprint, trains this many epochs and then waits."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{epochs} {fingerprint}")
        new.replace(self.file)

    def release(self) -> None:
        self.file.unlink()


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Our environment, with this checkout first on the path, and tracking and cache in `folder`.

    `more` overrides the rest.
    """
    return {
        **os.environ,
        "PYTHONPATH": import_path(PROJECT),
        "PNEUMO_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        **more,
    }


def data_overrides(root: Path | None, **phantom: int) -> list[str]:
    """The images in `root`, a chest_xray folder; without it, synthetic ones with these data.phantom keys."""
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
    """The overrides of a run that takes seconds on synthetic images, followed by `more`."""
    return [
        *data_overrides(None, train_patients=train_patients, test_patients=test_patients),
        "data.image_size=32",
        f"trainer.epochs={epochs}",
        f"trainer.limit_batches={limit_batches}",
        f"trainer.batch_size={batch_size}",
        *more,
    ]
