"""Batched augmentation of grey X-rays on their device, and the normalisation that evaluation shares.

The input is uint8 [B, S, S]. All operations work on one float32 channel in [0, 1]. The output is normalised
float32 [B, C, S, S]. The channel is repeated only at the end, so geometry and intensity cost a third. Every
parameter is drawn per image and on the device. The settings, on the host, decide whether an operation runs at
all. An image that an operation skips gets a neutral parameter (sigma 0, factor 1, ...), so no step waits for
the device.

Cost, batch 64, one CPU thread: at 64 px light takes 8 ms and strong 11 ms; at 224 px 100 and 109 ms, about
1 % of a ResNet-18 step. kornia takes 1.4 to 2 times as long, torchvision (image by image) 1.9 to 5.8 times.
Neither accepts a generator (benchmarks/augment.py).
"""

import hashlib
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pneumo.data.settings import AugmentSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# One row of uniform numbers for each name, drawn even if it is not used. Switching one operation off does not
# change the draws of the others, so two runs of a sweep differ only in that operation. (The noise is drawn
# later.)
_DRAWS = (
    "rotate", "shift_x", "shift_y", "scale_x", "scale_y", "flip", "brightness", "contrast", "gamma",
    "blur", "sigma", "degrade", "degree", "erase", "erase_h", "erase_w", "erase_y", "erase_x", "erase_grey",
    "noise",
)  # fmt: skip


def step_generator(
    seed: int, epoch: int, step: int, device: torch.device | str, rank: int = 0
) -> torch.Generator:
    """Generator for one training step. Only the arguments decide, so a resumed run draws the same numbers.

    `rank` gives each process of a distributed run different numbers. The arguments are hashed because
    torch's CPU generator keeps only the low 32 bits of a seed: with seed + step, runs would share draws.
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{step}/{rank}".encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little"))


@cache
def _scale_and_shift(in_channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The normalisation as x * scale + shift. Cached, because copying constants to a GPU waits for the GPU.

    These are ordinary tensors even if the first call comes from an evaluation. Autograd refuses to save an
    inference tensor, so a later gradient with respect to the images would fail.
    """
    with torch.inference_mode(False):
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        if in_channels == 1:
            mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
        return (1 / std).to(device), (-mean / std).to(device)


def _expand(images: Tensor, in_channels: int) -> Tensor:
    """[B, S, S] in [0, 1] to normalised [B, C, S, S] in one pass, channels_last."""
    scale, shift = _scale_and_shift(in_channels, images.device)
    return torch.addcmul(shift, images.unsqueeze(-1), scale).permute(0, 3, 1, 2)


def _unit(images_u8: Tensor) -> Tensor:
    return images_u8.to(torch.float32).div_(255)


def normalise(images_u8: Tensor, in_channels: int = 3) -> Tensor:
    """uint8 [B, S, S] to float32 [B, C, S, S], channels_last: the network's input in evaluation.

    Each of three channels repeats the grey image and uses ImageNet's mean and deviation for its colour. A
    single channel uses their averages over the colours (0.449 and 0.226).
    """
    return _expand(_unit(images_u8), in_channels)


def _column(parameter: Tensor) -> Tensor:
    return parameter[:, None, None]


def affine(images: Tensor, angle_deg: Tensor, shift_px: Tensor, scale: Tensor, flip: Tensor) -> Tensor:
    """Mirror, scale, rotate about the centre, then shift [B, S, S]; bilinear, black outside.

    angle_deg [B] clockwise; shift_px [B, 2] and scale [B, 2] as (x, y); flip [B] bool.
    Equals torchvision's hflip followed by its affine with fill=None.
    """
    size = images.shape[-1]
    cos, sin = torch.cos(torch.deg2rad(angle_deg)), torch.sin(torch.deg2rad(angle_deg))
    stretch_x, stretch_y = torch.where(flip, -1.0, 1.0) / scale[:, 0], 1 / scale[:, 1]
    per_x = torch.stack([cos * stretch_x, -sin * stretch_y], -1)[:, None, None]  # [B, 1, 1, 2]
    per_y = torch.stack([sin * stretch_x, cos * stretch_y], -1)[:, None, None]
    centres = (torch.arange(size, device=images.device) + 0.5) * (2 / size) - 1
    x, y = (centres - (2 / size) * shift_px.unsqueeze(-1)).unbind(1)  # [B, S] each
    across, down = x[:, None, :, None] * per_x, y[:, :, None, None] * per_y
    # A broadcast sum of a row and a column takes a quarter of affine_grid's time at 224 px (12, not 45 ms).
    return F.grid_sample(images[:, None], across + down, padding_mode="zeros", align_corners=False)[:, 0]


