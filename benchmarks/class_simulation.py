"""Question: with three classes, does the macro AUROC's interval cover the truth, and is a claim rarely false?

The worlds are those of statistics_simulation.py, with three logits instead of one: the differences of two
logits have its variances, so patients have one or more images that share an effect, networks share mistakes,
and training changes the distance of the classes and their places. The true scores of a network come from
one large set of images without patients. All recipes are equal.
Command: python benchmarks/class_simulation.py [worlds] [part]. A part is intervals, verdicts or near_one.
With 500 worlds, all take about an hour of processor time.
Expected: coverage of 93 % or more from 40 patients a class on, a false "better" in at most 5 % of worlds.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache

import measure
import numpy as np
from scipy.optimize import brentq
from statistics_simulation import (
    ILL_IMAGES,
    IMAGE,
    LEVEL,
    NORMAL_IMAGES,
    OWN_IMAGE,
    OWN_PATIENT,
    PATIENT,
    RECIPE,
    SEPARATION_SD,
    SHIFT_SD,
    _holm,
    _mean,
    _row,
    auroc_of_draws,
)

from pneumo.evaluation import class_statistics, contrasts, statistics
from pneumo.evaluation.contrasts import Spread

CLASSES = 3
SIZES = ((20, 20, 20), (40, 40, 40), (40, 100, 200), (190, 130, 108))
SMALL, LARGE = SIZES[1], SIZES[-1]
POPULATION = 10_000  # images of each class, behind a network's true scores


@cache
def population() -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits [N, 3] without any separation."""
    labels = np.repeat(np.arange(CLASSES), POPULATION)
    noise = np.random.default_rng(99).normal(0, 0.5**0.5, (len(labels), CLASSES))
    return labels, noise


