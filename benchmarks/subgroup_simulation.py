"""Question: is a lower sensitivity in one group found, and is a gap rarely claimed where there is none?

Worlds have 500 patients. Their networks and images are those of statistics_simulation.py: patients have one
or more images that share an effect, networks share mistakes, and the threshold gives a sensitivity of
.95. Sex is a coin, age is in decades (two of them small), and the view is drawn for each image, so that most
patients with several images have both. An effect lowers the sensitivity of one sex.
Command: python benchmarks/subgroup_simulation.py [worlds] [part]. A part is power or equal. With 500
worlds, both take about 15 minutes of processor time.
Expected: with 312 ill patients, .95 against .85 is found in 80 % of worlds or more; a gap is claimed in at
most 5 % of the worlds without one, over all groups of a score; intervals cover in 93 % or more.
"""

import sys
import time
from collections.abc import Callable, Sequence

import measure
import numpy as np
from scipy.stats import norm
from statistics_simulation import (
    ILL_IMAGES,
    IMAGE,
    LEVEL,
    NORMAL_IMAGES,
    OWN_IMAGE,
    OWN_PATIENT,
    PATIENT,
    RECIPE,
    _mean,
    _row,
)

from pneumo.evaluation import subgroup_statistics
from pneumo.evaluation.subgroup_statistics import LOWER, NOT_SHOWN

PATIENTS = 500
ILL = 312  # of 500; the share of ill images in the public test set, 390 of 624
AUROC = 0.965
SENSITIVITY = 0.95  # of everybody else
COLUMNS = ("sex", "age", "view")
AGES = {
    "under 18": 0.05, "18-29": 0.12, "30-39": 0.15, "40-49": 0.18, "50-59": 0.20, "60-69": 0.16,
    "70-79": 0.10, "80-89": 0.04,
}  # fmt: skip


class World:
    """One configuration's networks, and test patients with their groups; `effect` is taken from women."""

    def __init__(
        self,
        rng: np.random.Generator,
        patients: int = PATIENTS,
        ill: int = ILL,
        effect: float = 0.0,
        seeds: int = 1,
        sensitivity: float = SENSITIVITY,
        women: float = 0.5,
    ) -> None:
        separation = norm.ppf(AUROC) * 2**0.5
        by_patient = np.repeat((0, 1), (patients - ill, ill))
        counts = 1 + rng.poisson(np.where(by_patient == 1, ILL_IMAGES - 1, NORMAL_IMAGES - 1))
        of = np.repeat(np.arange(patients), counts)
        images = len(of)
        self.labels = by_patient[of]
        self.patients = [f"p{number:04d}" for number in of]
        sex = rng.random(patients) < women
        age = rng.choice(list(AGES), patients, p=list(AGES.values()))
        view = rng.random(images) < 0.6
        self.columns = {
            "sex": np.where(sex, "F", "M")[of].tolist(),
            "age": age[of].tolist(),
            "view": np.where(view, "PA", "AP").tolist(),
        }
        lower = norm.ppf(sensitivity) - norm.ppf(sensitivity - effect)
        of_recipe = rng.normal(0, (PATIENT + RECIPE) ** 0.5, patients)
        own = of_recipe + rng.normal(0, OWN_PATIENT**0.5, (seeds, patients))
        logits = separation * (self.labels - 0.5) - lower * (sex[of] & (self.labels == 1)) + own[:, of]
        logits += rng.normal(0, IMAGE**0.5, images) + rng.normal(0, OWN_IMAGE**0.5, (seeds, images))
        self.chances = 1 / (1 + np.exp(-logits))
        at = separation / 2 - norm.ppf(sensitivity)
        self.thresholds = [float(1 / (1 + np.exp(-at)))] * seeds
        # Of women minus men. Age and view are independent of sex, so their gaps are 0.
        self.gaps = {
            "recall": -effect,
            "specificity": 0.0,
            "auroc": norm.cdf((separation - lower) / 2**0.5) - norm.cdf(separation / 2**0.5),
        }


