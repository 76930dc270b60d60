"""Unlike the training images to the network: the distance to the nearest training images in its features.

The features are those before the linear layers that end a network, each in units of its spread over the
training images. Along their 32 principal components the squared distance is that to the tenth nearest of 500
training images (Sun et al., ICML 2022). The squared length off these components is added, because a photo
leaves them. The limit is exceeded by 1 % of the validation images. At 512 features, all of it is 90 kB as
JSON.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pneumo import UserError
from pneumo.data.augment import normalise
from pneumo.data.images import Grey
from pneumo.inference.packed import numbers, packed, unpacked
from pneumo.models.head import Penultimate

COMPONENTS = 32
BANK = 500  # training images that are kept
NEAREST = 10
SHARE_BEYOND = 0.01  # share of the validation images that exceed the limit
MAX_IMAGES = 1000  # per split: so many are computed at the end of a training
MAX_FEATURES = 8192
BATCH = 64

Floats = NDArray[np.float64]


def features(
    network: nn.Module,
    images: Iterable[Grey],
    in_channels: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Floats | None:
    """The features [N, D] of preprocessed squares; None if no linear layer ends the network.

    The network must be in eval mode, and is as before afterwards.
    """
    kept = Penultimate.of(network)
    if kept is None:
        return None
    device, rows, remaining = next(network.parameters()).device, [], iter(images)
    try:
        with torch.inference_mode():
            while batch := list(islice(remaining, BATCH)):
                squares = torch.from_numpy(np.stack(batch)).to(device)
                with autocast():
                    network(normalise(squares, in_channels))
                rows.append(kept.last())
    finally:
        kept.remove()
    return np.concatenate(rows)


def fit(train: Floats, val: Floats) -> dict[str, Any]:
    """The reference, from the features of training images [N, D] and validation images [M, D]."""
    mean, spread = train.mean(0), train.std(0)
    spread = np.where(spread > 1e-3 * spread.max(initial=0), spread, max(spread.max(initial=0), 1e-6))
    standard = (train - mean) / spread
    count = max(1, min(COMPONENTS, *train.shape))
    _, _, components = np.linalg.svd(standard, full_matrices=False)
    components = components[:count]
    components = components * np.sign(components[np.arange(count), np.abs(components).argmax(1)])[:, None]
    bank = standard[np.linspace(0, len(standard) - 1, min(BANK, len(standard))).round().astype(int)]
    reference = {
        "mean": packed(mean),
        "spread": packed(spread),
        "components": packed(components),
        "bank": packed(bank @ components.T),
        "features": train.shape[1],
        "limit": 1.0,
    }
    distances = NeighbourDetector(reference).distances(val)
    return reference | {"limit": max(float(np.quantile(distances, 1 - SHARE_BEYOND)), 1e-6)}


def fit_split(
    network: nn.Module,
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    splits: Iterable[str],
    in_channels: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, Any] | None:
    """As `fit`, from a cache: its `images`, and for each image its row there and its split."""
    names, found = np.asarray(list(splits)), []
    for name in ("train", "val"):
        of_split = rows[names == name]
        picked = of_split[
            np.linspace(0, len(of_split) - 1, min(MAX_IMAGES, len(of_split))).round().astype(int)
        ]
        values = features(network, (images[row] for row in picked), in_channels, autocast)
        if values is None or not np.isfinite(values).all():
            return None
        found.append(values)
    return fit(*found)


class NeighbourDetector:
    """Compares features with a model's reference, which may come from elsewhere: UserError if damaged."""

    def __init__(self, reference: dict[str, Any]) -> None:
        try:
            width = reference["features"]
            if type(width) is not int or not 1 <= width <= MAX_FEATURES:
                raise ValueError
            self.limit = numbers([reference["limit"]], 1, 1)[0]
            self.mean, self.spread = (unpacked(reference[key], (width,)) for key in ("mean", "spread"))
            self.components = unpacked(reference["components"], (-1, width))
            self.bank = unpacked(reference["bank"], (-1, len(self.components)))
            if not (self.spread > 0).all() or not len(self.bank):
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(
                "the reference of the network's features (familiarity) is damaged, or no training run made "
                "it; train the model again."
            ) from None

    def along(self, features: Floats) -> Floats:
        """Features [N, D] along the main directions of the training images [N, components]."""
        return np.asarray((features - self.mean) / self.spread @ self.components.T)

    def distances(self, features: Floats) -> Floats:
        """The distance [N] of features [N, D] to the training images."""
        standard = (features - self.mean) / self.spread
        along = standard @ self.components.T
        off = np.maximum((standard**2).sum(1) - (along**2).sum(1), 0)
        squares = (along**2).sum(1)[:, None] + (self.bank**2).sum(1) - 2 * along @ self.bank.T
        nearest = min(NEAREST, len(self.bank)) - 1
        return np.asarray(np.sqrt(np.maximum(np.partition(squares, nearest, axis=1)[:, nearest], 0) + off))

    def reasons(self, features: Floats) -> list[list[str]]:
        """Of each image: why it is unlike the training images; empty if it is not."""
        scores = self.distances(features) / self.limit
        return [
            []
            if score <= 1
            else [f"unlike the training images to the network (score {score:.2f}, limit 1.00)"]
            for score in scores
        ]