def true_scores(separation: float, shift: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """The scores of a network in the population; `images` [3] are the expected ones in a test set."""
    labels, noise = population()
    logits = noise + shift
    logits[np.arange(len(labels)), labels] += separation / 2
    chances, called = softmax(logits), logits.argmax(1)
    areas = []
    for label in range(CLASSES):
        order = np.argsort(chances[:, label])
        own = labels[order] == label
        below = np.cumsum(np.where(own, 0.0, (images / images.sum())[labels[order]] / POPULATION))
        areas.append(float(below[own].mean() / below[-1]))
    recall = np.array([(called[labels == k] == k).mean() for k in range(CLASSES)])
    # Shares of the called classes, as in a test set with these images.
    share = images / images.sum()
    taken = np.array([[(called[labels == k] == j).mean() for j in range(CLASSES)] for k in range(CLASSES)])
    f1 = 2 * share * recall / (share + share @ taken)
    return {
        "auroc": float(np.mean(areas)),
        "accuracy": float(share @ recall),
        "balanced_accuracy": float(recall.mean()),
        "f1": float(f1.mean()),
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def expected_images(patients: Sequence[int]) -> np.ndarray:
    return np.array(patients) * np.array([NORMAL_IMAGES, *[ILL_IMAGES] * (CLASSES - 1)])


@cache
def separation_of(auroc: float, patients: tuple[int, ...]) -> float:
    """The separation with this macro AUROC."""
    images = expected_images(patients)
    still = np.zeros(CLASSES)
    found = brentq(lambda s: true_scores(s, still, images)["auroc"] - auroc, 0.1, 14, xtol=1e-4)
    return float(found)


class World:
    """Networks [recipes, seeds] and a test set of `patients` by class, with what is true of each network."""

    def __init__(
        self, rng: np.random.Generator, recipes: int, seeds: int, patients: tuple[int, ...], auroc: float
    ) -> None:
        recipe = np.repeat(np.arange(recipes), seeds)
        networks = len(recipe)
        centre = separation_of(auroc, patients)
        self.separation = centre + rng.normal(0, SEPARATION_SD, networks)
        # The difference of two shifts varies as the one shift of two classes does.
        self.shift = rng.normal(0, SHIFT_SD / 2**0.5, (networks, CLASSES))
        self.images = expected_images(patients)
        by_patient = np.repeat(np.arange(CLASSES), patients)
        counts = 1 + rng.poisson(np.where(by_patient > 0, ILL_IMAGES - 1, NORMAL_IMAGES - 1))
        of = np.repeat(np.arange(len(by_patient)), counts)
        people, images = len(by_patient), len(of)
        self.labels = by_patient[of]
        self.patients = [f"p{number:04d}" for number in of]

        def noise(variance: float, *shape: int) -> np.ndarray:
            return rng.normal(0, (variance / 2) ** 0.5, (*shape, CLASSES))

        shared = noise(PATIENT, people)[of] + noise(IMAGE, images)
        own = noise(RECIPE, recipes, people)[recipe] + noise(OWN_PATIENT, networks, people)
        logits = shared + own[:, of] + noise(OWN_IMAGE, networks, images) + self.shift[:, None]
        logits[:, np.arange(images), self.labels] += self.separation[:, None] / 2
        self.chances = softmax(logits)

    def truth(self, network: int) -> dict[str, float]:
        return true_scores(float(self.separation[network]), self.shift[network], self.images)

    def scores(self, draws: int, seed: int) -> list[dict[str, np.ndarray]]:
        """By network: each score of the draws, then of the images themselves."""
        once = np.ones((len(self.labels), 1), dtype=np.uint16)
        picked = class_statistics.resample(self.labels, self.patients, CLASSES, draws, seed)
        weights = np.concatenate([picked, once], axis=1)
        return [
            class_statistics.resampled_scores(self.labels, chances, weights, parts=("counts",))
            | {"auroc": macro_auroc_of_draws(self.labels, chances, weights)}
            for chances in self.chances
        ]


def macro_auroc_of_draws(labels: np.ndarray, chances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As class_statistics.resampled_scores has it, without average precision."""
    each = [auroc_of_draws((labels == k).astype(int), chances[:, k], weights) for k in range(CLASSES)]
    return np.asarray(np.mean(each, axis=0))


def intervals(
    worlds: int, patients: tuple[int, ...], auroc: float, seeds: int = 1, draws: int = 150, seed: int = 0
) -> dict[str, dict[str, float]]:
    """By score: how often the interval of these networks' mean covers its true value, and its mean width."""
    rng = np.random.default_rng([seed, seeds, *patients, round(auroc * 1e5)])
    found: dict[str, list[tuple[bool, float]]] = {}
    for number in range(worlds):
        world = World(rng, 1, seeds, patients, auroc)
        each = world.scores(draws, number)
        counts = class_statistics.ClassCounts.of(world.labels, world.patients, CLASSES)
        truths = [world.truth(network) for network in range(seeds)]
        for score in truths[0]:
            values = np.mean([scored[score] for scored in each], axis=0)
            low, high = statistics.interval(score, values[-1], values[:-1], counts)
            truth = np.mean([true[score] for true in truths])
            found.setdefault(score, []).append((bool(low <= truth <= high), high - low))
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
    patients: tuple[int, ...],
    auroc: float,
    draws: int = 150,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """By score: what the page claims of equal recipes, so every claim is false; as in two classes."""
    rng = np.random.default_rng([seed, configurations, seeds, *patients, round(auroc * 1e5)])
    found: dict[str, list[dict[str, float]]] = {}
    least = min(patients)
    pairs = [(i, j) for i in range(configurations) for j in range(i + 1, configurations)]
    for number in range(worlds):
        world = World(rng, configurations, seeds, patients, auroc)
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
            recipes = [contrasts.over_runs(spread[i], spread[j], least) for i, j in pairs]
            networks = [contrasts.over_patients(spread[i], spread[j], least) for i, j in pairs]
            tested = [test for test in recipes if test is not None and test.p is not None]
            found.setdefault(score, []).append(
                {
                    "false_better": any(p is not None and p < LEVEL for p in _holm(recipes)),
                    "networks_differ": any(p is not None and p < LEVEL for p in _holm(networks)),
                    "coverage": _mean([test.low <= 0 <= test.high for test in tested]),
                    "untestable": 1 - len(tested) / len(pairs),
                    "half_width": _mean([test.high - test.difference for test in tested]),
                }
            )
    return {
        score: {name: _mean([row[name] for row in rows]) for name in rows[0]} for score, rows in found.items()
    }


def _intervals(worlds: int) -> None:
    for auroc in (0.80, 0.965, 0.9995):
        for patients in SIZES:
            for seeds in (1, 3):
                for score, facts in intervals(worlds, patients, auroc, seeds).items():
                    title = f"AUROC {auroc} {patients} {seeds} seeds {score}"
                    _row(title, facts)
                    if min(patients) >= 40:
                        name = f"classes/coverage/{title}"
                        measure.record(name, facts["coverage"] / 0.93, 1.0, worlds=worlds, **facts)


def _verdicts(worlds: int, cases: Sequence[tuple[int, int, tuple[int, ...], float]]) -> None:
    for configurations, seeds, patients, auroc in cases:
        for score, facts in verdicts(worlds, configurations, seeds, patients, auroc).items():
            title = f"{configurations} configurations {seeds} seeds {patients} AUROC {auroc} {score}"
            _row(title, facts)
            limit = LEVEL + 2 * (LEVEL * (1 - LEVEL) / worlds) ** 0.5  # what chance in the worlds allows
            good = 1.0 if facts["false_better"] <= limit else 0.0
            measure.record(f"classes/better/{title}", good, 1.0, worlds=worlds, **facts)


PARTS: dict[str, Callable[[int], None]] = {
    "intervals": _intervals,
    "verdicts": lambda worlds: _verdicts(
        worlds,
        [
            (count, seeds, patients, 0.965)
            for patients in (SMALL, LARGE)
            for count, seeds in ((2, 1), (2, 2), (2, 3), (2, 5), (3, 2), (3, 3), (5, 3))
        ],
    ),
    "near_one": lambda worlds: _verdicts(
        worlds, [(3, 3, patients, auroc) for auroc in (0.80, 0.99, 0.9995) for patients in (SMALL, LARGE)]
    ),
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
