"""Scores and gaps of subgroups: recomputed here from the definition, and by the frequencies they promise."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score

from pneumo import UserError
from pneumo.evaluation import metrics, multiclass, statistics
from pneumo.evaluation.subgroup_statistics import FEW, Group, SubgroupResult, analyse
from pneumo.evaluation.subgroups import NOT_KNOWN

DRAWS = 200
THRESHOLDS = [0.4, 0.55]


class Images:
    """300 patients with one to three images; `lower` is taken from the logits of women's pneumonias."""

    def __init__(self, seed: int = 0, lower: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        ill = np.arange(300) < 170
        of = np.repeat(np.arange(300), rng.integers(1, 4, 300))
        sex = np.where(rng.random(300) < 0.5, "F", "M")[of]
        self.labels = ill[of].astype(int)
        self.patients: list[str | None] = [f"p{number}" for number in of]
        shared = rng.normal(0, 0.8, 300)[of] + 3 * self.labels - 1.2
        shared -= lower * ((sex == "F") & (self.labels == 1))
        logits = shared + rng.normal(0, 0.8, (2, len(of)))
        self.networks = list(1 / (1 + np.exp(-logits)))
        self.columns = {
            "sex": sex.tolist(),
            "view": rng.choice(["PA", "AP", "LAT"], len(of)).tolist(),  # many patients have several
        }

    def analyse(self, columns: dict[str, list[str]] | None = None, draws: int = DRAWS) -> SubgroupResult:
        return analyse(
            self.labels,
            self.networks,
            THRESHOLDS,
            self.patients,
            self.columns if columns is None else columns,
            draws=draws,
        )


@pytest.fixture(scope="module")
def images() -> Images:
    return Images()


@pytest.fixture(scope="module")
def result(images: Images) -> SubgroupResult:
    return images.analyse()


def group(result: SubgroupResult, column: str, name: str) -> Group:
    return next(one for one in result["columns"][column] if one["name"] == name)


def test_a_group_has_the_scores_of_its_images_alone(images: Images, result: SubgroupResult) -> None:
    for column, names in images.columns.items():
        for name in set(names):
            mine = np.array(names) == name
            expected = [
                metrics.scores(images.labels[mine], network[mine], at)
                for network, at in zip(images.networks, THRESHOLDS, strict=True)
            ]
            found = group(result, column, name)
            for score in ("recall", "specificity", "auroc"):
                mean = np.mean([scored[score] for scored in expected])
                assert found["scores"][score]["value"] == pytest.approx(mean, abs=1e-12)
            called = [
                (network[mine] >= at).mean() for network, at in zip(images.networks, THRESHOLDS, strict=True)
            ]
            assert found["scores"]["called"]["value"] == pytest.approx(np.mean(called), abs=1e-12)
            people = np.array(images.patients)[mine]
            assert found["images"] == mine.sum() and found["patients"] == len(set(people))
            assert found["by_class"] == [len(set(people[images.labels[mine] == label])) for label in (0, 1)]


def test_corrected_gaps_are_those_of_the_definition(images: Images, result: SubgroupResult) -> None:
    """Bonferroni over 1 + 3 gaps; draws, AUROC, Wilson's interval and Newcombe's gap are written again."""
    weights = statistics.resample(images.labels, images.patients, DRAWS, 0).astype(float)
    truth, z = images.labels, norm.ppf(1 - 0.05 / (2 * 4))

    def scored(rows: np.ndarray, score: str, weights: np.ndarray) -> np.ndarray:
        values = []
        for network, at in zip(images.networks, THRESHOLDS, strict=True):
            ill, normal = rows & (truth == 1), rows & (truth == 0)
            if score == "auroc":
                wins = np.sign(network[ill][:, None] - network[normal]) / 2 + 0.5
                won = (weights[ill] * (wins @ weights[normal])).sum(axis=0)
                values.append(won / weights[ill].sum(axis=0) / weights[normal].sum(axis=0))
            else:
                mine = ill if score == "recall" else normal
                right = ((network >= at) == (score == "recall"))[mine]
                values.append(weights[mine][right].sum(axis=0) / weights[mine].sum(axis=0))
        return np.mean(values, axis=0)

    def wilson(p: float, variance: float, most: float) -> tuple[float, float]:
        n = min(most, p * (1 - p) / variance)
        middle, half = p + z * z / 2 / n, z * np.sqrt(p * (1 - p) / n + z * z / 4 / n**2)
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    def side(rows: np.ndarray, score: str) -> tuple[float, np.ndarray, float, float]:
        people = [len({images.patients[row] for row in np.flatnonzero(rows & (truth == k))}) for k in (0, 1)]
        least, most = {
            "recall": (people[1], people[1]),
            "specificity": (people[0], people[0]),
            "auroc": (min(people), 4 / (1 / people[0] + 1 / people[1])),
        }[score]
        p = float(scored(rows, score, np.ones((len(truth), 1)))[0])
        draws = scored(rows, score, weights)
        return p, draws, *wilson(p, draws.var(ddof=1) * least / (least - 1), most)

    assert result["gaps"] == {"recall": 4, "specificity": 4, "auroc": 4}
    for column, name in (("sex", "F"), ("view", "AP"), ("view", "LAT")):
        mine = np.array(images.columns[column]) == name
        for score in ("recall", "specificity", "auroc"):
            p, of_p, low_p, high_p = side(mine, score)
            q, of_q, low_q, high_q = side(~mine, score)
            r = np.corrcoef(of_p, of_q)[0, 1]
            down, up = (
                np.sqrt(a * a - 2 * r * a * b + b * b)
                for a, b in ((p - low_p, high_q - q), (high_p - p, q - low_q))
            )
            gap = group(result, column, name)["gaps"][score]
            assert gap["difference"] == pytest.approx(p - q, abs=1e-9)
            assert gap["others"] == pytest.approx(q, abs=1e-9)
            assert (gap["low"], gap["high"]) == pytest.approx((p - q - down, p - q + up), abs=1e-9)


def test_a_gaps_p_is_that_of_the_interval_that_just_excludes_no_gap() -> None:
    found = Images(lower=1.5).analyse()
    seen = set()
    for groups in found["columns"].values():
        for one in groups:
            for gap in one["gaps"].values():
                outside = gap["low"] > 0 or gap["high"] < 0
                assert (gap["p"] < 0.05) == outside == (gap["verdict"] != "not shown")
                seen.add(outside)
    assert seen == {True, False}


def test_a_planted_gap_is_found_and_two_groups_have_one_gap() -> None:
    images = Images(lower=1.5)
    found = images.analyse({"sex": images.columns["sex"]})
    women, men = group(found, "sex", "F")["gaps"]["recall"], group(found, "sex", "M")["gaps"]["recall"]
    assert women["verdict"] == "lower" and men["verdict"] == "higher"
    assert found["gaps"]["recall"] == 1 and found["level"]["recall"] == 0.95
    mirrored = (men["difference"], -men["low"], -men["high"], men["p"])
    assert (-women["difference"], women["high"], women["low"], women["p"]) == pytest.approx(mirrored)
    assert group(found, "sex", "F")["gaps"]["specificity"]["verdict"] == "not shown"


def test_more_columns_make_the_intervals_wider(images: Images, result: SubgroupResult) -> None:
    alone = images.analyse({"sex": images.columns["sex"]})
    narrow = group(alone, "sex", "F")["gaps"]["recall"]
    wide = group(result, "sex", "F")["gaps"]["recall"]
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]
    assert result["level"]["recall"] == pytest.approx(1 - 0.05 / 4)


