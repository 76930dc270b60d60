"""Scores a split with a network: one probability for each image, or of more than two classes one a class."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pneumo.data.augment import normalise
from pneumo.data.loader import Split, evaluation_batch
from pneumo.evaluation import multiclass
from pneumo.training.objective import Objective
from pneumo.training.runtime import Runtime
from pneumo.training.settings import TrainerSettings


@dataclass
class Evaluation:
    """A split's scores: row numbers [N], labels, probabilities, and the mean loss.

    The probabilities are those of PNEUMONIA [N], or of more than two classes those of each class [N, K]. Of
    several findings both labels and probabilities are [N, K].
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    loss: float

    @property
    def finite(self) -> bool:
        """False if the network gave infinite or undefined numbers."""
        return math.isfinite(self.loss)

    def scores(self) -> dict[str, float]:
        return {"loss": self.loss, **multiclass.scores_of(self.labels, self.probabilities)}


@torch.inference_mode()
def score(
    network: nn.Module,
    split: Split,
    runtime: Runtime,
    settings: TrainerSettings,
    in_channels: int,
    objective: Objective,
    between_batches: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score `split` with `network`. With several processes, each scores a share and all get the whole.

    `between_batches` may raise to stop. With several processes it is not called: their shares differ in
    length.
    """
    indices = _evaluated_rows(len(split), settings)
    mine = indices[runtime.rank :: runtime.world_size]
    if runtime.world_size > 1:
        for buffer in network.buffers():  # BatchNorm statistics drift apart between processes
            torch.distributed.broadcast(buffer, 0)
    network.eval()
    rows = []
    together = evaluation_batch(settings.batch_size, split.images.shape[-1], runtime.device)
    for part in mine.split(together) if len(mine) else ():
        if runtime.world_size == 1:
            between_batches()
        images, labels = split.take(part)
        with runtime.autocast():
            logits = network(normalise(images, in_channels))
        logits = logits.double()
        losses, chances = objective.plain_losses(logits, labels), objective.probabilities(logits)
        rows.append(torch.cat([losses[:, None], chances], 1))
    width = objective.columns + 1
    own = torch.cat(rows) if rows else torch.zeros(0, width, dtype=torch.float64, device=runtime.device)
    numbers = runtime.gather(mine[:, None].to(own)).flatten().cpu().numpy().astype(np.int64)
    table = runtime.gather(own).cpu().numpy()
    order = np.argsort(numbers, kind="stable")
    losses, probabilities = table[order, 0], table[order, 1:]
    if objective.columns == 1:
        probabilities = probabilities[:, 0]
    truth = split.labels.cpu().numpy()[numbers[order]]
    return Evaluation(numbers[order], truth, probabilities, float(losses.mean()))


def _evaluated_rows(count: int, settings: TrainerSettings) -> Tensor:
    limit = (settings.limit_batches or count) * settings.batch_size
    if limit >= count:
        return torch.arange(count)
    # Spread over the split, because it is sorted by class and a smoke run needs both classes.
    return torch.from_numpy(np.linspace(0, count - 1, limit).astype(np.int64))
