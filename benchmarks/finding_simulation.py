"""Question: with several findings an image, is the mean AUROC's interval right, and is a claim rarely false?

The worlds are those of statistics_simulation.py for each finding: its logits have the same variances, and
training changes how well a network separates it. A patient has a finding or not, on all of their images. Half
of a finding's patient effect is shared by all findings, and so is half of what training does. A tenth of the
labels is not known. Findings of fewer than five patients are left out, as in a comparison. All recipes are
equal.
Command: python benchmarks/finding_simulation.py [worlds]. With 500 worlds, about half an hour of processor
time.
Expected: coverage of 93 % or more from 40 patients of each finding on, a false "better" in at most 5 % of
worlds.
"""

import sys
import time

import measure
import numpy as np
from scipy.stats import norm
from statistics_simulation import (
    ILL_IMAGES,
    IMAGE,
    LEVEL,
    OWN_IMAGE,
    OWN_PATIENT,
    PATIENT,
    RECIPE,
    SEPARATION_SD,
    _holm,
    _mean,
    _row,
    auroc_of_draws,
)

from pneumo.evaluation import contrasts, finding_statistics, statistics
from pneumo.evaluation.contrasts import Spread
from pneumo.evaluation.finding_statistics import FindingCounts
from pneumo.evaluation.multilabel import UNKNOWN
from pneumo.evaluation.predictions import SplitResult

FREQUENT = (0.5, 0.3, 0.2)  # shares of the patients who have each finding
RARE = (0.4, 0.2, 0.1, 0.06, 0.04, 0.03)
NOT_KNOWN = 0.1
SETTINGS = (  # patients, shares, mean AUROC
    (200, FREQUENT, 0.80),
    (200, FREQUENT, 0.965),
    (200, RARE, 0.80),
    (500, RARE, 0.80),
    (500, RARE, 0.965),
)


class World:
    """Networks [recipes, seeds] and a test set, with each network's true mean AUROC."""

    def __init__(
        self,
        rng: np.random.Generator,
        recipes: int,
        seeds: int,
        people: int,
        shares: tuple[float, ...],
        auroc: float,
    ) -> None:
        findings, networks = len(shares), recipes * seeds
        recipe = np.repeat(np.arange(recipes), seeds)
        self.of = np.repeat(np.arange(people), 1 + rng.poisson(ILL_IMAGES - 1, people))
        has = rng.random((people, findings)) < shares
        images = (len(self.of), findings)

        def half_shared(first: int, variance: float) -> np.ndarray:
            """Effects [first, findings], half of whose variance all findings share."""
            common, own = rng.normal(0, 1, (first, 1)), rng.normal(0, 1, (first, findings))
            return np.asarray((variance / 2) ** 0.5 * (common + own))

        separation = norm.ppf(auroc) * 2**0.5 + half_shared(networks, SEPARATION_SD**2)
        shared = half_shared(people, PATIENT)[self.of] + rng.normal(0, IMAGE**0.5, images)
        truth = has[self.of]
        self.chances = []
        of_recipe = [half_shared(people, RECIPE) for _ in range(recipes)]
        for network in range(networks):
            own = of_recipe[recipe[network]] + half_shared(people, OWN_PATIENT)
            logits = shared + own[self.of] + rng.normal(0, OWN_IMAGE**0.5, images)
            logits += separation[network] * (truth - 0.5)
            self.chances.append(1 / (1 + np.exp(-logits)))
        known = rng.random(images) >= NOT_KNOWN
        split = SplitResult(
            paths=[str(number) for number in range(len(self.of))],
            patients=[f"p{number:04d}" for number in self.of],
            labels=np.where(known, truth, UNKNOWN),
            probabilities=self.chances[0],
            class_names=tuple(f"f{k}" for k in range(findings)),
        )
        self.kept = finding_statistics.testable(split)
        self.split = finding_statistics.of_columns(split, self.kept)
        self.truth = norm.cdf(separation[:, self.kept] / 2**0.5).mean(axis=1)

    def scores(self, draws: int, seed: int) -> list[np.ndarray]:
        """By network: the mean AUROC of the draws, then of the images themselves."""
        labels = self.split.labels
        once = np.ones((len(labels), 1), dtype=np.uint16)
        picked = finding_statistics.resample(labels, self.split.patients, draws, seed)
        weights = np.concatenate([picked, once], axis=1)
        return [
            np.mean(
                [
                    auroc_of_draws(labels[rows, k], chances[rows, column], weights[rows])
                    for (k, rows), column in zip(finding_statistics.scored(labels), self.kept, strict=True)
                ],
                axis=0,
            )
            for chances in self.chances
        ]


