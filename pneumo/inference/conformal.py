"""Prediction sets with a stated coverage: split conformal prediction from the validation images.

A set holds each class whose probability is not lower than those of nearly all validation images of that
class (Sadinle, Lei and Wasserman 2019). So of the images of every class, the share `coverage` is in a set
with it, however frequent the class is, if they are like the validation images. Patients are counted: the
images of one share a weight of 1. A class with too few patients is in every set. An empty set gets the most
probable class.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pneumo.evaluation.metrics import Floats
from pneumo.inference.bundle import Bundle

OR_NOT = " or not"  # after a finding that a set neither calls nor rules out


def lowest(chances: ArrayLike, patients: Sequence[int], coverage: float) -> float:
    """The least probability of a class that keeps it in a set, from its images' probabilities [N] of it."""
    own, people = np.asarray(chances, dtype=np.float64), np.asarray(patients)
    if not len(own):
        return 0.0
    _, patient_of, images = np.unique(people, return_inverse=True, return_counts=True)
    needed = math.ceil((len(images) + 1) * coverage - 1e-9)
    if needed > len(images):
        return 0.0
    order = np.argsort(-own, kind="stable")
    reached = np.cumsum(1 / images[patient_of][order])
    return float(own[order][np.argmax(reached >= needed - 1e-9)])


class PredictionSets:
    """The sets of `bundle` with `coverage`."""

    def __init__(self, bundle: Bundle, coverage: float) -> None:
        self.names, self.multilabel = bundle.class_names, bundle.multilabel
        labels = np.asarray(bundle.past["labels"])
        chances = _each(np.asarray(bundle.past["probabilities"], dtype=np.float64), bundle)
        people = np.asarray(bundle.past_patients or range(len(labels)))
        if self.multilabel:
            labels = labels.reshape(-1, len(self.names))
        columns = range(len(self.names))

        def limits(value: int) -> list[float]:
            """Of each finding, for images with the label `value`."""
            of_value, rows = (chances if value else 1 - chances), labels == value
            return [lowest(of_value[rows[:, k], k], people[rows[:, k]], coverage) for k in columns]

        if self.multilabel:
            self.lowest = np.array([limits(0), limits(1)])
        else:
            rows = [labels == k for k in columns]
            self.lowest = np.array([lowest(chances[rows[k], k], people[rows[k]], coverage) for k in columns])

    def of(self, calibrated: ArrayLike) -> list[str]:
        """The classes in the set of one image, from its calibrated probability, or those of each class [K].

        Of several findings, those that are not ruled out; `Edema or not` for one that is not called either.
        """
        chances = np.asarray(calibrated, dtype=np.float64)
        if not self.multilabel:
            every = np.array([1 - chances, chances]) if chances.ndim == 0 else chances
            kept = every >= self.lowest
            kept[every.argmax()] |= not kept.any()
            return [name for name, one in zip(self.names, kept, strict=True) if one]
        present = (chances >= self.lowest[1]) | ((1 - chances < self.lowest[0]) & (chances >= 0.5))
        absent = 1 - chances >= self.lowest[0]
        return [
            name + OR_NOT * bool(maybe)
            for name, one, maybe in zip(self.names, present, absent, strict=True)
            if one
        ]


def _each(chances: Floats, bundle: Bundle) -> Floats:
    """Probabilities [N, K]."""
    if not len(chances):
        return np.zeros((0, len(bundle.class_names)))
    return chances if bundle.many else np.stack([1 - chances, chances], axis=1)