def test_a_group_with_few_ill_patients_is_scored_and_takes_part_in_no_gap(images: Images) -> None:
    sex = np.array(images.columns["sex"])
    ill = [name for name, label in zip(images.patients, images.labels, strict=True) if label]
    for few in (FEW - 1, FEW):
        rare = set(list(dict.fromkeys(ill))[:few])
        named = np.where([name in rare for name in images.patients], "X", sex)
        found = images.analyse({"sex": named.tolist()}, draws=50)
        small = group(found, "sex", "X")
        assert small["by_class"] == [0, few] and small["scores"]["recall"]["low"] >= 0
        assert np.isnan(small["scores"]["auroc"]["value"]) and "auroc" in small["few"]
        assert ("recall" in small["gaps"]) == (few == FEW)
        assert ("recall" in small["few"]) == (few < FEW)
        assert found["gaps"] == {"recall": 1 if few < FEW else 3, "specificity": 1, "auroc": 1}
        if few < FEW:  # nor is it among the others
            women, men = group(found, "sex", "F"), group(found, "sex", "M")
            assert women["gaps"]["recall"]["others"] == men["scores"]["recall"]["value"]


def test_images_whose_group_is_not_known_are_shown_and_take_part_in_no_gap(images: Images) -> None:
    sex = list(images.columns["sex"])
    sex[::3] = [NOT_KNOWN] * len(sex[::3])
    found = images.analyse({"sex": sex}, draws=50)
    unknown = found["columns"]["sex"][-1]
    assert unknown["name"] == NOT_KNOWN and unknown["images"] == len(sex[::3]) and not unknown["gaps"]
    women, men = group(found, "sex", "F"), group(found, "sex", "M")
    assert women["gaps"]["recall"]["others"] == men["scores"]["recall"]["value"]
    assert women["images"] + men["images"] + unknown["images"] == found["whole"]["images"] == len(sex)


