"""Cross-validations in a comparison: pooled predictions, ensembles, what is missing, what is chosen."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.comparison_runs import FOLDS, candidate, cross_validation, finished, split

from pneumo.comparison import candidates, out_of_fold, page, sections
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import Comparison
from pneumo.evaluation import metrics


def command(saved: dict[str, Any], folds: Sequence[int]) -> str:
    return f"train {','.join(map(str, folds))}"


def pooled(*runs: list[Candidate]) -> list[Candidate]:
    kept, left = out_of_fold.pool([run for each in runs for run in each], command)
    assert not left
    kept, left = candidates.sort_out(kept)
    assert not left
    return kept


def by_name(comparison: Comparison, id: str) -> str:
    return next(row["name"] for row in comparison["configurations"] if row["id"] == id)


def test_every_image_is_scored_once_by_the_network_of_its_fold_after_its_temperature() -> None:
    runs = cross_validation()
    (joined,) = pooled(runs)
    assert joined.val.paths == sorted(split("val", 0, 2.0).paths) and joined.test is joined.val
    expected, values = {}, []
    for run in runs:
        value = metrics.temperature(run.val.labels, run.val.probabilities)
        values.append(value)
        chances = metrics.tempered(run.val.probabilities, value)
        expected |= dict(zip(run.val.paths, chances, strict=True))
    assert dict(zip(joined.val.paths, joined.val.probabilities, strict=True)) == expected
    assert [part.temperature for part in joined.parts] == values


def test_on_test_the_folds_are_one_ensemble() -> None:
    runs = cross_validation(scored=True)
    (joined,) = pooled(runs)
    each = [
        metrics.tempered(run.test.probabilities, metrics.temperature(run.val.labels, run.val.probabilities))
        for run in runs
    ]
    assert np.array_equal(joined.test.probabilities, np.mean(each, axis=0))
    assert joined.scored and joined.test.paths == runs[0].test.paths


def test_one_fold_without_a_test_score_leaves_test_out() -> None:
    runs = cross_validation(scored=True)
    runs[3] = replace(runs[3], scored=False, test=runs[3].val)
    (joined,) = pooled(runs)
    assert not joined.scored and joined.test is joined.val
    assert [entry["command"] for entry in candidates.unscored([joined])] == [
        "pneumo evaluate model=resnet18-0-3 split=test"
    ]


def test_a_missing_fold_is_named_with_its_command() -> None:
    whole, holed = cross_validation(), cross_validation("resnet50", 1.5, folds=(0, 2, 4))
    kept, left = out_of_fold.pool([*whole, *holed], command)
    assert [run.config["model.name"] for run in kept] == ["resnet18"]
    assert left == [
        {
            "run": "fold=0 resnet50 (folds 0, 2 and 4 of 5)",
            "reason": "folds 1 and 3 of 5 are missing. Train: train 1,3",
        }
    ]


def test_a_fold_that_was_made_again_counts_once() -> None:
    runs = cross_validation()
    again = replace(runs[2], name="again", run_id="again", started_ms=9)
    kept, left = out_of_fold.pool([again, *runs], command)
    assert len(kept) == 1 and "again" in {part.run_id for part in kept[0].parts}
    assert left == [{"run": "fold=2 resnet18", "reason": "the same run was made again later"}]


def test_runs_without_folds_stay_as_they_are() -> None:
    plain = [candidate("resnet18", 1), candidate("resnet50", 0)]
    assert out_of_fold.pool(plain, command) == (plain, [])


def test_folds_are_one_configuration_and_seeds_stay_beside_them() -> None:
    found = finished(pooled(cross_validation(), cross_validation(seed=1), cross_validation("resnet50", 1.0)))
    assert {row["name"]: row["seeds"] for row in found["configurations"]} == {
        "resnet18": [0, 1],
        "resnet50": [0],
    }
    cross = found["cross_validation"]
    assert cross is not None and (cross["folds"], cross["scored"]) == (FOLDS, False)
    assert [len(row["networks"]) for row in cross["rows"]] == [10, 5]


def test_a_pair_is_tested_over_folds() -> None:
    found = finished(pooled(cross_validation(), cross_validation("resnet50", 0.6)))
    assert found["cross_validation"] is not None
    (pair,) = found["pairs"]
    scores = {row["id"]: [n["score"] for n in row["networks"]] for row in found["cross_validation"]["rows"]}
    apart = np.subtract(scores[pair["first"]], scores[pair["second"]])
    tested = pair["scores"]["auroc"]["with_seeds"]
    assert tested is not None and tested.get("over_folds") and tested["freedom"] == FOLDS - 1
    assert tested["error"] == pytest.approx((apart.var(ddof=1) * (1 / FOLDS + 1 / (FOLDS - 1))) ** 0.5)
    assert "over folds" in pair["verdicts"]["auroc"]


def test_out_of_fold_predictions_choose_by_auroc_and_of_equal_ones_by_log_loss() -> None:
    better, worse = cross_validation(), cross_validation("resnet50", 0.6)
    found = finished(pooled(worse, better))
    assert found["choice"] is not None and by_name(found, found["choice"]["id"]) == "resnet18"
    twin = cross_validation("densenet121", shift=0.4)  # the same order within each fold
    runs = pooled(twin, better)
    twins = {run.config["model.name"]: run for run in runs}
    same = twins["resnet18"].val
    order = np.argsort(np.argsort(same.probabilities, kind="stable"), kind="stable")
    worn = replace(same, probabilities=np.sort(same.probabilities * 0.5)[order])
    runs = [twins["resnet18"], replace(twins["densenet121"], val=worn, test=worn)]
    found = finished(runs)
    held = {row["name"]: row["validation"]["scores"] for row in found["configurations"]}
    assert held["resnet18"]["auroc"] == held["densenet121"]["auroc"]
    assert held["resnet18"]["log_loss"] < held["densenet121"]["log_loss"]
    assert found["choice"] is not None and by_name(found, found["choice"]["id"]) == "resnet18"
    assert found["configurations"][0]["name"] == "resnet18"


def test_an_ensemble_scored_alone_stands_beside_the_ranking() -> None:
    found = finished(pooled(cross_validation(scored=True), cross_validation("resnet50", 0.6)))
    assert found["scored_on"] == "val" and found["cross_validation"] is not None
    rows = {by_name(found, row["id"]): row for row in found["cross_validation"]["rows"]}
    assert not rows["resnet50"]["on_test"]
    (test,) = rows["resnet18"]["on_test"]
    (joined,) = pooled(cross_validation(scored=True))
    expected = metrics.scores(joined.test.labels, joined.test.probabilities)
    assert test["score"]["value"] == expected["auroc"] and test["score"]["low"] < expected["auroc"]
    cut = metrics.operating_points(joined.val.labels, joined.val.probabilities)["youden"]
    at = metrics.scores(joined.test.labels, joined.test.probabilities, cut)
    assert test["at_thresholds"]["youden"] == {key: at[key] for key in ("recall", "specificity")}
    content = sections.page(found, {})
    assert "The test set was read for 1 configuration." in content.warnings
    assert any("resnet18, seed 0: test AUROC" in text for text in content.sections[0].text)


def permuted(runs: list[Candidate]) -> list[Candidate]:
    """`runs` with the labels of the test images exchanged, the same way for all."""
    order = np.random.default_rng(5).permutation(len(runs[0].test.labels))
    return [replace(run, test=replace(run.test, labels=run.test.labels[order])) for run in runs]


def test_test_labels_choose_nothing() -> None:
    runs = [
        *cross_validation(scored=True),
        *cross_validation("resnet50", 1.9, scored=True),
        *cross_validation("densenet121", 0.6, scored=True),
    ]

    def chosen(runs: list[Candidate]) -> dict[str, Any]:
        found = finished(pooled(runs))
        assert found["choice"] is not None and found["cross_validation"] is not None
        return {
            "choice": by_name(found, found["choice"]["id"]),
            "tied": sorted(by_name(found, id) for id in found["choice"]["tied"]),
            "thresholds": {
                by_name(found, row["id"]): row["thresholds"] for row in found["cross_validation"]["rows"]
            },
            "applied": {
                row["name"]: {rule: point["thresholds"] for rule, point in row["points"].items()}
                for row in found["configurations"]
            },
            "first": found["configurations"][0]["scores"]["auroc"]["value"],
        }

    one, other = chosen(runs), chosen(permuted(runs))
    assert one.pop("first") != other.pop("first"), "the labels matter to the scores"
    assert one == other
    assert one["thresholds"]["resnet18"][0] == {
        rule: values[0] for rule, values in one["applied"]["resnet18"].items()
    }


@pytest.mark.parametrize("scored", [False, True])
def test_the_page_says_what_was_read(scored: bool) -> None:
    runs = [*cross_validation(scored=scored), *cross_validation("resnet50", 1.0, scored=scored)]
    found = finished(pooled(runs))
    content = sections.page(found, {})
    titles = [section.title for section in content.sections]
    assert "Cross-validation" in titles
    text = " ".join(content.sections[0].text + content.sections[0].verdicts)
    assert "10 finished runs" in text and "Out-of-fold predictions choose resnet18" in text
    unread = "The test set has not been read."
    assert (unread in text) is not scored and (unread in content.warnings) is not scored
    assert ("the mean of the calibrated probabilities of its 5 networks" in text) is scored
    words = page.terminal(found)
    assert ("out-of-fold AUROC" in words) is not scored and ("one seed each" in words) is scored
    section = content.sections[titles.index("Cross-validation")]
    assert "SD of folds" in section.tables[0].columns and len(section.details[0].tables[0].rows) == 10
    pairs = content.sections[titles.index("Pairs")].tables[0]
    assert ("over folds" in pairs.columns) is not scored
