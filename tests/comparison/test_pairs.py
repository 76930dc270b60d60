"""Every two configurations: differences, tests and their correction."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from support.comparison_runs import candidate, candidates

from pneumo.comparison import result

SOME = ("auroc", "accuracy", "log_loss")  # statsmodels takes 0.3 s for each family of tests


def test_two_equal_models_are_not_distinguished() -> None:
    runs = candidates()
    for run in runs[2:]:
        run.test.probabilities = runs[run.seed].test.probabilities.copy()
    (pair,) = result.build(runs, draws=200)["pairs"]
    assert "equivalent in AUROC within the margin" in pair["verdicts"]["auroc"]
    seeds = pair["scores"]["auroc"]["with_seeds"]
    assert seeds is not None and seeds["p"] == pair["mcnemar"]["p"] == pair["delong"]["p"] == 1.0
    assert pair["scores"]["auroc"]["p"] is None  # the draws do not vary


def test_holm_corrects_each_score_over_all_pairs() -> None:
    models = (("resnet18", 2.0), ("resnet50", 1.4), ("densenet121", 1.0))
    runs = [candidate(model, seed, quality) for model, quality in models for seed in (0, 1)]
    found = result.build(runs, draws=100)
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [
        ("c1", "c2"),
        ("c1", "c3"),
        ("c2", "c3"),
    ]
    tests = [[pair["scores"][score] for pair in found["pairs"]] for score in SOME]
    tests += [[pair["scores"][score]["with_seeds"] for pair in found["pairs"]] for score in SOME]
    tests += [[pair["mcnemar"] for pair in found["pairs"]], [pair["delong"] for pair in found["pairs"]]]
    for entries in tests:
        expected = multipletests([entry["p"] for entry in entries], method="holm")[1]
        assert [entry["p_holm"] for entry in entries] == pytest.approx(expected)


def test_differences_are_first_minus_second_and_the_seeds_widen_them() -> None:
    found = result.build(candidates(), draws=100)
    first, second = found["configurations"]
    (pair,) = found["pairs"]
    for score, entry in pair["scores"].items():
        expected = first["scores"][score]["value"] - second["scores"][score]["value"]
        assert entry["difference"] == pytest.approx(expected)
        assert entry["low"] < entry["difference"] < entry["high"]
    noise = pair["scores"]["accuracy"]["with_seeds"]
    assert noise is not None and noise["low"] < pair["scores"]["accuracy"]["low"]


def test_one_configuration_makes_no_pair_and_one_seed_no_noise() -> None:
    assert result.build([candidate()], draws=100)["pairs"] == []
    two = [candidate("resnet18", 0, 2.0), candidate("resnet50", 0, 1.5)]
    (pair,) = result.build(two, draws=100)["pairs"]
    assert all(entry["with_seeds"] is None for entry in pair["scores"].values())
    assert pair["equivalence"] is None


def test_delong_needs_two_images_of_each_class() -> None:
    two = [candidate("resnet18", 0, 2.0), candidate("resnet50", 0, 1.5)]
    labels = np.ones_like(two[0].test.labels)
    labels[0] = 0
    for run in two:
        run.test.labels = labels
    (pair,) = result.build(two, draws=100)["pairs"]
    assert "delong" not in pair and pair["mcnemar"]["p"] is not None and pair["mcnemar"]["p"] <= 1


def test_deployed_thresholds_are_compared_in_pairs() -> None:
    """Each run's own threshold from validation, on the same draws; Holm over the pairs."""
    models = (("resnet18", 2.0), ("resnet50", 1.0), ("densenet121", 0.5))
    runs = [candidate(model, seed, quality) for model, quality in models for seed in (0, 1)]
    found = result.build(runs, draws=100)
    rows = {row["id"]: row for row in found["configurations"]}
    for pair in found["pairs"]:
        assert list(pair["points"]) == ["sensitivity_95", "youden"]
        for rule, entries in pair["points"].items():
            first, second = (rows[pair[side]]["points"][rule]["scores"] for side in ("first", "second"))
            assert list(entries) == ["recall", "specificity", "balanced_accuracy"]
            for score, entry in entries.items():
                assert entry["difference"] == pytest.approx(first[score]["value"] - second[score]["value"])
                seeds = entry["with_seeds"]
                assert seeds is not None and seeds["low"] < entry["difference"] < seeds["high"]
    tests = [pair["points"]["sensitivity_95"]["specificity"] for pair in found["pairs"]]
    for entries in (tests, [entry["with_seeds"] for entry in tests]):
        expected = multipletests([entry["p"] for entry in entries], method="holm")[1]
        assert [entry["p_holm"] for entry in entries] == pytest.approx(expected)
    alone = result.build(runs[::2], draws=100)["pairs"][0]["points"]["youden"]["recall"]
    assert alone["with_seeds"] is None and alone["p"] is not None


def test_losses_are_compared_after_temperature_too() -> None:
    found = result.build(candidates(), draws=100)
    first, second = (row["temperature"] for row in found["configurations"])
    assert first is not None and second is not None
    (pair,) = found["pairs"]
    for score in ("brier", "log_loss"):
        entry = pair["tempered"][score]
        assert entry["difference"] == pytest.approx(first["after"][score] - second["after"][score])
        assert entry["low"] < entry["difference"] < entry["high"] and entry["with_seeds"] is not None
        assert entry["difference"] != pair["scores"][score]["difference"]
