"""Every two configurations of a comparison: differences, tests and the verdict in words."""

import math
from collections.abc import Sequence

import numpy as np

from pneumo.comparison.configuration import Configuration
from pneumo.comparison.content import DeLong, McNemar, PairRow, PairScore, PairTests
from pneumo.comparison.words import verdict
from pneumo.evaluation import metrics, statistics

PAIRED = ("accuracy", "balanced_accuracy", "f1", "recall", "specificity", "auroc", "auprc", "brier")
UNCORRECTED = math.nan  # p_holm, until all pairs are known


def compare(configurations: Sequence[Configuration], labels: metrics.Ints, rank_by: str) -> list[PairRow]:
    """Every two of `configurations`; each score and each test has its own Holm correction over all pairs."""
    areas = _areas(configurations, labels)
    # McNemar's test takes one call per image, so here the seeds' probabilities are averaged.
    called = [configuration.probabilities >= 0.5 for configuration in configurations]
    pairs: list[PairTests] = []
    for i, first in enumerate(configurations):
        for j, second in enumerate(configurations[i + 1 :], start=i + 1):
            only_first, only_second, p = statistics.mcnemar(labels, called[i], called[j])
            pair: PairTests = {
                "first": first.row["id"],
                "second": second.row["id"],
                "scores": {score: _difference(first, second, score) for score in PAIRED},
                "mcnemar": {
                    "only_first": only_first,
                    "only_second": only_second,
                    "p": p,
                    "p_holm": UNCORRECTED,
                },
            }
            if areas is not None:
                difference, p = statistics.delong_p(areas[0], areas[1], areas[2][i] - areas[2][j])
                pair["delong"] = {"difference": difference, "p": p, "p_holm": UNCORRECTED}
            pairs.append(pair)
    for score in PAIRED:
        _correct([pair["scores"][score] for pair in pairs])
    _correct([pair["mcnemar"] for pair in pairs])
    _correct([pair["delong"] for pair in pairs if "delong" in pair])
    names = {configuration.row["id"]: configuration.name for configuration in configurations}
    judged = [score for score in dict.fromkeys((rank_by, "accuracy", "auroc")) if score in PAIRED]
    return [
        {
            **pair,
            "verdicts": {
                score: verdict(names[pair["first"]], names[pair["second"]], score, pair["scores"][score])
                for score in judged
            },
        }
        for pair in pairs
    ]


def _difference(first: Configuration, second: Configuration, score: str) -> PairScore:
    difference = first.value(score) - second.value(score)
    draws = first.draws[score] - second.draws[score]
    by_seed = ([run[score] for run in configuration.per_run] for configuration in (first, second))
    found = statistics.compare_draws(difference, draws)
    return {
        "difference": found["difference"],
        "low": found["low"],
        "high": found["high"],
        "p": found["p"],
        "with_seeds": statistics.with_training_noise(difference, draws, *by_seed),
        "p_holm": UNCORRECTED,
    }


def _areas(
    configurations: Sequence[Configuration], labels: metrics.Ints
) -> tuple[metrics.Floats, metrics.Floats, list[metrics.Floats]] | None:
    """DeLong's AUROC of every run, their covariance, and each configuration's weights [runs] for its mean.

    None where a class has one image only, or where there is nothing to compare.
    """
    if len(configurations) < 2 or min(np.bincount(labels)) < 2:
        return None
    owners = np.array([i for i, configuration in enumerate(configurations) for _ in configuration.runs])
    every = [run.test.probabilities for configuration in configurations for run in configuration.runs]
    areas, covariance = statistics.delong(labels, every)
    means = [(owners == i) / (owners == i).sum() for i in range(len(configurations))]
    return areas, covariance, means


def _correct(entries: Sequence[PairScore] | Sequence[McNemar] | Sequence[DeLong]) -> None:
    adjusted = statistics.holm([entry["p"] for entry in entries])
    for entry, p in zip(entries, adjusted, strict=True):
        entry["p_holm"] = p
