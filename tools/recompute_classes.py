"""What tools/recompute.py does for more than two classes, again without this project.

One class against the rest is recomputed by the functions for two classes; macro scores by scikit-learn, and
on the draws from weighted counts.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from recompute import (
    BINS,
    SCORES,
    Check,
    Row,
    Score,
    Spread,
    Z,
    areas,
    calibration_error,
    check_bins,
    correction,
    interval,
    patient_counts,
    recalibrated,
    wilson,
)
from scipy import optimize, special, stats
from sklearn import metrics as sk

MACRO = ("recall", "specificity", "precision", "f1", "auroc", "auprc")


def draw_weights(table: pd.DataFrame, draws: int, seed: int, classes: int) -> np.ndarray:
    """How often each image counts in each draw, [N, draws], and only draws with each class."""
    names = [patient or f"\x00row {row:09d}" for row, patient in enumerate(table.patient)]
    held = pd.Series(table.label.to_numpy()).groupby(names).agg(lambda labels: frozenset(labels))
    rng = np.random.default_rng(seed)
    times = np.zeros((len(table), draws))
    strata = [held[held == frozenset({k})].index for k in range(classes)]
    for people in (*strata, held[held.map(len) > 1].index):
        if not len(people):
            continue
        picks = rng.integers(len(people), size=(draws, len(people)))
        for number, name in enumerate(sorted(people)):
            rows = np.array([other == name for other in names])
            times[rows] = (picks == number).sum(axis=1)
    every = [times[table.label.to_numpy() == k].sum(axis=0) > 0 for k in range(classes)]
    return times[:, np.all(every, axis=0)]


def one_against_rest(
    y: np.ndarray, p: np.ndarray, names: Iterable[str] = (*MACRO, "ece")
) -> list[dict[str, float]]:
    """Of each class: scikit-learn's scores of the class against the others."""
    called = p.argmax(axis=1)
    found = []
    for k in range(p.shape[1]):
        own, taken = (y == k).astype(int), (called == k).astype(int)
        defined = 0 < own.sum() < len(own)
        found.append(
            {
                name: float(SCORES[name](own, p[:, k], taken))
                if defined or name in ("precision", "ece")
                else math.nan
                for name in names
            }
        )
    return found


def several(y: np.ndarray) -> bool:
    return len(set(y)) > 1


