"""Every two configurations of a comparison: differences, tests and the verdict in words."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from pneumo.comparison.configuration import POINT_SCORES, TEMPERED_SCORES, Configuration
from pneumo.comparison.content import DeLong, Equivalence, McNemar, PairRow, PairScore, PairTests, RecipeTest
from pneumo.comparison.words import verdict
from pneumo.evaluation import class_statistics, contrasts, metrics, multiclass, statistics
from pneumo.evaluation.contrasts import Spread
from pneumo.names import THRESHOLD_RULES

UNCORRECTED = None  # p_holm, until all pairs are known
LEVEL = 1 - statistics.LEVEL


def compare(
    configurations: Sequence[Configuration],
    labels: metrics.Ints,
    patients: int,
    rank_by: str,
    margin: float,
    chance: Collection[str] = (),
) -> list[PairRow]:
    """Every two of `configurations`; each score and each test has its own Holm correction over all pairs.

    `patients` are those of the smaller class. `margin` is the largest difference in `rank_by` that does not
    matter, `chance` the settings that are chance, as the seed is.
    """
    areas = _areas(configurations, labels)
    # McNemar's test takes one call per image, so here the seeds' probabilities are averaged.
    right = [multiclass.right_of(labels, configuration.probabilities) for configuration in configurations]
    spreads = [{score: each.spread(score) for score in each.paired} for each in configurations]
    points = [_point_spreads(each) for each in configurations]
    tempered = [_tempered_spreads(each) for each in configurations]
    pairs: list[PairTests] = []
    for i, first in enumerate(configurations):
        for j, second in enumerate(configurations[i + 1 :], start=i + 1):
            only_first, only_second, p = statistics.mcnemar(np.ones(len(labels)), right[i], right[j])
            pair: PairTests = {
                "first": first.row["id"],
                "second": second.row["id"],
                "scores": _differences(spreads[i], spreads[j], patients),
                "points": {
                    rule: _differences(points[i][rule], points[j][rule], patients)
                    for rule in points[i]
                    if rule in points[j]
                },
                "tempered": _differences(tempered[i], tempered[j], patients),
                "equivalence": None,
                "mcnemar": {
                    "only_first": only_first,
                    "only_second": only_second,
                    "p": p,
                    "p_holm": UNCORRECTED,
                },
            }
            if areas is not None:
                difference, p_areas = statistics.delong_p(areas[0], areas[1], areas[2][i] - areas[2][j])
                pair["delong"] = {"difference": difference, "p": p_areas, "p_holm": UNCORRECTED}
            pairs.append(pair)
    for score in configurations[0].paired if configurations else ():
        _correct_both([pair["scores"][score] for pair in pairs])
    for score in TEMPERED_SCORES:
        _correct_both([pair["tempered"][score] for pair in pairs if score in pair["tempered"]])
    for rule in THRESHOLD_RULES:
        for score in POINT_SCORES:
            _correct_both([pair["points"][rule][score] for pair in pairs if rule in pair["points"]])
    _correct([pair["mcnemar"] for pair in pairs])
    _correct([pair["delong"] for pair in pairs if "delong" in pair])
    by_id = {each.row["id"]: spread[rank_by] for each, spread in zip(configurations, spreads, strict=True)}
    _add_equivalence(pairs, by_id, rank_by, patients, margin)
    names = {configuration.row["id"]: configuration.name for configuration in configurations}
    # An ensemble has no settings.
    configs = {each.row["id"]: {} if each.average else each.runs[0].config for each in configurations}
    return [
        {
            **pair,
            "differ_in": _settings(configs[pair["first"]], configs[pair["second"]], chance),
            "verdicts": {
                score: verdict(
                    names[pair["first"]],
                    names[pair["second"]],
                    score,
                    pair["scores"][score],
                    pair["equivalence"] if score == rank_by else None,
                    _settings(configs[pair["first"]], configs[pair["second"]], chance),
                    words=configurations[0].words,
                )
                for score in dict.fromkeys((rank_by, *configurations[0].ranked_by))
            },
        }
        for pair in pairs
    ]


def _settings(first: dict[str, Any], second: dict[str, Any], chance: Collection[str]) -> list[str]:
    """The settings in which two configurations differ; an option's own keys count as the option."""
    keys = [key for key in sorted({*first, *second} - set(chance)) if first.get(key) != second.get(key)]
    options = {key.rpartition(".")[0] for key in keys if key.endswith(".name")}
    return [key for key in keys if key.endswith(".name") or key.partition(".")[0] not in options]


