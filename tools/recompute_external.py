"""What a comparison on another labelled set adds to a comparison, for tools/recompute.py."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import recompute_classes as classes
from recompute import (
    Check,
    count_scores,
    draw_scores,
    draw_weights,
    interval,
    patient_counts,
    scores,
    thresholds,
)
from scipy import stats

AT_THRESHOLD = {"recall_at_threshold": "recall", "specificity_at_threshold": "specificity"}


def use(files: dict[str, dict[str, Any]], name: str, artifacts: Path, read: Any) -> None:
    """Put the other set in the place of each run's test images, which become `own`."""
    for folder in artifacts.rglob(f"external/{name}"):
        run = folder.parent.parent.parent.name
        if run not in files or not (folder / "predictions.csv").is_file():
            continue
        held = files[run]
        held["own"], held["test"] = held.get("test"), read(folder / "predictions.csv")
        held["facts"] = json.loads((folder / "scores.json").read_text())


class Set:
    """Images with their draws: of two classes, or of more."""

    def __init__(self, table: pd.DataFrame, draws: int, seed: int, names: list[str] | None) -> None:
        self.table, self.names, self.y = table, names, table.label.to_numpy()
        if names:
            self.w = classes.draw_weights(table, draws, seed, len(names))
            people = [len(set(self.people()[self.y == label])) for label in range(len(names))]
            self.least = min(people)
        else:
            self.w = draw_weights(table, draws, seed)
            self.counts = patient_counts(self.y, table.patient)
            self.least = min(self.counts["normal"], self.counts["ill"])

    def people(self) -> np.ndarray:
        return np.array([patient or f"row {row}" for row, patient in enumerate(self.table.patient)])

    def scored(self, table: pd.DataFrame, cut: float | None) -> dict[str, tuple[float, np.ndarray]]:
        if self.names:
            p = table[classes.columns(self.names)].to_numpy()
            single, drawn = classes.scores(self.y, p), classes.draw_scores(self.y, p, self.w)
            return {name: (single[name], drawn[name]) for name in single if name in drawn}
        p = table.probability.to_numpy()
        single, drawn = scores(self.y, p), draw_scores(self.y, p, self.w)
        found = {name: (single[name], drawn[name]) for name in single}
        at, at_draws = scores(self.y, p, cut or 0.5), count_scores(self.y, p, self.w, cut or 0.5)
        return found | {key: (at[name], at_draws[name]) for key, name in AT_THRESHOLD.items()}


def calibrated(p: np.ndarray, record: dict[str, Any]) -> np.ndarray:
    """Probabilities after a calibration that the page gives."""
    if record["kind"] == "isotonic":
        return np.interp(p, record["scores"], record["chances"])
    if p.ndim == 2:
        powers = np.maximum(p, 1e-12) ** record["slope"] * np.exp(record["bias"])
        return powers / powers.sum(axis=1, keepdims=True)
    kept = np.log(np.maximum(p, 1e-12)) - np.log(np.maximum(1 - p, 1e-12))
    return stats.logistic.cdf(record["slope"] * kept + record["bias"][-1] - record["bias"][0])


def folds_of(one: Set) -> np.ndarray:
    """The fold of each image: patients in the order of their strata and names, dealt out to five folds."""
    names = [patient or f"\x00row {row:09d}" for row, patient in enumerate(one.table.patient)]
    held = pd.Series(one.y).groupby(names).agg(lambda labels: frozenset(labels))
    several = max(2, int(one.y.max()) + 1)
    order = sorted(held.index, key=lambda n: (several if len(held[n]) > 1 else min(held[n]), n))
    return pd.Series(np.arange(len(order)) % 5, index=order).loc[names].to_numpy()


