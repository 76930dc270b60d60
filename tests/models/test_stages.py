"""Fine-tuning: which layers learn slower, or not at all."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import Tiny, make_trainer, recipe
from torch import nn

from pneumo import UserError
from pneumo.models import MODELS, build_model
from pneumo.models.settings import ModelSettings
from pneumo.models.stages import HEAD, freeze_backbone, frozen_norms, stage_of
from pneumo.training.optim import build_optimizer
from pneumo.training.settings import OptimSettings
from pneumo.training.signals import Stopped
from pneumo.training.trainer import Trainer


@pytest.mark.parametrize("name", list(MODELS))
def test_stages_rise_from_the_stem_to_the_head(name: str) -> None:
    network = build_model(name, in_channels=1)
    found = [stage_of(key) for key, _ in network.named_parameters()]
    assert found == sorted(found) and set(found) == {*range(HEAD + 1)}
    assert found[:3] == [0, 0, 0]  # the first convolution and its norm


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_each_stage_learns_at_its_share_of_the_rate(name: str) -> None:
    network = build_model("resnet18")
    settings = OptimSettings(name=name, lr=0.1, weight_decay=0.5, momentum=0.0, layer_decay=0.5)
    named = dict(network.named_parameters())
    optimizer = build_optimizer(settings, list(named.values()), [HEAD - stage_of(key) for key in named])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["share"]
    before = {key: value.detach().clone() for key, value in named.items()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)  # an update applies the decay alone
    optimizer.step()
    for key, value in named.items():
        share = 0.5 ** (HEAD - stage_of(key))
        expected = before[key] * (1 - 0.1 * share * 0.5) if value.ndim > 1 else before[key]
        torch.testing.assert_close(value.detach(), expected, msg=key)


def test_one_rate_has_the_groups_of_before() -> None:
    parameters = list(Tiny().parameters())
    plain, depths = build_optimizer(OptimSettings(), parameters), [5] * len(parameters)
    found = build_optimizer(OptimSettings(), parameters, depths)
    assert found.state_dict() == plain.state_dict()
    assert all("share" not in group for group in found.param_groups)


def test_the_schedule_moves_every_share(tmp_path: Path) -> None:
    made = recipe(optim={"lr": 0.01, "layer_decay": 0.5})
    trainer = make_trainer(tmp_path, made, Tiny())
    trainer.fit()
    rates = {group["share"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert set(rates) == {1.0, 0.5**HEAD}  # this network has a stem and a head
    assert rates[0.5**HEAD] == pytest.approx(rates[1.0] * 0.5**HEAD)
    assert trainer.progress.history[-1]["optim/lr"] == rates[1.0]


def test_a_frozen_backbone_stays_with_its_statistics(tmp_path: Path) -> None:
    network = Tiny()
    freeze_backbone(network)
    assert frozen_norms(network) == [network.norm]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    trainer = make_trainer(tmp_path, recipe(ema_decay=0.9), network)
    assert [len(group["params"]) for group in trainer.optimizer.param_groups] == [1, 1]  # fc
    trainer.fit()
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(value, before[key]) == (not key.startswith("fc.")), key
    assert frozen_norms(Tiny()) == []
    with pytest.raises(UserError, match="must be called fc or classifier"):
        freeze_backbone(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2)))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_stopped_run_continues_to_the_same_bits(frozen: bool, tmp_path: Path) -> None:
    made = recipe(optim={"lr": 0.01, "layer_decay": 0.5, "weight_decay": 0.1}, ema_decay=0.9)
    steps = count()

    def trainer(folder: str, **more: Any) -> Trainer:
        network = Tiny()
        if frozen:
            freeze_backbone(network)
        return make_trainer(tmp_path / folder, made, network, **more)

    with pytest.raises(Stopped):
        trainer("stopped", should_stop=lambda: "stopped" if next(steps) == 4 else None).fit()
    continued, whole = trainer("stopped"), trainer("whole")
    continued.fit()
    whole.fit()
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, continued.network.state_dict()[key]), key


def test_a_frozen_backbone_needs_weights() -> None:
    with pytest.raises(UserError, match=r"random weights: give model.weights=FILE"):
        ModelSettings(freeze="backbone")
    with pytest.raises(UserError, match=r"model.freeze=head"):
        ModelSettings(freeze="head")
    with pytest.raises(UserError, match=r"optim.layer_decay=0 must be above 0"):
        OptimSettings(layer_decay=0)
    settings = ModelSettings(freeze="backbone", weights="x.safetensors")
    assert "freeze" not in settings.network() and isinstance(build_model(**_plain(settings)), nn.Module)


def _plain(settings: ModelSettings) -> dict[str, object]:
    return {**settings.network(), "weights": None}
