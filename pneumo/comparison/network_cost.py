"""What one network costs: parameters, floating-point operations and time for one image, measured here."""

import time
from statistics import median
from typing import Any

import torch
from torch import nn

from pneumo import UserError
from pneumo.comparison.content import Cost
from pneumo.models import build_model

WARM_UP, TIMED = 2, 9
FEWEST_TIMED, MOST_S = 3, 1.0  # on a busy machine an image takes half a second; three of them are enough


def of(name: str, in_channels: int, image_size: int, classes: int, latency: bool) -> Cost:
    """The cost of the architecture `name`; empty for a model that this version does not know."""
    try:
        model = build_model(name, num_classes=classes, in_channels=in_channels)
    except UserError:
        return {}
    return measure(model, in_channels, image_size, latency)


def measure(model: nn.Module, in_channels: int, image_size: int, latency: bool = True) -> Cost:
    """`parameters`, `flops` of one image (a multiply-add counts two) and `latency_ms` (median, batch 1).

    FLOPs are those of convolutions and linear layers, as torch.utils.flop_counter counts them; importing that
    takes two seconds. The time is measured on this machine's CPU in float32, with torch's default number of
    threads.
    """
    flops = 0

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal flops
        flops += 2 * layer.weight[0].numel() * output.numel()

    model = model.eval()
    image = torch.zeros(1, in_channels, image_size, image_size)
    layers = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        model(image)
        for hook in hooks:
            hook.remove()
        cost: Cost = {
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "flops": float(flops),
        }
        if latency:
            times: list[float] = []
            while len(times) < WARM_UP + TIMED:
                if len(times) >= WARM_UP + FEWEST_TIMED and sum(times) > 1000 * MOST_S:
                    break
                began = time.perf_counter()
                model(image)
                times.append(1000 * (time.perf_counter() - began))
            cost["latency_ms"] = median(times[WARM_UP:])
    return cost
