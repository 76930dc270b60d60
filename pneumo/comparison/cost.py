"""What a model costs to use: parameters, floating-point operations and the time for one image."""

import time
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

WARM_UP, TIMED = 2, 9


def measure(model: "nn.Module", in_channels: int, image_size: int, latency: bool = True) -> dict[str, float]:
    """`parameters`, `flops` of one image (a multiply-add counts two) and `latency_ms` (median, batch 1).

    Counted are convolutions and linear layers, as torch.utils.flop_counter counts them; its own import takes
    two seconds. The time is of this machine's CPU in float32, with as many threads as torch takes by itself.
    """
    import torch

    flops = 0

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal flops
        flops += 2 * layer.weight[0].numel() * output.numel()

    model = model.eval()
    image = torch.zeros(1, in_channels, image_size, image_size)
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        model(image)
        for hook in hooks:
            hook.remove()
        found = {"parameters": float(sum(p.numel() for p in model.parameters())), "flops": float(flops)}
        if latency:
            times = []
            for _ in range(WARM_UP + TIMED):
                began = time.perf_counter()
                model(image)
                times.append(1000 * (time.perf_counter() - began))
            found["latency_ms"] = median(times[WARM_UP:])
    return found