def _point_spreads(configuration: Configuration) -> dict[str, dict[str, Spread]]:
    """Scores at the thresholds that validation chose, by rule. 0.5 is in the scores already.

    A threshold is part of what a run learned, so several seeds count the chance in it, as far as it comes
    from the training. Runs that share their validation images share its chance.
    """
    found: dict[str, dict[str, Spread]] = {}
    for rule in THRESHOLD_RULES:
        for score in POINT_SCORES:
            spread = configuration.point_spread(rule, score)
            if spread is not None:
                found.setdefault(rule, {})[score] = spread
    return found


def _tempered_spreads(configuration: Configuration) -> dict[str, Spread]:
    """Losses after each run's temperature; empty without one."""
    each = {score: configuration.tempered_spread(score) for score in TEMPERED_SCORES}
    return {score: spread for score, spread in each.items() if spread is not None}


def _differences(first: dict[str, Spread], second: dict[str, Spread], patients: int) -> dict[str, PairScore]:
    """By score, where both sides have it."""
    return {score: _difference(first[score], second[score], patients) for score in first if score in second}


def _difference(first: Spread, second: Spread, patients: int) -> PairScore:
    found = contrasts.over_patients(first, second, patients)
    recipes = contrasts.over_runs(first, second, patients)
    with_seeds: RecipeTest | None = None
    if recipes is not None:
        with_seeds = {
            "low": recipes.low,
            "high": recipes.high,
            "p": recipes.p,
            "p_holm": UNCORRECTED,
            "error": recipes.error,
            "freedom": recipes.freedom,
        }
        if first.folds and second.folds:
            with_seeds["over_folds"] = True
    return {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "p_holm": UNCORRECTED,
        "with_seeds": with_seeds,
    }


def _add_equivalence(
    pairs: Sequence[PairTests],
    spreads: dict[str, Spread],
    score: str,
    patients: int,
    margin: float,
) -> None:
    """Equivalence, power and seeds needed in `score`, of each pair whose sides have two runs or more."""
    level = LEVEL / max(1, len(pairs))  # Holm's first step
    found: list[Equivalence] = []
    for pair in pairs:
        first, second = spreads[pair["first"]], spreads[pair["second"]]
        test = contrasts.over_runs(first, second, patients)
        if test is None:
            continue
        entry: Equivalence = {
            "margin": margin,
            "p": contrasts.equivalence(test, margin),
            "p_holm": UNCORRECTED,
            "detectable": contrasts.detectable(test, level),
            "seeds_needed": contrasts.runs_needed(first, second, patients, margin, level),
        }
        pair["equivalence"] = entry
        found.append(entry)
    _correct(found)


def _areas(
    configurations: Sequence[Configuration], labels: metrics.Ints
) -> tuple[metrics.Floats, metrics.Floats, list[metrics.Floats]] | None:
    """DeLong's AUROC of every run (of more than two classes the macro AUROC), their covariance, and each
    configuration's weights [runs] for its mean.

    None where a class has one image only, for several findings, or where there is nothing to compare.
    """
    if len(configurations) < 2 or np.ndim(labels) == 2 or min(np.bincount(labels)) < 2:
        return None
    every = [chances for configuration in configurations for chances in configuration.tests]
    owners = np.array([i for i, configuration in enumerate(configurations) for _ in configuration.tests])
    areas, covariance = class_statistics.delong(labels, every)
    means = [(owners == i) / (owners == i).sum() for i in range(len(configurations))]
    return areas, covariance, means


def _correct_both(entries: Sequence[PairScore]) -> None:
    """Holm's correction of the tests over patients, and of those over seeds and patients."""
    _correct(entries)
    _correct([seeds for entry in entries if (seeds := entry["with_seeds"]) is not None])


def _correct(
    entries: Sequence[PairScore]
    | Sequence[RecipeTest]
    | Sequence[McNemar]
    | Sequence[DeLong]
    | Sequence[Equivalence],
) -> None:
    adjusted = statistics.holm([entry["p"] for entry in entries])
    for entry, p in zip(entries, adjusted, strict=True):
        entry["p_holm"] = p