def test_one_group_alone_has_no_gap(images: Images) -> None:
    found = images.analyse({"sex": ["F"] * len(images.labels)}, draws=50)
    assert found["gaps"] == {"recall": 0, "specificity": 0, "auroc": 0}
    assert not group(found, "sex", "F")["gaps"]


def test_a_patient_in_two_groups_makes_their_gap_more_certain() -> None:
    """Both films of a patient share what makes the patient hard, so the gap varies less."""
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(200) < 100, 2).astype(int)
    hard = np.repeat(rng.normal(0, 1, 200), 2)
    chances = 1 / (1 + np.exp(-(2 * truth - 1 + hard + rng.normal(0, 0.2, 400))))
    paired: list[str | None] = [f"p{number // 2}" for number in range(400)]
    views = {"view": ["PA", "AP"] * 200}
    together = analyse(truth, [chances], [0.5], paired, views, draws=300)
    apart = analyse(truth, [chances], [0.5], [None] * 400, views, draws=300)
    for score in ("recall", "specificity", "auroc"):
        one, other = (group(each, "view", "PA")["gaps"][score] for each in (together, apart))
        assert one["difference"] == other["difference"]
        assert one["high"] - one["low"] < 0.7 * (other["high"] - other["low"])
    assert group(together, "view", "PA")["patients"] == group(together, "view", "AP")["patients"] == 200


def test_more_classes_have_balanced_accuracy_and_macro_auroc() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 240)
    logits = rng.normal(0, 1, (240, 3)) + 1.5 * np.eye(3)[truth]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    site = rng.choice(["A", "B"], 240)
    found = analyse(truth, [chances], [], [None] * 240, {"site": site.tolist()}, draws=50)
    assert found["primary"] == "balanced_accuracy" and found["gaps"] == {"balanced_accuracy": 1, "auroc": 1}
    mine = site == "A"
    scored = multiclass.scores(truth[mine], chances[mine])
    one = group(found, "site", "A")
    assert one["scores"]["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(truth[mine], chances[mine].argmax(1))
    )
    assert one["scores"]["auroc"]["value"] == pytest.approx(scored["auroc"])
    assert sum(one["by_class"]) == mine.sum() and len(one["by_class"]) == 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": np.zeros((20, 3), dtype=int)}, "subgroups of several findings an image are not scored"),
        ({"networks": []}, "there is no network to score"),
        ({"thresholds": []}, "1 networks but 0 thresholds"),
        ({"columns": {"sex": ["F"]}}, "column sex: 1 values but 20 labels"),
        ({"patients": ["a"]}, "patients: 1 values but 20 labels"),
        ({"networks": [np.full(20, np.nan)]}, "probabilities are not in"),
    ],
)
def test_inputs_that_cannot_be_scored_are_refused(change: dict, expected: str) -> None:
    given = {
        "labels": np.arange(20) % 2,
        "networks": [np.full(20, 0.5)],
        "thresholds": [0.5],
        "patients": [None] * 20,
        "columns": {"sex": ["F", "M"] * 10},
    } | change
    with pytest.raises(UserError, match=expected):
        analyse(**given, draws=10)


def test_a_gap_is_found_and_rarely_claimed_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 and 40 worlds of 500 patients, with three standard errors. The benchmark has 500 worlds."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("subgroup_simulation")
    lower = simulation.claims(60, ("sex",), effect=0.1, draws=80, seed=1)["recall"]
    assert lower["found"] >= 0.80 - 3 * 0.052 and lower["covered_all"] > 0.95 - 3 * 0.028
    equal = simulation.claims(40, draws=80, seed=1)
    for score in ("recall", "specificity", "auroc"):
        assert equal[score]["false"] <= 0.05 + 3 * 0.034, score


def test_the_simulated_truth_is_that_of_many_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of a large set of women and men are those that its world calls true."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    simulation = importlib.import_module("subgroup_simulation")
    world = simulation.World(np.random.default_rng(0), 20_000, 10_000, effect=0.1)
    women = np.array(world.columns["sex"]) == "F"
    at = world.thresholds[0]
    each = [metrics.scores(world.labels[rows], world.chances[0][rows], at) for rows in (women, ~women)]
    assert each[1]["recall"] == pytest.approx(0.95, abs=0.01)
    for score, gap in world.gaps.items():
        assert each[0][score] - each[1][score] == pytest.approx(gap, abs=0.015), score
