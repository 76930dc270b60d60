"""Augmentation equals torchvision's, draws separately for each image and never waits for the device."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
import yaml
from scipy import ndimage
from support import plain_settings
from torch import Tensor

from pneumo import UserError
from pneumo.data import augment as A
from pneumo.data.settings import AugmentSettings

CONF = Path(__file__).parents[2] / "conf" / "augment"
CLOSE = {"rtol": 0, "atol": 2e-6}  # images are in [0, 1]: a two-thousandth of a grey level


def preset(name: str) -> AugmentSettings:
    return AugmentSettings(**yaml.safe_load((CONF / f"{name}.yaml").read_text()))


def smooth(count: int, size: int) -> Tensor:
    """Images in [0, 1] with structure everywhere: white noise with a slight blur."""
    noise = torch.rand(count, size, size, generator=torch.Generator().manual_seed(1))
    return TF.gaussian_blur(noise[:, None], [5, 5])[:, 0]


def bytes_of(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, size, size), dtype=torch.uint8, generator=seeded(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def each(function, images: Tensor, *parameters: Tensor) -> Tensor:
    """The reference, called once per image with that image's parameters as Python numbers."""
    columns = [p.tolist() for p in parameters]
    return torch.stack([function(image[None], *row)[0] for image, *row in zip(images, *columns, strict=True)])


@pytest.mark.parametrize("size", [32, 33, 64])
def test_affine_equals_torchvision(size: int) -> None:
    images = smooth(6, size)
    angle = torch.tensor([0.0, 7.0, -7.0, 15.0, -90.0, 33.3])
    shift = torch.tensor([[0.0, 0.0], [1.5, -2.25], [-4.0, 3.0], [0.3, 5.0], [2.0, 1.0], [-1.0, -1.0]])
    scale = torch.tensor([1.0, 0.98, 1.02, 0.85, 1.15, 1.0])
    flip = torch.tensor([False, False, True, True, False, True])

    def reference(image: Tensor, angle: float, shift: list[float], scale: float, flip: bool) -> Tensor:
        image = TF.hflip(image) if flip else image
        bilinear = TF.InterpolationMode.BILINEAR
        return TF.affine(image, angle, shift, scale, [0.0, 0.0], interpolation=bilinear)

    ours = A.affine(images, angle, shift, scale[:, None].expand(-1, 2), flip)
    # The grid's rounding (1e-7 of the side) times the images' gradient: above CLOSE, below 0.02 grey levels.
    torch.testing.assert_close(ours, each(reference, images, angle, shift, scale, flip), rtol=0, atol=5e-5)


