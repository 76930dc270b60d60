"""Probabilities for another share of ill: Bayes' rule on drawn images, and decisions that stay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumo import UserError
from pneumo.inference import model_folder
from pneumo.inference.predictor import Predictor
from pneumo.inference.prevalence import PriorShift


def test_shifted_probabilities_agree_with_the_other_clinic(made: Path) -> None:
    """Of scores that are normal in each class, the probability at another share is known exactly."""
    bundle = model_folder.read(made)
    bundle.past = {"labels": [0] * 30 + [1] * 70, "probabilities": [0.5] * 100}

    def chance(score: np.ndarray, share: float) -> np.ndarray:
        ill, well = np.exp(-((score - 1) ** 2) / 2), np.exp(-((score + 1) ** 2) / 2)
        return share * ill / (share * ill + (1 - share) * well)

    scores = np.linspace(-3, 3, 50)
    shift = PriorShift(bundle, 0.05)
    here, there = chance(scores, 0.7), chance(scores, 0.05)
    np.testing.assert_allclose(shift.probabilities(here), there, atol=1e-12)
    np.testing.assert_allclose(shift.probabilities(there, back=True), here, atol=1e-12)
    np.testing.assert_allclose(PriorShift(bundle, 0.7).probabilities(here), here, atol=1e-12)


def test_shares_of_classes_shift_each_probability_and_its_threshold(made_of_three: Path) -> None:
    bundle = model_folder.read(made_of_three)
    shift = PriorShift(bundle, [0.9, 0.06, 0.04])
    rng = np.random.default_rng(0)
    chances = rng.dirichlet([1, 1, 1], 200)
    moved = shift.probabilities(chances)
    expected = chances * [0.9, 0.06, 0.04] / shift.before
    np.testing.assert_allclose(moved, expected / expected.sum(1, keepdims=True))
    cuts = np.array([0.2, 0.35, 0.6])
    for here, there in zip(chances, moved, strict=True):
        assert ((there >= shift.thresholds(cuts, here)) == (here >= cuts)).all()


@pytest.mark.parametrize("kind", ["two", "three", "findings"])
def test_no_decision_changes(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue({"two": "made", "three": "made_of_three"}.get(kind, "made_of_findings"))
    bundle = model_folder.read(folder)
    given: object = {"two": 0.03, "three": [0.9, 0.06, 0.04], "findings": [0.03, 0.2, 0.6, 0.5]}[kind]
    if kind == "findings":  # validation has no image with the last finding
        labels = np.array(bundle.past["labels"])
        labels[:4, -1] = 1
        bundle = replace(bundle, past={**bundle.past, "labels": labels.tolist()})
    plain, moved = Predictor(bundle, num_workers=1), Predictor(bundle, num_workers=1, prevalence=given)
    every = np.random.default_rng(1).dirichlet([1, 1, 1, 1], 300)[:, : len(bundle.class_names)]
    every /= 1 if kind == "findings" else every.sum(1, keepdims=True)
    for row in every:
        one = plain._of_classes(row) if bundle.many else plain._of_two(row[1])
        two = moved._of_classes(row) if bundle.many else moved._of_two(row[1])
        assert two.reached == one.reached and two.prediction_set == one.prediction_set
        if kind != "three":  # of classes, the most probable one there is predicted
            assert two.decision == one.decision
        if kind == "two":
            assert (two.probability >= two.threshold) == (two.decision == "PNEUMONIA")  # type: ignore[operator]
    assert "for a clinic with" in " ".join(moved.notes())
    # A threshold that is given is on the scale of the shifted probabilities.
    strict = Predictor(bundle, num_workers=1, prevalence=given, threshold=1.0)
    shown = strict._of_classes(every[0]) if bundle.many else strict._of_two(every[0][1])
    assert shown.reached == [] and shown.threshold in (1.0, None)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("made", [0.1, 0.9], "give one share"),
        ("made_of_three", 0.1, r"a list of 3 shares: of healthy, bacterial, lobar"),
        ("made_of_three", [0.5, 0.4, 0.3], "the sum 1"),
        ("made_of_findings", [0.5, 0.4, 0.3, 0.1], r"none without, Hernia"),
    ],
)
def test_shares_that_do_not_fit_are_refused(
    kind: str, given: object, message: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(UserError, match=message):
        PriorShift(model_folder.read(request.getfixturevalue(kind)), given)