OVERALL: dict[str, Score] = {  # the others are means over the classes
    "accuracy": lambda y, p, called: sk.accuracy_score(y, called),
    "f1_weighted": lambda y, p, called: sk.f1_score(
        y, called, labels=np.arange(p.shape[1]), average="weighted", zero_division=0
    ),
    "mcc": lambda y, p, called: sk.matthews_corrcoef(y, called) if several(y) else math.nan,
    "kappa": lambda y, p, called: (
        sk.cohen_kappa_score(y, called, labels=np.arange(p.shape[1])) if several(y) else math.nan
    ),
    "brier": lambda y, p, called: ((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1).mean(),
    "log_loss": lambda y, p, called: -np.log(np.maximum(p[np.arange(len(y)), y], np.finfo(float).eps)).mean(),
    "ece_top": lambda y, p, called: calibration_error((called == y).astype(int), p.max(axis=1)),
}


def score(name: str, y: np.ndarray, p: np.ndarray) -> float:
    if name in OVERALL:
        return float(OVERALL[name](y, p, p.argmax(axis=1)))
    own = "recall" if name == "balanced_accuracy" else name
    return float(np.mean([one[own] for one in one_against_rest(y, p, [own])]))


def scores(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    macro = pd.DataFrame(one_against_rest(y, p)).mean(skipna=False).to_dict()
    macro["balanced_accuracy"] = macro.pop("recall")
    return {**macro, **{name: score(name, y, p) for name in OVERALL}}


def draw_scores(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The scores of all draws at once: macro scores, and those of each class."""
    classes, called, total = p.shape[1], p.argmax(axis=1), w.sum(axis=0)
    each: list[dict[str, Any]] = []
    agreed = expected = of_true = of_called = weighted = 0.0
    for k in range(classes):
        own, taken = y == k, called == k
        tp, true, calls = w[own & taken].sum(axis=0), w[own].sum(axis=0), w[taken].sum(axis=0)
        f1 = 2 * tp / (true + calls)
        auroc, auprc = areas(own, p[:, k], w)
        each.append(
            {
                "recall": tp / true,
                "specificity": (total - true - (calls - tp)) / (total - true),
                "precision": np.where(calls > 0, tp / np.where(calls > 0, calls, 1), 0),
                "f1": f1,
                "auroc": auroc,
                "auprc": auprc,
                "ece": weighted_error(own, p[:, k], w),
            }
        )
        agreed, expected = agreed + tp / total, expected + true * calls / total**2
        of_true, of_called = of_true + (true / total) ** 2, of_called + (calls / total) ** 2
        weighted = weighted + f1 * true / total
    macro = {name: np.mean([one[name] for one in each], axis=0) for name in (*MACRO, "ece")}
    macro["balanced_accuracy"] = macro.pop("recall")
    spread = np.sqrt((1 - of_true) * (1 - of_called))
    hot = np.eye(classes)[y]
    loss = -np.log(np.maximum(p[np.arange(len(y)), y], np.finfo(float).eps))
    macro |= {
        "accuracy": agreed,
        "f1_weighted": weighted,
        "mcc": np.where(spread > 0, (agreed - expected) / np.where(spread > 0, spread, 1), 0),
        "kappa": (agreed - expected) / (1 - expected),
        "brier": ((p - hot) ** 2).sum(axis=1) @ w / total,
        "log_loss": loss @ w / total,
        "ece_top": weighted_error(called == y, p.max(axis=1), w),
    }
    return macro, each


def weighted_error(hit: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    bins = np.digitize(p, BINS)
    gaps = [abs((p - hit)[bins == b] @ w[bins == b]) for b in range(15)]
    return np.asarray(sum(gaps) / w.sum(axis=0))


def class_counts(labels: np.ndarray, patients: pd.Series, classes: int) -> dict[str, Any]:
    names = np.array([patient or f"row {row}" for row, patient in enumerate(patients)])
    found = [len(set(names[labels == k])) for k in range(classes)]
    return {"by_class": found, "all": len(set(names))}


def macro_interval(score: str, mean: float, draws: np.ndarray, people: dict[str, Any]) -> tuple[float, float]:
    least, counts = min(people["by_class"]), people["by_class"]
    times = least / (least - 1) if least > 1 else 1.0
    if score in ("brier", "log_loss"):
        factor = math.exp(Z * math.sqrt(np.var(np.log(draws), ddof=1) * times))
        return mean / factor, mean * factor
    most = people["all"] if score == "accuracy" else len(counts) ** 2 / sum(1 / n for n in counts)
    variance = np.var(draws, ddof=1) * times
    if score in ("mcc", "kappa"):
        low, high = wilson((mean + 1) / 2, variance / 4, most)
        return 2 * low - 1, 2 * high - 1
    return wilson(mean, variance, most)


def temperature(y: np.ndarray, p: np.ndarray) -> float:
    logs = np.log(np.maximum(p, 1e-12))

    def slope(inverse: float) -> float:
        expected = (special.softmax(logs * inverse, axis=1) * logs).sum(axis=1)
        return float(np.mean(expected - logs[np.arange(len(y)), y]))

    if slope(0.05) >= 0 or slope(20) <= 0:
        return 20.0 if slope(0.05) >= 0 else 0.05
    return 1 / optimize.bisect(slope, 0.05, 20, xtol=1e-14)


def errors_if_calibrated(
    y: np.ndarray, patients: pd.Series, models: list[np.ndarray], seed: int
) -> list[np.ndarray]:
    """ECE on 500 draws of labels from the models' own probabilities: of each class, and of the call."""
    names = [patient or f"\x00row {row:09d}" for row, patient in enumerate(patients)]
    held = pd.Series(y).groupby(names).agg(lambda labels: frozenset(labels))
    place = {name: min(own) if len(own) == 1 else math.inf for name, own in held.items()}
    order = sorted(held.index, key=lambda name: (place[name], name))
    numbers = pd.DataFrame(np.random.default_rng(seed).random((len(order), 500)), index=order).loc[names]
    u = numbers.to_numpy()
    total = np.zeros((models[0].shape[1] + 1, 500))
    for p in models:
        label = (u[:, :, None] >= np.cumsum(p, axis=1)[:, None, :-1]).sum(axis=2)
        hits = [label == k for k in range(p.shape[1])] + [label == p.argmax(axis=1)[:, None]]
        for row, (hit, chance) in enumerate(zip(hits, [*p.T, p.max(axis=1)], strict=True)):
            gaps = pd.DataFrame(chance[:, None] - hit).groupby(np.digitize(chance, BINS)).sum()
            total[row] += gaps.abs().sum().to_numpy() / len(y)
    return list(total / len(models))


def columns(class_names: list[str]) -> list[str]:
    return [f"p_{name}" for name in class_names]


def cooled(table: pd.DataFrame, class_names: list[str], value: float) -> pd.DataFrame:
    """`table` with its probabilities after a temperature."""
    logs = np.log(np.maximum(table[columns(class_names)].to_numpy(), 1e-12))
    chances = special.softmax(logs / value, axis=1)
    return table.assign(**dict(zip(columns(class_names), chances.T, strict=True)))


def averaged(tables: list[pd.DataFrame], class_names: list[str]) -> pd.DataFrame:
    """The first of `tables` with the mean of all probabilities."""
    mean = np.mean([table[columns(class_names)].to_numpy() for table in tables], axis=0)
    return tables[0].assign(**dict(zip(columns(class_names), mean.T, strict=True)))


def check_ensemble(
    same: Check, given: dict[str, Any], table: pd.DataFrame, class_names: list[str], score: str
) -> None:
    """The test scores of the networks of a cross-validation, averaged."""
    scored = scores(table.label.to_numpy(), table[columns(class_names)].to_numpy())
    same("ensemble", given["score"]["value"], scored[score])
    same("ensemble accuracy", given["accuracy"]["value"], scored["accuracy"])
    assert given["at_thresholds"] == {}


class ClassRow(Row):
    """One configuration or ensemble of more than two classes, recomputed from its runs' predictions."""

    scores_of = staticmethod(scores)

    def __init__(
        self, facts: dict[str, Any], files: dict[str, dict[str, pd.DataFrame]], w: np.ndarray, on_val: bool,
        class_names: list[str], folds: dict[str, list[pd.DataFrame]],
    ) -> None:  # fmt: skip
        self.folds = [part for run in facts["runs"] for part in folds.get(run["run_id"], ())]
        self.by_fold: list[tuple[str, dict[str, float]]] = []
        self.on_val = on_val
        self.facts, self.tables = facts, [files[run["run_id"]] for run in facts["runs"]]
        self.names, self.w = class_names, w
        self.columns = columns(class_names)
        test = [table["test"][self.columns].to_numpy() for table in self.tables]
        val = [(t["val"].label.to_numpy(), t["val"][self.columns].to_numpy()) for t in self.tables]
        self.y, self.patients = self.tables[0]["test"].label.to_numpy(), self.tables[0]["test"].patient
        self.people = class_counts(self.y, self.patients, len(class_names))
        self.average = np.mean(test, axis=0)
        if facts["ensemble"]:
            same = len({tuple(table["val"].path) for table in self.tables}) == 1
            test, val = [self.average], [(val[0][0], np.mean([p for _, p in val], axis=0))] if same else []
        self.test, self.val, self.cuts = test, val, []
        self.single = [scores(self.y, p) for p in test]
        both = [draw_scores(self.y, p, w) for p in test]
        self.resampled = [macro for macro, _ in both]
        self.of_class = [each for _, each in both]
        self.heats: list[float] = []
        self.cooled: list[np.ndarray] = []
        if val and not on_val and all(len(set(y)) > 1 for y, _ in val):
            self.heats = [temperature(y, p) for y, p in val]
            self.cooled = [
                special.softmax(np.log(np.maximum(p, 1e-12)) / t, axis=1)
                for p, t in zip(test, self.heats, strict=True)
            ]
        self.draws = {n: np.mean([s[n] for s in self.resampled], axis=0) for n in self.resampled[0]}
        self.mean = {n: float(np.mean([s[n] for s in self.single])) for n in self.single[0]}

    def score(self, name: str, y: np.ndarray, p: np.ndarray) -> float:
        return score(name, y, p)

    def score_part(self, part: pd.DataFrame) -> dict[str, float]:
        return scores(part.label.to_numpy(), part[self.columns].to_numpy())

    def right(self) -> np.ndarray:
        return self.average.argmax(axis=1) == self.y

    def delong_p(self, other: "ClassRow") -> tuple[float, float | None]:
        """Difference of the seeds' mean macro AUROC and p: each image's influence, by class."""
        influence = [
            np.mean([influence_on_macro(self.y, p) for p in row.test], axis=0) for row in (self, other)
        ]
        gap = influence[0] - influence[1]
        variance = sum((self.y == k).sum() * gap[self.y == k].var(ddof=1) for k in range(len(self.names)))
        difference = self.mean["auroc"] - other.mean["auroc"]
        if variance <= 1e-18:
            return difference, 1.0 if abs(difference) < 1e-12 else None
        return difference, 2 * stats.norm.sf(abs(difference) / math.sqrt(variance))

    def tempered_spread(self, name: str) -> Spread:
        hot = np.eye(len(self.names))[self.y]
        loss = {
            "brier": lambda p: ((p - hot) ** 2).sum(axis=1),
            "log_loss": lambda p: -np.log(np.maximum((p * hot).sum(axis=1), np.finfo(float).eps)),
        }[name]
        each = [loss(p) for p in self.cooled]
        return self.spread_of(
            [row.mean() for row in each], [row @ self.w / self.w.sum(axis=0) for row in each]
        )

    def check_subtypes(self, same: Check, patients: pd.Series) -> None:
        assert self.facts["subtypes"] == {} and self.facts["points"] == {}

    def check(self, same: Check, seed: int) -> None:
        where, facts = self.facts["name"], self.facts
        assert facts["scores"].keys() == self.mean.keys()
        self.check_scores(same)
        matrices = [sk.confusion_matrix(self.y, p.argmax(axis=1), labels=range(len(self.names)))
                    for p in self.test]  # fmt: skip
        same(f"{where} confusion", facts["confusion"], matrices)
        self.check_validation(same)
        self.check_tempered(same)
        self.check_errors(same, seed)
        if "curves" in facts:
            self.check_curves(same)

    def ends(self, name: str) -> tuple[float, float]:
        return macro_interval(name, self.mean[name], self.draws[name], self.people)

    def check_tempered(self, same: Check) -> None:
        where, given = self.facts["name"], self.facts["temperature"]
        if not self.heats:
            assert given is None
            return
        same(f"{where} temperature", given["values"], self.heats)
        after = [self.scores_of(self.y, p) for p in self.cooled]
        for name, value in given["after"].items():
            same(f"{where} {name} after", value, np.mean([scored[name] for scored in after]))

    def check_errors(self, same: Check, seed: int) -> None:
        """Calibration errors, and all of each class."""
        where, facts = self.facts["name"], self.facts
        drawn = errors_if_calibrated(self.y, self.patients, self.test, seed)
        least = min(self.people["by_class"])
        for name, errors in (("ece", np.mean(drawn[:-1], axis=0)), ("ece_top", drawn[-1])):
            same(f"{where} {name} if calibrated", facts["if_calibrated"][name], errors.mean())
            ends = error_ends(self.mean[name], errors, self.draws[name], least)
            same(f"{where} {name} interval", [facts["scores"][name][e] for e in ("low", "high")], ends)
        single = [one_against_rest(self.y, p) for p in self.test]
        identities = np.array([patient or f"row {row}" for row, patient in enumerate(self.patients)])
        assert list(facts["classes"]) == self.names
        for k, (name, entry) in enumerate(facts["classes"].items()):
            own = (self.y == k).astype(int)
            people = patient_counts(own, self.patients)
            same(f"{name} images", (entry["images"], entry["patients"]), (own.sum(), people["ill"]))
            calls = [len(set(identities[p.argmax(axis=1) == k])) for p in self.test]
            for score, given in entry["scores"].items():
                value = float(np.mean([each[k][score] for each in single]))
                same(f"{where} {name} {score}", given["value"], value)
                draws = np.mean([each[k][score] for each in self.of_class], axis=0)
                if score == "ece":
                    ends = error_ends(value, drawn[k], draws, min(people["normal"], people["ill"]))
                else:
                    ends = interval(score, value, draws, people, float(np.mean(calls)))
                same(f"{where} {name} {score} interval", (given["low"], given["high"]), ends)
            given = entry["calibration"]
            same(f"{where} {name} if calibrated", given["ece_if_calibrated"], drawn[k].mean())
            fits = [recalibrated(own, p[:, k]) for p in self.test]
            for what in ("slope", "intercept"):
                values = [fit[what][0] for fit in fits]
                same(f"{where} {name} {what}", given[what]["per_run"], values)
                same(f"{where} {name} {what} mean", given[what]["value"], np.mean(values))
                influence = pd.Series(np.mean([fit[what][1] for fit in fits], axis=0)).groupby(identities)
                squares = (influence.sum(min_count=1) ** 2).sum(skipna=False)
                half = Z * math.sqrt(squares * correction(people))
                ends = (np.mean(values) - half, np.mean(values) + half)
                same(f"{where} {name} {what} interval", (given[what]["low"], given[what]["high"]), ends)

    def check_curves(self, same: Check) -> None:
        where, curves = self.facts["name"], self.facts["curves"]
        identities = np.array([patient or f"row {row}" for row, patient in enumerate(self.patients)])
        check_bins(same, where, curves["calibration"], self.pooled(identities))
        w = np.column_stack([np.ones(len(self.y)), self.w[:, :500]])
        stacks = self.stacks(w, np.linspace(0, 1, 101))
        for name, drawn in zip(("roc", "pr"), np.mean(stacks, axis=0), strict=True):
            same(f"{where} {name}", curves[name]["value"], drawn[:, 0])
            low, high = np.quantile(drawn[:, 1:], (0.025, 0.975), axis=1)
            same(f"{where} {name} band", (curves[name]["low"], curves[name]["high"]), (low, high))

    def pooled(self, identities: np.ndarray) -> pd.DataFrame:
        """What the reliability diagram shows, the runs pooled: the called class's probability."""
        return pd.DataFrame(
            {
                "p": np.concatenate([p.max(axis=1) for p in self.test]),
                "hit": np.concatenate([p.argmax(axis=1) == self.y for p in self.test]).astype(float),
                "patient": np.tile(identities, len(self.test)),
            }
        )

    def stacks(self, w: np.ndarray, grid: np.ndarray) -> list[np.ndarray]:
        """The curves of each run and class."""
        return [steps(self.y == k, p[:, k], w, grid) for p in self.test for k in range(len(self.names))]


def steps(own: np.ndarray, p: np.ndarray, w: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Sensitivity at a false positive rate of at most each of `grid`, and precision at a sensitivity of at
    least it, of the highest threshold that reaches it: [2, grid, draws]."""
    cuts = np.unique(p)[::-1]
    called = (p >= cuts[:, None]).astype(float)
    tp, fp = (called * own) @ w, (called * ~own) @ w
    recall, rate = tp / w[own].sum(axis=0), fp / w[~own].sum(axis=0)
    precision = np.where(tp + fp > 0, tp / np.where(tp + fp > 0, tp + fp, 1), 0)
    roc, pr = [], []
    for g in grid:
        roc.append(np.where(rate <= g + 1e-12, recall, 0).max(axis=0))
        pr.append(np.take_along_axis(precision, (recall >= g - 1e-12).argmax(axis=0)[None], axis=0)[0])
    return np.array([roc, pr])


def error_ends(value: float, drawn: np.ndarray, draws: np.ndarray, least: int) -> tuple[float, float]:
    error = math.sqrt(np.var(draws, ddof=1) * (least / (least - 1) if least > 1 else 1))
    return max(0.0, value - float(np.quantile(drawn, 0.975))), value + Z * error


def influence_on_macro(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Of each image on the macro AUROC, by pairs of images."""
    total = np.zeros(len(y))
    for k in range(p.shape[1]):
        own = y == k
        gaps = p[own, k][:, None] - p[~own, k][None, :]
        wins = (gaps > 0) + 0.5 * (gaps == 0)
        total[own] += wins.mean(axis=1) / own.sum()
        total[~own] += wins.mean(axis=0) / (~own).sum()
    return total / p.shape[1]


def check_images(same: Check, page: dict[str, Any], table: pd.DataFrame, row: ClassRow) -> None:
    """Counts, and the mistakes of the first configuration."""
    y, names = table.label.to_numpy(), page["class_names"]
    assert page["decision"] is None
    assert list(page["test"]["classes"]) == list(page["test"]["by_class"]) == names
    same("images", list(page["test"]["classes"].values()), [(y == k).sum() for k in range(len(names))])
    same("patients by class", list(page["test"]["by_class"].values()), row.people["by_class"])
    called, top = row.average.argmax(axis=1), row.average.max(axis=1)
    kinds: dict[tuple[int, int], int] = {}
    for mistake in page["mistakes"]:
        (place,) = np.flatnonzero(table.path == mistake["path"])
        kind = (y[place], called[place])
        assert (mistake["label"], mistake["called"]) == kind and kind[0] != kind[1]
        kinds[kind] = kinds.get(kind, 0) + 1
        given = (mistake["probability"], mistake["own_probability"])
        same("mistake", given, (top[place], row.average[place, y[place]]))
        surer = (y == kind[0]) & (called == kind[1]) & (top > top[place])
        assert surer.sum() < 2, "a more confident mistake of this kind is missing"
    wrong = {(a, b) for a, b in zip(y, called, strict=True) if a != b}
    assert len(page["mistakes"]) >= min(24, len(wrong))