def test_affine_with_a_scale_for_each_axis_equals_scipy() -> None:
    images = smooth(2, 40)
    angle, shift = torch.tensor([12.0, -9.0]), torch.tensor([[2.0, -3.0], [-1.25, 0.5]])
    scale = torch.tensor([[0.9, 1.2], [1.1, 0.85]])
    ours = A.affine(images, angle, shift, scale, torch.tensor([False, True]))
    for i, mirror in enumerate((1, -1)):
        cos, sin = np.cos(np.deg2rad(angle[i].item())), np.sin(np.deg2rad(angle[i].item()))
        rotation = np.array([[cos, sin], [-sin, cos]])  # on (y, x), so that it is clockwise on screen
        inverse = np.linalg.inv(rotation @ np.diag([scale[i, 1].item(), mirror * scale[i, 0].item()]))
        centre = np.full(2, 19.5)
        offset = centre - inverse @ (centre + shift[i].flip(0).numpy())
        expected = ndimage.affine_transform(
            images[i].numpy().astype(np.float64), inverse, offset, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(ours[i].numpy(), expected, atol=5e-5)


def test_neutral_parameters_leave_the_image_bit_for_bit() -> None:
    images, zero, one = smooth(3, 24), torch.zeros(3), torch.ones(3)
    torch.testing.assert_close(A.blur3(images, zero), images, rtol=0, atol=0)
    torch.testing.assert_close(A.degrade(images, zero), images, rtol=0, atol=0)
    torch.testing.assert_close(A.noise(images, zero, None), images, rtol=0, atol=0)
    torch.testing.assert_close(A.gamma(images, one), images, rtol=0, atol=0)
    torch.testing.assert_close(A.brightness_contrast(images, one, one), images, rtol=0, atol=0)
    torch.testing.assert_close(
        A.erase(images, torch.ones(3, 2), torch.zeros(3, 2), one), images, rtol=0, atol=0
    )


def test_blur_equals_torchvision() -> None:
    images, sigma = smooth(5, 31), torch.tensor([0.1, 0.25, 0.4, 0.6, 1.5])
    reference = each(lambda image, sigma: TF.gaussian_blur(image, [3, 3], [sigma, sigma]), images, sigma)
    torch.testing.assert_close(A.blur3(images, sigma), reference, **CLOSE)


def test_brightness_and_contrast_equal_torchvision_with_its_clipping() -> None:
    images = (smooth(5, 31) * 1.4 - 0.2).clamp(0, 1)
    brightness = torch.tensor([0.7, 0.96, 1.0, 1.3, 2.0])
    contrast = torch.tensor([1.3, 1.04, 0.7, 1.0, 1.8])
    reference = each(
        lambda image, b, c: TF.adjust_contrast(TF.adjust_brightness(image, b), c),
        images,
        brightness,
        contrast,
    )
    assert (reference == 1).any() and (reference == 0).any()  # both ends do clip
    torch.testing.assert_close(A.brightness_contrast(images, brightness, contrast), reference, **CLOSE)


@pytest.mark.parametrize("key", ["brightness", "contrast"])
def test_no_factor_inverts_an_image(key: str) -> None:
    """At the largest strength that is accepted, brighter pixels stay brighter."""
    ramp = torch.linspace(0, 255, 64).to(torch.uint8).expand(2000, 64, 64)
    augmented = unnormalised(plain_settings.augment(**{key: 1.0}), ramp)
    assert (augmented[:, 0, 63] - augmented[:, 0, 0] >= -1e-6).all()
    with pytest.raises(UserError, match=rf"augment.{key}=1.5 must be at most 1"):
        AugmentSettings(**{key: 1.5})


def test_gamma_equals_torchvision() -> None:
    images, exponent = smooth(4, 31), torch.tensor([0.67, 1.0, 1.2, 1.49])
    torch.testing.assert_close(A.gamma(images, exponent), each(TF.adjust_gamma, images, exponent), **CLOSE)


def test_erase_equals_torchvision() -> None:
    images, grey = smooth(3, 20), torch.tensor([0.0, 0.5, 0.9])
    corner, sides = torch.tensor([[0, 0], [5, 9], [13, 2]]), torch.tensor([[4, 7], [6, 11], [7, 3]])

    def reference(image: Tensor, corner: list[int], sides: list[int], grey: float) -> Tensor:
        return TF.erase(image, *corner, *sides, torch.tensor([[[grey]]]))

    ours = A.erase(images, corner, sides, grey)
    torch.testing.assert_close(ours, each(reference, images, corner, sides, grey), rtol=0, atol=0)


@pytest.mark.parametrize("size", [32, 33])
def test_degrade_blends_with_the_halved_image(size: int) -> None:
    images, amount = smooth(3, size), torch.tensor([0.0, 0.5, 1.0])
    half = torch.nn.functional.adaptive_avg_pool2d(images[:, None], size // 2)
    coarse = TF.resize(half, [size, size], antialias=False)[:, 0]
    expected = images + amount[:, None, None] * (coarse - images)
    torch.testing.assert_close(A.degrade(images, amount), expected, **CLOSE)
    detail = (A.degrade(images, amount).diff(dim=-1)).abs().mean((1, 2))
    assert detail[0] > detail[1] > detail[2]


def test_noise_has_its_deviation_and_clips() -> None:
    grey = torch.full((3, 100, 100), 0.5)
    noisy = A.noise(grey, torch.tensor([0.0, 0.005, 0.05]), seeded(0))
    deviations = noisy.std((1, 2))
    torch.testing.assert_close(deviations, torch.tensor([0.0, 0.005, 0.05]), rtol=0.05, atol=0)
    clipped = A.noise(torch.tensor([[[0.0, 1.0] * 50]]), torch.tensor([0.3]), seeded(0))
    assert clipped.min() == 0 and clipped.max() == 1


@pytest.mark.parametrize("in_channels", [1, 3])
def test_normalise_equals_torchvision_and_augmentation_with_everything_off(in_channels: int) -> None:
    images = bytes_of(4, 32)
    mean, std = list(A.IMAGENET_MEAN), list(A.IMAGENET_STD)
    if in_channels == 1:
        mean, std = [0.449], [0.226]
    unit = TF.to_dtype(images[:, None], torch.float32, scale=True).repeat(1, in_channels, 1, 1)
    ours = A.normalise(images, in_channels)
    torch.testing.assert_close(ours, TF.normalize(unit, mean, std), rtol=1e-6, atol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(ours, A.Augment(preset("none"), in_channels)(images, seeded(0)))
    assert images.dtype == torch.uint8 and torch.equal(images, bytes_of(4, 32))  # the input is not written to


def test_an_evaluation_leaves_no_inference_tensors_to_training() -> None:
    A._scale_and_shift.cache_clear()
    with torch.inference_mode():
        A.normalise(bytes_of(1, 8))
    images = torch.rand(2, 8, 8, requires_grad=True)
    A._expand(images, 3).sum().backward()  # "Inference tensors cannot be saved for backward"
    assert images.grad is not None and images.grad.isfinite().all()


@pytest.mark.parametrize("name", ["none", "light", "strong"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_presets_are_finite_repeatable_and_leave_the_input(name: str, in_channels: int) -> None:
    images = bytes_of(8, 48)
    augment = A.Augment(preset(name), in_channels)
    first = augment(images, seeded(5))
    assert first.shape == (8, in_channels, 48, 48) and first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert first.isfinite().all()
    assert torch.equal(first, augment(images, seeded(5)))
    assert torch.equal(first, augment(images, seeded(6))) == (name == "none")
    assert torch.equal(images, bytes_of(8, 48))
    limits = A.normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8), in_channels)
    assert (first >= limits[..., :1] - 1e-5).all() and (first <= limits[..., 1:] + 1e-5).all()
    if in_channels == 3:  # the channels are one grey, expanded
        grey = (
            first * torch.tensor(A.IMAGENET_STD)[:, None, None] + torch.tensor(A.IMAGENET_MEAN)[:, None, None]
        )
        torch.testing.assert_close(grey[:, 0], grey[:, 2], **CLOSE)


@pytest.mark.parametrize("name", ["none", "light", "strong"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_runs_on_the_meta_device_so_never_waits_for_values(name: str, in_channels: int) -> None:
    images = torch.empty(8, 48, 48, dtype=torch.uint8, device="meta")
    output = A.Augment(preset(name), in_channels)(images, None)
    assert output.device.type == "meta" and output.shape == (8, in_channels, 48, 48)
    assert A.normalise(images, in_channels).shape == output.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.cuda
def test_on_cuda_no_step_waits_for_the_device() -> None:
    images, augment = bytes_of(8, 48).cuda(), A.Augment(preset("strong"))
    first = augment(images, A.step_generator(0, 0, 0, "cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = augment(images, A.step_generator(0, 0, 0, "cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)


def unnormalised(settings: AugmentSettings, images: Tensor, seed: int = 0) -> Tensor:
    """The augmented grey images [B, S, S] in [0, 1]."""
    return A.Augment(settings, in_channels=1)(images, seeded(seed))[:, 0] * 0.226 + 0.449


ONE_OPERATION = [
    {"rotate_deg": 10.0},
    {"translate": 0.1},
    {"scale": 0.1},
    {"brightness": 0.2},
    {"contrast": 0.2},
    {"gamma": 0.3},
    {"blur_p": 1.0},
    {"degrade_p": 1.0},
    {"noise_p": 1.0, "noise_std": 0.05},
    {"erase_p": 1.0},
]


@pytest.mark.parametrize("fields", ONE_OPERATION, ids=lambda fields: next(iter(fields)))
def test_each_image_draws_its_own_parameters(fields: dict[str, float]) -> None:
    images = bytes_of(1, 32).expand(6, -1, -1)
    augmented = unnormalised(plain_settings.augment(**fields), images)
    for i in range(6):
        for j in range(i):
            assert (augmented[i] - augmented[j]).abs().max() > 1e-3


@pytest.mark.parametrize("key", ["flip_p", "blur_p", "degrade_p", "noise_p", "erase_p"])
@pytest.mark.parametrize("p", [0.05, 0.25, 1.0])
def test_the_share_of_changed_images_is_p(key: str, p: float) -> None:
    images = bytes_of(1, 16).expand(4000, -1, -1)
    settings = plain_settings.augment(**{key: p, "noise_std": 0.1, "blur_sigma_min": 0.4})
    changed = (unnormalised(settings, images) - images / 255).abs().amax((1, 2)) > 1e-3
    assert changed.float().mean().item() == pytest.approx(p, abs=0.02)  # four standard errors at p = 0.1


def test_draws_fill_their_ranges() -> None:
    settings, count, size = preset("strong"), 4000, 100
    augment = A.Augment(settings)
    rows = torch.rand(len(A._DRAWS), count, generator=seeded(0))
    u = dict(zip(A._DRAWS, rows, strict=True))
    angle, shift, scale, flip = augment._affine_parameters(u, size)
    for values, reach, centre in ((angle, 15, 0), (shift, 8, 0), (scale, 0.15, 1)):
        assert values.min() >= centre - reach - 1e-5 and values.max() <= centre + reach + 1e-5
        assert values.min() < centre - 0.98 * reach and values.max() > centre + 0.98 * reach
    everything = torch.column_stack([angle, shift, scale, flip.float()])
    assert (torch.corrcoef(everything.T) - torch.eye(6)).abs().max() < 0.08  # independent of each other
    same = A.Augment(replace(settings, scale_each_axis=False))._affine_parameters(u, size)[2]
    assert torch.equal(same[:, 0], same[:, 1])
    corner, sides, grey = augment._erase_parameters(u, size)
    erased = sides[:, 0] > 0
    assert sides[erased].min() == 10 and sides[erased].max() == 35
    assert corner.min() == 0 and (corner + sides)[erased].max() == size
    assert grey.min() >= 0 and grey.max() <= 1


def test_light_stays_light() -> None:
    """On a uniform grey image, `light` can only change the level and move black in from the border."""
    even = torch.full((500, 64, 64), 128, dtype=torch.uint8)
    level = unnormalised(preset("light"), even)[:, 10:-10, 10:-10].mean((1, 2)) / (128 / 255)
    # 4 % from brightness; contrast adds a little, because black at the border lowers the mean that it uses
    assert 0.957 <= level.min() < 0.965 and 1.035 < level.max() <= 1.043
    # A dot moves at most by the shift (2 % of 64), the rotation (7 degrees at its radius) and the scale.
    dot = torch.zeros(500, 65, 65, dtype=torch.uint8)
    dot[:, 32, 52] = 255
    moved = unnormalised(replace(preset("light"), noise_p=0.0), dot).flatten(1).argmax(1)
    distance = torch.hypot(moved // 65 - 32.0, moved % 65 - 52.0)
    assert 1 < distance.max() <= 20 * np.deg2rad(7) + 1.3 * np.sqrt(2) + 0.4 + 1


def test_switching_one_operation_off_leaves_the_others_draws() -> None:
    images = bytes_of(64, 32)
    settings = plain_settings.augment(rotate_deg=10, brightness=0.2, erase_p=0.5, blur_p=0.5)
    without = replace(settings, erase_p=0.0)
    with_erase, plain = unnormalised(settings, images), unnormalised(without, images)
    unchanged = (with_erase == plain).flatten(1).all(1).float().mean()
    assert 0.3 < unchanged < 0.7


def test_step_generator_repeats_and_tells_steps_apart() -> None:
    def draw(*key: int) -> Tensor:
        return torch.rand(4, generator=A.step_generator(*key[:3], "cpu", *key[3:]))

    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    keys = [(s, e, t) for s in range(6) for e in range(6) for t in range(6)] + [(0, 0, 0, 1)]
    assert len({tuple(draw(*key).tolist()) for key in keys}) == len(keys)
    assert not torch.equal(draw(1, 23, 4), draw(12, 3, 4))
    first = torch.stack([draw(0, 0, step)[0] for step in range(2000)])  # consecutive steps look independent
    assert first.mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1].abs() < 0.08


def test_presets_name_themselves_and_none_is_off() -> None:
    for path in CONF.glob("*.yaml"):
        assert preset(path.stem).name == path.stem
    limits = ("blur_sigma_min", "blur_sigma_max", "erase_min", "erase_max")  # of operations that are off
    strengths = {key: value for key, value in asdict(preset("none")).items() if key not in ("name", *limits)}
    assert not any(strengths.values())
