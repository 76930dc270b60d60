"""What a model costs to use: parameters, floating-point operations and the time for one image."""

import time
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

WARM_UP, TIMED = 2, 9


def measure(model: "nn.Module", in_channels: int, image_size: int, latency: bool = True) -> dict[str, float]:
    """`parameters`, `flops` of one image (a multiply-add counts two) and `latency_ms` (median, batch 1).

    The time is of this machine's CPU in float32, with as many threads as torch takes by itself.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = model.eval()
    image = torch.zeros(1, in_channels, image_size, image_size)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode():
        with counter:
            model(image)
        found = {
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "flops": float(counter.get_total_flops()),
        }
        if latency:
            times = []
            for _ in range(WARM_UP + TIMED):
                began = time.perf_counter()
                model(image)
                times.append(1000 * (time.perf_counter() - began))
            found["latency_ms"] = median(times[WARM_UP:])
    return found
