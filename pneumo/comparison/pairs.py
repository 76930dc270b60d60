"""Every two configurations of a comparison: differences, tests and the verdict in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pneumo.evaluation import metrics, statistics

PAIRED = ("accuracy", "balanced_accuracy", "f1", "recall", "specificity", "auroc", "auprc", "brier")

SCORE_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "mcc": "MCC",
    "brier": "Brier",
    "log_loss": "log-loss",
    "ece": "ECE",
}


def compare(rows: Sequence[Any], labels: metrics.Ints, rank_by: str) -> list[dict[str, Any]]:
    """Every two of the comparison's rows; Holm over all pairs, for each score of its own."""
    places = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    if not places:
        return []
    owners = np.array([i for i, row in enumerate(rows) for _ in row.runs])
    enough = min(np.bincount(labels)) > 1
    every = [run.test.probabilities for row in rows for run in row.runs]
    ranking = statistics.delong(labels, every) if enough else None
    # McNemar's test takes one call an image, so here the seeds' probabilities are averaged.
    called = [row.probabilities >= 0.5 for row in rows]
    pairs: list[dict[str, Any]] = []
    for i, j in places:
        scores = {}
        for score in PAIRED:
            difference = rows[i].value(score) - rows[j].value(score)
            draws = rows[i].draws[score] - rows[j].draws[score]
            noise = statistics.with_training_noise(
                difference,
                draws,
                [run[score] for run in rows[i].per_run],
                [run[score] for run in rows[j].per_run],
            )
            scores[score] = {**statistics.compare_draws(difference, draws), "with_seeds": noise}
        only_first, only_second, p = statistics.mcnemar(labels, called[i], called[j])
        pair: dict[str, Any] = {
            "first": rows[i].facts["id"],
            "second": rows[j].facts["id"],
            "scores": scores,
            "mcnemar": {"only_first": only_first, "only_second": only_second, "p": p},
        }
        if ranking is not None:
            means = [(owners == k) / (owners == k).sum() for k in (i, j)]
            difference, p = statistics.delong_p(*ranking, means[0] - means[1])
            pair["delong"] = {"difference": difference, "p": p}
        pairs.append(pair)
    tests = [*(("scores", score) for score in PAIRED), ("mcnemar", ""), ("delong", "")]
    for kind, score in tests:
        entries = [pair[kind][score] if score else pair[kind] for pair in pairs if kind in pair]
        for entry, adjusted in zip(entries, statistics.holm([e["p"] for e in entries]), strict=True):
            entry["p_holm"] = adjusted
    names = {row.facts["id"]: row.name for row in rows}
    for pair in pairs:
        pair["verdicts"] = {
            score: statistics.verdict(
                names[pair["first"]], names[pair["second"]], SCORE_WORDS[score], pair["scores"][score]
            )
            for score in dict.fromkeys((rank_by, "accuracy", "auroc"))
            if score in PAIRED
        }
    return pairs
