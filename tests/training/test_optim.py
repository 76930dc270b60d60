"""Schedules as functions of the step, fused optimisers against plain ones, and the weight average."""

import math

import pytest
import torch
from support import plain_settings
from torch import Tensor, nn

from pneumo import UserError
from pneumo.models import build_model
from pneumo.training.optim import WeightAverage, build_optimizer, learning_rate
from pneumo.training.settings import OptimSettings, ScheduleSettings
from pneumo.versions import core_touches

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
    # torch's rise ends one step earlier and starts at exactly lr/25, so the two agree to a few per cent.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, TOTAL, pct_start=51 / TOTAL, div_factor=25, final_div_factor=400, cycle_momentum=False
    )
    for rate in cycle:
        assert rate == pytest.approx(theirs.get_last_lr()[0], abs=0.004)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@pytest.mark.parametrize(
    ("total", "warmup"), [(2, 0.25), (2, 0.0), (3, 0.5), (10, 0.85), (10, 0.0), (1000, 0.25)]
)
def test_a_schedule_ends_at_its_final_fraction(name: str, total: int, warmup: float) -> None:
    """This holds even if the peak is less than one step before the end."""
    made = rates(total, name=name, warmup_fraction=warmup, final_fraction=1e-4)
    assert made[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize("name", ["constant", "cosine", "onecycle"])
def test_one_step_alone_is_taken_at_the_full_rate(name: str) -> None:
    assert rates(1, name=name) == [0.1]


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_only_what_core_2_declares_changed(name: str, warmup: float) -> None:
    """Against version 0.1's formula, for every number of steps that a declared run can have."""
    for total in range(1, 60):
        schedule = ScheduleSettings(name=name, warmup_fraction=warmup, final_fraction=0.01)
        peak = warmup * total
        changed = 0 < total - 1 - peak < 1
        config = {
            "schedule.name": name,
            "schedule.warmup_fraction": warmup,
            "trainer.epochs": total,  # the fewest steps for this number of epochs
        }
        assert not changed or core_touches(config)
        for step in range(total):
            if step >= peak and not changed:
                progress = (step - peak) / max(1.0, total - 1 - peak)
                expected = 0.1 * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
                assert learning_rate(schedule, 0.1, step, total) == expected


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


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_spares_norms_and_biases(name: str) -> None:
    """Without gradients, an update applies only the decay."""
    model = build_model("resnet18")
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    settings = OptimSettings(name=name, lr=0.1, weight_decay=0.5, momentum=0.0)
    optimizer = build_optimizer(settings, list(model.parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    spared = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert len(before) == 64 and sum(before[key].ndim == 1 for key in before) == 42
    assert sorted(spared) == sorted(key for key, value in before.items() if value.ndim == 1)
    for key, value in model.named_parameters():
        if key not in spared:
            torch.testing.assert_close(value.detach(), before[key] * (1 - 0.1 * 0.5))


def test_without_decay_the_state_is_that_of_version_0_1() -> None:
    """There is one group, so a run without weight decay continues from its old state."""
    optimizer = build_optimizer(OptimSettings(weight_decay=0.0), list(nn.Linear(2, 2).parameters()))
    assert len(optimizer.param_groups) == 1


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
