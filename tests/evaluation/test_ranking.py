"""Counts along a ranking against scikit-learn, image by image, on draws that lack images."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pneumo.evaluation import ranking
from pneumo.evaluation.ranking import Ranking, weighted_sums

GRID = np.linspace(0, 1, 11)


def drawn(ties: int | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and probabilities [40], and weights [40, 60] of which a third are 0."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(40) < 0.4).astype(np.int64)
    chances = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    weights = rng.poisson(1, size=(40, 60)).astype(np.uint16)
    return labels, chances if ties is None else np.round(chances * ties) / ties, weights


@pytest.mark.parametrize("ties", [None, 6, 1])
def test_areas_are_those_of_scikit_learn(ties: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, chances, weights = drawn(ties)
    found = Ranking(labels, chances).areas(weights)
    for draw, mine in enumerate(weights.T):
        assert found["auroc"][draw] == pytest.approx(roc_auc_score(labels, chances, sample_weight=mine))
        expected = average_precision_score(labels, chances, sample_weight=mine)
        assert found["auprc"][draw] == pytest.approx(expected)
    monkeypatch.setattr(ranking, "COUNTED", 100)
    parts = Ranking(labels, chances).areas(weights)
    assert all(np.array_equal(parts[name], found[name]) for name in found)
    alone = Ranking(labels, chances).areas(weights, precision=False)
    assert list(alone) == ["auroc"] and np.array_equal(alone["auroc"], found["auroc"])


def test_a_draw_without_a_class_has_no_area() -> None:
    labels, chances, weights = drawn(None)
    weights[labels == 1, 0], weights[labels == 0, 1], weights[:, 2] = 0, 0, 0
    for score, values in Ranking(labels, chances).areas(weights).items():
        assert np.isnan(values[:3]).all() and np.isfinite(values[3:]).all(), score
    nobody = Ranking(np.zeros_like(labels), chances).areas(weights)
    assert all(np.isnan(values).all() for values in nobody.values())


@pytest.mark.parametrize("ties", [None, 6])
def test_curves_and_thresholds_by_hand(ties: int | None) -> None:
    labels, chances, weights = drawn(ties, seed=1)
    roc, precision = Ranking(labels, chances).curves(weights, GRID)
    ill, every = Ranking(labels, chances).from_thresholds(weights, GRID)
    cuts = np.unique(chances)[::-1]
    for draw, mine in enumerate(weights.T):
        called = np.array([mine[chances >= cut].sum() for cut in cuts])
        true = np.array([mine[(chances >= cut) & (labels == 1)].sum() for cut in cuts])
        false = called - true
        for place, value in enumerate(GRID):
            within = [0, *true[false <= value * false[-1] + 1e-9]]
            assert roc[place, draw] == pytest.approx(max(within) / true[-1])
            first = int(np.argmax(true >= value * true[-1] - 1e-9))
            assert precision[place, draw] == pytest.approx(true[first] / max(1, called[first]))
            assert every[place, draw] == mine[chances >= value].sum()
            assert ill[place, draw] == mine[(chances >= value) & (labels == 1)].sum()


def test_weighted_sums_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, chances, weights = drawn(None)
    rows = np.stack([chances, chances**2, np.ones(40)])
    assert weighted_sums(rows, weights) == pytest.approx(rows @ weights)
    monkeypatch.setattr(ranking, "SUMMED", 140)
    monkeypatch.setattr(ranking, "FEWEST_DRAWS", 7)
    assert weighted_sums(rows, weights) == pytest.approx(rows @ weights)
