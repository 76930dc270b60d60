"""Recomputes a comparison's numbers without this project: python tools/recompute.py COMPARISON.json ARTIFACTS

ARTIFACTS is the folder below which MLflow keeps <run id>/artifacts/predictions/{test,val}.csv. The script
uses only pandas, scipy, scikit-learn and statsmodels, and repeats the bootstrap from its description in the
JSON. It prints the number of values compared and the largest difference, and exits with 1 if one is above
1e-9.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

Z = stats.norm.ppf(0.975)


class Check:
    """Compares values, counts them and keeps the largest difference."""

    def __init__(self) -> None:
        self.count, self.largest, self.where = 0, 0.0, ""

    def __call__(self, where: str, given: Any, expected: Any) -> None:
        if isinstance(expected, (list, tuple, np.ndarray)):
            assert len(given) == len(expected), where
            for index, (one, other) in enumerate(zip(given, expected, strict=True)):
                self(f"{where}[{index}]", one, other)
            return
        self.count += 1
        if given is None or expected is None:
            off = 0.0 if given is None and (expected is None or not math.isfinite(expected)) else math.inf
        else:
            off = abs(float(given) - float(expected))
        if not off <= self.largest:
            self.largest, self.where = off, where


def draw_weights(table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
    """How often each image counts in each draw, [N, draws], from the page's description."""
    names = [
        patient if isinstance(patient, str) else f"\x00row {row:09d}"
        for row, patient in enumerate(table.patient)
    ]
    classes = pd.Series(table.label.to_numpy()).groupby(names).agg(lambda held: frozenset(held))
    rng = np.random.default_rng(seed)
    times = np.zeros((len(table), draws))
    for stratum in (frozenset({0}), frozenset({1}), frozenset({0, 1})):
        people = sorted(name for name, held in classes.items() if held == stratum)
        if not people:
            continue
        picks = rng.integers(len(people), size=(draws, len(people)))
        for number, name in enumerate(people):
            rows = np.array([other == name for other in names])
            times[rows] = (picks == number).sum(axis=1)
    return times


def scores(y: np.ndarray, p: np.ndarray, w: np.ndarray | None = None, cut: float = 0.5) -> dict[str, float]:
    called = (p >= cut).astype(int)
    keys: dict[str, Any] = {"sample_weight": w}
    recall = sk.recall_score(y, called, zero_division=0, **keys)
    specificity = sk.recall_score(y, called, pos_label=0, zero_division=0, **keys)
    weights = np.ones(len(y)) if w is None else w
    bins = np.digitize(p, [k / 15 for k in range(1, 15)])
    gaps = [abs((weights * (p - y))[bins == b].sum()) for b in range(15)]
    return {
        "accuracy": sk.accuracy_score(y, called, **keys),
        "precision": sk.precision_score(y, called, zero_division=0, **keys),
        "recall": recall,
        "specificity": specificity,
        "f1": sk.f1_score(y, called, zero_division=0, **keys),
        "auroc": sk.roc_auc_score(y, p, **keys),
        "auprc": sk.average_precision_score(y, p, **keys),
        "brier": sk.brier_score_loss(y, p, **keys),
        "log_loss": sk.log_loss(y, p, labels=[0, 1], **keys),
        "mcc": sk.matthews_corrcoef(y, called, **keys),
        "balanced_accuracy": (recall + specificity) / 2,
        "ece": sum(gaps) / weights.sum(),
    }


