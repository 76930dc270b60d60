"""Samplers (which image when) and batches on the device."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pneumo.data.cache import ImageCache
from pneumo.data.settings import SamplerSettings

CPU_PIXELS = 8 * 224**2  # of the images that a CPU evaluates together


def epoch_order(settings: SamplerSettings, labels: NDArray[np.int64], *, seed: int, epoch: int) -> Tensor:
    """Row numbers [N] in the order of one epoch, int64 on the CPU, drawn from (seed, epoch) alone.

    `shuffle` sees each image once. `imbalanced` and `weighted` draw N times with replacement so that the
    classes come equally often: `imbalanced` with the seed report's weight 1 / (n_class + smoothing),
    `weighted` with torch's WeightedRandomSampler and weight 1 / n_class. Without smoothing the two draw the
    same images in the same order. They stay two options, and each has its runs.
    """
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    if settings.name == "shuffle":
        return torch.randperm(len(labels), generator=generator)
    counts = np.bincount(labels, minlength=2)
    weights = torch.from_numpy(1.0 / (counts[labels] + _smoothing(settings)))
    if settings.name == "imbalanced":
        return torch.multinomial(weights, len(labels), replacement=True, generator=generator)
    sampler = torch.utils.data.WeightedRandomSampler(
        weights.tolist(), len(labels), replacement=True, generator=generator
    )
    return torch.tensor(list(sampler))


def drawn_shares(settings: SamplerSettings, counts: Tensor) -> Tensor:
    """The expected share of each class in an epoch, float64 [K], for `counts` [K] of images (all above 0)."""
    if settings.name == "shuffle":
        return counts.double() / counts.sum()
    drawn = counts.double() / (counts + _smoothing(settings))
    return drawn / drawn.sum()


def _smoothing(settings: SamplerSettings) -> float:
    return settings.smoothing if settings.name == "imbalanced" else 0.0


def batches(order: Tensor, batch_size: int, world_size: int = 1) -> list[Tensor]:
    """Cut an epoch's order into the batches that all processes share, at least two images a process.

    BatchNorm cannot train on one image, and every process must take every step: a last batch too small for
    that is joined to the one before it.
    """
    cut = list(order.split(batch_size))
    if len(cut) > 1 and len(cut[-1]) < 2 * world_size:
        cut[-2:] = [torch.cat(cut[-2:])]
    return cut


def evaluation_batch(batch_size: int, image_size: int, device: torch.device) -> int:
    """How many images are computed together where nothing is learnt: on a CPU, no more than its caches hold.

    DenseNet-121 at 224 px evaluates 1.8 times as fast on two cores with 8 images together as with 64.
    """
    if device.type != "cpu":
        return batch_size
    return max(1, min(batch_size, CPU_PIXELS // image_size**2))


@dataclass
class Split:
    """One split, ready to be taken from: images by row number, with what is known of each."""

    name: str
    images: NDArray[np.uint8] | Tensor
    rows: Tensor
    labels: Tensor
    paths: list[str]
    patients: list[str | None]
    device: torch.device
    _stream: Any = field(default=None, repr=False)  # for copies to CUDA

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def resident(self) -> bool:
        """Whether the images lie on the device."""
        return isinstance(self.images, Tensor)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, S, S] and labels int64 [B] on the device, for int64 `indices` [B] on the CPU, or
        on the device where the images are."""
        if isinstance(self.images, Tensor):
            indices = indices.to(self.device, non_blocking=True)
            return self.images[self.rows[indices]], self.labels[indices]
        batch = torch.from_numpy(self.images[self.rows[indices].numpy()])
        labels = self.labels[indices]
        if self.device.type == "cpu":
            return batch, labels
        return self._upload(batch), self._upload(labels)

    def _upload(self, values: Tensor) -> Tensor:
        """`values` on the CUDA device, copied on a stream of its own: the host runs ahead of the device, so
        the copy for the next step goes on beside this step's kernels."""
        self._stream = self._stream or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._stream):
            there = values.pin_memory().to(self.device, non_blocking=True)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self._stream)
        there.record_stream(now)  # else its memory could be taken again while a kernel still reads it
        return there


def splits(cache: ImageCache, device: torch.device) -> dict[str, Split]:
    """The three splits of a cache; on CUDA the images move to the device when they take under half of it."""
    images: NDArray[np.uint8] | Tensor = cache.images
    rows = torch.from_numpy(cache.rows)
    resident = device.type == "cuda" and cache.images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
    if resident:
        images = torch.from_numpy(np.ascontiguousarray(cache.images)).to(device)
    result = {}
    for name, table in cache.manifest.table.groupby("split", sort=False):
        index = torch.from_numpy(table.index.to_numpy(dtype=np.int64, copy=True))
        labels = torch.from_numpy(table["label"].to_numpy(dtype=np.int64, copy=True))
        result[str(name)] = Split(
            name=str(name),
            images=images,
            rows=rows[index].to(device) if resident else rows[index],
            labels=labels.to(device) if resident else labels,
            paths=table["path"].tolist(),
            patients=[None if patient != patient else patient for patient in table["patient"].tolist()],
            device=device,
        )
    return result


def mix(*numbers: int) -> int:
    """One well-spread 63-bit seed out of several numbers, which is another one for another count of numbers.

    Without the count, (seed, epoch) and (seed, epoch, 0, 0) would give one seed: numpy fills up with zeros.
    Two numbers keep the seed that version 0.1 gave them, so the order of an epoch's images stays.
    """
    count = () if len(numbers) == 2 else (len(numbers),)
    entropy = [number % 2**64 for number in numbers]
    state = np.random.SeedSequence(entropy, spawn_key=count).generate_state(2, np.uint32)
    return int(state[0]) << 31 | int(state[1]) >> 1
