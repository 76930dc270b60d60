"""Question: how often is a claim of the comparison false, and how often does an interval cover the truth?

Worlds are drawn from a known population. Patients have one or more images, and the images of a patient share
an effect. Networks of one recipe differ by training: their AUROC has its own true value (SD about .005
at AUROC .965), and on one test set of the public set's size their scores vary by .0116 in accuracy and .0059
in AUROC, as docs/results has it. All recipes are equal unless an effect is asked for.
Command: python benchmarks/statistics_simulation.py [worlds] [part]. A part is intervals, verdicts, near_one,
unequal, power, choice, points, calibrated or folds. With 500 worlds, all take about three hours of processor
time.
Expected: a false "better" in at most 5 % of worlds, and coverage of 93 % or more from 40 patients a class on.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import measure
import numpy as np
from scipy.stats import norm

from pneumo.evaluation import calibration, contrasts, metrics, statistics
from pneumo.evaluation.contrasts import Spread

# Variances of a logit: patient and image (all networks), patient (networks of a recipe), patient and image
# (one network). Their sum is 1, so the AUROC of a separation s is Phi(s / sqrt(2)).
PATIENT, IMAGE, RECIPE, OWN_PATIENT, OWN_IMAGE = 0.50, 0.32, 0.04, 0.08, 0.06
SEPARATION_SD, SHIFT_SD = 0.09, 0.105  # of training: of the classes' distance, and of both classes' place
ILL_IMAGES, NORMAL_IMAGES = 1.55, 1.2  # mean images of a patient
SIZES = ((20, 20), (40, 40), (100, 100), (190, 238))  # normal and ill patients
LEVEL = 1 - statistics.LEVEL


class World:
    """Networks [recipes, seeds] and a test set of `patients`, with what is true of each network."""

    def __init__(
        self,
        rng: np.random.Generator,
        recipes: int,
        seeds: int,
        patients: tuple[int, int],
        auroc: float,
        effect: float = 0.0,
        spreads: Sequence[float] = (1.0,),
    ) -> None:
        self.recipes, self.seeds = recipes, seeds
        recipe = np.repeat(np.arange(recipes), seeds)
        centre = np.full(recipes, norm.ppf(auroc) * 2**0.5)
        centre[0] = norm.ppf(auroc + effect) * 2**0.5
        times = np.resize(np.array(spreads), recipes)[recipe]
        separation = centre[recipe] + times * SEPARATION_SD * self.training(rng)
        shift = times * SHIFT_SD * self.training(rng)
        by_patient = np.repeat((0, 1), patients)
        counts = 1 + rng.poisson(np.where(by_patient == 1, ILL_IMAGES - 1, NORMAL_IMAGES - 1))
        of = np.repeat(np.arange(len(by_patient)), counts)
        people, images = len(by_patient), len(of)
        self.labels = by_patient[of]
        self.patients = [f"p{number:04d}" for number in of]
        shared = rng.normal(0, PATIENT**0.5, people)[of] + rng.normal(0, IMAGE**0.5, images)
        of_recipe = rng.normal(0, RECIPE**0.5, (recipes, people))[recipe]
        own = of_recipe + rng.normal(0, OWN_PATIENT**0.5, (len(recipe), people))
        logits = separation[:, None] * (self.labels - 0.5) + shift[:, None] + shared + own[:, of]
        logits += rng.normal(0, OWN_IMAGE**0.5, logits.shape)
        self.chances = 1 / (1 + np.exp(-logits))
        recall, specificity = norm.cdf(separation / 2 + shift), norm.cdf(separation / 2 - shift)
        ill = ILL_IMAGES * patients[1] / (ILL_IMAGES * patients[1] + NORMAL_IMAGES * patients[0])
        self.separation, self.shift = separation, shift
        self.truth = {
            "auroc": norm.cdf(separation / 2**0.5),
            "recall": recall,
            "specificity": specificity,
            "balanced_accuracy": (recall + specificity) / 2,
            "accuracy": ill * recall + (1 - ill) * specificity,
            "f1": 2 * ill * recall / (ill * recall + ill + (1 - ill) * (1 - specificity)),
        }

    def training(self, rng: np.random.Generator) -> np.ndarray:
        """What training does to each network, with mean 0 and variance 1."""
        return rng.normal(0, 1, self.recipes * self.seeds)

    def scores(self, draws: int, seed: int) -> list[dict[str, np.ndarray]]:
        """By network: each score of the draws, then of the images themselves."""
        once = np.ones((len(self.labels), 1), dtype=np.uint16)
        picked = statistics.resample(self.labels, self.patients, draws, seed)
        weights = np.concatenate([picked, once], axis=1)
        return [
            statistics.resampled_scores(self.labels, chances, weights, parts=("counts",))
            | {"auroc": auroc_of_draws(self.labels, chances, weights)}
            for chances in self.chances
        ]


class FoldWorld(World):
    """Cross-validations: the networks of a recipe are its folds, with `repeats` seeds each.

    `share` is the part of training's variance that comes from the images trained on. Two of K folds have
    K - 2 of K - 1 parts of these in common, so their effects correlate by that; seeds of a fold share them.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        recipes: int,
        folds: int,
        repeats: int,
        patients: tuple[int, int],
        auroc: float,
        share: float,
        effect: float = 0.0,
    ) -> None:
        self.folds, self.repeats, self.share = folds, repeats, share
        super().__init__(rng, recipes, folds * repeats, patients, auroc, effect)
        ill = np.array([int(name[1:]) >= patients[0] for name in self.patients])
        order = [rng.permutation(count) % folds for count in patients]  # of each class, by patient
        number = np.array([int(name[1:]) for name in self.patients])
        self.fold = np.where(
            ill, order[1][np.maximum(number - patients[0], 0)], order[0][np.minimum(number, patients[0] - 1)]
        )

    def training(self, rng: np.random.Generator) -> np.ndarray:
        part = rng.normal(0, 1, (self.recipes, 1, self.folds))  # what a fold's images do to those without it
        trained = (part.sum(axis=2, keepdims=True) - part) / (self.folds - 1) ** 0.5
        own = rng.normal(0, 1, (self.recipes, self.repeats, self.folds))
        return np.asarray((self.share**0.5 * trained + (1 - self.share) ** 0.5 * own).ravel())

    def out_of_fold(self) -> np.ndarray:
        """The pooled probabilities [recipes, repeats, images], each fold after its temperature."""
        chances = self.chances.reshape(self.recipes, self.repeats, self.folds, -1)
        pooled = np.empty(chances.shape[:2] + chances.shape[3:])
        for fold in range(self.folds):
            rows = self.fold == fold
            for recipe in range(self.recipes):
                for seed in range(self.repeats):
                    some = chances[recipe, seed, fold, rows]
                    value = metrics.temperature(self.labels[rows], some)
                    pooled[recipe, seed, rows] = metrics.tempered(some, value)
        return pooled

    def pooled_truth(self, recipe: int) -> float:
        """AUROC of the recipe's networks on other patients, each pair of images by two of its networks."""
        mine = slice(recipe * self.seeds, (recipe + 1) * self.seeds)
        ill, normal = (
            self.separation[mine] / 2 + self.shift[mine],
            self.separation[mine] / 2 - self.shift[mine],
        )
        return float(norm.cdf((ill[:, None] + normal) / 2**0.5).mean())


