"""Which regions of an image raised the score: Grad-CAM (Selvaraju et al., ICCV 2017), by captum.

A map is a hint, not a proof. It shows where the last convolutions responded, not why, and only at their
coarse resolution (one thirty-second of the image's side). A wrong answer has a map that looks as good as a
right one. A test draws the weights again and checks that the map changes (Adebayo et al., NeurIPS 2018).
"""

import importlib.util
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from pneumo import UserError
from pneumo.data.augment import normalise
from pneumo.data.images import Placement
from pneumo.data.limits import Grey
from pneumo.files import write_atomically
from pneumo.inference.bundle import Bundle

CAPTION = "Grad-CAM: a hint, not a proof. Not a medical device."
MOST_NAME_CHARS = 40  # of the class in a legend
# The last stage whose output still has rows and columns, before they are averaged.
STAGES = {"resnet18": "layer4", "resnet50": "layer4", "densenet121": "features.norm5"}
OPACITY = 0.5  # of the colours over the image, where the map is highest
MIN_SIDE = 384  # pixels of a picture's longer side: smaller ones are enlarged
FONT_SIZES = (13, 40)  # least and most, in pixels
PNG_LEVEL = 3  # half of level 6's time, and files of about the same size

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


def on_image(heat: Maps, grey: Grey, placement: Placement) -> Maps:
    """A map [S, S] of a prepared square, laid on the image [H, W] that it was prepared from.

    It is 0 where the square shows nothing of the image: in the black border that preparing cut off. The
    square's padding does not belong to the image.
    """
    height, width = grey.shape
    left, top, right, bottom = placement.in_pixels(width, height)
    at = placement.place
    part = Image.fromarray(heat[at[1] : at[3], at[0] : at[2]])
    laid = np.zeros((height, width), dtype=np.float32)
    laid[top:bottom, left:right] = np.asarray(
        part.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    )
    return laid.clip(0, 1)


def write(file: Path, overlaid: Image.Image) -> None:
    """Write a picture as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    overlaid.save(buffer, "PNG", compress_level=PNG_LEVEL)
    write_atomically(file, buffer.getvalue())


def picture(grey: Grey, heat: Maps, of_class: str) -> Image.Image:
    """An image [H, W] with a map [H, W] laid over it, and a legend below that names the class of the map."""
    colours = _colours()
    share = OPACITY * heat[:, :, None]
    laid = (1 - share) * grey[:, :, None] + share * colours[(255 * heat).round().astype(np.uint8)]
    found = Image.fromarray(laid.round().clip(0, 255).astype(np.uint8))
    if max(found.size) < MIN_SIDE:
        scale = -(-MIN_SIDE // max(found.size))
        found = found.resize((found.width * scale, found.height * scale), Image.Resampling.NEAREST)
    legend = _legend(max(found.width, MIN_SIDE), legend_text(of_class, heat), with_scale=bool(heat.any()))
    whole = Image.new("RGB", (legend.width, found.height + legend.height))
    whole.paste(found, (0, 0))
    whole.paste(legend, (0, found.height))
    return whole


def legend_text(of_class: str, heat: Maps) -> list[str]:
    """The lines under an overlay, another one if the map is empty."""
    name = of_class if len(of_class) <= MOST_NAME_CHARS else f"{of_class[: MOST_NAME_CHARS - 3]}..."
    first = f"Regions that raised the score of {name}, relative to the highest in this image."
    if not heat.any():
        first = f"Nothing in this image raised the score of {name}."
    return [first, CAPTION]


def _legend(width: int, lines: Sequence[str], *, with_scale: bool) -> Image.Image:
    """Text on black, with the colour scale above it where there is a map."""
    from matplotlib import get_data_path

    size = int(np.clip(width // 42, *FONT_SIZES))
    font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
    gap = size // 2
    wrapped = [part for line in lines for part in _wrapped(line, font, width - 2 * gap)]
    top = gap + (size + gap if with_scale else 0)
    legend = Image.new("RGB", (width, top + len(wrapped) * (size + gap) + gap // 2))
    draw = ImageDraw.Draw(legend)
    if with_scale:
        low, high = "low", "high"
        start, end = 2 * gap + int(font.getlength(low)), width - 2 * gap - int(font.getlength(high))
        steps = np.linspace(0, 255, max(end - start, 1)).round().astype(np.uint8)
        bar = np.repeat(_colours()[steps][None], size, axis=0).round().astype(np.uint8)
        draw.text((gap, gap - 2), low, "white", font)
        draw.text((end + gap, gap - 2), high, "white", font)
        legend.paste(Image.fromarray(bar), (start, gap))
    for number, line in enumerate(wrapped):
        draw.text((gap, top + number * (size + gap) - 2), line, "white", font)
    return legend


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@cache
def _colours() -> NDArray[np.float32]:
    """The colours of the map's levels, [256, 3]."""
    from matplotlib import colormaps  # takes a second, and only overlays need it

    return np.asarray(255 * colormaps["inferno"](np.arange(256))[:, :3], dtype=np.float32)
