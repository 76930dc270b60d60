"""What becomes of configurations on another labelled set: drops, rankings, calibration, unlike images.

The scores on the set itself are those of a comparison. Here they meet those on the runs' own test images
(pneumo.evaluation.transfer).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import (
    ConfigurationRow,
    Drop,
    ExternalRow,
    ExternalSet,
    OverlapRow,
    Result,
    ScoreInterval,
    Tau,
    UnlikeRow,
    UseRow,
    all_rows,
)
from pneumo.evaluation import class_statistics, statistics, transfer
from pneumo.evaluation.metrics import Floats
from pneumo.evaluation.predictions import SplitResult
from pneumo.evaluation.statistics import Weights
from pneumo.evaluation.transfer import Recalibrated, SetScores

AT_THRESHOLD = {"recall": "recall_at_threshold", "specificity": "specificity_at_threshold"}
MAIN = ("auroc", "accuracy", "balanced_accuracy")
LOSSES = ("brier", "log_loss")


@dataclass(kw_only=True)
class ExternalRun:
    """A run on another set: its candidate, whose `test` is that set, and what it gave on its own test images.

    `threshold` is the model's own, for uncalibrated probabilities, and None with more than two classes.
    `calibrated` are the probabilities of the other set as the model gives them to its users. `unlike` has
    True for the images that look unlike the training images. `calibration` is the model's own.
    """

    run: Candidate
    internal: SplitResult | None
    threshold: float | None
    calibrated: Floats
    calibration: dict[str, Any] | None
    unlike: NDArray[np.bool_] | None


def compare(
    result: Result,
    runs: Sequence[ExternalRun],
    *,
    name: str,
    rule: str,
    overlap: list[OverlapRow],
) -> ExternalSet:
    """The external part of `result`, which compared the runs on the other set."""
    test = runs[0].run.test
    if test.multilabel:  # the mean over the findings that one set allows is another one than on the other set
        return _without_rows(test, name, rule, overlap)
    draws, seed = result["bootstrap"]["draws"], result["bootstrap"]["seed"]
    by_id = {each.run.run_id: each for each in runs}
    sets = {"external": _Set(test, draws, seed)}
    internals = [each.internal for each in runs]
    if internals[0] is not None and all(_same(internals[0], one) for one in internals):
        sets["internal"] = _Set(internals[0], draws, seed + 1)
    scores = {
        row["id"]: _scores(sets, [by_id[run["run_id"]] for run in row["runs"]]) for row in all_rows(result)
    }
    ranked = [row for row in result["configurations"] if row["id"] in scores]
    ranks = _ranks(ranked, scores, result["rank_by"])
    again = {
        each.run.run_id: transfer.recalibrate(test.labels, each.run.test.probabilities, test.patients, rule)
        for each in runs
    }
    counts = sets["external"].counts
    return {
        "name": name,
        "rule": rule,
        "patients": len(statistics.clusters(test.labels, test.patients)[0]),
        "patients_per_class": counts.smaller_class,
        "overlap": overlap,
        "rows": {
            row["id"]: _row(
                [by_id[run["run_id"]] for run in row["runs"]],
                scores[row["id"]],
                sets["external"],
                ranks.get(row["id"]),
                row["rank"] or 0,
                again,
            )
            for row in all_rows(result)
        },
        "models": {
            each.run.run_id: {
                "threshold": each.threshold,
                "calibration": each.calibration,
                "recalibration": one.folds if (one := again[each.run.run_id]) else [],
            }
            for each in runs
        },
        "tau": _tau(ranked, scores, result["rank_by"]),
    }


def _without_rows(test: SplitResult, name: str, rule: str, overlap: list[OverlapRow]) -> ExternalSet:
    counts = class_statistics.counts_of(test.labels, test.patients, len(test.class_names))
    return {
        "name": name,
        "rule": rule,
        "patients": statistics.patients_of(test.patients, np.ones(len(test.paths))),
        "patients_per_class": counts.smaller_class,
        "overlap": overlap,
        "rows": {},
        "models": {},
        "tau": None,
    }


def _same(first: SplitResult, other: SplitResult | None) -> bool:
    return (
        other is not None
        and first.paths == other.paths
        and np.array_equal(first.labels, other.labels)
        and first.patients == other.patients
    )


class _Set:
    """A set of images with its draws of patients."""

    def __init__(self, split: SplitResult, draws: int, seed: int) -> None:
        classes = len(split.class_names)
        self.split = split
        self.labels = split.labels
        self.weights = class_statistics.resample(split.labels, split.patients, classes, draws, seed)
        self.counts = class_statistics.counts_of(split.labels, split.patients, classes)

    def scored(self, chances: Floats, threshold: float | None) -> dict[str, tuple[float, Floats]]:
        """Each score of one run, and its draws; also at its own threshold."""
        found = _with_draws(self.labels, chances, self.weights)
        if threshold is not None:
            at = _with_draws(self.labels, chances, self.weights, threshold, ("counts",))
            found |= {name: at[score] for score, name in AT_THRESHOLD.items()}
        return found


def _with_draws(
    labels: NDArray[np.int64],
    chances: Floats,
    weights: Weights,
    threshold: float = 0.5,
    parts: Sequence[str] = ("counts", "losses", "areas"),
) -> dict[str, tuple[float, Floats]]:
    score = partial(class_statistics.resampled_scores, labels, chances)
    once = score(np.ones((len(labels), 1), dtype=np.uint16), threshold, parts)
    return {name: (float(once[name][0]), draws) for name, draws in score(weights, threshold, parts).items()}


def _scores(sets: Mapping[str, _Set], runs: Sequence[ExternalRun]) -> dict[str, dict[str, SetScores]]:
    """Each score of a configuration by set: {"external": {"auroc": ...}}."""
    found = {}
    for place, one in sets.items():
        splits = [each.run.test if place == "external" else each.internal for each in runs]
        each = [
            one.scored(split.probabilities, run.threshold)
            for run, split in zip(runs, splits, strict=True)
            if split is not None
        ]
        found[place] = {
            name: SetScores(
                values=[scored[name][0] for scored in each],
                draws=np.mean([scored[name][1] for scored in each], axis=0),
                patients=one.counts.smaller_class,
            )
            for name in each[0]
        }
    return found


def _shown(scores: Mapping[str, SetScores], rank_by: str) -> list[str]:
    """The scores whose drop is shown."""
    wanted = dict.fromkeys((rank_by, *MAIN, *AT_THRESHOLD.values(), *LOSSES))
    return [name for name in wanted if name in scores]


def _row(
    runs: Sequence[ExternalRun],
    scores: Mapping[str, Mapping[str, SetScores]],
    external: _Set,
    internal_rank: int | None,
    external_rank: int,
    again: Mapping[str, Recalibrated | None],
) -> ExternalRow:
    internal = scores.get("internal", {})
    return {
        "drops": {
            name: _drop(internal.get(name), scores["external"][name])
            for name in _shown(scores["external"], "auroc")
        },
        "internal_rank": internal_rank,
        "external_rank": external_rank,
        "use": _use(runs, external, again),
        "unlike": _unlike(runs, external),
    }


def _drop(internal: SetScores | None, external: SetScores) -> Drop:
    value = float(np.mean(external.values))
    if internal is None:
        nan = float("nan")
        return {"internal": None, "external": value, "difference": None, "low": nan, "high": nan, "p": None}
    test = transfer.drop(internal, external)
    return {
        "internal": float(np.mean(internal.values)),
        "external": value,
        "difference": test.difference,
        "low": test.low,
        "high": test.high,
        "p": test.p,
    }


def _ranks(
    rows: Sequence[ConfigurationRow], scores: Mapping[str, Mapping[str, Mapping[str, SetScores]]], score: str
) -> dict[str, int]:
    """The place of each configuration on the runs' own test images."""
    known = [row["id"] for row in rows if score in scores[row["id"]].get("internal", {})]
    order = sorted(known, key=lambda one: -float(np.mean(scores[one]["internal"][score].values)))
    return {one: place for place, one in enumerate(order, start=1)}


