"""Question: what does augmentation cost, and are the libraries faster?

    python benchmarks/augment.py [--sizes 64 224] [--batch 64] [--rounds 7] [--device cpu]

Times `light` and `strong` with pneumo, kornia (batched) and torchvision v2 (image by image), each from uint8
[B, S, S] to normalised float32 [B, 3, S, S]. They take turns with one training step of a ResNet-18 (float32,
channels_last). Prints the median milliseconds per batch and their share of that step. The target is at most
5 %. On a busy machine set OMP_NUM_THREADS=1, because times of threads that wait for a core mean nothing.

kornia and torchvision run their closest equivalents. Both lack degrade. kornia adds brightness, and its
contrast multiplies without the mean. torchvision scales both axes by the same factor.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import measure
import torch
import torchvision
import yaml
from torch import Tensor
from torchvision.transforms import v2

from pneumo.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augment, step_generator
from pneumo.data.settings import AugmentSettings

SHARE = 0.05  # of a ResNet-18 step, at most
CONF = Path(__file__).parents[1] / "conf" / "augment"


def with_pneumo(s: AugmentSettings) -> Callable[[Tensor], Tensor]:
    augment, steps = Augment(s), iter(range(1_000_000))
    return lambda images: augment(images, step_generator(0, 0, next(steps), images.device))


def with_kornia(s: AugmentSettings) -> Callable[[Tensor], Tensor]:
    import kornia.augmentation as K

    low, high = 1 - s.scale, 1 + s.scale
    parts = [
        *(
            [K.RandomGaussianBlur((3, 3), (s.blur_sigma_min, s.blur_sigma_max), p=s.blur_p)]
            if s.blur_p
            else []
        ),
        *([K.RandomHorizontalFlip(p=s.flip_p)] if s.flip_p else []),
        K.RandomAffine(
            s.rotate_deg,
            (s.translate, s.translate),
            (low, high, low, high) if s.scale_each_axis else (low, high),
            p=1.0,
        ),
        K.RandomBrightness((1 - s.brightness, 1 + s.brightness), p=1.0),
        K.RandomContrast((1 - s.contrast, 1 + s.contrast), p=1.0),
        *([K.RandomGamma((1 - s.gamma, 1 + s.gamma), p=1.0)] if s.gamma else []),
        *([K.RandomGaussianNoise(std=s.noise_std, p=s.noise_p)] if s.noise_p else []),
        *([K.RandomErasing((s.erase_min**2, s.erase_max**2), p=s.erase_p)] if s.erase_p else []),
    ]
    sequence = K.AugmentationSequential(*parts, data_keys=["input"], same_on_batch=False)
    finish = K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    return lambda images: finish(sequence(images[:, None].float() / 255).repeat(1, 3, 1, 1))


def with_torchvision(s: AugmentSettings) -> Callable[[Tensor], Tensor]:
    sigma = (s.blur_sigma_min, s.blur_sigma_max)
    parts = [
        *([v2.RandomApply([v2.GaussianBlur(3, sigma)], p=s.blur_p)] if s.blur_p else []),
        *([v2.RandomHorizontalFlip(s.flip_p)] if s.flip_p else []),
        v2.RandomAffine(
            s.rotate_deg,
            (s.translate, s.translate),
            (1 - s.scale, 1 + s.scale),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.ColorJitter(brightness=s.brightness, contrast=s.contrast),
        *([v2.Lambda(lambda x: x ** (2 * s.gamma * torch.rand(()) - s.gamma).exp())] if s.gamma else []),
        *([v2.RandomApply([v2.GaussianNoise(0.0, s.noise_std)], p=s.noise_p)] if s.noise_p else []),
        *([v2.RandomErasing(s.erase_p, (s.erase_min**2, s.erase_max**2))] if s.erase_p else []),
        v2.Lambda(lambda x: x.repeat(3, 1, 1)),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    compose = v2.Compose([v2.ToDtype(torch.float32, scale=True), *parts])
    return lambda images: torch.stack([compose(image[None]) for image in images])


def resnet18_step(batch: int, size: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    model = torchvision.models.resnet18(num_classes=2).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 2

    def step(images: Tensor) -> Tensor:
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return step


def milliseconds(function: Callable[[Tensor], Tensor], images: Tensor) -> float:
    start = time.perf_counter()
    function(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    libraries = {"pneumo": with_pneumo, "kornia": with_kornia, "torchvision": with_torchvision}
    try:
        import kornia  # noqa: F401
    except ImportError as error:
        print(f"kornia skipped: {error}")
        del libraries["kornia"]

    print(f"{'size':>4}  {'what':<20} {'ms/batch':>9} {'of step':>8}")
    for size in args.sizes:
        images = torch.randint(0, 256, (args.batch, size, size), dtype=torch.uint8, device=args.device)
        runs = {"resnet18 step": resnet18_step(args.batch, size, args.device)}
        for preset in ("light", "strong"):
            settings = AugmentSettings(**yaml.safe_load((CONF / f"{preset}.yaml").read_text()))
            runs |= {f"{preset} {name}": make(settings) for name, make in libraries.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.rounds + 1):  # the first round warms up
            for name, function in runs.items():
                times[name].append(milliseconds(function, images))
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        for name, median in medians.items():
            print(f"{size:>4}  {name:<20} {median:9.1f} {median / medians['resnet18 step']:8.1%}")
        for preset in ("light", "strong"):
            share = medians[f"{preset} pneumo"] / medians["resnet18 step"]
            measure.record(
                f"augment/{preset} {size} px, share of a step",
                SHARE / share,
                1.0,
                share=round(share, 4),
                ms={name: round(median, 2) for name, median in medians.items()},
            )


if __name__ == "__main__":
    main()
