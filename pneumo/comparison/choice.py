"""Which configuration validation prefers, and by how much the first on the test images is too high.

Bootstrap bias-corrected cross-validation (Tsamardinos et al., Machine Learning 2018): in each draw the best
configuration is chosen on the patients drawn, and scored on the patients left out. The mean of these scores
estimates what the first will score on other patients. It counts these networks' luck with these patients.
What the first owes to a lucky training is not in it: that takes several seeds.
"""

from collections.abc import Sequence

import numpy as np

from pneumo.comparison.configuration import FEW_DRAWS, Configuration
from pneumo.comparison.content import Choice, Optimism
from pneumo.evaluation import class_statistics, contrasts, statistics
from pneumo.evaluation.contrasts import Spread
from pneumo.evaluation.predictions import SplitResult
from pneumo.evaluation.statistics import LEVEL

FEWEST_DRAWS = 50  # with patients of each class left out; fewer allow no correction
DIGITS = 12  # scores that agree in so many are tied
PART = {"auroc": ("areas",), "auprc": ("areas",)}


def by_validation(ranked: Sequence[Configuration], score: str, draws: int, seed: int) -> Choice | None:
    """The configuration with the best mean validation score; of equal ones, the one with less log-loss.

    `tied` are those that validation cannot tell from it: their difference is not significant at .05, which is
    not corrected, because here it is the safe side to call few of them tied too many.
    """
    if not ranked or any(not configuration.val for configuration in ranked):
        return None
    held = [configuration.row["validation"]["scores"] for configuration in ranked]
    if any(not np.isfinite(scores[score]) for scores in held):
        return None
    order = sorted(range(len(ranked)), key=lambda i: (-held[i][score], held[i]["log_loss"], i))
    best = order[0]
    spreads = _validation_spreads(ranked, score, draws, seed)
    patients = min(
        class_statistics.counts_of(run.val.labels, run.val.patients, len(run.val.class_names)).smaller_class
        for configuration in ranked
        for run in configuration.runs
    )
    tied = []
    for i in order[1:]:
        test = contrasts.over_runs(spreads[best], spreads[i], patients) or contrasts.over_patients(
            spreads[best], spreads[i], patients
        )
        if test.p is None or test.p >= 1 - LEVEL:
            tied.append(ranked[i].row["id"])
    return {
        "id": ranked[best].row["id"],
        "score": held[best][score],
        "log_loss": held[best]["log_loss"],
        "tied": tied,
    }


def _validation_spreads(ranked: Sequence[Configuration], score: str, draws: int, seed: int) -> list[Spread]:
    """Draws of the validation patients; runs that share them get the same draws."""
    weights: dict[tuple[str, ...], statistics.Weights] = {}
    spreads = []
    for configuration in ranked:
        values, drawn = [], []
        for run in configuration.runs:
            paths = tuple(run.val.paths)
            if paths not in weights:
                once = np.ones((len(paths), 1), dtype=np.uint16)
                picked = class_statistics.resample(
                    run.val.labels, run.val.patients, len(run.val.class_names), min(draws, FEW_DRAWS), seed
                )
                weights[paths] = np.concatenate([once, picked], axis=1)
            found = class_statistics.resampled_scores(
                run.val.labels, run.val.probabilities, weights[paths], parts=PART.get(score, ("counts",))
            )[score]
            values.append(float(found[0]))
            drawn.append(found[1:])
        names = [run.split for run in configuration.runs]
        spreads.append(Spread.of(values, drawn, names, configuration.folds.get(score)))
    return spreads


def optimism(
    ranked: Sequence[Configuration], test: SplitResult, weights: statistics.Weights, score: str
) -> Optimism | None:
    """How much of the first's `score` is luck with these patients; None for one configuration alone."""
    if len(ranked) < 2:
        return None
    first = ranked[0].value(score)
    above = first - float(np.mean([configuration.value(score) for configuration in ranked]))
    drawn = weights[:, :FEW_DRAWS]
    left_out = (drawn == 0).astype(np.uint16)
    both = class_statistics.with_each_class(test.labels, left_out, len(test.class_names))
    left_out, picked = left_out[:, both], np.flatnonzero(both)
    if len(picked) < FEWEST_DRAWS:
        return {"value": None, "corrected": None, "above_mean": above, "draws": len(picked)}
    inside = np.array([configuration.draws[score][picked] for configuration in ranked])
    outside = np.array(
        [
            np.mean(
                [
                    class_statistics.resampled_scores(
                        test.labels, chances, left_out, parts=PART.get(score, ("counts",))
                    )[score]
                    for chances in configuration.tests
                ],
                axis=0,
            )
            for configuration in ranked
        ]
    )
    winners = inside.round(DIGITS).argmax(axis=0)  # rounding decides no tie
    expected = float(outside[winners, np.arange(len(picked))].mean())
    value = max(0.0, first - expected)
    return {"value": value, "corrected": first - value, "above_mean": above, "draws": len(picked)}