def count_scores(y: np.ndarray, p: np.ndarray, w: np.ndarray, cut: float) -> dict[str, np.ndarray]:
    """The scores from the four counts, for all draws at once."""
    called = p >= cut
    tp, fp = (y * called) @ w, ((1 - y) * called) @ w
    fn, tn = (y * ~called) @ w, ((1 - y) * ~called) @ w

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0)

    recall, specificity = share(tp, tp + fn), share(tn, tn + fp)
    return {
        "accuracy": (tp + tn) / w.sum(axis=0),
        "precision": share(tp, tp + fp),
        "recall": recall,
        "specificity": specificity,
        "balanced_accuracy": (recall + specificity) / 2,
        "f1": share(2 * tp, 2 * tp + fp + fn),
        "mcc": share(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
    }


def draw_scores(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    scored = count_scores(y, p, w, 0.5)
    columns = [np.flatnonzero(w[:, draw]) for draw in range(w.shape[1])]

    def each(score: Any) -> np.ndarray:
        return np.array(
            [score(y[rows], p[rows], sample_weight=w[rows, draw]) for draw, rows in enumerate(columns)]
        )

    scored["auroc"], scored["auprc"] = each(sk.roc_auc_score), each(sk.average_precision_score)
    scored["brier"] = (p - y) ** 2 @ w / w.sum(axis=0)
    kept = np.clip(p, np.finfo(float).eps, 1 - np.finfo(float).eps)
    scored["log_loss"] = -(y * np.log(kept) + (1 - y) * np.log(1 - kept)) @ w / w.sum(axis=0)
    bins = np.digitize(p, [k / 15 for k in range(1, 15)])
    scored["ece"] = sum(abs((p - y)[bins == b] @ w[bins == b]) for b in range(15)) / w.sum(axis=0)
    return scored


def interval(score: str, mean: float, draws: np.ndarray) -> tuple[float, float]:
    shift, scale = (1.0, 2.0) if score == "mcc" else (0.0, 1.0)
    if np.ptp(draws) < 1e-12:
        return math.nan, math.nan
    unit, middle = (draws + shift) / scale, (mean + shift) / scale
    everything = [middle, *unit]
    if min(everything) <= 0 or (max(everything) >= 1 and score != "log_loss"):
        return np.quantile(draws, 0.025), np.quantile(draws, 0.975)
    if score == "log_loss":
        error = np.std(np.log(unit), ddof=1)
        return mean * math.exp(-Z * error), mean * math.exp(Z * error)
    error = np.std(np.log(unit / (1 - unit)), ddof=1)
    centre = math.log(middle / (1 - middle))
    ends = [1 / (1 + math.exp(-(centre + sign * Z * error))) for sign in (-1, 1)]
    return ends[0] * scale - shift, ends[1] * scale - shift


def thresholds(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    every = np.unique(p)[::-1]
    recall = np.array([(p[y == 1] >= cut).mean() for cut in every])
    specificity = np.array([(p[y == 0] < cut).mean() for cut in every])
    gain = recall + specificity
    best = np.flatnonzero(gain >= gain.max() - 1e-12)[0]
    return {"half": 0.5, "sensitivity_95": every[np.argmax(recall >= 0.95)], "youden": every[best]}


def logit(p: np.ndarray) -> np.ndarray:
    kept = np.clip(p, 1e-12, 1 - 1e-12)
    return np.log(kept / (1 - kept))


def temperature(y: np.ndarray, p: np.ndarray) -> float:
    margin = np.where(y == 1, logit(p), -logit(p))

    def slope(inverse: float) -> float:
        return -np.mean(margin * stats.logistic.sf(margin * inverse))

    if slope(0.05) >= 0 or slope(20) <= 0:
        return 20.0 if slope(0.05) >= 0 else 0.05
    return 1 / optimize.bisect(slope, 0.05, 20, xtol=1e-14)


def delong_p(y: np.ndarray, first: list[np.ndarray], second: list[np.ndarray]) -> tuple[float, float]:
    """Difference of the seeds' mean AUROC and p, by pairs of images (DeLong et al. 1988)."""
    ill, well = [], []
    for models in (first, second):
        gaps = [p[y == 1][:, None] - p[y == 0][None, :] for p in models]
        wins = np.mean([(gap > 0) + 0.5 * (gap == 0) for gap in gaps], axis=0)
        ill.append(wins.mean(axis=1))
        well.append(wins.mean(axis=0))
    a, b = ill[0] - ill[1], well[0] - well[1]
    variance = a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)
    difference = ill[0].mean() - ill[1].mean()
    if variance <= 1e-18:
        return difference, 1.0 if abs(difference) < 1e-12 else 0.0
    return difference, 2 * stats.norm.sf(abs(difference) / math.sqrt(variance))


def seeds_interval(
    difference: float, draws: np.ndarray, a: list[float], b: list[float]
) -> tuple[float, float] | None:
    if min(len(a), len(b)) < 2:
        return None
    parts = [np.var(draws, ddof=1), np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)]
    small = parts[1] ** 2 / (len(a) - 1) + parts[2] ** 2 / (len(b) - 1)
    half = stats.t.ppf(0.975, sum(parts) ** 2 / max(small, 1e-300)) * math.sqrt(sum(parts))
    return difference - half, difference + half


class Row:
    """One configuration or ensemble, recomputed from its runs' predictions."""

    def __init__(
        self, facts: dict[str, Any], files: dict[str, dict[str, pd.DataFrame]], w: np.ndarray
    ) -> None:
        self.facts, tables = facts, [files[run["run_id"]] for run in facts["runs"]]
        test = [table["test"].probability.to_numpy() for table in tables]
        val = [(t["val"].label.to_numpy(), t["val"].probability.to_numpy()) for t in tables]
        self.y = tables[0]["test"].label.to_numpy()
        self.average = np.mean(test, axis=0)
        if facts["ensemble"]:
            same = len({tuple(table["val"].path) for table in tables}) == 1
            test, val = [self.average], [(val[0][0], np.mean([p for _, p in val], axis=0))] if same else []
        self.test, self.val, self.w = test, val, w
        self.single = [scores(self.y, p) for p in test]
        resampled = [draw_scores(self.y, p, w) for p in test]
        self.draws = {name: np.mean([scored[name] for scored in resampled], axis=0) for name in resampled[0]}
        self.mean = {
            name: float(np.mean([scored[name] for scored in self.single])) for name in self.single[0]
        }

    def check(self, same: Check) -> None:
        where, facts = self.facts["name"], self.facts
        for name, entry in facts["scores"].items():
            values = [scored[name] for scored in self.single]
            same(f"{where} {name}", entry["value"], self.mean[name])
            same(f"{where} {name} each", entry["per_run"], values)
            same(f"{where} {name} sd", entry["sd"], np.std(values, ddof=1) if len(values) > 1 else None)
            same(f"{where} {name} interval", (entry["low"], entry["high"]), self.ends(name))
        same(
            f"{where} confusion",
            facts["confusion"],
            [sk.confusion_matrix(self.y, p >= 0.5) for p in self.test],
        )
        for name in ("accuracy", "f1", "auroc"):
            values = [scores(y, p)[name] for y, p in self.val]
            same(f"{where} validation {name}", facts["validation"][name], np.mean(values) if values else None)
        for rule, point in facts["points"].items():
            self.check_point(same, rule, point)
        fitted = [temperature(y, p) for y, p in self.val]
        same(f"{where} temperature", facts["temperature"]["values"], fitted)
        cooled = [
            scores(self.y, stats.logistic.cdf(logit(p) / t)) for p, t in zip(self.test, fitted, strict=True)
        ]
        for name, value in facts["temperature"]["after"].items():
            same(f"{where} tempered {name}", value, np.mean([scored[name] for scored in cooled]))

    def ends(self, name: str) -> tuple[float, float]:
        return interval(name, self.mean[name], self.draws[name])

    def check_point(self, same: Check, rule: str, point: dict[str, Any]) -> None:
        where = f"{self.facts['name']} {rule}"
        cuts = [thresholds(y, p)[rule] for y, p in self.val] or [0.5] * len(self.test)
        same(f"{where} thresholds", point["thresholds"], cuts)
        at = [scores(self.y, p, None, cut) for p, cut in zip(self.test, cuts, strict=True)]
        resampled = [count_scores(self.y, p, self.w, cut) for p, cut in zip(self.test, cuts, strict=True)]
        for name, entry in point["scores"].items():
            mean = float(np.mean([scored[name] for scored in at]))
            draws = np.mean([scored[name] for scored in resampled], axis=0)
            same(f"{where} {name}", entry["value"], mean)
            same(f"{where} {name} interval", (entry["low"], entry["high"]), interval(name, mean, draws))
        sensitivity, specificity = (point["scores"][name]["value"] for name in ("recall", "specificity"))
        for prevalence, values in point["predictive_values"].items():
            ill = float(prevalence)
            positive = sensitivity * ill + (1 - specificity) * (1 - ill)
            negative = (1 - sensitivity) * ill + specificity * (1 - ill)
            same(f"{where} PPV", values["ppv"], sensitivity * ill / positive if positive else None)
            same(f"{where} NPV", values["npv"], specificity * (1 - ill) / negative if negative else None)

    def check_subtypes(self, same: Check, patients: pd.Series) -> None:
        for kind, entry in self.facts["subtypes"].items():
            mark = patients.fillna("").str.match(rf"(person-{kind}|{kind.upper()})-\d+$").to_numpy()
            keep = (self.y == 0) | (mark & (self.y == 1))
            y, w = self.y[keep], self.w[keep][:, :500]
            single = [scores(y, p[keep]) for p in self.test]
            draws = [draw_scores(y, p[keep], w) for p in self.test]
            same(f"{kind} images", entry["images"], int(y.sum()))
            for name in ("recall", "auroc", "auprc", "accuracy"):
                mean = float(np.mean([scored[name] for scored in single]))
                ends = interval(name, mean, np.mean([scored[name] for scored in draws], axis=0))
                same(f"{self.facts['name']} {kind} {name}", entry[name]["value"], mean)
                same(
                    f"{self.facts['name']} {kind} {name} interval",
                    (entry[name]["low"], entry[name]["high"]),
                    ends,
                )


def check_pairs(same: Check, pairs: list[dict[str, Any]], rows: dict[str, Row]) -> None:
    p_values: dict[str, list[float]] = {}
    given: dict[str, list[float]] = {}

    def test(name: str, entry: dict[str, Any], p: float) -> None:
        same(f"{name} p", entry["p"], p)
        p_values.setdefault(name, []).append(p)
        given.setdefault(name, []).append(entry["p_holm"])

    for pair in pairs:
        first, second = rows[pair["first"]], rows[pair["second"]]
        for name, entry in pair["scores"].items():
            difference = first.mean[name] - second.mean[name]
            draws = first.draws[name] - second.draws[name]
            error = np.std(draws, ddof=1)
            p = 2 * stats.norm.sf(abs(difference) / error) if error > 1e-12 else float(difference == 0)
            test(name, entry, p)
            expected = (difference, difference - Z * error, difference + Z * error)
            same(f"{name} difference", [entry[key] for key in ("difference", "low", "high")], expected)
            each = [[scored[name] for scored in row.single] for row in (first, second)]
            noise = seeds_interval(difference, draws, *each)
            if noise is None:
                assert entry["with_seeds"] is None
            else:
                same(f"{name} with seeds", entry["with_seeds"], noise)
        right, other = ((row.average >= 0.5) == row.y for row in (first, second))
        only = int((right & ~other).sum()), int((other & ~right).sum())
        entry = pair["mcnemar"]
        same("McNemar", (entry["only_first"], entry["only_second"]), only)
        table = [[0, only[0]], [only[1], 0]]
        test("mcnemar", entry, mcnemar(table, exact=True).pvalue if sum(only) else 1.0)
        difference, p = delong_p(first.y, first.test, second.test)
        same("DeLong difference", pair["delong"]["difference"], difference)
        test("delong", pair["delong"], p)
    for name, values in p_values.items():
        same(f"{name} Holm", given[name], multipletests(values, method="holm")[1])


def recompute(file: Path, artifacts: Path) -> Check:
    page = json.loads(file.read_text())
    groups = [page[key] for key in ("configurations", "optimistic", "ensembles")]
    files: dict[str, dict[str, pd.DataFrame]] = {}
    for folder in artifacts.rglob("predictions"):
        files[folder.parent.parent.name] = {
            name: pd.read_csv(folder / f"{name}.csv", converters={"probability": float})
            for name in ("test", "val")
            if (folder / f"{name}.csv").is_file()
        }
    some = next(row for group in groups for row in group)
    table = files[some["runs"][0]["run_id"]]["test"]
    w = draw_weights(table, page["bootstrap"]["draws"], page["bootstrap"]["seed"])
    same = Check()
    rows = {}
    for group in groups:
        for facts in group:
            row = Row(facts, files, w)
            row.check(same)
            row.check_subtypes(same, table.patient)
            rows[facts.get("id", facts["name"])] = row
    check_pairs(same, page["pairs"], rows)
    same("test images", page["test"]["images"], len(table))
    order = [row["scores"][page["rank_by"]]["value"] for row in page["configurations"]]
    assert order == sorted(order, reverse=True)
    return same


if __name__ == "__main__":
    done = recompute(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{done.count:,} values recomputed; the largest difference is {done.largest:.2e} ({done.where})")
    sys.exit(done.largest > 1e-9)
