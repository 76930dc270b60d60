"""Grad-CAM maps: of the right shape, of what was learnt, and laid on the image."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from support.images import picture
from support.model_runs import SIZE, images

from pneumo import UserError
from pneumo.data.augment import normalise
from pneumo.data.images import placement, preprocess
from pneumo.inference import explain, model_folder
from pneumo.inference.bundle import Bundle
from pneumo.inference.predictor import Predictor, PreparedImage

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


def test_a_map_is_laid_on_the_image_at_its_own_size(tmp_path: Path) -> None:
    """An image with a black border: the border was cut off, so it has no colour, and neither has padding."""
    grey = np.zeros((500, 900), np.uint8)
    grey[50:450, 100:850] = picture(1, 3, 400, 750)
    at = placement(Image.fromarray(grey), image_size=SIZE, crop_black=True, pixels=1)
    square = preprocess(grey, image_size=SIZE, equalize=False)
    assert at.crop == (100, 50, 850, 450)
    left, top, right, bottom = at.place
    assert (left, right) == (0, SIZE) and 0 < top < bottom < SIZE and not square[:top].any()
    laid = explain.on_image(np.ones((SIZE, SIZE), np.float32), grey, at)
    assert laid.shape == grey.shape and (laid[50:450, 100:850] == 1).all() and laid.sum() == 400 * 750
    explain.write(tmp_path / "a" / "map.png", explain.picture(grey, laid, "PNEUMONIA"))
    shown = np.asarray(Image.open(tmp_path / "a" / "map.png")).astype(int)
    assert shown.shape[1] == 900 and 560 < shown.shape[0] < 640, "the legend is below, in a readable size"
    assert not shown[:50].any() and not shown[:500, :100].any() and not shown[450:500].any()
    inside = shown[50:450, 100:850]
    assert np.abs(inside - grey[50:450, 100:850, None]).mean() > 20
    half = np.zeros((SIZE, SIZE), np.float32)
    half[:, : SIZE // 2] = 1
    laid = explain.on_image(half, grey, at)
    assert laid[250, 300] == 1 and laid[250, 700] == 0, "left stays left"


def test_a_map_of_a_reduced_image_is_in_its_place() -> None:
    grey = np.zeros((1000, 2000), np.uint8)
    grey[100:900, 500:1900] = picture(1, 3, 800, 1400)
    at = placement(Image.fromarray(grey), image_size=SIZE, crop_black=True, pixels=1)
    laid = explain.on_image(np.ones((SIZE, SIZE), np.float32), grey[::10, ::10], at)
    assert laid.sum() == 80 * 140 and laid[10:90, 50:190].all()


def test_an_empty_map_is_said_in_words_and_leaves_the_image_as_it_is() -> None:
    grey = picture(1, 3, 400, 500)
    empty, some = np.zeros(grey.shape, np.float32), np.ones(grey.shape, np.float32)
    assert explain.legend_text("NORMAL", empty)[0] == "Nothing in this image raised the score of NORMAL."
    assert explain.legend_text("NORMAL", some)[0].startswith("Regions that raised the score of NORMAL")
    shown = np.asarray(explain.picture(grey, empty, "NORMAL"))
    np.testing.assert_array_equal(shown[:400, :, 0], grey)
    assert (shown[400:] == shown[400:, :, :1]).all(), "a legend without a colour scale"
    assert not (np.asarray(explain.picture(grey, some, "NORMAL"))[400:] == shown[0, 0, 0]).all()
    coloured = np.asarray(explain.picture(grey, some, "NORMAL"))[400:].astype(int)
    assert np.ptp(coloured, axis=2).max() > 100


def test_a_small_image_is_enlarged_and_the_legend_fits_it() -> None:
    grey = picture(1, 3, 48, 60)
    shown = explain.picture(grey, np.zeros(grey.shape, np.float32), "x" * 100)
    assert shown.width >= explain.MIN_SIDE
    pixels = np.asarray(shown)
    assert not pixels[48 * 7 :, -3:].any(), "no letter is cut off at the right edge"
    np.testing.assert_array_equal(pixels[: 48 * 7 : 7, : 60 * 7 : 7, 0], grey)


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


def test_the_legend_names_the_class() -> None:
    some = np.ones((300, 400), np.float32)
    assert "viral" in explain.legend_text("viral", some)[0]
    assert explain.legend_text("viral", some)[1] == explain.CAPTION and "not a proof" in explain.CAPTION
    assert len(explain.legend_text("x" * 100, some)[0]) < 130
    legends = [
        np.asarray(explain.picture(picture(0, 1, 300, 400), some, name))[300:]
        for name in ("viral", "bacterial", "肺炎")
    ]
    assert all(legend.shape != legends[0].shape or (legend != legends[0]).any() for legend in legends[1:])


def test_maps_of_a_model_that_threads_use_are_those_of_one_alone(made_models: dict[str, Path]) -> None:
    """captum hooks the network: its hooks once saw the images that other threads computed meanwhile."""
    bundle = model_folder.read(made_models["resnet18"])
    batch = images(4, 5)
    prepared = [PreparedImage(square, square, 0.0) for square in batch]
    alone = Predictor(bundle, num_workers=1)
    rows = alone.predictions(["x"] * 4, prepared)
    expected = alone.overlays(rows, batch)
    busy = Predictor(bundle, num_workers=4)
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            busy.predictions(["x"] * 4, prepared)

    others = [busy.pool.submit(compute) for _ in range(3)]
    try:
        found = [busy.overlays(rows, batch) for _ in range(60)]
    finally:
        ended.set()
    assert not any(other.exception() for other in others)
    for maps in found:
        np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert not any(module._forward_hooks or module._backward_hooks for module in busy.network.modules())


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
