"""Prediction sets: their coverage on new images, with patients counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumo.inference import model_folder
from pneumo.inference.conformal import OR_NOT, PredictionSets, lowest


def drawn(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and patients of one or five images; those of one patient are alike."""
    count = rng.choice([1, 5], patients)
    people = np.repeat(np.arange(patients), count)
    labels = rng.integers(0, 2, patients)
    logits = (2 * labels - 1 + rng.normal(0, 1.5, patients))[people] + rng.normal(0, 0.1, count.sum())
    return labels[people], 1 / (1 + np.exp(-logits)), people


def test_each_class_is_covered_in_new_patients(made: Path) -> None:
    """The mean over 200 validation sets; of one image of each new patient."""
    bundle, rng = model_folder.read(made), np.random.default_rng(0)
    covered = []
    for _ in range(200):
        labels, chances, people = drawn(rng, 80)
        past = {"labels": labels.tolist(), "probabilities": chances.tolist()}
        sets = PredictionSets(replace(bundle, past=past, past_patients=people.tolist()), 0.9)
        new, new_chances, new_people = drawn(rng, 100)
        first = np.unique(new_people, return_index=True)[1]
        every = np.stack([1 - new_chances, new_chances], 1)[first]
        inside = every[np.arange(len(first)), new[first]] >= sets.lowest[new[first]]
        covered.append([inside[new[first] == label].mean() for label in (0, 1)])
    assert np.mean(covered, axis=0) == pytest.approx([0.91, 0.91], abs=0.02)


def test_the_limit_is_the_quantile_of_patients() -> None:
    chances = np.linspace(0.01, 0.99, 99)
    assert lowest(chances, range(99), 0.9) == pytest.approx(0.1)  # 90 of 99 are at or above it
    twice = np.repeat(chances, 2)
    assert lowest(twice, np.repeat(np.arange(99), 2).tolist(), 0.9) == pytest.approx(0.1)
    assert lowest(chances[:8], range(8), 0.9) == 0.0, "eight patients cannot give 90 %"
    assert lowest([], [], 0.9) == 0.0


@pytest.mark.parametrize("folder", ["made", "made_of_three"])
def test_a_set_is_never_empty_and_grows_with_the_coverage(
    folder: str, request: pytest.FixtureRequest
) -> None:
    bundle = model_folder.read(request.getfixturevalue(folder))
    assert bundle.past_patients is not None and len(set(bundle.past_patients)) == 12
    rows = np.random.default_rng(0).dirichlet([1, 1, 1], 50)
    rows = rows if bundle.many else rows[:, 0]
    small, large = PredictionSets(bundle, 0.3), PredictionSets(bundle, 0.99)
    for row in rows:
        assert small.of(row) and set(small.of(row)) <= set(large.of(row)) <= set(bundle.class_names)


def test_a_finding_is_called_ruled_out_or_neither(made_of_findings: Path) -> None:
    bundle = model_folder.read(made_of_findings)
    labels = np.arange(200).reshape(-1, 1).repeat(4, 1) % 2
    chances = np.where(labels == 1, 0.5, 0.2) + np.linspace(-0.15, 0.35, 200)[:, None]
    past = {"labels": labels.tolist(), "probabilities": chances.tolist()}
    sets = PredictionSets(replace(bundle, past=past, past_patients=None), 0.9)
    names = bundle.class_names
    assert sets.of([0.99, 0.01, 0.45, 0.45]) == [names[0], names[2] + OR_NOT, names[3] + OR_NOT]
