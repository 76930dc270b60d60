"""What a comparison on another labelled set adds to a comparison, for tools/recompute.py."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import recompute_classes as classes
from recompute import (
    Check,
    Z,
    areas,
    count_scores,
    draw_scores,
    draw_weights,
    interval,
    patient_counts,
    scores,
    thresholds,
)
from scipy import optimize, stats

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
            single, (drawn, _) = classes.scores(self.y, p), classes.draw_scores(self.y, p, self.w)
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
    check_subgroups(same, page, files, there)


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


# ---- subgroups


def members(column: str, group: str, table: pd.DataFrame) -> np.ndarray:
    """Which images are in a group of a column, from the group's name: `under 18`, `30-39`, `F`."""
    if "*" in column:
        each = zip(column.split("*"), group.split(", "), strict=True)
        return np.logical_and.reduce([members(one, name, table) for one, name in each])
    texts = table[column].astype(str).str.strip()
    numbers = pd.to_numeric(texts.str.upper().str.removesuffix("Y"), errors="coerce")
    if found := re.fullmatch(r"under (\d+)", group):
        return (numbers < float(found[1])).to_numpy()
    if found := re.fullmatch(r"(\d+)-(\d+)", group):
        return ((numbers >= float(found[1])) & (numbers < float(found[2]) + 1)).to_numpy()
    if found := re.fullmatch(r"(\d+) and over", group):
        return (numbers >= float(found[1])).to_numpy()
    return (texts == group).to_numpy()


class Side:
    """A group, or the others of its column: its scores, their draws, and the patients behind them."""

    def __init__(self, one: Set, rows: np.ndarray, held: list[np.ndarray], cuts: list[float]) -> None:
        y, w = one.y[rows], one.w[rows]
        people = one.people()[rows]
        self.normal, self.ill = (len(set(people[y == label])) for label in (0, 1))
        self.all, self.images = len(set(people)), int(rows.sum())
        called = np.mean([p[rows] >= cut for p, cut in zip(held, cuts, strict=True)], axis=0)

        def share(hits: np.ndarray, of: np.ndarray) -> tuple[float, np.ndarray]:
            with np.errstate(invalid="ignore", divide="ignore"):
                return hits[of].sum() / of.sum(), (hits[of] @ w[of]) / w[of].sum(axis=0)

        both = (w[y == 1] > 0).any(axis=0) & (w[y == 0] > 0).any(axis=0)
        drawn = np.full(w.shape[1], np.nan)
        drawn[both] = np.mean([areas(y, p[rows], w[:, both])[0] for p in held], axis=0)
        once = np.mean([areas(y, p[rows], np.ones((len(y), 1)))[0] for p in held])
        every = np.ones(len(y), dtype=bool)
        self.scores = {
            "recall": (*share(called, y == 1), self.ill, self.ill),
            "specificity": (*share(1 - called, y == 0), self.normal, self.normal),
            "auroc": (once, drawn, min(self.normal, self.ill), 4 / (1 / self.normal + 1 / self.ill)),
            "called": (*share(called, every), self.all, self.all),
        }

    def ends(self, score: str, z: float) -> tuple[float, float]:
        """Wilson's interval at the quantile z, by solving for the shares that are just not excluded."""
        p, draws, least, most = self.scores[score]
        draws = draws[np.isfinite(draws)]
        variance = np.var(draws, ddof=1) * (least / (least - 1) if least > 1 else 1)
        n = min(most, p * (1 - p) / variance) if variance > 1e-15 and 0 < p < 1 else most
        roots = np.sort(np.roots([1 + z**2 / n, -(2 * p + z**2 / n), p**2]).real)
        exact = 2 * stats.norm.sf(z) if z != Z else 0.05
        low = min(roots[0], exact ** (1 / n)) if p >= 1 else max(0.0, roots[0])
        high = max(roots[1], 1 - exact ** (1 / n)) if p <= 0 else min(1.0, roots[1])
        return (0.0, high) if p <= 0 else (low, 1.0) if p >= 1 else (low, high)


def newcombe(one: Side, other: Side, score: str, z: float) -> tuple[float, float]:
    """The interval of a difference from those of both sides, whose draws are correlated."""
    (p, of_p, *_), (q, of_q, *_) = one.scores[score], other.scores[score]
    both = np.isfinite(of_p) & np.isfinite(of_q)
    varied = min(of_p[both].std(), of_q[both].std()) > 0
    r = np.corrcoef(of_p[both], of_q[both])[0, 1] if varied else 0.0
    (low_p, high_p), (low_q, high_q) = one.ends(score, z), other.ends(score, z)

    def half(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a**2 - 2 * r * a * b + b**2))

    return p - q - half(p - low_p, high_q - q), p - q + half(high_p - p, q - low_q)


def check_subgroups(same: Check, page: dict[str, Any], files: dict[str, dict[str, Any]], one: Set) -> None:
    """The scores of groups of patients and their gaps, of two classes."""
    external = page["external"]
    found = external.get("subgroups")
    if found is None or one.names:
        return
    rows = page["configurations"] + page["optimistic"]
    runs = next(row for row in rows if row["name"] == external["subgroups_of"])["runs"]
    held = [files[run["run_id"]]["test"].probability.to_numpy() for run in runs]
    cuts = [external["models"][run["run_id"]]["threshold"] for run in runs]
    sides: dict[tuple[str, str], tuple[np.ndarray, Side]] = {}
    for column, groups in {"": [found["whole"]], **found["columns"]}.items():
        for group in groups:
            if group["name"] == "not known":
                continue
            inside = members(column, group["name"], one.table) if column else np.ones(len(one.y), dtype=bool)
            where = f"{column} {group['name']}"
            same(f"{where} images", group["images"], int(inside.sum()))
            if min(group["by_class"]) == 0:
                continue
            side = Side(one, inside, held, cuts)
            sides[column, group["name"]] = inside, side
            same(
                f"{where} patients",
                [group["patients"], *group["by_class"]],
                [side.all, side.normal, side.ill],
            )
            for score, entry in group["scores"].items():
                same(f"{where} {score}", entry["value"], side.scores[score][0])
                same(f"{where} {score} interval", (entry["low"], entry["high"]), side.ends(score, Z))
    for column, groups in found["columns"].items():
        for group in groups:
            for score, gap in group["gaps"].items():
                taking = [each["name"] for each in groups if score in each["gaps"]]
                inside, side = sides[column, group["name"]]
                rest = np.any([sides[column, name][0] for name in taking if name != group["name"]], axis=0)
                other = Side(one, rest, held, cuts)
                count = found["gaps"][score]
                where = f"{column} {group['name']} gap in {score}"
                z = Z if count == 1 else float(stats.norm.ppf(1 - 0.05 / (2 * count)))
                same(f"{where} interval", (gap["low"], gap["high"]), newcombe(side, other, score, z))
                difference = side.scores[score][0] - other.scores[score][0]
                same(where, gap["difference"], difference)
                same(f"{where} others", gap["others"], other.scores[score][0])
                same(f"{where} p", gap["p"], p_of_gap(side, other, score, difference, count))


def p_of_gap(one: Side, other: Side, score: str, difference: float, count: int) -> float:
    """The level, times the number of gaps, at which the interval just reaches 0."""
    if difference == 0:
        return 1.0
    end = 0 if difference > 0 else 1
    nearest = optimize.brentq(lambda z: newcombe(one, other, score, z)[end], 1e-9, 40, xtol=1e-14)
    return min(1.0, 2 * count * float(stats.norm.sf(nearest)))