def blur3(images: Tensor, sigma: Tensor) -> Tensor:
    """3x3 Gaussian blur of [B, S, S] with mirrored edges; sigma [B] in pixels, 0 for no blur."""
    side = torch.exp(-0.5 / sigma.square())
    centre, side = _column(1 / (1 + 2 * side)), _column(side / (1 + 2 * side))
    padded = F.pad(images[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    rows = (padded[:, :-2] + padded[:, 2:]).mul_(side).addcmul_(padded[:, 1:-1], centre)
    return (rows[..., :-2] + rows[..., 2:]).mul_(side).addcmul_(rows[..., 1:-1], centre)


def brightness_contrast(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Multiply [B, S, S] by brightness [B], then scale the distance to each image's mean by contrast [B].

    Both steps clip to [0, 1]. This equals torchvision's ColorJitter, always with brightness before contrast.
    """
    images = (images * _column(brightness)).clamp_(0, 1)
    return torch.lerp(images.mean((1, 2), keepdim=True), images, _column(contrast)).clamp_(0, 1)


def gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Raise [B, S, S] in [0, 1] to exponent [B]."""
    return images.pow(_column(exponent))


def degrade(images: Tensor, amount: Tensor) -> Tensor:
    """Blend [B, S, S] by amount [B] in [0, 1] with a copy that was halved in size and enlarged again.

    The whole batch is halved, which keeps shapes fixed. The amount replaces a factor per image (0 for factor
    1, 1 for factor 2).
    """
    size = images.shape[-1]
    small = F.interpolate(images[:, None], size=(size // 2, size // 2), mode="area")
    coarse = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    return torch.lerp(images, coarse, _column(amount))


def noise(images: Tensor, std: Tensor, generator: torch.Generator | None) -> Tensor:
    """Add Gaussian noise of deviation std [B] to [B, S, S] and clip to [0, 1]."""
    normal = torch.randn(images.shape, device=images.device, generator=generator)
    return torch.addcmul(images, normal, _column(std)).clamp_(0, 1)


def erase(images: Tensor, top_left_px: Tensor, size_px: Tensor, grey: Tensor) -> Tensor:
    """Fill one rectangle of each image of [B, S, S] with grey [B].

    Corner and size are [B, 2] as (y, x); size 0 erases nothing.
    """
    place = torch.arange(images.shape[-1], device=images.device)
    start, end = top_left_px.unsqueeze(-1), (top_left_px + size_px).unsqueeze(-1)
    inside = (place >= start) & (place < end)  # [B, 2, S]
    return torch.where(inside[:, 0, :, None] & inside[:, 1, None, :], _column(grey), images)


class Augment:
    """uint8 [B, S, S] to augmented, normalised float32 [B, C, S, S] in channels_last."""

    def __init__(self, settings: AugmentSettings, in_channels: int = 3) -> None:
        self.settings = settings
        self.in_channels = in_channels

    def __call__(self, images_u8: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw from `generator`, which is on the images' device (None on meta); same seed, same bits."""
        s = self.settings
        images = _unit(images_u8)
        rows = torch.rand(len(_DRAWS), len(images), device=images.device, generator=generator)
        u = dict(zip(_DRAWS, rows.unbind(), strict=True))
        if s.blur_p:
            sigma = s.blur_sigma_min + (s.blur_sigma_max - s.blur_sigma_min) * u["sigma"]
            images = blur3(images, torch.where(u["blur"] < s.blur_p, sigma, 0))
        if s.rotate_deg or s.translate or s.scale or s.flip_p:
            images = affine(images, *self._affine_parameters(u, images.shape[-1]))
        if s.degrade_p:
            images = degrade(images, torch.where(u["degrade"] < s.degrade_p, u["degree"], 0))
        if s.brightness or s.contrast:
            brightness, contrast = (
                _around(1, s.brightness, u["brightness"]),
                _around(1, s.contrast, u["contrast"]),
            )
            images = brightness_contrast(images, brightness, contrast)
        if s.gamma:
            images = gamma(images, _around(0, s.gamma, u["gamma"]).exp())
        if s.noise_p and s.noise_std:
            images = noise(images, (u["noise"] < s.noise_p) * s.noise_std, generator)
        if s.erase_p:
            images = erase(images, *self._erase_parameters(u, images.shape[-1]))
        return _expand(images, self.in_channels)

    def _affine_parameters(self, u: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s = self.settings
        shift = _around(0, s.translate * size, torch.stack([u["shift_x"], u["shift_y"]], -1))
        scale_y = u["scale_y" if s.scale_each_axis else "scale_x"]
        scale = _around(1, s.scale, torch.stack([u["scale_x"], scale_y], -1))
        return _around(0, s.rotate_deg, u["rotate"]), shift, scale, u["flip"] < s.flip_p

    def _erase_parameters(self, u: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor, Tensor]:
        s = self.settings
        sides = s.erase_min + (s.erase_max - s.erase_min) * torch.stack([u["erase_h"], u["erase_w"]], -1)
        sides = (sides * size).round()
        corner = ((size + 1 - sides) * torch.stack([u["erase_y"], u["erase_x"]], -1)).floor()
        return corner, sides * (u["erase"] < s.erase_p)[:, None], u["erase_grey"]


def _around(centre: float, reach: float, uniform: Tensor) -> Tensor:
    """Uniform [0, 1) numbers to [centre - reach, centre + reach)."""
    return centre + reach * (2 * uniform - 1)
