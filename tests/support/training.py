"""A tiny model, tiny splits in memory and a trainer on them, for the tests of training."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pneumo.data.loader import Split
from pneumo.data.settings import SamplerSettings
from pneumo.names import MEASURED
from pneumo.training.runtime import Runtime
from pneumo.training.trainer import Recipe, Trainer
from support import plain_settings

CPU = torch.device("cpu")
AUGMENT = {
    "rotate_deg": 10.0,
    "translate": 0.1,
    "brightness": 0.2,
    "noise_p": 0.5,
    "noise_std": 0.02,
    "erase_p": 0.5,
}


class Tiny(nn.Module):
    """One convolution, optional BatchNorm, dropout, and a linear head."""

    def __init__(self, norm: bool = True, dropout: float = 0.2, seed: int = 0, classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 6, 3, 2)
        self.norm: nn.Module = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.fc(self.dropout(x.mean((2, 3))))


def split(name: str, count: int, *, size: int = 12, seed: int = 0) -> Split:
    """`count` images sorted by class (two fifths NORMAL). Their brightness is a weak sign of the class."""
    rng = np.random.default_rng([seed, len(name), count])
    labels = (np.arange(count) >= 2 * count // 5).astype(np.int64)
    images = rng.integers(0, 200, (count, size, size)) + 30 * labels[:, None, None]
    return Split(
        name=name,
        images=images.astype(np.uint8),
        rows=torch.arange(count),
        labels=torch.from_numpy(labels),
        paths=[f"{name}/{row}.png" for row in range(count)],
        patients=[f"p{row // 2}" for row in range(count)],
        device=CPU,
    )


def three_splits(train: int = 22, val: int = 10, test: int = 9) -> dict[str, Split]:
    return {"train": split("train", train), "val": split("val", val), "test": split("test", test)}


@dataclass
class Recorder:
    """Holds points as the journal does; repeating one with another value is an error."""

    points: dict[tuple[str, int], float] = field(default_factory=dict)

    def metrics(self, values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            assert math.isfinite(value)
            first = self.points.setdefault((key, step), value)
            assert first == value or key.startswith(MEASURED), f"{key} of epoch {step} came twice"

    def figures(self) -> dict[tuple[str, int], float]:
        return {point: value for point, value in self.points.items() if not point[0].startswith(MEASURED)}


def recipe(
    *,
    optim: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    sampler: str = "shuffle",
    smoothing: float = 0.0,
    augment: dict[str, Any] | None = None,
    seed: int = 0,
    num_classes: int = 2,
    multilabel: bool = False,
    **trainer: Any,
) -> Recipe:
    defaults = {"epochs": 2, "batch_size": 4, "precision": "float32", "checkpoint_every_s": 1e6}
    return Recipe(
        trainer=plain_settings.trainer(**{**defaults, **trainer}),
        optim=plain_settings.optim(**{"lr": 0.01, **(optim or {})}),
        schedule=plain_settings.schedule(**(schedule or {})),
        sampler=SamplerSettings(name=sampler, smoothing=smoothing),
        augment=plain_settings.augment(**(augment or {})),
        seed=seed,
        num_classes=num_classes,
        multilabel=multilabel,
    )


def make_trainer(
    folder: Path,
    made: Recipe,
    model: nn.Module | None = None,
    splits: dict[str, Split] | None = None,
    **kwargs: Any,
) -> Trainer:
    kwargs = {"record": Recorder(), "quiet": True, **kwargs}
    runtime = kwargs.pop("runtime", None) or Runtime(CPU, None)
    return Trainer(made, model or Tiny(), splits or three_splits(), runtime, folder=folder, **kwargs)