def folds(
    worlds: int,
    recipes: int,
    repeats: int,
    patients: tuple[int, int],
    auroc: float,
    share: float,
    effect: float = 0.0,
    count: int = 5,
    draws: int = 100,
) -> dict[str, float]:
    """How often pooled out-of-fold AUROCs of equal recipes are called different, by four tests.

    corrected: Nadeau and Bengio's, which the page uses; uncorrected: Student's of the folds; summed: the
    patients' variance and that between folds; patients: over patients alone. covered: the corrected interval
    of a difference. found: the better first recipe is found. networks and recipe: how often the interval of a
    score over patients covers the AUROC of these networks, and that of the recipe; recipe_folds: how
    often the corrected interval of a score covers the recipe's.
    """
    rng = np.random.default_rng(
        [recipes, repeats, patients[0], round(100 * share), count, round(1e3 * effect)]
    )
    rows, scores, targets, least = [], [], [], min(patients)
    for number in range(worlds):
        world = FoldWorld(rng, recipes, count, repeats, patients, auroc, share, effect)
        pooled = world.out_of_fold()
        picked = statistics.resample(world.labels, world.patients, draws, number)
        once = np.ones((len(world.labels), 1), dtype=np.uint16)
        weights = np.concatenate([picked, once], axis=1)
        spreads = []
        for mine in pooled:
            each = [auroc_of_draws(world.labels, chances, weights) for chances in mine]
            names = [str(fold) for _ in mine for fold in range(count)]
            of_folds = [
                float(auroc_of_draws(world.labels[rows], chances[rows], once[rows])[0])
                for chances in mine
                for rows in (world.fold == fold for fold in range(count))
            ]
            spreads.append(
                Spread.of(
                    [float(one[-1]) for one in each],
                    [one[:-1] for one in each],
                    [""] * repeats,
                    contrasts.FoldScores.of(names, of_folds, count),
                )
            )
        tests: dict[str, list[contrasts.Test]] = {}
        pairs = [(i, j) for i in range(recipes) for j in range(i + 1, recipes)]
        for i, j in pairs:
            one, other = spreads[i], spreads[j]
            corrected = contrasts.over_folds(one, other)
            alone = contrasts.over_patients(one, other, least)
            plain = corrected.error * ((1 / count) / (1 / count + 1 / (count - 1))) ** 0.5
            both = [alone.error**2, plain**2]
            freedom = sum(both) ** 2 / (both[0] ** 2 / (least - 1) + both[1] ** 2 / (count - 1))
            tests.setdefault("corrected", []).append(corrected)
            tests.setdefault("uncorrected", []).append(
                contrasts.Test.of(corrected.difference, plain, count - 1)
            )
            tests.setdefault("summed", []).append(
                contrasts.Test.of(corrected.difference, sum(both) ** 0.5, freedom)
            )
            tests.setdefault("patients", []).append(alone)
        equal = [not effect or i > 0 for i, _ in pairs]
        row = {
            name: float(any(p is not None and p < LEVEL and e for p, e in zip(_holm(of), equal, strict=True)))
            for name, of in tests.items()
        }
        row["found"] = _mean(
            [
                float(p is not None and p < LEVEL and test.difference > 0)
                for p, test, e in zip(_holm(tests["corrected"]), tests["corrected"], equal, strict=True)
                if not e
            ]
        )
        row["covered"] = _mean(
            [
                float(test.low <= 0 <= test.high)
                for test, e in zip(tests["corrected"], equal, strict=True)
                if e
            ]
        )
        row["half_width"] = _mean([test.high - test.difference for test in tests["corrected"]])
        rows.append(row)
        counts = statistics.PatientCounts.of(world.labels, world.patients)
        for recipe in range(1 if effect else 0, recipes):
            spread = spreads[recipe]
            low, high = statistics.interval("auroc", spread.mean, spread.draws, counts)
            assert spread.folds is not None
            over = contrasts.Test.of(spread.mean, *spread.folds.error())
            truth = world.pooled_truth(recipe)
            targets.append(truth)
            scores.append((low, high, over.low, over.high, truth))
    target = float(np.mean(targets))
    of = np.array(scores)
    return {
        **{name: _mean([row[name] for row in rows]) for name in rows[0]},
        "networks": float(((of[:, 0] <= of[:, 4]) & (of[:, 4] <= of[:, 1])).mean()),
        "recipe": float(((of[:, 0] <= target) & (target <= of[:, 1])).mean()),
        "recipe_folds": float(((of[:, 2] <= target) & (target <= of[:, 3])).mean()),
        "width": float((of[:, 1] - of[:, 0]).mean()),
        "width_folds": float(np.nanmean(of[:, 3] - of[:, 2])),
    }


