"""What is claimed about configurations, and by which names."""

from collections.abc import Callable

import numpy as np
import pytest
from support.class_runs import candidates as candidates_of_three
from support.comparison_runs import candidate, candidates

from pneumo import UserError
from pneumo.comparison import mistakes, result
from pneumo.comparison.candidates import Candidate
from pneumo.evaluation import calibration, ranking, statistics


def test_permuted_test_labels_change_no_choice() -> None:
    """Thresholds, temperatures and epochs come from validation; test labels only score."""

    def choices(found: dict) -> dict:
        return {
            row["name"]: (
                [point["thresholds"] for point in row["points"].values()],
                row["temperature"]["values"],
                [run["epoch"] for run in row["runs"]],
            )
            for row in [*found["configurations"], *found["ensembles"]]
        }

    honest = candidates()
    permuted = candidates()
    labels = np.random.default_rng(0).permutation(honest[0].test.labels)
    for run in permuted:
        run.test.labels = labels
    one, other = result.build(honest, draws=100), result.build(permuted, draws=100)
    assert choices(one) == choices(other)
    value = [found["configurations"][0]["scores"]["auroc"]["value"] for found in (one, other)]
    assert value[0] > 0.9 > 0.65 > value[1]


def test_configurations_are_named_by_what_distinguishes_them() -> None:
    base = {"model.name": "resnet18", "sampler.name": "shuffle", "optim.lr": 0.001, "augment.name": "strong"}
    configs = [base, base | {"optim.lr": 0.01}, base | {"model.name": "resnet50"}]
    assert result._names(configs) == [
        "resnet18, lr=0.001",
        "resnet18, lr=0.01",
        "resnet50, lr=0.001",
    ]
    assert result._names([base, base]) == ["resnet18", "resnet18 (2)"]
    long = [base | {"optim.lr": lr} for lr in (0.0009250000000000001, 0.001)]
    assert result._names(long) == ["lr=0.000925", "lr=0.001"]
    near = [base | {"optim.lr": lr} for lr in (0.00092501, 0.00092502)]
    assert result._names(near) == ["lr=0.00092501", "lr=0.00092502"]
    grid = [base | {"optim.lr": lr, "model.dropout": d} for lr in (0.001, 0.01) for d in (0.0, None)]
    assert result._names(grid)[:2] == ["dropout=0.0, lr=0.001", "dropout=null, lr=0.001"]


def test_a_value_that_is_not_hashed_is_named_as_what_it_means() -> None:
    """Version 0.1 recorded neither version, and a later key at its neutral value is left out."""
    base = {"model.name": "resnet18"}
    assert result._names([base, base | {"core": 2}]) == ["core=1", "core=2"]
    added = base | {"trainer.sync_batchnorm": True}
    assert result._names([base, added]) == ["sync_batchnorm=false", "sync_batchnorm=true"]


def test_what_differs_is_kept_apart_from_what_is_shared() -> None:
    runs = [candidate(config={"optim.lr": lr, "model.name": "resnet18"}, run_id=str(lr)) for lr in (1, 2)]
    found = result.build(runs, draws=100)["differences"]
    assert found["keys"] == ["optim.lr"] and found["shared"] == {"model.name": "resnet18"}
    assert sorted(found["values"].values()) == [[1], [2]] and found["values"].keys() == {"c1", "c2"}


def test_the_mistakes_are_of_the_first_configuration() -> None:
    found = result.build(candidates(), draws=100)
    sure = [abs(mistake["probability"] - 0.5) for mistake in found["mistakes"]]
    assert sure == sorted(sure, reverse=True) and len(sure) <= mistakes.MOST
    assert all((mistake["probability"] >= 0.5) != mistake["label"] for mistake in found["mistakes"])
    assert all(0 <= mistake["wrong_in"] <= mistake["of"] == 4 for mistake in found["mistakes"])


def test_the_test_images_are_counted() -> None:
    run = candidate()
    run.test.patients[0] = None
    found = result.build([run], draws=100)["test"]
    assert found["images"] == found["normal"] + found["pneumonia"] == len(run.test.paths)
    assert (found["patients"], found["images_without_patient"]) == (None, 1)
    assert found["clusters"] == len(set(run.test.patients))
    assert sum(found["subtypes"].values()) == found["pneumonia"]


def test_what_compared_the_runs_is_recorded() -> None:
    runs = [candidate(commit="a" * 40), candidate(commit=None, synthetic=True)]
    about = result.about(runs, experiment="e", sweep=None, command="c")
    assert (about["commits"], about["synthetic"]) == (["a" * 12], True)
    assert about["software"].keys() == set(result.SOFTWARE)


