"""Grad-CAM maps: of the right shape, of what was learnt, and laid on the image."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from support.model_runs import SIZE, images

from pneumo import UserError
from pneumo.data.augment import normalise
from pneumo.inference import explain, model_folder
from pneumo.inference.bundle import Bundle

captum = pytest.importorskip("captum")
NAMES = ("resnet18", "resnet50", "densenet121")


@pytest.fixture(scope="module")
def model(made_models: dict[str, Path]) -> Callable[[str], tuple[Bundle, torch.nn.Module]]:
    known: dict[str, tuple[Bundle, torch.nn.Module]] = {}

    def get(name: str) -> tuple[Bundle, torch.nn.Module]:
        if name not in known:
            made = model_folder.read(made_models[name])
            known[name] = made, made.network()
        return known[name]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_grad_cam_computed_by_hand(name: str, model: Callable) -> None:
    made, network = model(name)
    batch = images(3, 5, 64)
    kept: list[torch.Tensor] = []
    stage = network.get_submodule(explain.STAGES[name])
    handle = stage.register_forward_hook(lambda module, given, out: kept.append(out))
    logits = network(normalise(torch.from_numpy(batch), made.model["in_channels"]))
    handle.remove()
    gradients = torch.autograd.grad(logits[:, 1].sum(), kept[0])[0]
    cam = (gradients.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu().detach()
    cam = torch.nn.functional.interpolate(cam[:, None], (64, 64), mode="bilinear")[:, 0]
    peak = cam.amax((1, 2), keepdim=True).clamp_min(1e-30)
    found = explain.overlay(made, batch, network)
    assert found.shape == (3, 64, 64) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found, (cam / peak).numpy(), atol=1e-4)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training


def trained(network: torch.nn.Module, in_channels: int) -> None:
    """Teach `network` in seconds where the light is: on the left of the image for class 1."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.train()
    for step in range(12):
        batch = torch.from_numpy(images(16, 100 + step, 64))
        logits = network(normalise(batch, in_channels))
        torch.nn.functional.cross_entropy(logits, torch.arange(16) % 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()


def test_weights_drawn_again_change_the_map(model: Callable) -> None:
    """Sanity check of Adebayo et al. (NeurIPS 2018): maps that need no weights explain nothing."""
    made, _ = model("resnet18")
    network = made.network()
    trained(network, made.model["in_channels"])
    batch = images(12, 7, 64)[1::2]  # light on the left
    before = explain.overlay(made, batch, network)
    np.testing.assert_array_equal(before, explain.overlay(made, batch, network))
    ranks = []
    for seed in range(4):  # of so few cells that one draw may resemble the trained map
        torch.manual_seed(seed)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        after = explain.overlay(made, batch, network)
        assert np.abs(before - after).mean() > 0.1
        ranks += [
            np.nan_to_num(spearmanr(one.ravel(), other.ravel()).statistic)
            for one, other in zip(before, after, strict=True)
        ]
    assert np.mean(ranks) < 0.5


def test_a_network_without_a_known_stage_is_refused(model: Callable) -> None:
    made, network = model("resnet18")
    other = dataclasses.replace(made, model={**made.model, "name": "tiny"})
    with pytest.raises(UserError, match=r"no last stage of tiny is known.*resnet18.*add tiny to STAGES"):
        explain.overlay(other, images(1, 5, 64), network)


def test_the_overlay_is_laid_beside_the_image(tmp_path: Path) -> None:
    square = images(1, 0, SIZE)[0]
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[:16] = 1
    explain.write(tmp_path / "a" / "map.png", square, heat)
    picture = np.asarray(Image.open(tmp_path / "a" / "map.png")).astype(int)
    side = picture.shape[1] // 2
    assert side >= explain.MIN_SIDE and side % SIZE == 0 and picture.shape[0] == side + 20
    scale = side // SIZE
    left, right = picture[:side:scale, :side:scale], picture[:side:scale, side::scale]
    np.testing.assert_array_equal(left, np.repeat(square[:, :, None], 3, axis=2))
    assert np.abs(right[16:] - left[16:]).max() <= 1  # nothing where the map is 0
    assert np.abs(right[:16] - left[:16]).mean() > 20
    assert "not a proof" in explain.CAPTION


def test_each_map_is_of_the_class_that_it_is_asked_for(made_of_three: Path) -> None:
    made = model_folder.read(made_of_three)
    network = made.network()
    batch = images(4, 5, 64)
    labels = [2, 0, 1, 2]
    found = explain.overlay(made, batch, network, labels)
    for label in (0, 1, 2):
        alone = explain.overlay(made, batch, network, [label] * 4)
        for row, asked in enumerate(labels):
            if asked == label:
                np.testing.assert_allclose(found[row], alone[row], atol=1e-5)
            else:
                assert np.abs(found[row] - alone[row]).max() > 0.05
    np.testing.assert_array_equal(
        explain.overlay(made, batch, network), explain.overlay(made, batch, network, [1] * 4)
    )


def test_the_caption_names_the_class(tmp_path: Path) -> None:
    assert explain.caption(None) == explain.CAPTION
    assert explain.caption("viral") == "Grad-CAM of viral: a hint, not a proof. Not a medical device."
    assert len(explain.caption("x" * 100)) < 100 and "..." in explain.caption("x" * 100)
    square, heat = images(1, 0, SIZE)[0], np.zeros((SIZE, SIZE), np.float32)
    lines = []
    for name in ("viral", "bacterial", "肺炎"):
        explain.write(tmp_path / "map.png", square, heat, name)
        lines.append(np.asarray(Image.open(tmp_path / "map.png"))[-20:])
    assert (lines[0] != lines[1]).any() and (lines[0] != lines[2]).any()


def test_a_map_of_a_finding_is_that_of_its_logit(made_of_findings: Path) -> None:
    made = model_folder.read(made_of_findings)
    network = made.network()
    batch = images(2, 5, 64)
    kept: list[torch.Tensor] = []
    stage = network.get_submodule(explain.STAGES["resnet18"])
    handle = stage.register_forward_hook(lambda module, given, out: kept.append(out))
    logits = network(normalise(torch.from_numpy(batch), made.model["in_channels"]))
    handle.remove()
    gradients = torch.autograd.grad(logits[0, 2] + logits[1, 0], kept[0])[0]
    cam = (gradients.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu().detach()
    cam = torch.nn.functional.interpolate(cam[:, None], (64, 64), mode="bilinear")[:, 0]
    peak = cam.amax((1, 2), keepdim=True).clamp_min(1e-30)
    np.testing.assert_allclose(explain.overlay(made, batch, network, [2, 0]), (cam / peak).numpy(), atol=1e-4)
