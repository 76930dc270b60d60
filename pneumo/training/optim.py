"""Optimisers, learning rate schedules and weight averaging."""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pneumo.training.settings import OptimSettings, ScheduleSettings


def build_optimizer(
    settings: OptimSettings, parameters: list[nn.Parameter], depths: Sequence[int] | None = None
) -> torch.optim.Optimizer:
    """The optimiser. It is fused, so that one kernel updates all parameters.

    With `layer_decay`, a group's `share` is that of the learning rate: layer_decay to the power of the depth,
    which counts the stages from a parameter to the head (`depths`).

    Weight decay applies only to the weights of convolutions and linear layers. Norms and biases are tensors
    of one dimension (42 of ResNet-18's 64) and are left out: pulling them to 0 changes what a layer computes
    and does not simplify it.
    """
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": settings.weight_decay}]
    if settings.layer_decay < 1 and depths is not None:
        groups = [
            {
                "params": [p for p, mine in zip(parameters, depths, strict=True) if mine == depth],
                "weight_decay": settings.weight_decay,
                "share": settings.layer_decay**depth,
            }
            for depth in sorted(set(depths))
        ]
    if settings.weight_decay > 0:
        groups = [
            {**group, "params": some, "weight_decay": decay}
            for group in groups
            for some, decay in (
                ([p for p in group["params"] if p.ndim > 1], settings.weight_decay),
                ([p for p in group["params"] if p.ndim <= 1], 0.0),
            )
        ]
    if settings.name == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(groups, settings.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    return torch.optim.AdamW(groups, settings.lr, fused=True)


def learning_rate(schedule: ScheduleSettings, lr: float, step: int, total_steps: int) -> float:
    """The learning rate of optimiser step `step` (from 0) of `total_steps`. It depends only on the step.

    `constant` and `cosine` rise linearly over the first `warmup_fraction` of the steps. Then `constant`
    stays, and `cosine` falls along half a cosine to `final_fraction`. `onecycle` is Smith's 1cycle (2018,
    arXiv:1803.09820): a cosine rise from lr/25 and a cosine fall.
    """
    warmup = schedule.warmup_fraction * total_steps
    if step < warmup:
        rise = (step + 1) / (warmup + 1)
        if schedule.name == "onecycle":
            return lr * (1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * rise)) / 2)
        return lr * rise
    if schedule.name == "constant":
        return lr
    fall = total_steps - 1 - warmup  # steps from the peak to the last one; 0 if the peak is the last step
    progress = (step - warmup) / fall if fall > 0 else 0.0
    final = schedule.final_fraction
    return lr * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


class WeightAverage:
    """`model` is an exponential moving average of a model's parameters and BatchNorm statistics.

    Integer buffers (BatchNorm's count of batches) are copied. The decay is min(decay, (1 + step) /
    (10 + step)), so that the random initial weights soon lose their influence.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).requires_grad_(False).eval()
        self._mine, self._my_counts = _by_kind(self.model)
        self._theirs, self._their_counts = _by_kind(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mine, self._theirs, 1 - decay)
        if self._my_counts:
            torch._foreach_copy_(self._my_counts, self._their_counts)


def _by_kind(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of a model that can be averaged, and its integer tensors."""
    values = list(model.state_dict().values())
    return [v for v in values if v.is_floating_point()], [v for v in values if not v.is_floating_point()]
