"""Intervals and paired tests for several findings an image: the scheme of `statistics`, with these additions.

A finding is scored on the images whose label is known, as one of two classes. A score of the model is the
mean over the findings in each draw, so its interval counts that the findings share patients.

All findings share the draws. They are stratified: the present and the absent of each finding are cells, and
the stratum of a patient is the cell with the fewest patients that it has an image in. Strata are in the order
of the cells, the present of each finding first. So the one patient of a rare finding is in every draw. Draws
in which a cell has no image are left out.

A comparison takes the findings that five test patients or more have, and as many do not: the draws of a
rarer one vary too little, because each of them holds the same patients. On validation, a finding with fewer
patients of either value is left out.

The variance of the draws is multiplied by n / (n - 1) for the n patients of the rarest value of a finding.
Behind the mean of K proportions of n_1 ... n_K patients are K ** 2 / (1 / n_1 + ... + 1 / n_K) patients, and
never more than all. Behind precision are the patients with the finding, also where few are called.

Calibration is that of each finding; as if the network were calibrated, each is drawn as one of two classes.
DeLong's test is left out. McNemar's test counts the images of which every known finding is called right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from pneumo.evaluation import statistics
from pneumo.evaluation.metrics import Floats, Ints
from pneumo.evaluation.multilabel import UNKNOWN, checked
from pneumo.evaluation.predictions import SplitResult
from pneumo.evaluation.ranking import Weights
from pneumo.evaluation.statistics import DRAWS, PatientCounts

# Of either value of a finding. Simulated: with findings of one patient, 14 to 20 % of the tests of two equal
# models are significant at 5 %; of six patients and more, 7 % (docs/explanation/statistics.md).
FEWEST_PATIENTS = 5
PARTS = ("counts", "losses", "areas")


@dataclass(kw_only=True, frozen=True, slots=True)
class FindingCounts:
    """Patients with and without each finding that has both, and all patients."""

    by_finding: tuple[PatientCounts, ...]
    all: int

    @classmethod
    def of(cls, labels: ArrayLike, patients: Sequence[str | None]) -> "FindingCounts":
        truth = np.asarray(labels)
        each = (counts_of_finding(column, patients) for column in truth.T)
        everyone = PatientCounts.of(np.zeros(len(truth), dtype=np.int64), patients).all
        return cls(by_finding=tuple(one for one in each if one.smaller_class), all=everyone)

    @property
    def smaller_class(self) -> int:
        """Patients of the rarest value of a finding."""
        return min((one.smaller_class for one in self.by_finding), default=0)

    def behind(self, score: str) -> float:
        """How many patients a mean over the findings is a proportion of, at most."""
        if score == "exact_match":
            return self.all
        patients = [one.ill if score == "precision" else one.behind(score) for one in self.by_finding]
        shares = [1 / n for n in patients if n]
        return min(self.all, len(patients) ** 2 / sum(shares)) if shares else 0


def counts_of_finding(labels: Ints, patients: Sequence[str | None]) -> PatientCounts:
    """The patients of one finding, whose labels are `labels` [N]."""
    known = np.flatnonzero(labels != UNKNOWN)
    if not len(known):
        return PatientCounts(normal=0, ill=0, all=0)
    return PatientCounts.of(labels[known], [patients[row] for row in known.tolist()])


def testable(split: SplitResult) -> list[int]:
    """The columns of the findings that FEWEST_PATIENTS or more have, and as many do not."""
    counts = [counts_of_finding(column, split.patients) for column in split.labels.T]
    return [k for k, one in enumerate(counts) if one.smaller_class >= FEWEST_PATIENTS]


def of_columns(split: SplitResult, columns: Sequence[int]) -> SplitResult:
    """`split` with these findings alone."""
    return replace(
        split,
        labels=split.labels[:, columns],
        probabilities=split.probabilities[:, columns],
        class_names=tuple(split.class_names[k] for k in columns),
    )


def known_only(split: SplitResult, columns: Sequence[int]) -> SplitResult:
    """`split` with the labels of all other findings unknown."""
    labels = np.full_like(split.labels, UNKNOWN)
    labels[:, columns] = split.labels[:, columns]
    return replace(split, labels=labels)


def resample(labels: ArrayLike, patients: Sequence[str | None], draws: int = DRAWS, seed: int = 0) -> Weights:
    """How often each image counts in each draw, uint16 [N, draws]: whole patients, stratified as above."""
    truth = np.asarray(labels)
    weights = statistics.resample(_strata(truth, patients), patients, draws, seed)
    return weights[:, with_each_value(truth, weights)]


def with_each_value(labels: ArrayLike, weights: Weights) -> np.ndarray:
    """Which draws have an image of each value that a finding has at all, bool [draws]."""
    every = np.ones(weights.shape[1], dtype=bool)
    for cell in _cells(np.asarray(labels)).T:
        if cell.any():
            every &= weights[cell].any(axis=0)
    return every


def resampled_scores(
    labels: ArrayLike, probabilities: ArrayLike, weights: Weights, parts: Sequence[str] = PARTS
) -> dict[str, Floats]:
    """Every score on every draw, the mean over the findings that have both values: name -> [draws].

    A finding is called from probability 0.5 on. nan if no finding has both values. `exact_match` is the
    share of images of which every known finding is called right.
    """
    truth, chances = checked(labels, probabilities)
    each = [
        statistics.resampled_scores(truth[rows, k], chances[rows, k], weights[rows], parts=parts)
        for k, rows in scored(truth)
    ]
    return _means(each, truth, chances, weights, parts)


def resampled_both(
    labels: ArrayLike, probabilities: ArrayLike, weights: Weights
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """`resampled_scores`, and those of each finding: name -> [K, draws]. Each finding has both values."""
    truth, chances = checked(labels, probabilities)
    each = [
        statistics.resampled_scores(truth[rows, k], chances[rows, k], weights[rows])
        for k, rows in scored(truth)
    ]
    of_finding = {name: np.stack([one[name] for one in each]) for name in each[0]}
    return _means(each, truth, chances, weights, PARTS), of_finding


def scored(truth: Ints) -> Iterator[tuple[int, Ints]]:
    """The findings that have both values: the column, and the images whose label is known."""
    for k, column in enumerate(truth.T):
        if (column == 1).any() and (column == 0).any():
            yield k, np.flatnonzero(column != UNKNOWN)


def _means(
    each: Sequence[dict[str, Floats]],
    truth: Ints,
    chances: Floats,
    weights: Weights,
    parts: Sequence[str],
) -> dict[str, Floats]:
    if not each:  # two images of one finding tell the names
        names = statistics.resampled_scores([0, 1], [0.0, 1.0], np.ones((2, 1), np.uint16), parts=parts)
        found = {name: np.full(weights.shape[1], np.nan) for name in names}
    else:
        found = {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}
    if "counts" in parts:
        right = ((chances >= 0.5) == truth) | (truth == UNKNOWN)
        found["exact_match"] = right.all(axis=1) @ weights.astype(np.float64) / weights.sum(axis=0)
    return found


def _cells(labels: Ints) -> np.ndarray:
    """Which images are in each of the 2 K cells, bool [N, 2 K]: the finding is present, or known absent."""
    return np.concatenate([labels == 1, labels == 0], axis=1)


def _strata(labels: Ints, patients: Sequence[str | None]) -> Ints:
    """The stratum of each image's patient [N]."""
    cells = _cells(labels)
    _, _, patient_of = statistics.clusters(np.zeros(len(cells), dtype=np.int64), patients)
    held = np.zeros((patient_of.max() + 1, cells.shape[1]), dtype=bool)
    np.logical_or.at(held, patient_of, cells)
    counted = np.where(held, held.sum(axis=0), len(held) + 1)  # without a known label: cell 0, any will do
    return np.asarray(counted.argmin(axis=1)[patient_of])
