"""Recomputes a comparison's numbers without this project: python tools/recompute.py COMPARISON.json ARTIFACTS

ARTIFACTS is the folder below which MLflow keeps <run id>/artifacts/predictions/{test,val}.csv. The script
uses only pandas, scipy, scikit-learn and statsmodels, and repeats the bootstrap from its description in the
JSON. It prints the number of values compared and the largest difference (a share of the value, if that is
above 1), and exits with 1 if one is above 1e-9.
"""

import gc
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import optimize, stats
from sklearn import config_context
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

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
            off = abs(float(given) - float(expected)) / max(1.0, abs(float(expected)))
        if not off <= self.largest:
            self.largest, self.where = off, where


def one_name_each(patients: pd.Series) -> pd.Series:
    """Patients whose ids are equal as numbers have one name, the first in alphabetical order."""
    number = patients.str.extract(r"^\+?0*([0-9]+)(?:\.0*)?$", expand=False)
    return patients.groupby(number).transform("min").where(number.notna(), patients)


def draw_weights(table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
    """How often each image counts in each draw, [N, draws], from the page's description."""
    names = [patient or f"\x00row {row:09d}" for row, patient in enumerate(table.patient)]
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


def patient_counts(labels: np.ndarray, patients: pd.Series) -> dict[str, int]:
    """Patients with a normal image, with an ill one, and all; an image without a patient counts as one."""
    names = [patient or row for row, patient in enumerate(patients)]
    normal = {name for name, label in zip(names, labels, strict=True) if label == 0}
    ill = {name for name, label in zip(names, labels, strict=True) if label == 1}
    return {"normal": len(normal), "ill": len(ill), "all": len(normal | ill)}


def correction(people: dict[str, int]) -> float:
    least = min(people["normal"], people["ill"])
    return least / (least - 1) if least > 1 else 1.0


def interval(
    score: str, mean: float, draws: np.ndarray, people: dict[str, int], called: float
) -> tuple[float, float]:
    if score == "ece":
        return math.nan, math.nan
    times = correction(people)
    if score in ("brier", "log_loss"):
        factor = math.exp(Z * math.sqrt(np.var(np.log(draws), ddof=1) * times))
        return mean / factor, mean * factor
    most = {
        "recall": people["ill"],
        "specificity": people["normal"],
        "accuracy": people["all"],
        "precision": called,
    }.get(score, 4 / (1 / people["normal"] + 1 / people["ill"]))
    variance = np.var(draws, ddof=1) * times
    if score == "mcc":
        low, high = wilson((mean + 1) / 2, variance / 4, most)
        return 2 * low - 1, 2 * high - 1
    return wilson(mean, variance, most)


def wilson(p: float, variance: float, most: float) -> tuple[float, float]:
    """Wilson's interval with statsmodels' formula for an effective number of patients."""
    size = min(most, p * (1 - p) / variance) if variance > 1e-15 and 0 < p < 1 else most
    if not size > 0:
        return math.nan, math.nan
    low, high = map(float, proportion_confint(p * size, size, method="wilson"))
    exact = 0.05 ** (1 / size)  # all found, or none
    return min(low, exact) if p >= 1 else low, max(high, 1 - exact) if p <= 0 else high


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


def ece_if_calibrated(y: np.ndarray, patients: pd.Series, models: list[np.ndarray], seed: int) -> np.ndarray:
    """The models' mean ECE in 500 draws of labels from their own probabilities; patients share a number."""
    names = [patient or f"\x00row {row:09d}" for row, patient in enumerate(patients)]
    held = pd.Series(y).groupby(names).agg(lambda labels: frozenset(labels))
    strata = [frozenset({0}), frozenset({1}), frozenset({0, 1})]
    order = sorted(held.index, key=lambda name: (strata.index(held[name]), name))
    numbers = pd.DataFrame(np.random.default_rng(seed).random((len(order), 500)), index=order).loc[names]
    total = np.zeros(500)
    for p in models:
        gap = p[:, None] - (numbers.to_numpy() < p[:, None])
        total += pd.DataFrame(gap).groupby(np.digitize(p, [k / 15 for k in range(1, 15)])).sum().abs().sum()
    return np.asarray(total) / len(y) / len(models)


def recalibrated(y: np.ndarray, p: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """Slope and intercept by statsmodels, each with the images' influence."""
    x, keys = logit(p), {"tol": 1e-14, "tol_criterion": "params", "maxiter": 200}
    found = {}
    nothing = (math.nan, np.full(len(y), math.nan))
    if x[y == 1].min() >= x[y == 0].max() or x[y == 1].max() <= x[y == 0].min():
        found["slope"] = nothing
    else:
        model = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial())
        fit = model.fit(**keys)
        influence = model.score_obs(fit.params, scale=1) @ np.linalg.inv(-model.hessian(fit.params, scale=1))
        found["slope"] = float(fit.params[1]), influence[:, 1]
    model = sm.GLM(y, np.ones(len(y)), family=sm.families.Binomial(), offset=x)
    fit = model.fit(**keys)
    influence = model.score_obs(fit.params, scale=1) / -model.hessian(fit.params, scale=1)
    found["intercept"] = float(fit.params[0]), influence[:, 0]
    return found


def net_benefit(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """At the threshold probabilities .01 to .99 and on each draw."""
    rows = []
    for t in np.arange(1, 100) / 100:
        called = p >= t
        rows.append(((y * called) @ w - ((1 - y) * called) @ w * t / (1 - t)) / w.sum(axis=0))
    return np.array(rows)


def ratio_ends(a: float, a_ends: tuple[float, float], b: float, b_ends: tuple[float, float]) -> list[float]:
    """Donner and Zou's (2012) interval of a / b, as they write it."""
    if a == b == 0 or not np.isfinite([a, b, *a_ends, *b_ends]).all():
        return [math.nan, math.nan]
    ends = []
    for sign, one, other in ((-1, a_ends[0], b_ends[1]), (1, a_ends[1], b_ends[0])):
        top, bottom = one * (2 * a - one), other * (2 * b - other)
        root = math.sqrt(max(0.0, (a * b) ** 2 - top * bottom))
        if bottom == 0:
            ends.append(math.inf if sign > 0 else top / (2 * a * b))
        else:
            ends.append((a * b + sign * root) / bottom)
    return ends


def delong_p(y: np.ndarray, first: list[np.ndarray], second: list[np.ndarray]) -> tuple[float, float | None]:
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
        return difference, 1.0 if abs(difference) < 1e-12 else None
    return difference, 2 * stats.norm.sf(abs(difference) / math.sqrt(variance))


class Spread:
    """A score of one row, by run or (several splits that runs share) by split, and its mean on every draw."""

    def __init__(self, values: list[float], draws: list[np.ndarray], splits: list[Any]) -> None:
        table = pd.DataFrame({"split": splits, "value": values, **dict(enumerate(np.transpose(draws)))})
        if 1 < table.split.nunique() < len(table):
            table = table.groupby("split", sort=True).mean().reset_index()
        self.values = table.value.to_numpy()
        self.draws = table.drop(columns=["split", "value"]).to_numpy().mean(axis=0)

    def part(self, runs: int | None = None) -> float:
        return float(np.var(self.values, ddof=1) / (runs or len(self.values)))


def standard_error(first: Spread, second: Spread, least: int, runs: int | None = None) -> tuple[float, float]:
    """Over seeds and patients, with Welch and Satterthwaite's degrees of freedom."""
    over_patients = np.var(first.draws - second.draws, ddof=1) * (least / (least - 1) if least > 1 else 1)
    parts = [over_patients, first.part(runs), second.part(runs)]
    free = [max(1, least - 1), *((runs or len(side.values)) - 1 for side in (first, second))]
    small = sum(part**2 / count for part, count in zip(parts, free, strict=True))
    return math.sqrt(sum(parts)), sum(parts) ** 2 / small if small else math.inf


Folds = dict[str, float]  # a score by the images of a fold, the mean of the seeds that share them


def over_folds(first: Folds, second: Folds, folds: int) -> tuple[float, float]:
    """Nadeau and Bengio's (2003) standard error of a difference, and its degrees of freedom."""

    def error(values: np.ndarray) -> float:
        return math.sqrt((1 / len(values) + 1 / (folds - 1)) * np.var(values, ddof=1))

    one, other = pd.Series(first), pd.Series(second)
    if set(one.index) == set(other.index):
        return error((one - other).to_numpy()), len(one) - 1
    return math.hypot(error(one.to_numpy()), error(other.to_numpy())), min(len(one), len(other)) - 1


def join_folds(
    same: Check, page: dict[str, Any], files: dict[str, dict[str, pd.DataFrame]], on_val: bool
) -> dict[str, list[pd.DataFrame]]:
    """Put the pooled predictions of each cross-validation into `files`; its folds' by the same run id."""
    import recompute_classes as classes  # it uses this module

    names = page.get("class_names")
    cross, folds, joined = page.get("cross_validation"), {}, {}
    score, level = page["rank_by"], {row["id"]: row for row in page["configurations"]}
    for row in cross["rows"] if cross else []:
        runs, networks = level[row["id"]]["runs"], row["networks"]
        tests = {test["seed"]: test for test in row["on_test"]}
        for place, run in enumerate(runs):
            parts, on_test = [], []
            for network in networks[place * cross["folds"] : (place + 1) * cross["folds"]]:
                held = files[network["run_id"]]
                y = held["val"].label.to_numpy()
                if names:
                    value = classes.temperature(y, held["val"][classes.columns(names)].to_numpy())
                    parts.append(classes.cooled(held["val"], names, value))
                    scored = classes.scores(y, parts[-1][classes.columns(names)].to_numpy())
                else:
                    value = temperature(y, held["val"].probability.to_numpy())
                    parts.append(cooled(held["val"], value))
                    scored = scores(y, parts[-1].probability.to_numpy())
                same("temperature of a fold", network["temperature"], value)
                same("score of a fold", network["score"], scored[score])
                if "test" in held:
                    table = held["test"]
                    on_test.append(classes.cooled(table, names, value) if names else cooled(table, value))
            pooled = pd.concat(parts).sort_values("path", kind="stable", ignore_index=True)
            joined[run["run_id"]], folds[run["run_id"]] = {"val": pooled, "test": pooled}, parts
            if names:  # no thresholds
                assert not row["thresholds"][place]
                if len(on_test) == len(parts):
                    average = classes.averaged(on_test, names)
                    if not on_val:
                        joined[run["run_id"]]["test"] = average
                    classes.check_ensemble(same, tests[run["seed"]], average, names, score)
                continue
            cuts = thresholds(pooled.label.to_numpy(), pooled.probability.to_numpy())
            for rule, cut in row["thresholds"][place].items():
                same(f"out-of-fold threshold {rule}", cut, cuts[rule])
            on_test = [one.probability.to_numpy() for one in on_test]
            if len(on_test) == len(parts):
                ensemble, y = np.mean(on_test, axis=0), table.label.to_numpy()
                if not on_val:
                    joined[run["run_id"]]["test"] = table.assign(probability=ensemble)
                scored = scores(y, ensemble)
                for key, name in (("score", score), ("accuracy", "accuracy")):
                    same(f"ensemble {name}", tests[run["seed"]][key]["value"], scored[name])
                for rule, at in tests[run["seed"]]["at_thresholds"].items():
                    found = scores(y, ensemble, None, cuts[rule])
                    for name, value in at.items():
                        same(f"ensemble {rule} {name}", value, found[name])
    files.update(joined)
    return folds


def cooled(table: pd.DataFrame, value: float) -> pd.DataFrame:
    """`table` with its probabilities after a temperature."""
    return table.assign(probability=stats.logistic.cdf(logit(table.probability.to_numpy()) / value))


def check_folds(same: Check, page: dict[str, Any], rows: dict[str, "Row"]) -> None:
    """The pooled scores with their intervals over folds."""
    cross, score = page.get("cross_validation"), page["rank_by"]
    for entry in cross["rows"] if cross else []:
        held = rows[entry["id"]].facts["validation"]["scores"]
        values = pd.Series(rows[entry["id"]].fold_scores(score)).to_numpy()
        same("pooled score", entry["score"]["value"], held[score])
        same("pooled log-loss", entry["log_loss"], held["log_loss"])
        same("SD of folds", entry["sd"], np.std(values, ddof=1))
        error = math.sqrt((1 / len(values) + 1 / (cross["folds"] - 1)) * np.var(values, ddof=1))
        half = stats.t.ppf(0.975, len(values) - 1) * error if error > 1e-12 else math.nan
        least = -1 if score in ("mcc", "kappa") else 0
        ends = np.clip([held[score] - half, held[score] + half], least, 1)
        same("interval over folds", (entry["score"]["low"], entry["score"]["high"]), ends)


def reach(level: float, freedom: float) -> float:
    if math.isinf(freedom):
        return stats.norm.ppf(1 - level / 2) + stats.norm.ppf(0.8)
    return stats.t.ppf(1 - level / 2, freedom) + stats.t.ppf(0.8, freedom)


def seeds_needed(first: Spread, second: Spread, least: int, margin: float, level: float) -> int | None:
    for runs in range(2, 1001):
        error, freedom = standard_error(first, second, least, runs)
        if error * reach(level, freedom) <= margin:
            return runs
    return None


def check_bins(same: Check, where: str, given: list[dict[str, Any]], table: pd.DataFrame) -> None:
    """The bins of a reliability diagram, from a probability `p`, a `hit` and a `patient` for each image."""
    bins = [rows for _, rows in table.groupby(np.digitize(table.p, [k / 15 for k in range(1, 15)]))]
    for entry, rows in zip(given, bins, strict=True):
        share = rows.hit.mean()
        expected = [len(rows), rows.p.mean(), share]
        same(f"{where} bin", [entry[k] for k in ("images", "mean", "share")], expected)
        sums = (rows.hit - share).groupby(rows.patient).sum()
        counted = len(sums)
        variance = (sums**2).sum() / len(rows) ** 2 * (counted / (counted - 1) if counted > 1 else 1)
        same(f"{where} bin interval", (entry["low"], entry["high"]), wilson(share, variance, counted))


class Row:
    """One configuration or ensemble, recomputed from its runs' predictions."""

    scores_of = staticmethod(scores)

    def __init__(
        self,
        facts: dict[str, Any],
        files: dict[str, dict[str, pd.DataFrame]],
        w: np.ndarray,
        on_val: bool,
        folds: dict[str, list[pd.DataFrame]],
    ) -> None:
        self.folds = [part for run in facts["runs"] for part in folds.get(run["run_id"], ())]
        self.by_fold: list[tuple[str, dict[str, float]]] = []
        self.facts, tables = facts, [files[run["run_id"]] for run in facts["runs"]]
        test = [table["test"].probability.to_numpy() for table in tables]
        val = [(t["val"].label.to_numpy(), t["val"].probability.to_numpy()) for t in tables]
        self.tables = tables
        self.y = tables[0]["test"].label.to_numpy()
        self.patients = tables[0]["test"].patient
        self.people = patient_counts(self.y, self.patients)
        self.on_val = on_val
        self.average = np.mean(test, axis=0)
        if facts["ensemble"]:
            same = len({tuple(table["val"].path) for table in tables}) == 1
            test, val = [self.average], [(val[0][0], np.mean([p for _, p in val], axis=0))] if same else []
        self.test, self.val, self.w = test, val, w
        self.single = [scores(self.y, p) for p in test]
        self.resampled = [draw_scores(self.y, p, w) for p in test]
        self.cuts = [thresholds(y, p) for y, p in self.val] if not on_val else []
        self.cooled: list[np.ndarray] = []
        if self.val and not on_val and all(len(set(y)) == 2 for y, _ in self.val):
            heats = [temperature(y, p) for y, p in self.val]
            self.cooled = [stats.logistic.cdf(logit(p) / t) for p, t in zip(test, heats, strict=True)]
        self.draws = {
            name: np.mean([scored[name] for scored in self.resampled], axis=0) for name in self.resampled[0]
        }
        self.mean = {
            name: float(np.mean([scored[name] for scored in self.single])) for name in self.single[0]
        }

    def score_part(self, part: pd.DataFrame) -> dict[str, float]:
        return scores(part.label.to_numpy(), part.probability.to_numpy())

    def fold_scores(self, name: str) -> Folds:
        """A score by fold; empty without folds."""
        if not self.by_fold:
            for part in self.folds:
                self.by_fold.append((" ".join(sorted(part.path)), self.score_part(part)))
        each = pd.Series([scored[name] for _, scored in self.by_fold], dtype=float)
        return each.groupby([fold for fold, _ in self.by_fold]).mean().to_dict() if len(each) else {}

    def spread(self, name: str) -> Spread:
        values, draws = ([scored[name] for scored in each] for each in (self.single, self.resampled))
        return self.spread_of(values, draws)

    def spread_of(self, values: list[float], draws: list[np.ndarray]) -> Spread:
        splits = [" ".join(sorted(table["val"].path)) for table in self.tables]
        return Spread(values, draws, [""] if self.facts["ensemble"] else splits)

    def point_spread(self, rule: str, name: str) -> Spread:
        at = [(p, cut[rule]) for p, cut in zip(self.test, self.cuts, strict=True)]
        return self.spread_of(
            [scores(self.y, p, None, cut)[name] for p, cut in at],
            [count_scores(self.y, p, self.w, cut)[name] for p, cut in at],
        )

    def tempered_spread(self, name: str) -> Spread:
        loss = {
            "brier": lambda p: (p - self.y) ** 2,
            "log_loss": lambda p: -np.log(np.clip(np.where(self.y == 1, p, 1 - p), np.finfo(float).eps, 1)),
        }[name]
        each = [loss(p) for p in self.cooled]
        return self.spread_of(
            [row.mean() for row in each], [row @ self.w / self.w.sum(axis=0) for row in each]
        )

    def complete(self, rows: np.ndarray) -> bool:
        """Do these images show every class?"""
        return len(set(self.y[rows])) == len(set(self.y))

    def right(self) -> np.ndarray:
        """Which images the averaged probabilities get right."""
        return (self.average >= 0.5) == self.y

    def delong_p(self, other: "Row") -> tuple[float, float | None]:
        return delong_p(self.y, self.test, other.test)

    def called(self, cuts: list[float]) -> float:
        """Patients with an image that is called ill, the mean over the runs."""
        names = np.array([patient or f"row {row}" for row, patient in enumerate(self.patients)])
        return float(np.mean([len(set(names[p >= cut])) for p, cut in zip(self.test, cuts, strict=True)]))

    def check(self, same: Check, seed: int) -> None:
        where, facts = self.facts["name"], self.facts
        self.check_calibration(same, seed)
        self.check_scores(same)
        same(
            f"{where} confusion",
            facts["confusion"],
            [sk.confusion_matrix(self.y, p >= 0.5) for p in self.test],
        )
        for name in ("accuracy", "f1", "auroc"):
            values = [scores(y, p)[name] for y, p in self.val]
            same(f"{where} validation {name}", facts["validation"][name], np.mean(values) if values else None)
        for name, value in facts["validation"]["scores"].items():
            same(f"{where} validation {name}", value, np.mean([scores(y, p)[name] for y, p in self.val]))
        for rule, point in facts["points"].items():
            self.check_point(same, rule, point)
        if self.on_val:
            assert facts["temperature"] is None and list(facts["points"]) == ["half"]
            return
        if not self.val:
            assert facts["temperature"] is None
            return
        fitted = [temperature(y, p) for y, p in self.val]
        same(f"{where} temperature", facts["temperature"]["values"], fitted)
        cooled = [
            scores(self.y, stats.logistic.cdf(logit(p) / t)) for p, t in zip(self.test, fitted, strict=True)
        ]
        for name, value in facts["temperature"]["after"].items():
            same(f"{where} tempered {name}", value, np.mean([scored[name] for scored in cooled]))

    def check_scores(self, same: Check) -> None:
        """Each score with its spread and its interval; those of calibration errors are checked elsewhere."""
        where = self.facts["name"]
        for name, entry in self.facts["scores"].items():
            values = [scored[name] for scored in self.single]
            same(f"{where} {name}", entry["value"], self.mean[name])
            same(f"{where} {name} each", entry["per_run"], values)
            same(f"{where} {name} sd", entry["sd"], np.std(values, ddof=1) if len(values) > 1 else None)
            if name not in ("ece", "ece_top"):
                same(f"{where} {name} interval", (entry["low"], entry["high"]), self.ends(name))

    def check_calibration(self, same: Check, seed: int) -> None:
        where, facts = self.facts["name"], self.facts
        drawn = ece_if_calibrated(self.y, self.patients, self.test, seed)
        same(f"{where} ECE if calibrated", facts["calibration"]["ece_if_calibrated"], drawn.mean())
        error = math.sqrt(np.var(self.draws["ece"], ddof=1) * correction(self.people))
        low = max(0.0, self.mean["ece"] - np.quantile(drawn, 0.975))
        entry = facts["scores"]["ece"]
        same(f"{where} ECE interval", (entry["low"], entry["high"]), (low, self.mean["ece"] + Z * error))
        fits = [recalibrated(self.y, p) for p in self.test]
        names = np.array([patient or f"row {row}" for row, patient in enumerate(self.patients)])
        for name in ("slope", "intercept"):
            entry, values = facts["calibration"][name], [fit[name][0] for fit in fits]
            same(f"{where} {name} each", entry["per_run"], values)
            same(f"{where} {name}", entry["value"], np.mean(values))
            influence = pd.Series(np.mean([fit[name][1] for fit in fits], axis=0)).groupby(names)
            half = Z * math.sqrt(
                (influence.sum(min_count=1) ** 2).sum(skipna=False) * correction(self.people)
            )
            ends = (np.mean(values) - half, np.mean(values) + half)
            same(f"{where} {name} interval", (entry["low"], entry["high"]), ends)
        benefit = np.mean([net_benefit(self.y, p, np.ones((len(self.y), 1))) for p in self.test], axis=0)[
            :, 0
        ]
        same(f"{where} net benefit", facts["net_benefit"], benefit)
        if "curves" not in facts:
            return
        some = np.mean([net_benefit(self.y, p, self.w[:, :500]) for p in self.test], axis=0)
        curve = facts["curves"]["net_benefit"]
        same(f"{where} net benefit curve", curve["value"], benefit)
        band = np.quantile(some, (0.025, 0.975), axis=1)
        same(f"{where} net benefit band", (curve["low"], curve["high"]), band)
        table = pd.DataFrame(
            {
                "p": np.concatenate(self.test),
                "hit": np.tile(self.y, len(self.test)),
                "patient": np.tile(names, len(self.test)),
            }
        )
        check_bins(same, where, facts["curves"]["calibration"], table)

    def ends(self, name: str) -> tuple[float, float]:
        return interval(
            name, self.mean[name], self.draws[name], self.people, self.called([0.5] * len(self.test))
        )

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
            ends = interval(name, mean, draws, self.people, self.called(cuts))
            same(f"{where} {name} interval", (entry["low"], entry["high"]), ends)
        sensitivity, specificity = (point["scores"][name]["value"] for name in ("recall", "specificity"))
        for prevalence, values in point["predictive_values"].items():
            ill = float(prevalence)
            positive = sensitivity * ill + (1 - specificity) * (1 - ill)
            negative = (1 - sensitivity) * ill + specificity * (1 - ill)
            same(f"{where} PPV", values["ppv"], sensitivity * ill / positive if positive else None)
            same(f"{where} NPV", values["npv"], specificity * (1 - ill) / negative if negative else None)
            recall, other = (
                (point["scores"][name]["low"], point["scores"][name]["high"])
                for name in ("recall", "specificity")
            )
            false = ratio_ends(1 - specificity, (1 - other[1], 1 - other[0]), sensitivity, recall)
            ends = [1 / (1 + value * (1 - ill) / ill) for value in reversed(false)]
            same(f"{where} PPV interval", (values["ppv_low"], values["ppv_high"]), ends)
            missed = ratio_ends(1 - sensitivity, (1 - recall[1], 1 - recall[0]), specificity, other)
            ends = [1 / (1 + value * ill / (1 - ill)) for value in reversed(missed)]
            same(f"{where} NPV interval", (values["npv_low"], values["npv_high"]), ends)

    def check_subtypes(self, same: Check, patients: pd.Series) -> None:
        for kind, entry in self.facts["subtypes"].items():
            mark = patients.str.match(rf"(person-{kind}|{kind.upper()})-\d+$").to_numpy()
            keep = (self.y == 0) | (mark & (self.y == 1))
            y, w = self.y[keep], self.w[keep][:, :500]
            w = w[:, (w[y == 1] > 0).any(axis=0)]
            people = patient_counts(y, patients[keep])
            single = [scores(y, p[keep]) for p in self.test]
            draws = [draw_scores(y, p[keep], w) for p in self.test]
            same(f"{kind} images", entry["images"], int(y.sum()))
            for name in ("recall", "auroc", "auprc", "accuracy"):
                mean = float(np.mean([scored[name] for scored in single]))
                ends = interval(name, mean, np.mean([scored[name] for scored in draws], axis=0), people, 0)
                same(f"{self.facts['name']} {kind} {name}", entry[name]["value"], mean)
                same(
                    f"{self.facts['name']} {kind} {name} interval",
                    (entry[name]["low"], entry[name]["high"]),
                    ends,
                )


def check_pairs(same: Check, page: dict[str, Any], pairs: list[dict[str, Any]], rows: dict[str, Row]) -> None:
    p_values: dict[str, list[float]] = {}
    given: dict[str, list[float]] = {}
    least = min(page["test"]["by_class"].values())
    level = 0.05 / max(1, len(pairs))

    def test(name: str, entry: dict[str, Any], p: float | None) -> None:
        same(f"{name} p", entry["p"], p)
        if p is None:
            assert entry["p_holm"] is None
            return
        p_values.setdefault(name, []).append(p)
        given.setdefault(name, []).append(entry["p_holm"])

    def student(value: float, freedom: float) -> float:
        return stats.norm.sf(value) if math.isinf(freedom) else stats.t.sf(value, freedom)

    def check_difference(
        name: str, entry: dict[str, Any], difference: float, error: float, freedom: float
    ) -> None:
        if error <= 1e-12:
            same(f"{name} interval", (entry["low"], entry["high"]), (math.nan, math.nan))
            return test(name, entry, None)
        half = error * (Z if math.isinf(freedom) else stats.t.ppf(0.975, freedom))
        same(f"{name} interval", (entry["low"], entry["high"]), (difference - half, difference + half))
        return test(name, entry, 2 * student(abs(difference) / error, freedom))

    def check_entry(
        name: str, entry: dict[str, Any], a: Spread, b: Spread, folds: tuple[float, float] | None = None
    ) -> tuple[float, float, float]:
        """The difference, its standard error over seeds and patients (nan for one seed), and its freedom."""
        difference = a.values.mean() - b.values.mean()
        same(f"{name} difference", entry["difference"], difference)
        draws = np.var(a.draws - b.draws, ddof=1) * (least / (least - 1) if least > 1 else 1)
        check_difference(f"{name} over patients", entry, difference, math.sqrt(draws), math.inf)
        if folds is None and min(len(a.values), len(b.values)) < 2:
            assert entry["with_seeds"] is None
            return difference, math.nan, math.nan
        error, freedom = folds or standard_error(a, b, least)
        check_difference(f"{name} over seeds", entry["with_seeds"], difference, error, freedom)
        same(f"{name} error", entry["with_seeds"]["error"], error if error > 1e-12 else 0)
        return difference, error, freedom

    for pair in pairs:
        first, second = rows[pair["first"]], rows[pair["second"]]
        rules = ("sensitivity_95", "youden") if first.cuts and second.cuts else ()
        assert tuple(pair["points"]) == rules
        for rule, entries in pair["points"].items():
            for name, entry in entries.items():
                a, b = (row.point_spread(rule, name) for row in (first, second))
                check_entry(f"{rule} {name}", entry, a, b)
        cooled = first.cooled and second.cooled
        assert list(pair["tempered"]) == (["brier", "log_loss"] if cooled else [])
        for name, entry in pair["tempered"].items():
            check_entry(f"tempered {name}", entry, first.tempered_spread(name), second.tempered_spread(name))
        for name, entry in pair["scores"].items():
            a, b = first.spread(name), second.spread(name)
            one, other = (row.fold_scores(name) if row.on_val else {} for row in (first, second))
            count = page["cross_validation"]["folds"] if one and other else 0
            folds = over_folds(one, other, count) if count and not first.facts["ensemble"] else None
            difference, error, freedom = check_entry(name, entry, a, b, folds)
            if name == page["rank_by"] and error > 1e-12:
                found, margin = pair["equivalence"], page["margin"]
                inside = [(margin + sign * difference) / error for sign in (1, -1)]
                test("equivalence", found, max(student(value, freedom) for value in inside))
                same("detectable", found["detectable"], error * reach(level, freedom))
                if folds is None:
                    same("seeds needed", found["seeds_needed"], seeds_needed(a, b, least, margin, level))
                else:
                    assert found["seeds_needed"] is None
        right, other = first.right(), second.right()
        only = int((right & ~other).sum()), int((other & ~right).sum())
        entry = pair["mcnemar"]
        same("McNemar", (entry["only_first"], entry["only_second"]), only)
        table = [[0, only[0]], [only[1], 0]]
        test("mcnemar", entry, mcnemar(table, exact=True).pvalue if sum(only) else 1.0)
        if "delong" in pair:
            difference, p = first.delong_p(second)
            same("DeLong difference", pair["delong"]["difference"], difference)
            test("delong", pair["delong"], p)
    for name, values in p_values.items():
        same(f"{name} Holm", given[name], multipletests(values, method="holm")[1])


def check_choice(same: Check, page: dict[str, Any], rows: dict[str, Row], w: np.ndarray) -> None:
    """Validation's choice, and how much of the first's score is luck (500 draws)."""
    score, ranked = page["rank_by"], [rows[row["id"]] for row in page["configurations"]]
    if page["choice"]:
        held = {row["id"]: row["validation"]["scores"] for row in page["configurations"]}
        best = max(held, key=lambda name: (held[name][score], -held[name]["log_loss"]))
        assert page["choice"]["id"] == best
        same("choice", page["choice"]["score"], held[best][score])
    if not page["optimism"]:
        return
    found, y = page["optimism"], ranked[0].y
    first = ranked[0].mean[score]
    same("above the mean", found["above_mean"], first - np.mean([row.mean[score] for row in ranked]))
    outside = []
    for draw in range(min(500, w.shape[1])):
        left = w[:, draw] == 0
        if ranked[0].complete(left):
            winner = max(ranked, key=lambda row: round(row.draws[score][draw], 12))
            outside.append(np.mean([winner.scores_of(y[left], p[left])[score] for p in winner.test]))
    same("draws of the choice", found["draws"], len(outside))
    if len(outside) >= 50:
        luck = max(0.0, first - np.mean(outside))
        same("luck", (found["value"], found["corrected"]), (luck, first - luck))


def recompute(file: Path, artifacts: Path) -> Check:
    with config_context(assume_finite=True, skip_parameter_validation=True):  # half of scikit-learn's time
        return _recompute(file, artifacts)


def _recompute(file: Path, artifacts: Path) -> Check:
    import recompute_classes as classes  # they use this module
    import recompute_external as external
    import recompute_findings as findings

    gc.freeze()  # statsmodels collects garbage in each call, half a second in a large process
    page = json.loads(file.read_text())
    groups = [page[key] for key in ("configurations", "optimistic", "ensembles")]
    files: dict[str, dict[str, pd.DataFrame]] = {}
    names = page.get("class_names")
    on_val = page["scored_on"] == "val"

    def read(table: Path) -> pd.DataFrame:
        found = pd.read_csv(
            table,
            dtype={
                "patient": str
            },  # patients are texts, also where all are numbers; an empty one is not known
            converters=dict.fromkeys(["probability", *(f"p_{name}" for name in names or ())], float),
            keep_default_na=False,
            encoding_errors="backslashreplace",  # file names may not be UTF-8
        )
        found["patient"] = one_name_each(found.patient)
        return found

    for folder in artifacts.rglob("predictions"):
        tables = {name: folder / f"{name}.csv" for name in ("test", "val")}
        files[folder.parent.parent.name] = {
            name: read(table) for name, table in tables.items() if table.is_file()
        }
    if "external" in page:
        external.use(files, page["external"]["name"], artifacts, read)
    same = Check()
    folds = join_folds(same, page, files, on_val)
    for held in files.values() if on_val else ():
        held["test"] = held["val"]
    some = next(row for group in groups for row in group)
    table = files[some["runs"][0]["run_id"]]["test"]
    draws, seed = page["bootstrap"]["draws"], page["bootstrap"]["seed"]
    told: list[str] = []
    if "findings" in page:
        assert not folds  # of several findings, cross-validations are not recomputed
        told = [
            name
            for name in names
            if all(name in findings.testable(held["val"], names) for held in files.values())
        ]
        w = findings.draw_weights(table, names, draws, seed)
        same("draws kept", page["bootstrap"]["kept"], w.shape[1])
    elif names:
        w = classes.draw_weights(table, draws, seed, len(names))
        same("draws kept", page["bootstrap"]["kept"], w.shape[1])
    else:
        w = draw_weights(table, draws, seed)
    rows = {}
    for group in groups:
        for facts in group:
            if "findings" in page:
                row = findings.FindingRow(facts, files, w, on_val, names, told)
            elif names:
                row = classes.ClassRow(facts, files, w, on_val, names, folds)
            else:
                row = Row(facts, files, w, on_val, folds)
            row.check(same, page["bootstrap"]["seed"])
            row.check_subtypes(same, table.patient)
            rows[facts.get("id", facts["name"])] = row
    check_pairs(same, page, page["pairs"], rows)
    check_pairs(same, page, page["ensemble_pairs"], rows)
    check_choice(same, page, rows, w)
    check_folds(same, page, rows)
    same("test images", page["test"]["images"], len(table))
    order = [row["scores"][page["rank_by"]]["value"] for row in page["configurations"]]
    assert order == sorted(order, reverse=True)
    if "external" in page:
        external.check(same, page, files)
    if "findings" in page:
        findings.check_images(same, page, table, rows["c1"])
        return same
    if names:
        classes.check_images(same, page, table, next(iter(rows.values())))
        return same
    people = patient_counts(table.label.to_numpy(), table.patient)
    by_class = page["test"]["by_class"]
    same("patients by class", (by_class["normal"], by_class["pneumonia"]), (people["normal"], people["ill"]))
    y = table.label.to_numpy()
    same("threshold probabilities", page["decision"]["thresholds"], np.arange(1, 100) / 100)
    everyone = net_benefit(y, np.ones(len(y)), np.ones((len(y), 1)))[:, 0]
    same("treat all", page["decision"]["treat_all"], everyone)
    same("prevalence", page["decision"]["prevalence"], y.mean())
    return same


if __name__ == "__main__":
    done = recompute(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{done.count:,} values recomputed; the largest difference is {done.largest:.2e} ({done.where})")
    sys.exit(done.largest > 1e-9)
