"""Schedules as functions of the step, fused optimisers against plain ones, and the written-out average."""

import math

import pytest
import torch
from support import plain_settings
from torch import Tensor, nn

from pneumo import UserError
from pneumo.training.optim import WeightAverage, build_optimizer, learning_rate
from pneumo.training.settings import OptimSettings, ScheduleSettings

TOTAL = 200


def rates(total: int = TOTAL, **settings: object) -> list[float]:
    schedule = plain_settings.schedule(**settings)
    return [learning_rate(schedule, 0.1, step, total) for step in range(total)]


def test_constant_stays_after_its_warmup() -> None:
    assert set(rates(name="constant")) == {0.1}
    warmed = rates(name="constant", warmup_fraction=0.1)
    assert warmed[:20] == pytest.approx([0.1 * (step + 1) / 21 for step in range(20)])
    assert set(warmed[20:]) == {0.1}


def test_cosine_is_half_a_cosine_down_to_its_final_value() -> None:
    plain = rates(name="cosine", final_fraction=0.2)
    expected = [0.02 + 0.08 * (1 + math.cos(math.pi * step / (TOTAL - 1))) / 2 for step in range(TOTAL)]
    assert plain == pytest.approx(expected)
    assert plain[0] == 0.1 and plain[-1] == pytest.approx(0.02)
    warmed = rates(name="cosine", warmup_fraction=0.05)
    assert (
        warmed[:10] == sorted(warmed[:10]) and warmed[10] == 0.1 and warmed[-1] == pytest.approx(0, abs=1e-12)
    )


def test_onecycle_rises_from_a_25th_and_falls_to_nearly_nothing() -> None:
    cycle = rates(name="onecycle", warmup_fraction=0.25, final_fraction=1e-4)
    assert 0.004 < cycle[0] < 0.0041
    assert cycle.index(max(cycle)) == 50 and max(cycle) == 0.1
    assert cycle[:51] == sorted(cycle[:51]) and cycle[50:] == sorted(cycle[50:], reverse=True)
    assert cycle[-1] == pytest.approx(1e-5)
    # torch's own, whose rise ends one step earlier and begins at lr/25 exactly: the same to a few per cent.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, TOTAL, pct_start=51 / TOTAL, div_factor=25, final_div_factor=400, cycle_momentum=False
    )
    for rate in cycle:
        assert rate == pytest.approx(theirs.get_last_lr()[0], abs=0.004)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["constant", "cosine", "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 1000])
def test_every_rate_is_positive_and_a_function_of_the_step_alone(
    name: str, warmup: float, total: int
) -> None:
    settings = {"name": name, "warmup_fraction": warmup, "final_fraction": 0.01}
    forwards = rates(total, **settings)
    schedule = plain_settings.schedule(**settings)
    backwards = [learning_rate(schedule, 0.1, step, total) for step in reversed(range(total))]
    assert forwards == backwards[::-1]
    assert all(0 < rate <= 0.1 * (1 + 1e-12) for rate in forwards)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_equals_plain(name: str) -> None:
    settings = OptimSettings(name=name, lr=0.01, weight_decay=0.1, momentum=0.9)
    mine = [nn.Parameter(torch.randn(7, 5, generator=torch.Generator().manual_seed(0))) for _ in range(3)]
    theirs = [nn.Parameter(value.detach().clone()) for value in mine]
    fused = build_optimizer(settings, mine)
    assert all(group["fused"] for group in fused.param_groups)
    plain: torch.optim.Optimizer = torch.optim.AdamW(theirs, 0.01, weight_decay=0.1, foreach=False)
    if name == "sgd":
        plain = torch.optim.SGD(theirs, 0.01, momentum=0.9, weight_decay=0.1, nesterov=True, foreach=False)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(7, 5, generator=generator)
            b.grad = a.grad.clone()
        fused.step()
        plain.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_the_average_is_the_written_out_one_with_batch_norm_and_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).train()
    average = WeightAverage(model, 0.9)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(120):
        model(torch.randn(4, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                expected[key] = decay * expected[key] + (1 - decay) * value
    held = average.model.state_dict()
    for key in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(held[key], expected[key], rtol=1e-5, atol=1e-6)
        assert not torch.equal(held[key], model.state_dict()[key])
    assert int(held["1.num_batches_tracked"]) == 120
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())


def test_the_average_follows_loaded_weights() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    state: dict[str, Tensor] = {key: torch.ones_like(value) for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    average.model.load_state_dict({key: torch.zeros_like(value) for key, value in state.items()})
    average.update(1000)
    assert torch.equal(average.model.weight, torch.full((2, 2), 0.5))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (OptimSettings, {"name": "adam"}, "optim.name=adam.*adamw, sgd"),
        (OptimSettings, {"lr": 0.0}, "optim.lr=0.0 must be positive"),
        (OptimSettings, {"weight_decay": -1.0}, "optim.weight_decay=-1.0"),
        (ScheduleSettings, {"name": "cosin"}, "Did you mean cosine"),
        (ScheduleSettings, {"warmup_fraction": 1.0}, "schedule.warmup_fraction=1.0"),
    ],
)
def test_settings_out_of_range(kind: type, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        kind(**settings)