def claims(
    worlds: int,
    columns: Sequence[str] = COLUMNS,
    *,
    patients: int = PATIENTS,
    ill: int = ILL,
    effect: float = 0.0,
    seeds: int = 1,
    sensitivity: float = SENSITIVITY,
    women: float = 0.5,
    draws: int = 300,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """By score: how often the gap of women is found, and a gap is claimed of any group that has none.

    `any` is of the three scores together. covered_all: the worlds in which all corrected intervals cover
    the true gaps; half_width: of the interval of women.
    """
    rng = np.random.default_rng([seed, patients, ill, round(1e3 * effect), seeds, round(1e3 * women)])
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(worlds):
        world = World(rng, patients, ill, effect, seeds, sensitivity, women)
        result = subgroup_statistics.analyse(
            world.labels,
            list(world.chances),
            world.thresholds,
            world.patients,
            {name: world.columns[name] for name in columns},
            draws=draws,
            seed=number,
        )
        in_any = False
        for score in result["scores"]:
            true = {"F": world.gaps[score], "M": -world.gaps[score]}
            gaps = [
                (group["gaps"][score], true.get(group["name"], 0.0), group["name"] == "F")
                for groups in result["columns"].values()
                for group in groups
                if score in group["gaps"]
            ]
            false = any(gap["verdict"] != NOT_SHOWN for gap, truth, _ in gaps if not truth)
            in_any = in_any or false
            women_gap = [gap for gap, _, mine in gaps if mine]
            found.setdefault(score, []).append(
                {
                    "found": _mean([gap["verdict"] == LOWER for gap in women_gap]),
                    "false": float(false),
                    "covered_all": float(all(gap["low"] <= t <= gap["high"] for gap, t, _ in gaps)),
                    "gaps": result["gaps"][score],
                    "half_width": _mean([(gap["high"] - gap["low"]) / 2 for gap in women_gap]),
                }
            )
        found.setdefault("any", []).append({"false": float(in_any)})
    return {
        score: {name: _mean([row[name] for row in rows]) for name in rows[0]} for score, rows in found.items()
    }


def _power(worlds: int) -> None:
    """One sex's sensitivity is .1 lower: how often that is found, by the number of ill patients."""
    half = ILL // 2
    cases: list[tuple[Sequence[str], int, float]] = [
        *((("sex",), ill, SENSITIVITY) for ill in (half, 250, 278, ILL, 400)),
        *((("sex",), ill, 0.9) for ill in (ILL, 400)),
        *((COLUMNS, ill, SENSITIVITY) for ill in (half, ILL, 400)),
    ]
    for columns, ill, sensitivity in cases:
        found = claims(worlds, columns, ill=ill, effect=0.1, sensitivity=sensitivity)
        name = f"{'+'.join(columns)}, {ill} ill, {sensitivity:.2f} and {sensitivity - 0.1:.2f}"
        for score, facts in found.items():
            _row(f"{name}, {score}", facts)
        if (columns, ill, sensitivity) == (("sex",), ILL, SENSITIVITY):
            facts = found["recall"]
            measure.record("subgroups/found", facts["found"] / 0.80, 1.0, worlds=worlds, **facts)


def _equal(worlds: int) -> None:
    """Nothing differs: how often a gap is claimed of any group, and all intervals cover."""
    cases: list[tuple[Sequence[str], dict[str, float]]] = [
        (("sex",), {}),
        (COLUMNS, {}),
        (COLUMNS, {"ill": ILL // 2}),
        (COLUMNS, {"sensitivity": 0.8}),
        (COLUMNS, {"sensitivity": 0.99}),
        (("sex",), {"women": 0.1}),
        (COLUMNS, {"seeds": 3}),
    ]
    for columns, settings in cases:
        found = claims(worlds, columns, **settings)
        asked = ", ".join(f"{name} {value}" for name, value in settings.items()) or "as above"
        name = f"{'+'.join(columns)}, {asked}"
        limit = LEVEL + 2 * (LEVEL * (1 - LEVEL) / worlds) ** 0.5  # what chance in the worlds allows
        for score, facts in found.items():
            _row(f"{name}, {score}", facts)
            if score != "any":
                good = 1.0 if facts["false"] <= limit else 0.0
                measure.record(f"subgroups/equal/{name}/{score}", good, 1.0, worlds=worlds, **facts)


PARTS: dict[str, Callable[[int], None]] = {"power": _power, "equal": _equal}


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
