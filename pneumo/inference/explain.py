"""Which regions of an image raised the score: Grad-CAM (Selvaraju et al., ICCV 2017), by captum.

A map is a hint, not a proof. It shows where the last convolutions responded, not why, and only at their
coarse resolution (one thirty-second of the image's side). A wrong answer has a map that looks as good as a
right one. A test draws the weights again and checks that the map changes (Adebayo et al., NeurIPS 2018).
"""

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from pneumo import UserError
from pneumo.data.augment import normalise
from pneumo.files import write_atomically
from pneumo.inference.bundle import Bundle

CAPTION = "Grad-CAM: a hint, not a proof. Not a medical device."
MOST_NAME_CHARS = 40  # of the class in a caption, which is as wide as the picture
# The last stage whose output still has rows and columns, before they are averaged.
STAGES = {"resnet18": "layer4", "resnet50": "layer4", "densenet121": "features.norm5"}
OPACITY = 0.5  # of the colours over the image, where the map is highest
MIN_SIDE = 384  # pixels of a written picture: smaller ones are enlarged

Maps = NDArray[np.float32]


def overlay(
    bundle: Bundle,
    batch: NDArray[np.uint8] | Tensor,
    network: nn.Module | None = None,
    labels: Sequence[int] | None = None,
) -> Maps:
    """Maps float32 [B, S, S] in 0..1: which regions of preprocessed images uint8 [B, S, S] raise the score.

    `labels` has the class of each map, None: class 1. Each map is scaled to its own maximum; it is all 0 if
    no region raises the score of the class. Computed in float32 on the device of `network` (default: a
    network on the CPU). UserError if captum is not installed, or if no stage of the network is known.
    """
    check(bundle)
    from captum.attr import LayerGradCam  # an extra package

    model = network if network is not None else bundle.network()
    stage = model.get_submodule(_stage(bundle.model["name"]))
    images = torch.as_tensor(batch).to(next(model.parameters()).device)
    with torch.enable_grad():
        inputs = normalise(images, bundle.model["in_channels"]).requires_grad_()
        target = [1] * len(images) if labels is None else list(labels)
        coarse = LayerGradCam(model, stage).attribute(inputs, target=target, relu_attributions=True)
    maps = F.interpolate(coarse.detach(), size=images.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    peak = maps.amax((1, 2), keepdim=True)
    scaled = (maps / peak.clamp_min(torch.finfo(maps.dtype).tiny)).clamp(0, 1)
    return np.asarray(scaled.float().cpu().numpy())


def check(bundle: Bundle) -> None:
    """UserError if captum is not installed, or if no stage of the network is known."""
    if importlib.util.find_spec("captum") is None:
        raise UserError("explain=true needs captum: pip install 'pneumo[explain]'")
    _stage(bundle.model["name"])


def _stage(name: str) -> str:
    if name not in STAGES:
        raise UserError(
            f"explain=true: no last stage of {name} is known, so it has no Grad-CAM map; known are those of "
            f"{', '.join(STAGES)}. Leave explain out, or add {name} to STAGES in pneumo/inference/explain.py."
        )
    return STAGES[name]


def write(
    file: Path, square: NDArray[np.uint8], heat: NDArray[np.float32], of_class: str | None = None
) -> None:
    """Write a PNG: the preprocessed image [S, S], the same with its map laid over it, and a caption.

    The caption names `of_class`, if given.
    """
    from matplotlib import colormaps  # takes a second, and only overlays need it

    grey = np.repeat(square[:, :, None] / 255, 3, axis=2)
    share = OPACITY * heat[:, :, None]
    overlaid = (1 - share) * grey + share * colormaps["inferno"](heat)[:, :, :3]
    pair = np.concatenate([grey, overlaid], axis=1)
    picture = Image.fromarray((255 * pair).round().clip(0, 255).astype(np.uint8))
    if picture.height < MIN_SIDE:
        scale = -(-MIN_SIDE // picture.height)
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    captioned = Image.new("RGB", (picture.width, picture.height + 20))
    captioned.paste(picture, (0, 0))
    ImageDraw.Draw(captioned).text((6, picture.height + 4), caption(of_class), fill="white")
    buffer = io.BytesIO()
    captioned.save(buffer, "PNG")
    write_atomically(file, buffer.getvalue())


def caption(of_class: str | None) -> str:
    """The line under an overlay."""
    if of_class is None:
        return CAPTION
    name = of_class if len(of_class) <= MOST_NAME_CHARS else f"{of_class[: MOST_NAME_CHARS - 3]}..."
    return CAPTION.replace("Grad-CAM", f"Grad-CAM of {name}", 1)