def test_ensembles_are_tested_in_pairs_over_patients_alone() -> None:
    found = result.build(candidates(), draws=100)
    assert [row["id"] for row in found["ensembles"]] == ["e1", "e2", "e3"]
    assert [(pair["first"], pair["second"]) for pair in found["ensemble_pairs"]] == [
        ("e1", "e2"),
        ("e1", "e3"),
        ("e2", "e3"),
    ]
    for pair in found["ensemble_pairs"]:
        entry = pair["scores"]["auroc"]
        assert entry["with_seeds"] is None and entry["p"] is not None and entry["p_holm"] is not None


def test_identical_predictions_share_a_rank() -> None:
    runs = [candidate(seed=0, config={"optim.lr": lr}, run_id=str(lr)) for lr in (1, 2)]
    runs.append(candidate(seed=0, quality=1.0, config={"optim.lr": 3}, run_id="3"))
    rows = result.build(runs, draws=50)["configurations"]
    assert [row["rank"] for row in rows] == [1, 1, 3]


def test_one_patient_per_class_gives_no_test() -> None:
    """No variance in the draws became p < 0.001."""
    runs = candidates()
    for run in runs:
        run.test.patients[:] = [f"patient {label}" for label in run.test.labels]
    found = result.build(runs, draws=100)
    assert found["test"]["by_class"] == {"normal": 1, "pneumonia": 1}
    (pair,) = found["pairs"]
    for entry in pair["scores"].values():
        assert entry["p"] is None and entry["p_holm"] is None and np.isnan(entry["low"])
    low, high = (found["configurations"][0]["scores"]["auroc"][end] for end in ("low", "high"))
    assert high - low > 0.5
    assert found["optimism"] is not None and found["optimism"]["value"] is None


def test_the_first_of_thirty_equal_runs_is_corrected() -> None:
    """30 runs of one recipe under 30 names: the luckiest is not what to expect."""
    runs = [candidate(seed=n, config={"optim.lr": n}, run_id=str(n)) for n in range(30)]
    found = result.build(runs, draws=200)
    optimism = found["optimism"]
    assert optimism is not None and optimism["value"] is not None and optimism["corrected"] is not None
    assert 0 < optimism["value"] < 2 * optimism["above_mean"]
    assert optimism["corrected"] < found["configurations"][0]["scores"]["auroc"]["value"]
    assert not any(
        pair["scores"]["auroc"]["with_seeds"] for pair in found["pairs"]
    )  # one seed each: no configuration is called better


def test_validation_prefers_by_the_primary_score_and_then_by_log_loss() -> None:
    runs = [candidate(seed=n, config={"optim.lr": n}, run_id=str(n)) for n in range(3)]
    for run in runs:  # equal AUROC; the middle one has less log-loss
        power = 1.0 if run.seed == 1 else 2.0
        odds = runs[0].val.probabilities / (1 - runs[0].val.probabilities)
        run.val.probabilities = odds**power / (1 + odds**power) if run.seed else run.val.probabilities**1.5
    found = result.build(runs, draws=100)
    choice = found["choice"]
    assert choice is not None and len(choice["tied"]) == 2
    held = {row["id"]: row["validation"]["scores"] for row in found["configurations"]}
    assert len({round(scores["auroc"], 12) for scores in held.values()}) == 1
    assert choice["log_loss"] == min(scores["log_loss"] for scores in held.values())


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UserError, match="rank_by=luck is not known"):
        result.build(candidates(), rank_by="luck")
    with pytest.raises(UserError, match="no finished runs"):
        result.build([])
    run = candidate()
    run.test.labels[:] = 1
    with pytest.raises(UserError, match="all of one class"):
        result.build([run])


@pytest.mark.parametrize("made", [candidates, candidates_of_three])
def test_a_large_set_is_compared_in_parts(
    made: Callable[[], list[Candidate]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the limits of memory are low here: parts of the draws, and threads, give the same figures."""
    whole = result.build(made(), draws=100)
    monkeypatch.setattr(result, "MANY_IMAGES", 1)
    monkeypatch.setattr(ranking, "COUNTED", 700)
    monkeypatch.setattr(ranking, "SUMMED", 900)
    monkeypatch.setattr(statistics, "PICKED", 300)
    monkeypatch.setattr(calibration, "PATIENTS_AT_ONCE", 3)
    parts = result.build(made(), draws=100)
    assert numbers(parts) == pytest.approx(numbers(whole), rel=1e-12, abs=1e-12, nan_ok=True)


def numbers(found: object) -> list[float]:
    """Every number of a comparison, in order."""
    if isinstance(found, dict):
        return [number for value in found.values() for number in numbers(value)]
    if isinstance(found, list):
        return [number for value in found for number in numbers(value)]
    return [float(found)] if isinstance(found, int | float) else []
