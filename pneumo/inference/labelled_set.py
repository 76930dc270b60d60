"""A model on a labelled set that it was not trained on: its probabilities, and which images look unlike.

The images are prepared as for the model's training, and computed as in its evaluation. So a model's own test
set, given as another set, has the run's own probabilities.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pneumo import UserError
from pneumo.data import findings
from pneumo.data.cache import ImageCache
from pneumo.data.images import Grey
from pneumo.data.loader import evaluation_batch
from pneumo.data.manifest import Manifest
from pneumo.data.settings import DataSettings
from pneumo.evaluation.predictions import SplitResult
from pneumo.inference.bundle import Bundle
from pneumo.inference.neighbours import NeighbourDetector
from pneumo.inference.ood import OodDetector
from pneumo.models.head import Penultimate

BATCH = 64


@dataclass(kw_only=True)
class LabelledScores:
    """What a model gives on a labelled set.

    `unlike` has True for the images whose decision `pneumo predict` would withhold. It is None
    for a model without a reference of its training images.
    """

    result: SplitResult
    unlike: NDArray[np.bool_] | None


def score(bundle: Bundle, data: ImageCache, device: str) -> LabelledScores:
    """The scores of all images of `data`, which were prepared with the model's `preprocess`.

    UserError for classes that are not the model's, or probabilities that are not finite.
    """
    refuse_other_classes(bundle, data.manifest)
    network = bundle.network(device)
    reference = bundle.ood_reference
    look = OodDetector(reference) if reference else None
    near = (reference or {}).get("features")
    neighbours = NeighbourDetector(near) if near else None
    penultimate = Penultimate.of(network) if near else None
    together = evaluation_batch(BATCH, bundle.image_size, torch.device(device))
    chances, unlike = [], np.zeros(len(data.rows), dtype=bool)
    for start in range(0, len(data.rows), together):
        some = data.rows[start : start + together]
        squares = np.stack([data.images[row] for row in some])
        chances.append(bundle.probabilities(squares, network))
        if neighbours and penultimate:
            reasons = neighbours.reasons(penultimate.last())
            unlike[start : start + len(some)] = [bool(found) for found in reasons]
        if look:
            unlike[start : start + len(some)] |= [_is_unlike(look, square) for square in squares]
    probabilities = np.concatenate(chances)
    if not np.isfinite(probabilities).all():
        raise UserError(f"{bundle.version} gives probabilities that are not finite on {data.manifest.root}.")
    return LabelledScores(
        result=_result(bundle, data, probabilities),
        unlike=unlike if reference else None,
    )


def _is_unlike(look: OodDetector, square: Grey) -> bool:
    return bool(look.doubts(square).reasons)


def _result(bundle: Bundle, data: ImageCache, probabilities: NDArray[np.float64]) -> SplitResult:
    table = data.manifest.table
    paths = table["path"].tolist()
    subgroups = data.manifest.subgroups
    return SplitResult(
        paths=paths,
        patients=[name if isinstance(name, str) else None for name in table["patient"].tolist()],
        labels=labels_of(data.manifest),
        probabilities=probabilities,
        class_names=tuple(bundle.class_names),
        subgroups={str(name): subgroups[name].loc[paths].tolist() for name in subgroups.columns},
    )


def with_classes(settings: DataSettings, bundle: Bundle) -> DataSettings:
    """`settings` of a set with the model's classes, where there are more than two and none are given."""
    if not bundle.many or settings.classes or settings.positive or settings.layout == "drawn":
        return settings
    return replace(settings, classes=[*bundle.class_names])


def labels_of(data: Manifest) -> NDArray[np.int64]:
    """The labels [N] of the images, or [N, K] of several findings."""
    if data.findings:
        return findings.matrix(data.table["findings"])
    return np.asarray(data.table["label"].to_numpy(), dtype=np.int64)


def refuse_other_classes(bundle: Bundle, data: Manifest) -> None:
    """UserError unless the set has the classes or findings of the model, in the same order."""
    names = data.findings or data.class_names
    if bundle.multilabel != bool(data.findings) or tuple(names) != tuple(bundle.class_names):
        kind = "findings" if bundle.multilabel else "classes"
        task = " data.task=multilabel" if bundle.multilabel else ""
        raise UserError(
            f"the set has the classes {', '.join(names)}, and {bundle.version} has the {kind} "
            f"{', '.join(bundle.class_names)}. Give{task} data.classes=[{','.join(bundle.class_names)}], and "
            "data.labels={VALUE: CLASS} where the set uses other words."
        )
