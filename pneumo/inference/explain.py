"""Where in an image a network's answer came from: Grad-CAM (Selvaraju et al., ICCV 2017), by captum.

A map is a hint, not a proof: it shows where the last convolutions answered, at their coarse resolution (one
thirty-second of the image's side), not why, and a wrong answer has one as fine as a right one. That it
depends on what was learnt is tested by drawing the weights anew (Adebayo et al., NeurIPS 2018).
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pneumo import UserError
from pneumo.inference.bundle import Bundle

if TYPE_CHECKING:
    from torch import Tensor, nn

NO_PROOF = "Grad-CAM: a hint, no proof of why. Not a medical device."
# The last stage whose output still has places, before it is averaged over them.
STAGES = {"resnet18": "layer4", "resnet50": "layer4", "densenet121": "features.norm5"}
STRENGTH = 0.5  # of the colours over the image, at the map's highest
LEAST_SIDE = 384  # of the pictures written: smaller ones are enlarged

Maps = NDArray[np.float32]


def overlay(bundle: Bundle, batch: "NDArray[np.uint8] | Tensor", network: "nn.Module | None" = None) -> Maps:
    """Maps float32 [B, S, S] in 0..1 of what speaks for PNEUMONIA in preprocessed images uint8 [B, S, S].

    Each map is scaled to its own highest place; all 0 where nothing speaks for it. Computed in float32 on the
    device of `network` (by default one on the CPU). UserError where captum is not installed.
    """
    import torch
    import torch.nn.functional as F

    from pneumo.data.augment import normalise

    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise UserError("explain=true needs captum: pip install pneumo[explain]") from None
    model = network if network is not None else bundle.network()
    stage = model.get_submodule(STAGES[bundle.model["name"]])
    images = torch.as_tensor(batch).to(next(model.parameters()).device)
    with torch.enable_grad():
        inputs = normalise(images, bundle.model["in_channels"]).requires_grad_()
        found = LayerGradCam(model, stage).attribute(inputs, target=1, relu_attributions=True)
    found = F.interpolate(found.detach(), size=images.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    peak = found.amax((1, 2), keepdim=True)
    return (found / peak.clamp_min(torch.finfo(found.dtype).tiny)).clamp(0, 1).float().cpu().numpy()


def write(file: Path, square: NDArray[np.uint8], heat: NDArray[np.float32]) -> None:
    """A PNG: the preprocessed image [S, S], beside it the same under its map, and that it is no proof."""
    from matplotlib import colormaps

    from pneumo.files import write_atomically

    grey = np.repeat(square[:, :, None] / 255, 3, axis=2)
    share = STRENGTH * heat[:, :, None]
    laid = (1 - share) * grey + share * colormaps["inferno"](heat)[:, :, :3]
    pair = np.concatenate([grey, laid], axis=1)
    picture = Image.fromarray((255 * pair).round().clip(0, 255).astype(np.uint8))
    if picture.height < LEAST_SIDE:
        scale = -(-LEAST_SIDE // picture.height)
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    page = Image.new("RGB", (picture.width, picture.height + 20))
    page.paste(picture, (0, 0))
    ImageDraw.Draw(page).text((6, picture.height + 4), NO_PROOF, fill="white")
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    write_atomically(file, buffer.getvalue())