def _tau(
    rows: Sequence[ConfigurationRow], scores: Mapping[str, Mapping[str, Mapping[str, SetScores]]], score: str
) -> Tau | None:
    each = [scores[row["id"]] for row in rows]
    if len(each) < 2 or not all("internal" in one for one in each):
        return None

    def means(place: str) -> Floats:
        return np.array([[np.mean(one[place][score].values)] for one in each])

    def draws(place: str) -> Floats:
        return np.array([one[place][score].draws for one in each])

    internal, external = draws("internal"), draws("external")
    count = min(internal.shape[1], external.shape[1])
    low, high = transfer.tau_interval(transfer.tau(internal[:, :count], external[:, :count]))
    value = float(transfer.tau(means("internal"), means("external"))[0])
    return {"value": value, "low": low, "high": high, "configurations": len(each)}


def _use(runs: Sequence[ExternalRun], external: _Set, again: Mapping[str, Recalibrated | None]) -> UseRow:
    """Losses of the probabilities as users get them and after recalibration; of two classes the calls too."""
    used = [_of_use(external, run.calibrated, run.run.test.probabilities, run.threshold) for run in runs]
    found = [again[run.run.run_id] for run in runs]
    after = [_of_use(external, one.probabilities, one.called, 0.5) for one in found if one is not None]
    return {
        "used": _mean(used, external.counts),
        "recalibrated": _mean(after, external.counts) if len(after) == len(runs) else {},
    }