def check(same: Check, page: dict[str, Any], files: dict[str, dict[str, Any]]) -> None:
    """Drops, rankings, calibration and unlike images on the other set."""
    external, names = page["external"], page.get("class_names")
    if "findings" in page or not external["rows"]:
        return
    draws, seed = page["bootstrap"]["draws"], page["bootstrap"]["seed"]
    some = next(iter(page["configurations"] + page["optimistic"]))["runs"][0]["run_id"]
    there = Set(files[some]["test"], draws, seed, names)
    own = files[some]["own"]
    here = Set(own, draws, seed + 1, names) if own is not None else None
    same("patients of a class", external["patients_per_class"], there.least)
    means: dict[str, list[dict[str, Any]]] = {"own": [], "there": []}
    for row in page["configurations"] + page["optimistic"]:
        means_of = means if row["rank"] else None
        facts = external["rows"][row["id"]]
        held = [files[run["run_id"]] for run in row["runs"]]
        models = [external["models"][run["run_id"]] for run in row["runs"]]
        for each, model in zip(held, models, strict=True):
            if model["threshold"] is not None:
                cut = thresholds_of(each["val"], external["rule"])
                same("own threshold", model["threshold"], cut)
        scored = [there.scored(h["test"], m["threshold"]) for h, m in zip(held, models, strict=True)]
        before = (
            [here.scored(h["own"], m["threshold"]) for h, m in zip(held, models, strict=True)] if here else []
        )
        for name, entry in facts["drops"].items():
            check_drop(same, f"{row['name']} {name}", entry, scored, before, there, here, name)
        if means_of is not None and before:
            score = page["rank_by"]
            for key, parts in (("own", before), ("there", scored)):
                means_of[key].append(
                    {
                        "value": np.mean([part[score][0] for part in parts]),
                        "draws": np.mean([part[score][1] for part in parts], axis=0),
                    }
                )
        check_use(same, row["name"], facts["use"], there, held, models, external["rule"])
        if facts["unlike"] is not None:
            check_unlike(same, row["name"], facts["unlike"], there, held, models)
    check_tau(same, external["tau"], means)


def thresholds_of(val: pd.DataFrame, rule: str) -> float:
    return thresholds(val.label.to_numpy(), val.probability.to_numpy())[rule]


def check_drop(
    same: Check,
    where: str,
    entry: dict[str, Any],
    scored: list[dict[str, Any]],
    before: list[dict[str, Any]],
    there: Set,
    here: Set | None,
    name: str,
) -> None:
    values = np.array([part[name][0] for part in scored])
    same(f"{where} there", entry["external"], values.mean())
    if here is None:
        assert entry["internal"] is None
        return
    own = np.array([part[name][0] for part in before])
    same(f"{where} own", entry["internal"], own.mean())
    difference = values - own
    same(f"{where} difference", entry["difference"], difference.mean())
    parts, freedoms = [], []
    for one, runs in ((here, before), (there, scored)):
        mean = np.mean([part[name][1] for part in runs], axis=0)
        parts.append(np.var(mean, ddof=1) * (one.least / (one.least - 1) if one.least > 1 else 1))
        freedoms.append(max(1, one.least - 1))
    if len(difference) > 1:
        parts.append(np.var(difference, ddof=1) / len(difference))
        freedoms.append(len(difference) - 1)
    error = math.sqrt(sum(parts))
    if error <= 1e-12:
        assert entry["p"] is None
        return
    free = sum(parts) ** 2 / sum(p**2 / f for p, f in zip(parts, freedoms, strict=True))
    law = stats.t(free) if len(difference) > 1 else stats.norm()
    half = law.ppf(0.975) * error
    same(f"{where} interval", (entry["low"], entry["high"]), difference.mean() + np.array([-half, half]))
    same(f"{where} p", entry["p"], 2 * law.sf(abs(difference.mean()) / error))


def check_tau(same: Check, entry: dict[str, Any] | None, means: dict[str, list[dict[str, Any]]]) -> None:
    if entry is None:
        assert len(means["own"]) < 2
        return
    one, other = ([row["value"] for row in means[key]] for key in ("own", "there"))
    same("tau", entry["value"], stats.kendalltau(one, other).statistic)
    a, b = (np.array([row["draws"] for row in means[key]]) for key in ("own", "there"))
    count = min(a.shape[1], b.shape[1])
    each = np.array([stats.kendalltau(a[:, draw], b[:, draw]).statistic for draw in range(count)])
    each = each[np.isfinite(each)]
    same("tau's interval", (entry["low"], entry["high"]), np.quantile(each, (0.025, 0.975)))


