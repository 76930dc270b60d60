"""Cross-validation in a comparison: the fold runs of a configuration become one candidate.

Each image outside test has one prediction of the network that was not trained on it: these are pooled, after
each network's temperature from its own fold. Where the networks were scored on test, the mean of their
calibrated probabilities is the prediction there: one ensemble.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import EpochScores, LeftOut
from pneumo.evaluation import metrics, multiclass
from pneumo.evaluation.contrasts import FoldScores
from pneumo.evaluation.predictions import SplitResult
from pneumo.fingerprint import value_of

FOLD = "data.fold"
Scorer = Callable[[metrics.Ints, metrics.Floats], dict[str, float]]
# The command that trains these folds of a saved configuration.
Command = Callable[[dict[str, Any], Sequence[int]], str]


def pool(candidates: Sequence[Candidate], command: Command) -> tuple[list[Candidate], list[LeftOut]]:
    """`candidates` with the folds of each cross-validation as one; and those left out, with the reason.

    A cross-validation is the runs that differ in data.fold alone. One that lacks folds is left out, with the
    command that trains them.
    """
    kept: list[Candidate] = []
    left: list[LeftOut] = []
    groups: dict[tuple[Any, ...], dict[int, Candidate]] = {}
    for run in sorted(candidates, key=lambda run: run.started_ms):
        if run.config.get("data.val_protocol") != "fold":
            kept.append(run)
            continue
        shared = sorted((key, repr(value)) for key, value in run.config.items() if key != FOLD)
        group = groups.setdefault((run.protocol, run.seed, run.pool, run.test_set, *shared), {})
        fold = fold_of(run)
        if fold in group:
            left.append({"run": group[fold].name, "reason": "the same run was made again later"})
        group[fold] = run
    for group in groups.values():
        parts = [group[fold] for fold in sorted(group)]
        folds = folds_of(parts[0])
        missing = [fold for fold in range(folds) if fold not in group]
        if missing:
            reason = f"{_folds(missing)} of {folds} {'is' if len(missing) == 1 else 'are'} missing. "
            reason += f"Train: {command(parts[0].saved, missing)}"
            left.append({"run": f"{parts[0].name} ({_folds(sorted(group))} of {folds})", "reason": reason})
        elif len({path for part in parts for path in part.val.paths}) < sum(
            len(part.val.paths) for part in parts
        ):
            left.append({"run": parts[0].name, "reason": "its folds validate the same images"})
        else:
            kept.append(_joined(parts))
    return kept, left


def fold_of(run: Candidate) -> int:
    """The fold that the run validates."""
    return int(value_of(run.config, FOLD) or 0)


def folds_of(run: Candidate) -> int:
    """How many folds the run's cross-validation has."""
    return int(value_of(run.config, "data.folds"))


def temperature(part: Candidate) -> float | list[float]:
    """The temperature of a fold's network (of each finding), from the images of its fold."""
    return multiclass.temperature_of(part.val.labels, part.val.probabilities)


def calibrated(part: Candidate, split: SplitResult) -> np.ndarray:
    """The probabilities in `split` of a fold's network, after its temperature."""
    return multiclass.tempered_of(split.probabilities, temperature(part))


def by_network(runs: Sequence[Candidate], score: Scorer) -> dict[str, dict[str, float]]:
    """The scores of each fold's network on its fold, by run id."""
    return {part.run_id: score(part.val.labels, part.val.probabilities) for run in runs for part in run.parts}


def by_fold(runs: Sequence[Candidate], scores: Mapping[str, Mapping[str, float]]) -> dict[str, FoldScores]:
    """Each score by fold, from the `scores` of the networks; empty unless all runs are cross-validations."""
    parts = [part for run in runs for part in run.parts]
    if not parts or not all(run.parts for run in runs):
        return {}
    names, folds = [part.split for part in parts], len(runs[0].parts)
    return {
        score: FoldScores.of(names, [scores[part.run_id][score] for part in parts], folds)
        for score in scores[parts[0].run_id]
    }