def _of_use(
    one: _Set, calibrated: Floats, chances: Floats | None, threshold: float | None
) -> dict[str, tuple[float, Floats]]:
    found = _with_draws(one.labels, calibrated, one.weights, parts=("losses",))
    kept = {name: found[name] for name in LOSSES}
    if threshold is not None and chances is not None:
        at = _with_draws(one.labels, chances, one.weights, threshold, ("counts",))
        kept |= {score: at[score] for score in AT_THRESHOLD}
    return kept


def _mean(
    runs: Sequence[Mapping[str, tuple[float, Floats]]], counts: statistics.Counts
) -> dict[str, ScoreInterval]:
    """The runs' mean scores with intervals over the patients of `counts`."""
    if not runs:
        return {}
    found: dict[str, ScoreInterval] = {}
    for name in runs[0]:
        value = float(np.mean([run[name][0] for run in runs]))
        least = min(len(run[name][1]) for run in runs)  # draws that lack a class are left out
        draws = np.mean([run[name][1][:least] for run in runs], axis=0)
        low, high = statistics.interval(name, value, draws, counts)
        found[name] = {"value": value, "low": low, "high": high}
    return found


def _unlike(runs: Sequence[ExternalRun], external: _Set) -> UnlikeRow | None:
    masks = [each.unlike for each in runs if each.unlike is not None]
    if len(masks) < len(runs) or external.split.many:
        return None
    every, without, counts = [], [], []
    for each, unlike in zip(runs, masks, strict=True):
        every.append(_at_threshold(each, external.labels, external.weights, slice(None)))
        kept = ~unlike
        truth = external.labels[kept]
        if not 0 < truth.sum() < len(truth):
            continue
        weights = external.weights[kept]
        both = weights[truth == 1].any(axis=0) & weights[truth == 0].any(axis=0)
        without.append(_at_threshold(each, truth, weights[:, both], kept))
        people = [name for name, left in zip(external.split.patients, kept, strict=True) if left]
        counts.append(statistics.PatientCounts.of(truth, people))
    fewest = min(counts, key=lambda one: one.all, default=None)
    return {
        "share": float(np.mean([mask.mean() for mask in masks])),
        "every": _mean(every, external.counts),
        "without": _mean(without, fewest) if fewest and len(without) == len(runs) else {},
    }


def _at_threshold(
    each: ExternalRun, truth: NDArray[np.int64], weights: Weights, rows: slice | NDArray[np.bool_]
) -> dict[str, tuple[float, Floats]]:
    chances = each.run.test.probabilities[rows]
    found = {"auroc": _with_draws(truth, chances, weights, parts=("areas",))["auroc"]}
    assert each.threshold is not None
    at = _with_draws(truth, chances, weights, each.threshold, ("counts",))
    return found | {score: at[score] for score in AT_THRESHOLD}
