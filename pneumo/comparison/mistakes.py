"""The test images that the first configuration gets wrong, to be looked at."""

from collections.abc import Sequence

import numpy as np

from pneumo.comparison.configuration import Configuration
from pneumo.comparison.content import Mistake
from pneumo.evaluation import multiclass, multilabel
from pneumo.evaluation.predictions import SplitResult

MOST = 10
MOST_OF_MANY, MOST_OF_A_KIND = 24, 2  # of more than two classes; a kind is a true and a called class


def of_first(ranked: Sequence[Configuration], test: SplitResult) -> list[Mistake]:
    """The images that the first of `ranked` gets wrong with the most confidence."""
    if test.multilabel:
        return _of_findings(ranked, test)
    return _of_classes(ranked, test) if test.many else _of_two(ranked, test)


def _of_two(ranked: Sequence[Configuration], test: SplitResult) -> list[Mistake]:
    """The first configuration's most confident mistakes at probability 0.5, its seeds averaged."""
    chances = ranked[0].probabilities
    wrong = (chances >= 0.5) != (test.labels == 1)
    order = [int(i) for i in np.argsort(-np.abs(chances - 0.5), kind="stable") if wrong[i]]
    runs = [run for configuration in ranked for run in configuration.runs]
    return [
        {
            "path": test.paths[i],
            "patient": test.patients[i],
            "label": int(test.labels[i]),
            "probability": float(chances[i]),
            "wrong_in": sum(int((run.test.probabilities[i] >= 0.5) != test.labels[i]) for run in runs),
            "of": len(runs),
        }
        for i in order[:MOST]
    ]


def _of_classes(ranked: Sequence[Configuration], test: SplitResult) -> list[Mistake]:
    """The first configuration's most confident mistakes, its seeds averaged, by true and called class.

    At most MOST_OF_A_KIND of each pair of classes, and of these the MOST_OF_MANY most confident.
    """
    chances = ranked[0].probabilities
    called, top = multiclass.called_of(chances), chances.max(axis=1)
    runs = [run for configuration in ranked for run in configuration.runs]
    wrong = np.sum([multiclass.called_of(run.test.probabilities) != test.labels for run in runs], axis=0)
    kinds: dict[tuple[int, int], list[int]] = {}
    for i in np.argsort(-top, kind="stable").tolist():
        if called[i] != test.labels[i]:
            kinds.setdefault((int(test.labels[i]), int(called[i])), []).append(i)
    first = [i for mine in kinds.values() for i in mine[:MOST_OF_A_KIND]]
    kept = sorted(first, key=lambda i: (-top[i], i))[:MOST_OF_MANY]
    return [
        {
            "path": test.paths[i],
            "patient": test.patients[i],
            "label": int(test.labels[i]),
            "called": int(called[i]),
            "probability": float(top[i]),
            "own_probability": float(chances[i, test.labels[i]]),
            "wrong_in": int(wrong[i]),
            "of": len(runs),
        }
        for i in sorted(kept, key=lambda i: (test.labels[i], called[i], -top[i], i))
    ]


def _of_findings(ranked: Sequence[Configuration], test: SplitResult) -> list[Mistake]:
    """The first configuration's most confident mistakes, its seeds averaged, by finding: missed or wrong.

    At most MOST_OF_A_KIND of each finding and kind, and of these the MOST_OF_MANY most confident.
    """
    chances = ranked[0].probabilities
    runs = [run for configuration in ranked for run in configuration.runs]
    every = np.stack([run.test.probabilities >= 0.5 for run in runs])
    wrong = ((chances >= 0.5) != test.labels) & (test.labels != multilabel.UNKNOWN)
    first = [
        (i, k)
        for k in range(len(test.class_names))
        for label in (1, 0)
        for i in sorted(
            np.flatnonzero(wrong[:, k] & (test.labels[:, k] == label)).tolist(),
            key=lambda i: (-abs(chances[i, k] - 0.5), i),
        )[:MOST_OF_A_KIND]
    ]
    kept = sorted(first, key=lambda place: (-abs(chances[place] - 0.5), place))[:MOST_OF_MANY]
    return [
        {
            "path": test.paths[i],
            "patient": test.patients[i],
            "label": int(test.labels[i, k]),
            "finding": test.class_names[k],
            "probability": float(chances[i, k]),
            "wrong_in": int((every[:, i, k] != test.labels[i, k]).sum()),
            "of": len(runs),
        }
        for i, k in sorted(kept, key=first.index)
    ]