def _folds(numbers: Sequence[int]) -> str:
    words = [str(number) for number in numbers]
    return f"fold {words[0]}" if len(words) == 1 else f"folds {', '.join(words[:-1])} and {words[-1]}"


def _joined(parts: Sequence[Candidate]) -> Candidate:
    """One candidate of all folds: out-of-fold predictions, and the ensemble's where test was scored."""
    first = parts[0]
    own = [
        replace(
            part,
            val=replace(part.val, probabilities=calibrated(part, part.val)),
            temperature=temperature(part),
        )
        for part in parts
    ]
    val = _concatenated([part.val for part in own])
    test = val
    scored = all(part.scored for part in parts) and len({tuple(part.test.paths) for part in parts}) == 1
    if scored:
        each = [calibrated(part, part.test) for part in parts]
        test = replace(first.test, probabilities=np.mean(each, axis=0))
    digest = hashlib.sha256(" ".join(part.fingerprint or part.run_id for part in parts).encode()).hexdigest()
    notes = {note for part in parts for note in part.notes}
    for what in ("commit", "device", "precision"):
        if len({getattr(part, what) for part in parts} - {None}) > 1:
            notes.add(f"Some folds of one cross-validation have another {what} than others.")
    return replace(
        first,
        name=f"{len(parts)} folds, seed {first.seed}",
        config={key: value for key, value in first.config.items() if key != FOLD},
        digest=first.pool or first.digest,
        test=test,
        ensemble=test if scored else None,
        val=val,
        scored=scored,
        fingerprint=digest,
        started_ms=max(part.started_ms for part in parts),
        epoch=None,
        history=_mean_history(parts),
        notes=sorted(notes),
        weights_bytes=sum(part.weights_bytes or 0 for part in parts) or None,
        measured=_means([part.measured for part in parts]),
        images=_pooled_sizes([part.images for part in parts]),
        patients=_pooled_patients([part.patients for part in parts]),
        parts=own,
    )


def _concatenated(splits: Sequence[SplitResult]) -> SplitResult:
    """The images of all splits, sorted by path, so that every configuration has the same order."""
    paths = [path for split in splits for path in split.paths]
    patients = [patient for split in splits for patient in split.patients]
    order = sorted(range(len(paths)), key=paths.__getitem__)
    shared = set.intersection(*({*split.subgroups} for split in splits))
    subgroups = {
        name: [value for split in splits for value in split.subgroups[name]]
        for name in splits[0].subgroups
        if name in shared
    }
    return SplitResult(
        paths=[paths[i] for i in order],
        patients=[patients[i] for i in order],
        labels=np.concatenate([split.labels for split in splits])[order],
        probabilities=np.concatenate([split.probabilities for split in splits])[order],
        class_names=splits[0].class_names,
        subgroups={name: [values[i] for i in order] for name, values in subgroups.items()},
    )


def _mean_history(parts: Sequence[Candidate]) -> list[EpochScores]:
    """The mean of the folds by epoch, as far as all of them were trained."""
    rows = zip(*(part.history for part in parts), strict=False)
    return [_means(row) for row in rows if len({epoch.get("epoch") for epoch in row}) == 1]


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure that all rows have."""
    keys = [key for key in rows[0] if all(row.get(key) is not None for row in rows)]
    return {key: rows[0][key] if key == "epoch" else fmean(row[key] for row in rows) for key in keys}


def _pooled_sizes(each: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Sizes of the folds together, as `val`, and of test. Each fold is in the train of the others."""
    if not all(sizes.get("val") and sizes.get("test") for sizes in each):
        return {}
    val = {key: sum(sizes["val"].get(key, 0) for sizes in each) for key in each[0]["val"]}
    return {"val": val, "test": each[0]["test"]}


def _pooled_patients(each: Sequence[dict[str, int]]) -> dict[str, int]:
    """As `_pooled_sizes`, patients."""
    if not all("val" in people and "test" in people for people in each):
        return {}
    return {"val": sum(people["val"] for people in each), "test": each[0]["test"]}
