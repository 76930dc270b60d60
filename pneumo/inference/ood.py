"""Out-of-distribution warnings: images that look unlike the training data get a warning.

Examples are a colour photo, a CT slice, a lateral view, an X-ray that is turned or inverted. A model gives
them a probability too, but it means nothing.

The score: a preprocessed square is cropped to its content and reduced to 16 x 16 pixels. Its distance to the
training images is measured with probabilistic principal components (Tipping and Bishop 1999), along each of
24 components and off all of them. The unit is the spread of the training images, so that 1 is usual. The
limits are exceeded by 1 % of the validation images.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from pneumo import UserError
from pneumo.data import cache, manifest
from pneumo.data.images import Grey
from pneumo.data.settings import DataSettings
from pneumo.inference import neighbours
from pneumo.inference.bundle import Bundle
from pneumo.inference.packed import numbers, packed, unpacked
from pneumo.text import first_line

SIDE = 16
COMPONENTS = 24
SHARE_BEYOND = 0.01  # share of the validation images that exceed a limit
MAX_IMAGES = 20_000  # per split: more do not change the components
COLOUR_LIMIT = 0.01  # share of an image's pixels; scanned films and JPEG rounding stay far below it
BLANK_SPREAD = 0.02  # standard deviation of the thumbnail's levels, which are in 0..1
NOISE_FLOOR = 1e-4  # of a variance: a set of equal images has none
FORMAT = 1

Thumbs = NDArray[np.float32]

# What is wrong with an image -> how to change it back, so that it looks like the training images again.
POSES: dict[str, Callable[[Thumbs], Thumbs]] = {
    "turned by 90 degrees clockwise": lambda thumbs: np.rot90(thumbs, 1, (1, 2)),
    "upside down": lambda thumbs: np.rot90(thumbs, 2, (1, 2)),
    "turned by 90 degrees counter-clockwise": lambda thumbs: np.rot90(thumbs, 3, (1, 2)),
    "inverted (black for white)": lambda thumbs: 1 - thumbs,
    "mirrored left to right": lambda thumbs: thumbs[:, :, ::-1],
}


@dataclass
class Doubts:
    """What speaks against the answer for an image.

    Of the `warnings`, those that are `reasons` too withhold the answer: the image is unlike the training
    images. `differences` can be the same for a whole set of images, and hide no warning.
    """

    warnings: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def withhold(self, reason: str) -> None:
        self.warnings.append(reason)
        self.reasons.append(reason)

    def __add__(self, other: "Doubts") -> "Doubts":
        return Doubts(
            self.warnings + other.warnings,
            self.reasons + other.reasons,
            self.differences + other.differences,
        )


def fit(train: Iterable[Grey], val: Iterable[Grey]) -> dict[str, Any]:
    """The reference of a model: fitted on its training images, with limits from its validation images.

    Both are uint8 squares [S, S] as `preprocess` makes them; 20,000 of each are enough. The result can be
    written as JSON of about 20 kB.
    """
    thumbs, _ = _thumbnails(train)
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float64)
    mean = flat.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(flat, rowvar=False, bias=True))
    count = max(1, min(COMPONENTS, len(flat) - 1))
    kept, rest = variances[::-1][:count], variances[::-1][count:]
    components = vectors[:, ::-1][:, :count].T
    components *= np.sign(components[np.arange(count), np.abs(components).argmax(1)])[:, None]
    unlimited = OodDetector(
        {
            "format": FORMAT,
            "mean": packed(mean),
            "components": packed(components),
            "variances": [max(float(value), NOISE_FLOOR) for value in kept],
            "noise": max(float(rest.mean()), NOISE_FLOOR),
            "distance": 1.0,
            "poses": dict.fromkeys(POSES, 1.0),
            "aspect": [1.0, 1.0],
            "images": len(thumbs),
        }
    )
    val_thumbs, aspects = _thumbnails(val)
    distances = unlimited.distances(val_thumbs)
    low, high = np.quantile(aspects, [SHARE_BEYOND / 2, 1 - SHARE_BEYOND / 2])
    return {
        **unlimited.reference,
        "distance": float(np.quantile(distances, 1 - SHARE_BEYOND)),
        "poses": {
            name: min(
                1.0, float(np.quantile(unlimited.distances(pose(val_thumbs)) / distances, SHARE_BEYOND))
            )
            for name, pose in POSES.items()
        },
        "aspect": [float(low), float(high)],
    }


def fit_split(images: NDArray[np.uint8], rows: NDArray[np.int64], splits: Iterable[str]) -> dict[str, Any]:
    """As `fit`, from a cache: its `images`, and for each image its row there and its split."""
    names = np.asarray(list(splits))
    picked = {}
    for name in ("train", "val"):
        split_rows = rows[names == name]
        picked[name] = split_rows[:: math.ceil(len(split_rows) / MAX_IMAGES)]
    return fit(*((images[row] for row in split_rows) for split_rows in picked.values()))


def fit_again(config: Path, model: Bundle, cache_dir: str) -> dict[str, Any]:
    """The reference of a run that kept none, from the images that its config.yaml names.

    UserError if they are missing or are not the run's images.
    """
    try:
        whole = yaml.safe_load(config.read_text()) if config.is_file() else {}
        keys = dict(whole["data"])
        # This machine decides where its cache is, not a file that may come from elsewhere.
        settings = DataSettings.from_saved(keys | {"cache_dir": cache_dir, "num_workers": None})
        data = cache.prepare(manifest.build(settings), settings)
    except UserError as error:
        raise UserError(first_line(error)) from None
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError, RecursionError):
        raise UserError(f"{config} does not name a data set") from None
    if data.digest != model.data_digest:
        raise UserError(f"the images in {settings.root} are not those of the run")
    splits = data.manifest.table["split"].tolist()
    network = model.network()
    device = next(network.parameters()).device
    in_features = neighbours.fit_split(
        network, data.images, data.rows, splits, model.model["in_channels"], lambda: model.autocast(device)
    )
    return fit_split(data.images, data.rows, splits) | {"features": in_features}


class OodDetector:
    """Compares images with a model's reference.

    The reference may come from elsewhere: UserError for one that `fit` would not make.
    """

    def __init__(self, reference: dict[str, Any]) -> None:
        self.reference = reference
        try:
            self.variances = numbers(reference["variances"], 1, COMPONENTS)
            self.noise = numbers([reference["noise"]], 1, 1)[0]
            self.limit = numbers([reference["distance"]], 1, 1)[0]
            self.aspect = numbers(reference["aspect"], 2, 2)
            self.pose_limits = dict(
                zip(POSES, numbers([reference["poses"][name] for name in POSES], 5, 5), strict=True)
            )
            count = len(self.variances)
            self.mean = unpacked(reference["mean"], (SIDE * SIDE,))
            self.components = unpacked(reference["components"], (count, SIDE * SIDE))
            if reference["format"] != FORMAT:
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(
                "the reference for unlike images (familiarity) is damaged, or no training run made it; train "
                "the model again."
            ) from None

    def distances(self, thumbs: Thumbs) -> NDArray[np.float64]:
        """The score [N] of thumbnails [N, 16, 16]."""
        centred = thumbs.reshape(len(thumbs), -1).astype(np.float64) - self.mean
        along = centred @ self.components.T
        off = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0)
        squares = (along**2 / self.variances).sum(1) + off / self.noise
        return np.asarray(np.sqrt(squares / (SIDE * SIDE)))

    def doubts(self, square: Grey, colour_share: float = 0.0) -> Doubts:
        """What in a preprocessed `square` [S, S] is unlike the training images.

        `colour_share` is the share of the original's pixels that have colour.
        """
        found = colour_doubts(colour_share)
        thumb, aspect = _thumbnail(square)
        if thumb.std() < BLANK_SPREAD:
            found.withhold("blank: there is hardly anything to see in it")
            return found
        thumbs = thumb[None]
        score = float(self.distances(thumbs)[0])
        ratios = {name: float(self.distances(pose(thumbs))[0]) / score for name, pose in POSES.items()}
        likely = min(ratios, key=lambda name: ratios[name] / self.pose_limits[name])
        better_in_pose = ratios[likely] < self.pose_limits[likely]
        if better_in_pose and ratios[likely] * score <= self.limit:
            found.withhold(f"seems {likely}")
            return found
        if better_in_pose or score > self.limit:  # unlike in every pose: not just a turned X-ray
            found.withhold(f"unlike the training images (score {score:.2f}, limit {self.limit:.2f})")
        low, high = self.aspect
        if not 0.98 * low <= aspect <= 1.02 * high:
            found.differences.append(
                f"width to height {aspect:.2f}, in the training images {low:.2f} to {high:.2f}"
            )
        return found


def colour_doubts(colour_share: float) -> Doubts:
    """The one check that needs no reference: an X-ray has no colour."""
    found = Doubts()
    if colour_share > COLOUR_LIMIT:
        found.withhold(f"colour in {colour_share:.0%} of the pixels: an X-ray has none")
    return found


def _thumbnail(square: Grey) -> tuple[Thumbs, float]:
    image = Image.fromarray(np.ascontiguousarray(square))
    content = image.crop(image.getbbox() or (0, 0, *image.size))  # without padding
    thumb = content.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(thumb, dtype=np.float32) / np.float32(255), content.width / content.height


def _thumbnails(squares: Iterable[Grey]) -> tuple[Thumbs, NDArray[np.float64]]:
    both = [_thumbnail(square) for square in squares]
    return np.stack([thumb for thumb, _ in both]), np.asarray([aspect for _, aspect in both])