def intervals(
    worlds: int, people: int, shares: tuple[float, ...], auroc: float, draws: int = 150, seed: int = 0
) -> dict[str, float]:
    """How often the interval of one network's mean AUROC covers its true value, and its mean width."""
    rng = np.random.default_rng([seed, people, len(shares), round(auroc * 1e5)])
    rows = []
    for number in range(worlds):
        world = World(rng, 1, 1, people, shares, auroc)
        (values,) = world.scores(draws, number)
        counts = FindingCounts.of(world.split.labels, world.split.patients)
        low, high = statistics.interval("auroc", values[-1], values[:-1], counts)
        rows.append(
            {"coverage": low <= world.truth[0] <= high, "width": high - low, "patients": counts.smaller_class}
        )
    return {name: _mean([float(row[name]) for row in rows]) for name in rows[0]}


def verdicts(
    worlds: int,
    configurations: int,
    seeds: int,
    people: int,
    shares: tuple[float, ...],
    auroc: float,
    draws: int = 150,
    seed: int = 0,
) -> dict[str, float]:
    """What the page claims of equal recipes, so every claim is false.

    `networks_differ` is right, because trained networks of one recipe do differ.
    """
    rng = np.random.default_rng([seed, configurations, seeds, people, len(shares), round(auroc * 1e5)])
    pairs = [(i, j) for i in range(configurations) for j in range(i + 1, configurations)]
    rows = []
    for number in range(worlds):
        world = World(rng, configurations, seeds, people, shares, auroc)
        each = world.scores(draws, number)
        least = FindingCounts.of(world.split.labels, world.split.patients).smaller_class
        spread = [
            Spread.of([float(scored[-1]) for scored in mine], [scored[:-1] for scored in mine], [""] * seeds)
            for mine in (each[i * seeds : (i + 1) * seeds] for i in range(configurations))
        ]
        recipes = [contrasts.over_runs(spread[i], spread[j], least) for i, j in pairs]
        networks = [contrasts.over_patients(spread[i], spread[j], least) for i, j in pairs]
        tested = [test for test in recipes if test is not None and test.p is not None]
        rows.append(
            {
                "false_better": float(any(p is not None and p < LEVEL for p in _holm(recipes))),
                "networks_differ": float(any(p is not None and p < LEVEL for p in _holm(networks))),
                "coverage": _mean([test.low <= 0 <= test.high for test in tested]),
                "half_width": _mean([test.high - test.difference for test in tested]),
            }
        )
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def main() -> None:
    worlds = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    for people, shares, auroc in SETTINGS:
        began = time.process_time()
        title = f"{people} patients {len(shares)} findings AUROC {auroc}"
        facts = intervals(worlds, people, shares, auroc)
        _row(f"{title} interval", facts)
        measure.record(f"findings/coverage/{title}", facts["coverage"] / 0.93, 1.0, worlds=worlds, **facts)
        for configurations, seeds in ((2, 2), (2, 3), (3, 3)):
            facts = verdicts(worlds, configurations, seeds, people, shares, auroc)
            case = f"{title} {configurations} configurations {seeds} seeds"
            _row(case, facts)
            limit = LEVEL + 2 * (LEVEL * (1 - LEVEL) / worlds) ** 0.5  # what chance in the worlds allows
            good = 1.0 if facts["false_better"] <= limit else 0.0
            measure.record(f"findings/better/{case}", good, 1.0, worlds=worlds, **facts)
        print(f"{title}: {time.process_time() - began:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
