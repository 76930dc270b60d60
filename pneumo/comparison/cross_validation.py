"""What the folds of cross-validations give: scores by fold, their interval, and what is chosen on them."""

from collections.abc import Sequence

import numpy as np

from pneumo.comparison.candidates import Candidate
from pneumo.comparison.configuration import Configuration
from pneumo.comparison.content import (
    CrossValidated,
    CrossValidation,
    EnsembleTest,
    FoldRow,
    ScoreInterval,
)
from pneumo.comparison.out_of_fold import fold_of
from pneumo.evaluation import class_statistics, metrics, statistics
from pneumo.evaluation.contrasts import FoldScores, Test
from pneumo.evaluation.predictions import SplitResult


def summary(ranked: Sequence[Configuration], score: str, draws: int, seed: int) -> CrossValidation | None:
    """The cross-validations among `ranked`, in the score that ranks; None without any."""
    folded = [each for each in ranked if each.runs[0].parts]
    if not folded:
        return None
    first = folded[0].runs[0]
    return {
        "folds": len(first.parts),
        "images": len(first.val.paths),
        "patients": first.val.patient_count,
        "scored": not first.on_validation,
        "rows": [_row(each, score, draws, seed) for each in folded],
    }


def _row(configuration: Configuration, score: str, draws: int, seed: int) -> CrossValidated:
    held, folds = configuration.row["validation"]["scores"], configuration.folds[score]
    return {
        "id": configuration.row["id"],
        "score": _interval(score, held[score], folds),
        "log_loss": held["log_loss"],
        "sd": float(np.std([*folds.values.values()], ddof=1)) if len(folds.values) > 1 else None,
        "thresholds": [_thresholds(run) for run in configuration.runs],
        "networks": [
            _network(run.seed, part, configuration.by_network[part.run_id][score])
            for run in configuration.runs
            for part in run.parts
        ],
        "on_test": [
            _on_test(run, run.ensemble, score, draws, seed)
            for run in configuration.runs
            if run.ensemble is not None
        ],
    }


def _thresholds(run: Candidate) -> dict[str, float]:
    """By rule; of more than two classes none, because the most probable one is called."""
    return {} if run.val.many else metrics.operating_points(run.val.labels, run.val.probabilities)


def _on_test(run: Candidate, test: SplitResult, score: str, draws: int, seed: int) -> EnsembleTest:
    """Thresholds come from the out-of-fold predictions; the labels of `test` only score."""
    classes = len(test.class_names)
    weights = class_statistics.resample(test.labels, test.patients, classes, draws, seed)
    drawn = class_statistics.resampled_scores(test.labels, test.probabilities, weights)
    scored = test.scores() if test.many else metrics.all_scores(test.labels, test.probabilities)
    counts = class_statistics.counts_of(test.labels, test.patients, classes)

    def interval(name: str) -> ScoreInterval:
        low, high = statistics.interval(name, scored[name], drawn[name], counts)
        return {"value": scored[name], "low": low, "high": high}

    chosen = _thresholds(run)
    at = {rule: metrics.scores(test.labels, test.probabilities, cut) for rule, cut in chosen.items()}
    return {
        "seed": run.seed,
        "score": interval(score),
        "accuracy": interval("accuracy"),
        "at_thresholds": {
            rule: {key: found[key] for key in ("recall", "specificity")} for rule, found in at.items()
        },
    }


def _interval(score: str, value: float, folds: FoldScores) -> ScoreInterval:
    """95 % interval over the folds of a pooled score."""
    over = Test.of(value, *folds.error())
    least = -1.0 if score in ("mcc", "kappa") else 0.0
    return {
        "value": value,
        "low": float(np.clip(over.low, least, 1)),
        "high": float(np.clip(over.high, least, 1)),
    }


def _network(seed: int, part: Candidate, score: float) -> FoldRow:
    return {
        "seed": seed,
        "fold": fold_of(part),
        "run_id": part.run_id,
        "name": part.name,
        "epoch": part.epoch,
        "temperature": part.temperature,
        "images": len(part.val.paths),
        "score": score,
    }
