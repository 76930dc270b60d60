"""Samplers (the order of the images) and batches on the device."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pneumo import one_of
from pneumo.data import findings
from pneumo.data.cache import ImageCache
from pneumo.data.settings import SamplerSettings

CPU_PIXELS = 8 * 224**2  # pixels that a CPU evaluates in one batch


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """What a sampler is: the order of an epoch, and the shares of the classes that it draws.

    `order` maps settings, labels [N] and a generator to row numbers [N], int64. `shares` maps settings and
    the number of images of each class [K] to the expected share of each class, float64 [K].
    """

    order: Callable[[SamplerSettings, NDArray[np.int64], torch.Generator], Tensor]
    shares: Callable[[SamplerSettings, Tensor], Tensor]


def epoch_order(settings: SamplerSettings, labels: NDArray[np.int64], *, seed: int, epoch: int) -> Tensor:
    """Row numbers [N] in the order of one epoch, int64 on the CPU. They depend only on seed and epoch.

    `shuffle` draws each image once. `imbalanced` and `weighted` draw N times with replacement, so that all
    classes are equally frequent. `imbalanced` uses the seed report's weight 1 / (n_class + smoothing).
    `weighted` uses torch's WeightedRandomSampler and weight 1 / n_class. Without smoothing both draw the same
    images in the same order. They remain separate options because existing runs use each of them.
    """
    one_of("sampler", settings.name, SAMPLERS)
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return SAMPLERS[settings.name].order(settings, labels, generator)


def drawn_shares(settings: SamplerSettings, counts: Tensor) -> Tensor:
    """The expected share of each class in an epoch, float64 [K], for `counts` [K] of images (all above 0)."""
    one_of("sampler", settings.name, SAMPLERS)
    return SAMPLERS[settings.name].shares(settings, counts)


def _shuffled(settings: SamplerSettings, labels: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    return torch.randperm(len(labels), generator=generator)


def _imbalanced(settings: SamplerSettings, labels: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    weights = _weights(labels, settings.smoothing)
    return torch.multinomial(weights, len(labels), replacement=True, generator=generator)


def _weighted(settings: SamplerSettings, labels: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    weights = _weights(labels, smoothing=0.0).tolist()
    sampler = torch.utils.data.WeightedRandomSampler(
        weights, len(labels), replacement=True, generator=generator
    )
    return torch.tensor(list(sampler))


def _weights(labels: NDArray[np.int64], smoothing: float) -> Tensor:
    """The weight of each image [N]: 1 / (images of its class + smoothing)."""
    counts = np.bincount(labels, minlength=2)
    return torch.from_numpy(1.0 / (counts[labels] + smoothing))


def _evened(counts: Tensor, smoothing: float) -> Tensor:
    drawn = counts.double() / (counts + smoothing)
    return drawn / drawn.sum()


SAMPLERS = {
    "shuffle": Sampler(order=_shuffled, shares=lambda settings, counts: counts.double() / counts.sum()),
    "imbalanced": Sampler(
        order=_imbalanced, shares=lambda settings, counts: _evened(counts, settings.smoothing)
    ),
    "weighted": Sampler(order=_weighted, shares=lambda settings, counts: _evened(counts, smoothing=0.0)),
}


def batches(order: Tensor, batch_size: int, world_size: int = 1) -> list[Tensor]:
    """Cut an epoch's order into batches that all processes share, with at least two images per process.

    BatchNorm cannot train on one image, and every process must take every step. If the last batch is too
    small for that, it is joined to the one before it.
    """
    cut = list(order.split(batch_size))
    if len(cut) > 1 and len(cut[-1]) < 2 * world_size:
        cut[-2:] = [torch.cat(cut[-2:])]
    return cut


def evaluation_batch(batch_size: int, image_size: int, device: torch.device) -> int:
    """The batch size in evaluation. On a CPU it is limited to what the processor's caches hold.

    On two cores, DenseNet-121 at 224 px evaluates 1.8 times as fast with batches of 8 as with batches of 64.
    """
    if device.type != "cpu":
        return batch_size
    return max(1, min(batch_size, CPU_PIXELS // image_size**2))


@dataclass
class Split:
    """One split: its images by row number, and the label, stratum, path and patient of each.

    Labels are classes [N], or of several findings 1, 0 or -1 (not known) for each [N, K]. Samplers balance
    the strata [N]: the classes, or each image's rarest finding.
    """

    name: str
    images: NDArray[np.uint8] | Tensor
    rows: Tensor
    labels: Tensor
    paths: list[str]
    patients: list[str | None]
    device: torch.device
    rarest: Tensor | None = None  # the number of each image's rarest finding, of several findings
    _stream: Any = field(default=None, repr=False)  # for copies to CUDA

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def strata(self) -> Tensor:
        """What samplers balance, int64 [N]."""
        return self.labels if self.rarest is None else self.rarest

    @property
    def resident(self) -> bool:
        """Whether the images are on the device."""
        return isinstance(self.images, Tensor)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, S, S] and labels int64 [B] or [B, K] on the device.

        `indices` int64 [B] are on the CPU or, if the images are on the device, also there.
        """
        if isinstance(self.images, Tensor):
            indices = indices.to(self.device, non_blocking=True)
            return self.images[self.rows[indices]], self.labels[indices]
        batch = torch.from_numpy(self.images[self.rows[indices].numpy()])
        labels = self.labels[indices]
        if self.device.type == "cpu":
            return batch, labels
        return self._upload(batch), self._upload(labels)

    def _upload(self, values: Tensor) -> Tensor:
        """`values` on the CUDA device, copied on a separate stream. The host runs ahead of the device, so the
        copy for the next step overlaps with this step's kernels."""
        self._stream = self._stream or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._stream):
            on_device = values.pin_memory().to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        on_device.record_stream(current)  # otherwise its memory could be reused while a kernel still reads it
        return on_device


def splits(cache: ImageCache, device: torch.device) -> dict[str, Split]:
    """The three splits of a cache. Images that take under half of a CUDA device's free memory move to it."""
    images: NDArray[np.uint8] | Tensor = cache.images
    rows = torch.from_numpy(cache.rows)
    resident = device.type == "cuda" and cache.images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
    if resident:
        images = torch.from_numpy(np.ascontiguousarray(cache.images)).to(device)
    result = {}
    for name, table in cache.manifest.table.groupby("split", sort=False):
        index = torch.from_numpy(table.index.to_numpy(dtype=np.int64, copy=True))
        labels = torch.from_numpy(table["label"].to_numpy(dtype=np.int64, copy=True))
        rarest = None
        if "findings" in table:
            labels, rarest = torch.from_numpy(findings.matrix(table["findings"])), labels
        result[str(name)] = Split(
            name=str(name),
            images=images,
            rows=rows[index].to(device) if resident else rows[index],
            labels=labels.to(device) if resident else labels,
            paths=table["path"].tolist(),
            patients=[None if patient != patient else patient for patient in table["patient"].tolist()],
            device=device,
            rarest=rarest,
        )
    return result


def mix(*numbers: int) -> int:
    """One well-mixed 63-bit seed from several numbers. It also depends on how many numbers there are.

    Without the count, (seed, epoch) and (seed, epoch, 0, 0) would give the same seed, because numpy pads
    with zeros. Two numbers give the seed of version 0.1, so the order of an epoch's images does not change.
    """
    count = () if len(numbers) == 2 else (len(numbers),)
    entropy = [number % 2**64 for number in numbers]
    state = np.random.SeedSequence(entropy, spawn_key=count).generate_state(2, np.uint32)
    return int(state[0]) << 31 | int(state[1]) >> 1
