"""What a configuration costs: parameters, floating-point operations, time for one image, time to train."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import nn

from pneumo import UserError
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import ConfigurationRow, Cost
from pneumo.models import build_model

WARM_UP, TIMED = 2, 9
FEWEST_TIMED, MOST_S = 3, 1.0  # on a busy machine an image takes half a second; three of them are enough


def add(rows: Sequence[ConfigurationRow], runs: Sequence[Candidate], latency: bool) -> None:
    """Put the cost into each of `rows`: of its architecture, measured here, and of its runs' training."""
    by_id = {run.run_id: run for run in runs}
    measured: dict[tuple[str, int, int, int], Cost] = {}
    for row in rows:
        mine = [by_id[run["run_id"]] for run in row["runs"]]
        config = mine[0].config
        name, channels = str(config.get("model.name")), int(config.get("model.in_channels", 3))
        size = int(config.get("data.image_size", 224))
        classes = len(mine[0].test.class_names)
        architecture = (name, channels, size, classes)
        if architecture not in measured:
            try:
                model = build_model(name, num_classes=classes, in_channels=channels)
                measured[architecture] = measure(model, channels, size, latency)
            except UserError:  # a model that this version does not know
                measured[architecture] = {}
        row["cost"] = {
            **measured[architecture],
            "image_size": size,
            "weights_bytes": mine[0].weights_bytes,
            "device": mine[0].device,
            "images_per_s": _mean(mine, "time/images_per_s"),
            "epoch_s": _mean(mine, "time/epoch_s"),
            "peak_memory_mib": _mean(mine, "memory/peak_mib"),
        }


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


def _mean(runs: Sequence[Candidate], metric: str) -> float | None:
    values = [run.measured[metric] for run in runs if metric in run.measured]
    return sum(values) / len(values) if values else None