def losses(one: Set, p: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    eps = np.finfo(float).eps
    if p.ndim == 2:
        truth = np.eye(p.shape[1])[one.y]
        brier = ((p - truth) ** 2).sum(axis=1)
        # As scikit-learn: clipped, and rows with the sum 1.
        kept = np.clip(p, eps, 1 - eps)
        kept = kept / kept.sum(axis=1, keepdims=True)
        log_loss = -np.log(kept[np.arange(len(one.y)), one.y])
    else:
        brier = (p - one.y) ** 2
        kept = np.clip(p, eps, 1 - eps)
        log_loss = -np.log(np.where(one.y == 1, kept, 1 - kept))
    total = one.w.sum(axis=0)
    return {
        name: (each.mean(), each @ one.w / total) for name, each in (("brier", brier), ("log_loss", log_loss))
    }


def check_use(
    same: Check,
    where: str,
    entry: dict[str, Any],
    there: Set,
    held: list[dict[str, Any]],
    models: list[dict[str, Any]],
    rule: str,
) -> None:
    """The losses as used and recalibrated, and of two classes the calls."""
    columns = classes.columns(there.names) if there.names else "probability"
    fold = folds_of(there)
    used, again = [], []
    for each, model in zip(held, models, strict=True):
        p = each["test"][columns].to_numpy()
        found = losses(there, calibrated(p, model["calibration"]))
        if model["threshold"] is not None:
            found |= calls(there, p >= model["threshold"])
        used.append(found)
        if not model["recalibration"]:
            continue
        after, called = np.empty_like(p), np.zeros(len(p), dtype=bool)
        for number, record in enumerate(model["recalibration"]):
            out = fold == number
            after[out] = calibrated(p[out], record)
            if model["threshold"] is not None:
                cut = thresholds_of(each["test"][~out], rule)
                called[out] = p[out] >= cut
        found = losses(there, after)
        if model["threshold"] is not None:
            found |= calls(there, called)
        again.append(found)
    for key, runs in (("used", used), ("recalibrated", again)):
        assert bool(entry[key]) == bool(runs)
        check_means(same, f"{where} {key}", entry[key], runs, there)


def calls(one: Set, called: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    p = called.astype(float)
    at, drawn = scores(one.y, p), count_scores(one.y, p, one.w, 0.5)
    return {name: (at[name], drawn[name]) for name in ("recall", "specificity")}


def check_means(
    same: Check,
    where: str,
    entry: dict[str, Any],
    runs: list[dict[str, tuple[float, np.ndarray]]],
    one: Set,
    counts: dict[str, int] | None = None,
) -> None:
    for name, given in entry.items():
        mean = float(np.mean([run[name][0] for run in runs]))
        same(f"{where} {name}", given["value"], mean)
        least = min(len(run[name][1]) for run in runs)
        drawn = np.mean([run[name][1][:least] for run in runs], axis=0)
        if one.names:
            spread = math.exp(
                stats.norm.ppf(0.975)
                * math.sqrt(np.var(np.log(drawn), ddof=1) * one.least / max(1, one.least - 1))
            )
            ends = (mean / spread, mean * spread)
        else:
            ends = interval(name, mean, drawn, counts or one.counts, 0)
        same(f"{where} {name} interval", (given["low"], given["high"]), ends)


def check_unlike(
    same: Check,
    where: str,
    entry: dict[str, Any],
    there: Set,
    held: list[dict[str, Any]],
    models: list[dict[str, Any]],
) -> None:
    """The share of unlike images, and the scores with and without them."""
    share, every, without, counts = [], [], [], []
    for each, model in zip(held, models, strict=True):
        unlike = np.zeros(len(there.y), dtype=bool)
        unlike[each["facts"]["unlike"]] = True
        share.append(unlike.mean())
        p = each["test"].probability.to_numpy()
        for kept, target in ((np.ones(len(unlike), dtype=bool), every), (~unlike, without)):
            y, w = there.y[kept], there.w[kept]
            if len(set(y)) < 2:
                continue
            w = w[:, (w[y == 1] > 0).any(axis=0) & (w[y == 0] > 0).any(axis=0)]
            single, drawn = scores(y, p[kept]), draw_scores(y, p[kept], w)
            at = scores(y, p[kept], model["threshold"])
            at_draws = count_scores(y, p[kept], w, model["threshold"])
            target.append(
                {"auroc": (single["auroc"], drawn["auroc"])}
                | {name: (at[name], at_draws[name]) for name in ("recall", "specificity")}
            )
            if target is without:
                counts.append(patient_counts(y, there.table.patient[kept]))
    same(f"{where} unlike", entry["share"], np.mean(share))
    check_means(same, f"{where} with unlike", entry["every"], every, there)
    if entry["without"]:
        fewest = min(counts, key=lambda one: one["all"])
        check_means(same, f"{where} without unlike", entry["without"], without, there, fewest)