def auroc_of_draws(labels: np.ndarray, chances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As statistics.resampled_scores has it, without average precision: a quarter of the time."""
    ill, normal = labels == 1, labels == 0
    above = (chances[ill][:, None] > chances[normal]).astype(np.float64)
    above += 0.5 * (chances[ill][:, None] == chances[normal])
    of_ill, of_normal = weights[ill].astype(np.float64), weights[normal].astype(np.float64)
    pairs = np.einsum("id,id->d", of_ill, above @ of_normal)
    return np.asarray(pairs / (of_ill.sum(axis=0) * of_normal.sum(axis=0)))


def intervals(
    worlds: int, patients: tuple[int, int], auroc: float, seeds: int = 1, draws: int = 300, seed: int = 0
) -> dict[str, dict[str, float]]:
    """By score: how often the interval of these networks' mean covers its true value, and its mean width."""
    rng = np.random.default_rng([seed, seeds, patients[0], round(auroc * 1e5)])
    found: dict[str, list[tuple[bool, float]]] = {}
    for number in range(worlds):
        world = World(rng, 1, seeds, patients, auroc)
        each = world.scores(draws, number)
        counts = statistics.PatientCounts.of(world.labels, world.patients)
        for score, truth in world.truth.items():
            values = np.mean([scored[score] for scored in each], axis=0)
            low, high = statistics.interval(score, values[-1], values[:-1], counts)
            found.setdefault(score, []).append((bool(low <= truth.mean() <= high), high - low))
    return {
        score: {
            "coverage": float(np.mean([c for c, _ in rows])),
            "width": float(np.mean([w for _, w in rows])),
        }
        for score, rows in found.items()
    }


def verdicts(
    worlds: int,
    configurations: int,
    seeds: int,
    patients: tuple[int, int],
    auroc: float,
    effect: float = 0.0,
    spreads: Sequence[float] = (1.0,),
    draws: int = 150,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """By score: what the page claims. Without `effect` every claim is false.

    false_better: worlds in which a configuration is called better than an equal one. networks_differ: those
    of the test over patients alone. coverage: of the pairs' intervals over seeds and patients, where they
    exist. better: pairs with the better first configuration in which it is found. untestable: pairs in which
    nothing varies.
    """
    rng = np.random.default_rng([seed, configurations, seeds, patients[0], round(auroc * 1e5)])
    found: dict[str, list[dict[str, float]]] = {}
    least = min(patients)
    for number in range(worlds):
        world = World(rng, configurations, seeds, patients, auroc, effect, spreads)
        each = world.scores(draws, number)
        for score in ("auroc", "accuracy"):
            spread = [
                Spread.of(
                    [float(scored[score][-1]) for scored in mine],
                    [scored[score][:-1] for scored in mine],
                    [""] * seeds,
                )
                for mine in (each[i * seeds : (i + 1) * seeds] for i in range(configurations))
            ]
            pairs = [(i, j) for i in range(configurations) for j in range(i + 1, configurations)]
            recipes = [contrasts.over_runs(spread[i], spread[j], least) for i, j in pairs]
            networks = [contrasts.over_patients(spread[i], spread[j], least) for i, j in pairs]
            known = [test for test in recipes if test is not None]
            holm = statistics.holm([test.p if test else None for test in recipes])
            claimed = [p is not None and p < LEVEL for p in holm]
            differ = [p is not None and p < LEVEL for p in statistics.holm([test.p for test in networks])]
            equal = [not effect or i > 0 for i, _ in pairs]
            true = [0.0 if same else effect for same in equal]
            covered = [
                test.low <= difference <= test.high
                for test, difference in zip(recipes, true, strict=True)
                if test is not None and test.p is not None and (score == "auroc" or not difference)
            ]
            right = [
                claim and tested.difference > 0
                for claim, tested, same in zip(claimed, networks, equal, strict=True)
                if not same
            ]
            found.setdefault(score, []).append(
                {
                    "false_better": any(c and e for c, e in zip(claimed, equal, strict=True)),
                    "networks_differ": any(d and e for d, e in zip(differ, equal, strict=True)),
                    "coverage": _mean(covered),
                    "better": _mean(right),
                    "untestable": _mean([test.p is None for test in known]),
                    "half_width": _mean(
                        [test.high - test.difference for test in known if test.p is not None]
                    ),
                }
            )
    return {
        score: {name: _mean([row[name] for row in rows]) for name in rows[0]} for score, rows in found.items()
    }


def choice(
    worlds: int, configurations: int, seeds: int, patients: tuple[int, int], auroc: float, draws: int = 150
) -> dict[str, float]:
    """By how much the first's AUROC is too high, really and as corrected (BBC-CV), the mean over worlds."""
    rng = np.random.default_rng([configurations, seeds])
    rows = []
    for number in range(worlds):
        world = World(rng, configurations, seeds, patients, auroc)
        weights = statistics.resample(world.labels, world.patients, draws, number)
        left_out = (weights == 0).astype(np.uint16)
        once = np.ones((len(world.labels), 1), dtype=np.uint16)
        shape = (configurations, seeds, -1)
        inside, outside, observed = (
            np.array([auroc_of_draws(world.labels, chances, some) for chances in world.chances])
            .reshape(shape)
            .mean(axis=1)
            for some in (weights, left_out, once)
        )
        first = int(observed[:, 0].argmax())
        winners = inside.argmax(axis=0)
        expected = outside[winners, np.arange(draws)].mean()
        truth = world.truth["auroc"].reshape(configurations, seeds).mean(axis=1)
        rows.append(
            {
                "luck_of_the_networks": observed[first, 0] - truth[first],
                "luck_with_training": observed[first, 0] - auroc,
                "corrected_by": max(0.0, observed[first, 0] - expected),
                "above_the_mean": observed[first, 0] - observed.mean(),
            }
        )
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def points(
    worlds: int,
    configurations: int,
    seeds: int,
    patients: tuple[int, int],
    auroc: float,
    every: int = 2,
    draws: int = 150,
) -> dict[str, dict[str, float]]:
    """As `verdicts` for equal recipes, at each run's threshold from validation patients.

    One of `every` patients is validation, which all runs share; the others are the test set.
    """
    rng = np.random.default_rng([configurations, seeds, patients[0], every])
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(worlds):
        world = World(rng, configurations, seeds, patients, auroc)
        on_val = np.array([int(name[1:]) % every == 0 for name in world.patients])
        labels, people = (
            world.labels[~on_val],
            [p for p, v in zip(world.patients, on_val, strict=True) if not v],
        )
        least = statistics.PatientCounts.of(labels, people).smaller_class
        weights = statistics.resample(labels, people, draws, number)
        weights = np.concatenate([weights, np.ones((len(labels), 1), dtype=np.uint16)], axis=1)
        each = []
        for chances in world.chances:
            cut = metrics.operating_points(world.labels[on_val], chances[on_val])["sensitivity_95"]
            each.append(
                statistics.resampled_scores(labels, chances[~on_val], weights, cut, parts=("counts",))
            )
        for score in ("recall", "specificity", "balanced_accuracy"):
            spread = [
                Spread.of([float(s[score][-1]) for s in mine], [s[score][:-1] for s in mine], [""] * seeds)
                for mine in (each[i * seeds : (i + 1) * seeds] for i in range(configurations))
            ]
            pairs = [(i, j) for i in range(configurations) for j in range(i + 1, configurations)]
            recipes = [contrasts.over_runs(spread[i], spread[j], least) for i, j in pairs]
            networks = [contrasts.over_patients(spread[i], spread[j], least) for i, j in pairs]
            found.setdefault(score, []).append(
                {
                    "false_better": any(p is not None and p < LEVEL for p in _holm(recipes)),
                    "networks_differ": any(p is not None and p < LEVEL for p in _holm(networks)),
                }
            )
    return {
        score: {name: _mean([row[name] for row in rows]) for name in rows[0]} for score, rows in found.items()
    }


def _holm(tests: Sequence[contrasts.Test | None]) -> list[float | None]:
    return statistics.holm([test.p if test else None for test in tests])


def calibrated(
    worlds: int, people: int, spread: float, slope: float = 1.0, shift: float = 0.0
) -> dict[str, float]:
    """How often the intervals of a network's slope, intercept and ECE cover the truth.

    Patients with one to several images have one label and one probability. Its logit is the true one, less
    `shift`, divided by `slope`; 1 and 0 are calibrated. naive_ece is the coverage of the draws' percentiles.
    """

    def draw(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        of = np.repeat(np.arange(number), 1 + rng.poisson(0.4, number))
        logits = rng.normal(0.3, spread, number)
        labels = (rng.random(number) < 1 / (1 + np.exp(-logits))).astype(int)
        return labels[of], 1 / (1 + np.exp(-(logits[of] - shift) / slope)), [f"p{k:06d}" for k in of]

    labels, chances, _ = draw(np.random.default_rng(1), 400_000)
    ece = metrics.calibration_error(labels, chances) if (slope, shift) != (1, 0) else 0.0
    intercept = calibration.Recalibration.of(labels, chances).intercept if ece else 0.0
    rng = np.random.default_rng([people, round(10 * spread), round(10 * slope)])
    rows = []
    for number in range(worlds):
        labels, chances, patients = draw(rng, people)
        least = statistics.PatientCounts.of(labels, patients).smaller_class
        fit = calibration.Recalibration.of(labels, chances)
        _, _, of = statistics.clusters(labels, patients)
        weights = statistics.resample(labels, patients, 150, number)
        draws = statistics.resampled_scores(labels, chances, weights, parts=("losses",))["ece"]
        if_calibrated = calibration.error_if_calibrated(labels, patients, [chances], number)
        ends = {
            "slope": calibration.over_patients(fit.slope, [fit.slope_influence], of, least),
            "intercept": calibration.over_patients(fit.intercept, [fit.intercept_influence], of, least),
            "ece": calibration.error_interval(
                metrics.calibration_error(labels, chances), if_calibrated, draws, least
            ),
            "naive_ece": tuple(np.quantile(draws, (0.025, 0.975))),
        }
        truth = {"slope": slope, "intercept": intercept, "ece": ece, "naive_ece": ece}
        rows.append({name: float(low <= truth[name] <= high) for name, (low, high) in ends.items()})
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def _mean(values: Sequence[float]) -> float:
    finite = [float(value) for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _row(title: str, facts: dict[str, Any]) -> None:
    print(title, *(f"{name} {value:.4f}" for name, value in facts.items()), sep=" | ", flush=True)


def _intervals(worlds: int) -> None:
    for auroc in (0.80, 0.90, 0.965, 0.99, 0.9995):
        for patients in SIZES:
            for seeds in (1, 3):
                found = intervals(worlds, patients, auroc, seeds)
                for score, facts in found.items():
                    _row(f"AUROC {auroc} {patients} {seeds} seeds {score}", facts)
                    if min(patients) >= 40:
                        name = f"statistics/coverage/{auroc}/{patients[0]}+{patients[1]}/{seeds}/{score}"
                        measure.record(name, facts["coverage"] / 0.93, 1.0, worlds=worlds, **facts)


def _verdicts(
    worlds: int,
    cases: Sequence[tuple[int, int, tuple[int, int], float]],
    effect: float = 0.0,
    spreads: Sequence[float] = (1.0,),
) -> None:
    for configurations, seeds, patients, auroc in cases:
        found = verdicts(worlds, configurations, seeds, patients, auroc, effect, spreads)
        for score, facts in found.items():
            title = f"{configurations} configurations {seeds} seeds {patients} AUROC {auroc} {score}"
            _row(title, facts)
            if not effect:
                wrong = facts["false_better"]
                limit = LEVEL + 2 * (LEVEL * (1 - LEVEL) / worlds) ** 0.5  # what chance in the worlds allows
                name = f"statistics/better/{title}/{len(spreads)}"
                measure.record(name, 1.0 if wrong <= limit else 0.0, 1.0, worlds=worlds, **facts)


def _choice(worlds: int) -> None:
    for configurations, seeds in ((30, 1), (10, 1), (5, 1), (3, 3), (10, 3)):
        facts = choice(worlds, configurations, seeds, (190, 238), 0.965)
        _row(f"first of {configurations} configurations with {seeds} seeds", facts)


def _points(worlds: int) -> None:
    both, small = (380, 476), (228, 286)
    cases = [(2, 1, both, 2), (2, 2, both, 2), (2, 3, both, 2), (3, 3, both, 2), (5, 3, both, 2)]
    cases += [(2, 2, small, 6), (2, 3, small, 6), (3, 3, small, 6)]
    for configurations, seeds, patients, every in cases:
        found = points(worlds, configurations, seeds, patients, 0.965, every)
        for score, facts in found.items():
            title = (
                f"{configurations} configurations {seeds} seeds {patients} 1 of {every} validation {score}"
            )
            _row(title, facts)
            limit = LEVEL + 2 * (LEVEL * (1 - LEVEL) / worlds) ** 0.5
            good = 1.0 if facts["false_better"] <= limit else 0.0
            measure.record(f"statistics/points/{title}", good, 1.0, worlds=worlds, **facts)


def _calibrated(worlds: int) -> None:
    for people in (40, 80, 428):
        for spread, slope, shift in ((1.5, 1.0, 0.0), (3.0, 1.0, 0.0), (3.0, 0.5, 0.5), (3.0, 2.0, 0.0)):
            title = f"calibration {people} patients spread {spread} slope {slope} shift {shift}"
            _row(title, calibrated(worlds, people, spread, slope, shift))


def _folds(worlds: int) -> None:
    some = [(SMALL, 2, 1), (SMALL, 3, 1), (SMALL, 2, 3), (LARGE, 2, 1), (LARGE, 3, 1), (LARGE, 2, 3)]
    cases = [
        (recipes, repeats, patients, share, 0.0)
        for patients, recipes, repeats in (*some, ((600, 900), 2, 1))
        for share in (0.0, 0.5, 1.0)
    ]
    cases += [(2, 1, (1000, 2700), share, 0.0) for share in (0.5, 1.0)]  # the public set outside test
    cases += [(10, 1, LARGE, 0.5, 0.0), (2, 1, LARGE, 0.5, 0.02), (3, 1, LARGE, 0.5, 0.02)]
    for recipes, repeats, patients, share, effect in cases:
        facts = folds(worlds, recipes, repeats, patients, 0.965, share, effect)
        title = f"{recipes} recipes 5 folds {repeats} seeds {patients} share {share} effect {effect}"
        _row(title, facts)
        if not effect and share < 1:  # with 1, hardly any of training's chance shows between the folds
            limit = LEVEL + 2 * (LEVEL * (1 - LEVEL) / worlds) ** 0.5
            good = 1.0 if facts["corrected"] <= limit else 0.0
            measure.record(f"statistics/folds/{title}", good, 1.0, worlds=worlds, **facts)


SMALL, LARGE = (40, 40), (190, 238)
PARTS: dict[str, Callable[[int], None]] = {
    "intervals": _intervals,
    "verdicts": lambda worlds: _verdicts(
        worlds,
        [
            (count, seeds, patients, 0.965)
            for patients in ((20, 20), SMALL, LARGE)
            for count, seeds in (
                (2, 1),
                (2, 2),
                (2, 3),
                (2, 5),
                (3, 2),
                (3, 3),
                (5, 2),
                (5, 3),
                (10, 2),
                (10, 3),
            )
        ],
    ),
    "near_one": lambda worlds: _verdicts(
        worlds, [(3, 3, patients, auroc) for auroc in (0.80, 0.99, 0.9995) for patients in SIZES]
    ),
    "unequal": lambda worlds: _verdicts(
        worlds, [(2, 3, LARGE, 0.965), (3, 2, LARGE, 0.965), (3, 3, LARGE, 0.965)], spreads=(0.5, 0.5, 2.0)
    ),
    "power": lambda worlds: _verdicts(
        worlds,
        [(count, seeds, LARGE, 0.965) for count in (2, 3, 5, 10) for seeds in (2, 3, 5)],
        effect=0.02,
    ),
    "choice": _choice,
    "points": _points,
    "calibrated": _calibrated,
    "folds": _folds,
}


def main() -> None:
    worlds = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    for name in sys.argv[2:] or PARTS:
        began = time.process_time()
        PARTS[name](worlds)
        print(
            f"{name}: {worlds} worlds each, {time.process_time() - began:.0f} s of processor time", flush=True
        )


if __name__ == "__main__":
    main()
