"""The seed report's program, rewritten from its description. The other benchmarks compare with it.

In every epoch, the workers of a DataLoader decode, crop, equalise, resize (as three equal channels) and
augment every image with Pillow, one by one. The network trains in float32 on NCHW tensors with AdamW. The
figures are updated in Python after every step. Model, sampler, augmentation strengths, loss and scores are
those of pneumo with `sampler=imbalanced augment=light`, so both do the same work.

    python benchmarks/seed_baseline.py FOLDER [--epochs 1] [--size 224] [--batch 64] [--workers 2]

trains ResNet-18 on the files of FOLDER/NORMAL and FOLDER/PNEUMONIA and prints images per second.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Watch(Protocol):
    """Times the parts of the work; see measure.Stopwatch."""

    def part(self, name: str) -> AbstractContextManager[None]: ...


class NoWatch:
    def part(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


NO_WATCH = NoWatch()


def prepare(path: Path, size: int, watch: Watch = NO_WATCH) -> Image.Image:
    """The deterministic part: decode, crop the black border, equalise, resize three channels, pad."""
    with watch.part("decode"):
        image = Image.open(path).convert("L")
    with watch.part("crop, equalise"):
        image = image.crop(image.getbbox() or (0, 0, *image.size))
        image = ImageOps.equalize(image)
    with watch.part("resize"):
        image = image.convert("RGB")
        scale = size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        square = Image.new("RGB", (size, size))
        place = (size - width) // 2, (size - height) // 2
        square.paste(image.resize((width, height), Image.Resampling.BILINEAR), place)
    return square


def augment(image: Image.Image) -> Image.Image:
    """The report's light augmentation: blur, rotation, shift and scale, brightness and contrast."""
    if random.random() < 0.05:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 0.6)))
    size = image.size[0]
    angle, scale = np.deg2rad(random.uniform(-7, 7)), random.uniform(0.98, 1.02)
    dx, dy = random.uniform(-0.02, 0.02) * size, random.uniform(-0.02, 0.02) * size
    cos, sin, centre = np.cos(angle) / scale, np.sin(angle) / scale, size / 2
    matrix = (
        cos, sin, centre - cos * (centre + dx) - sin * (centre + dy),
        -sin, cos, centre + sin * (centre + dx) - cos * (centre + dy),
    )  # fmt: skip
    image = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.96, 1.04))
    return ImageEnhance.Contrast(image).enhance(random.uniform(0.96, 1.04))


def to_tensor(image: Image.Image, noisy: bool = False) -> Tensor:
    """Normalised float32 [3, S, S]. With `noisy`, one image in ten gets noise of deviation .005."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    if noisy and random.random() < 0.1:
        pixels = (pixels + 0.005 * torch.randn_like(pixels)).clamp(0, 1)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class XRays(Dataset):
    """Normalised float32 [3, S, S] and label of each file, prepared again each time."""

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], size: int, train: bool, watch: Watch = NO_WATCH
    ) -> None:
        self.paths, self.labels, self.size, self.train, self.watch = paths, labels, size, train, watch

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = prepare(self.paths[index], self.size, self.watch)
        if self.train:
            with self.watch.part("augment"):
                image = augment(image)
        with self.watch.part("to tensor"):
            return to_tensor(image, self.train), self.labels[index]


def loader(data: XRays, batch_size: int, workers: int) -> DataLoader:
    """Training draws with replacement and all classes equally often. Evaluation keeps the order."""
    sampler = None
    if data.train:
        counts = np.bincount(data.labels, minlength=2)
        sampler = WeightedRandomSampler((1 / counts[np.asarray(data.labels)]).tolist(), len(data))
    return DataLoader(
        data,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )


def train_epoch(
    model: nn.Module, data: DataLoader, optimizer: torch.optim.Optimizer, watch: Watch = NO_WATCH
) -> dict[str, float]:
    """Train one epoch; return its loss, accuracy and F1."""
    model.train()
    loss_sum, seen, counts = 0.0, 0, np.zeros((2, 2), dtype=int)
    for images, labels in _watched(data, watch):
        with watch.part("network"):
            logits = model(images)
            loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
        with watch.part("optimiser"):
            optimizer.step()
        with watch.part("figures"):
            loss_sum += loss.item() * len(labels)
            seen += len(labels)
            np.add.at(counts, (labels.numpy(), logits.argmax(1).numpy()), 1)
    f1 = 2 * counts[1, 1] / max(1, 2 * counts[1, 1] + counts[0, 1] + counts[1, 0])
    return {"loss": loss_sum / seen, "accuracy": np.trace(counts) / seen, "f1": float(f1)}


def _watched(data: DataLoader, watch: Watch) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `data`. Waiting for each counts as the part "batch".

    Without workers, that part includes the parts of preparing the images.
    """
    batches = iter(data)
    while True:
        with watch.part("batch"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@torch.no_grad()
def evaluate(model: nn.Module, data: DataLoader, watch: Watch = NO_WATCH) -> tuple[np.ndarray, np.ndarray]:
    """Labels and PNEUMONIA probabilities [N]."""
    model.eval()
    labels, probabilities = [], []
    for images, wanted in _watched(data, watch):
        with watch.part("network"):
            probabilities.append(model(images).softmax(1)[:, 1].numpy())
        labels.append(wanted.numpy())
    return np.concatenate(labels), np.concatenate(probabilities)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for name, default in (("epochs", 1), ("size", 224), ("batch", 64), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    from pneumo.models import build_model

    normal, ill = (sorted((args.folder / name).glob("*.jp*g")) for name in ("NORMAL", "PNEUMONIA"))
    paths, labels = normal + ill, [0] * len(normal) + [1] * len(ill)
    model = build_model("resnet18")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    data = loader(XRays(paths, labels, args.size, train=True), args.batch, args.workers)
    for epoch in range(1, args.epochs + 1):
        began = time.perf_counter()
        figures = train_epoch(model, data, optimizer)
        speed = len(paths) / (time.perf_counter() - began)
        text = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"epoch {epoch}: {text}  {speed:.1f} images/s")


if __name__ == "__main__":
    main()
