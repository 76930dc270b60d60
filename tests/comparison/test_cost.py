"""Parameters and FLOPs against torch's own counter; the cost of training from the runs."""

import pytest
import torch
from support.comparison_runs import candidate, finished
from torch.utils.flop_counter import FlopCounterMode

from pneumo.comparison import cost, network_cost, second_process
from pneumo.models import build_model


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "densenet121"])
def test_the_cost_is_what_torch_counts(model: str) -> None:
    network = build_model(model, in_channels=1).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 48, 48))
    found = network_cost.measure(network, 1, 48)
    assert found["flops"] == counter.get_total_flops() > 1e7
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["latency_ms"] > 0


def test_each_row_gets_the_cost_of_its_own_runs() -> None:
    config = {"model.name": "resnet18", "model.in_channels": 1, "data.image_size": 32}
    runs = [
        candidate(
            seed=seed, config=config, measured={"time/epoch_s": 10.0 + seed}, device="cpu", weights_bytes=9
        )
        for seed in (0, 1)
    ]
    rows = finished(runs)["configurations"]
    cost.add(rows, runs, second_process.network_cost(None, latency=False))
    found = rows[0]["cost"]
    assert (found["epoch_s"], found["images_per_s"], found["image_size"]) == (10.5, None, 32)
    assert (found["device"], found["weights_bytes"]) == ("cpu", 9)
    assert found["parameters"] > 1e7 and "latency_ms" not in found


def test_a_model_of_another_version_has_no_parameters() -> None:
    run = candidate(config={"model.name": "capsnet"})
    rows = finished([run])["configurations"]
    cost.add(rows, [run], second_process.network_cost(None, latency=False))
    assert "parameters" not in rows[0]["cost"] and rows[0]["cost"]["image_size"] == 224


def test_more_classes_have_a_larger_last_layer() -> None:
    measure = second_process.network_cost(None, latency=False)
    network = build_model("resnet18", num_classes=15, in_channels=1)
    found = measure("resnet18", 1, 32, 15)["parameters"]
    assert found == sum(p.numel() for p in network.parameters())
    assert found > measure("resnet18", 1, 32, 2)["parameters"]
