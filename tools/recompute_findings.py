"""What tools/recompute.py does for several findings an image, again without this project.

A finding is recomputed as one of two classes, from the images whose label of it is known. A mean over the
findings is the mean of these scores.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from recompute import (
    SCORES,
    Check,
    Spread,
    Z,
    correction,
    draw_scores,
    ece_if_calibrated,
    interval,
    logit,
    patient_counts,
    recalibrated,
    scores,
    temperature,
    wilson,
)
from recompute_classes import ClassRow, error_ends, steps
from scipy import stats
from sklearn import metrics as sk

UNKNOWN = -1
FEWEST = 5  # patients of either value


def labels(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    cells = [pd.to_numeric(table[f"label_{name}"].astype(str).replace("", str(UNKNOWN))) for name in names]
    return np.stack(cells, axis=1).astype(int)


def chances(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    return table[[f"p_{name}" for name in names]].to_numpy(float)


def counts(y: np.ndarray, patients: pd.Series) -> dict[str, int]:
    """Patients of one finding; those with images of unknown label alone do not count."""
    known = y != UNKNOWN
    return patient_counts(y[known], patients[known].reset_index(drop=True))


def testable(table: pd.DataFrame, names: list[str]) -> list[str]:
    found = []
    for name, y in zip(names, labels(table, names).T, strict=True):
        people = counts(y, table.patient)
        if min(people["normal"], people["ill"]) >= FEWEST:
            found.append(name)
    return found


def draw_weights(table: pd.DataFrame, names: list[str], draws: int, seed: int) -> np.ndarray:
    """How often each image counts in each draw [N, draws], and only draws with both values of each."""
    y = labels(table, names)
    cells = [y[:, k] == value for value in (1, 0) for k in range(len(names))]
    people = [patient or f"\x00row {row:09d}" for row, patient in enumerate(table.patient)]
    size = [len({name for name, there in zip(people, cell, strict=True) if there}) for cell in cells]
    stratum = {}
    for name in set(people):
        own = np.array([other == name for other in people])
        held = [number for number, cell in enumerate(cells) if cell[own].any()]
        stratum[name] = min(held, key=lambda number: (size[number], number)) if held else 0
    rng = np.random.default_rng(seed)
    times = np.zeros((len(table), draws))
    for number in sorted(set(stratum.values())):
        mine = sorted(name for name, place in stratum.items() if place == number)
        picks = rng.integers(len(mine), size=(draws, len(mine)))
        for place, name in enumerate(mine):
            times[np.array([other == name for other in people])] = (picks == place).sum(axis=1)
    return times[:, complete(y, times)]


def complete(y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Which draws have both values of each finding, bool [draws]."""
    cells = [y[:, k] == value for k in range(y.shape[1]) for value in (0, 1)]
    return np.all([(times[cell] > 0).any(axis=0) for cell in cells], axis=0)


def each(y: np.ndarray, p: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Known images, their labels and probabilities, of each finding that has both values."""
    for k in range(y.shape[1]):
        known = np.flatnonzero(y[:, k] != UNKNOWN)
        if len(set(y[known, k])) == 2:
            yield known, y[known, k], p[known, k]


def right(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    return (((p >= 0.5).astype(int) == y) | (y == UNKNOWN)).all(axis=1)


def mean_scores(y: np.ndarray, p: np.ndarray, names: Iterable[str] = tuple(SCORES)) -> dict[str, float]:
    found = pd.DataFrame([scores(own, q, 0.5, names) for _, own, q in each(y, p)]).mean().to_dict()
    return {**found, "exact_match": float(right(y, p).mean())}


def mean_interval(
    score: str, mean: float, draws: np.ndarray, people: list[dict[str, int]], everyone: int
) -> tuple[float, float]:
    if score == "ece":
        return math.nan, math.nan
    least = min(min(one["normal"], one["ill"]) for one in people)
    times = least / (least - 1)
    if score in ("brier", "log_loss"):
        factor = math.exp(Z * math.sqrt(np.var(np.log(draws), ddof=1) * times))
        return mean / factor, mean * factor
    each_of = [
        {
            "recall": one["ill"],
            "precision": one["ill"],
            "specificity": one["normal"],
            "accuracy": one["all"],
        }.get(score, 4 / (1 / one["normal"] + 1 / one["ill"]))
        for one in people
    ]
    most = min(everyone, len(people) ** 2 / sum(1 / n for n in each_of))
    variance = np.var(draws, ddof=1) * times
    if score == "exact_match":
        return wilson(mean, variance, everyone)
    if score == "mcc":
        low, high = wilson((mean + 1) / 2, variance / 4, most)
        return 2 * low - 1, 2 * high - 1
    return wilson(mean, variance, most)


class FindingRow(ClassRow):
    """One configuration or ensemble that looks for several findings, recomputed from its predictions."""

    scores_of = staticmethod(mean_scores)

    def __init__(
        self, facts: dict[str, Any], files: dict[str, dict[str, pd.DataFrame]], w: np.ndarray, on_val: bool,
        names: list[str], told: list[str],
    ) -> None:  # fmt: skip
        """`told` are the findings that have patients enough in every run's validation images."""
        self.folds, self.by_fold, self.on_val, self.cuts = [], [], on_val, []
        self.facts, self.tables = facts, [files[run["run_id"]] for run in facts["runs"]]
        self.names, self.w = names, w
        self.patients = self.tables[0]["test"].patient
        self.y = labels(self.tables[0]["test"], names)
        test = [chances(table["test"], names) for table in self.tables]
        val = []
        for table in self.tables:
            y = labels(table["val"], names)
            y[:, [name not in told for name in names]] = UNKNOWN
            val.append((y, chances(table["val"], names)))
        if on_val:
            self.y = val[0][0]
        self.average = np.mean(test, axis=0)
        if facts["ensemble"]:
            same = len({tuple(table["val"].path) for table in self.tables}) == 1
            test, val = [self.average], [(val[0][0], np.mean([p for _, p in val], axis=0))] if same else []
        self.test, self.val = test, val
        self.single = [mean_scores(self.y, p) for p in test]
        self.of_finding, self.resampled = [], []
        for p in test:
            drawn = [draw_scores(own, q, w[known]) for known, own, q in each(self.y, p)]
            self.of_finding.append(drawn)
            means = {name: np.mean([one[name] for one in drawn], axis=0) for name in drawn[0]}
            means["exact_match"] = right(self.y, p) @ w / w.sum(axis=0)
            self.resampled.append(means)
        self.people = [counts(self.y[:, k], self.patients) for k in range(len(names))]
        self.everyone = len({patient or row for row, patient in enumerate(self.patients)})
        self.heats: list[list[float]] = []
        self.cooled: list[np.ndarray] = []
        if val and not on_val:
            self.heats = [
                [
                    temperature(y[known, k], p[known, k]) if len(set(y[known, k])) == 2 else 1.0
                    for k in range(len(names))
                    for known in [y[:, k] != UNKNOWN]
                ]
                for y, p in val
            ]
            self.cooled = [
                stats.logistic.cdf(logit(p) / np.array(heat))
                for p, heat in zip(test, self.heats, strict=True)
            ]
        self.draws = {n: np.mean([s[n] for s in self.resampled], axis=0) for n in self.resampled[0]}
        self.mean = {n: float(np.mean([s[n] for s in self.single])) for n in self.single[0]}

    def score(self, name: str, y: np.ndarray, p: np.ndarray) -> float:
        return mean_scores(y, p, [name] if name in SCORES else [])[name]

    def complete(self, rows: np.ndarray) -> bool:
        return bool(complete(self.y, rows[:, None])[0])

    def right(self) -> np.ndarray:
        return right(self.y, self.average)

    def tempered_spread(self, name: str) -> Spread:
        values, draws = [], []
        for p in self.cooled:
            values.append(self.score(name, self.y, p))
            drawn = [draw_scores(own, q, self.w[known])[name] for known, own, q in each(self.y, p)]
            draws.append(np.mean(drawn, axis=0))
        return self.spread_of(values, draws)

    def check(self, same: Check, seed: int) -> None:
        where, facts = self.facts["name"], self.facts
        assert facts["scores"].keys() == self.mean.keys()
        self.check_scores(same)
        same(f"{where} calls", facts["confusion"], [calls(self.y, p) for p in self.test])
        same(f"{where} calls on validation", facts["validation"]["confusion"], [calls(*v) for v in self.val])
        held = [mean_scores(*v) for v in self.val]
        for name, value in facts["validation"]["scores"].items():
            same(f"{where} validation {name}", value, np.mean([scored[name] for scored in held]))
        self.check_tempered(same)
        self.check_errors(same, seed)
        if "curves" in facts:
            self.check_curves(same)

    def ends(self, name: str) -> tuple[float, float]:
        return mean_interval(name, self.mean[name], self.draws[name], self.people, self.everyone)

    def check_errors(self, same: Check, seed: int) -> None:
        """Everything of each finding, and the calibration errors."""
        where, facts = self.facts["name"], self.facts
        assert list(facts["classes"]) == self.names
        errors = []
        for k, (name, entry) in enumerate(facts["classes"].items()):
            known = self.y[:, k] != UNKNOWN
            y, people = self.y[known, k], self.people[k]
            answers = [p[known, k] for p in self.test]
            patients = self.patients[known].reset_index(drop=True)
            identities = np.array([patient or f"row {row}" for row, patient in enumerate(patients)])
            same(f"{name} images", (entry["images"], entry["patients"]), (y.sum(), people["ill"]))
            drawn = ece_if_calibrated(y, patients, answers, seed)
            errors.append(drawn)
            called = float(np.mean([len(set(identities[p >= 0.5])) for p in answers]))
            single = [scores(y, p) for p in answers]
            for score, given in entry["scores"].items():
                value = float(np.mean([scored[score] for scored in single]))
                same(f"{where} {name} {score}", given["value"], value)
                draws = np.mean([run[k][score] for run in self.of_finding], axis=0)
                if score == "ece":
                    ends = error_ends(value, drawn, draws, min(people["normal"], people["ill"]))
                else:
                    ends = interval(score, value, draws, people, called)
                same(f"{where} {name} {score} interval", (given["low"], given["high"]), ends)
            given = entry["calibration"]
            same(f"{where} {name} if calibrated", given["ece_if_calibrated"], drawn.mean())
            fits = [recalibrated(y, p) for p in answers]
            for what in ("slope", "intercept"):
                values = [fit[what][0] for fit in fits]
                same(f"{where} {name} {what}", given[what]["per_run"], values)
                influence = pd.Series(np.mean([fit[what][1] for fit in fits], axis=0)).groupby(identities)
                squares = (influence.sum(min_count=1) ** 2).sum(skipna=False)
                half = Z * math.sqrt(squares * correction(people))
                ends = (np.mean(values) - half, np.mean(values) + half)
                same(f"{where} {name} {what} interval", (given[what]["low"], given[what]["high"]), ends)
        drawn = np.mean(errors, axis=0)
        same(f"{where} ece if calibrated", facts["if_calibrated"]["ece"], drawn.mean())
        least = min(min(one["normal"], one["ill"]) for one in self.people)
        ends = error_ends(self.mean["ece"], drawn, self.draws["ece"], least)
        same(f"{where} ece interval", [facts["scores"]["ece"][end] for end in ("low", "high")], ends)

    def pooled(self, identities: np.ndarray) -> pd.DataFrame:
        """The findings are pooled, too."""
        parts = [
            pd.DataFrame({"p": q, "hit": own.astype(float), "patient": identities[known]})
            for p in self.test
            for known, own, q in each(self.y, p)
        ]
        return pd.concat(parts)

    def stacks(self, w: np.ndarray, grid: np.ndarray) -> list[np.ndarray]:
        return [steps(own == 1, q, w[known], grid) for p in self.test for known, own, q in each(self.y, p)]


def calls(y: np.ndarray, p: np.ndarray) -> list[np.ndarray]:
    """tn, fp, fn, tp of each finding."""
    return [
        sk.confusion_matrix(y[known, k], p[known, k] >= 0.5, labels=[0, 1]).ravel()
        if (known := y[:, k] != UNKNOWN).any()
        else np.zeros(4)
        for k in range(y.shape[1])
    ]


def check_images(same: Check, page: dict[str, Any], table: pd.DataFrame, row: FindingRow) -> None:
    """Counts, the findings left out, and the mistakes of the first configuration."""
    names = page["class_names"]
    assert page["decision"] is None
    assert list(page["test"]["classes"]) == list(page["test"]["by_class"]) == names
    same("images", list(page["test"]["classes"].values()), (row.y == 1).sum(axis=0))
    rarer = [min(one["normal"], one["ill"]) for one in row.people]
    same("patients by finding", list(page["test"]["by_class"].values()), rarer)
    for name, rarest in page["findings"]["left_out"].items():
        people = counts(labels(table, [name])[:, 0], table.patient)
        same("patients of a finding left out", rarest, min(people["normal"], people["ill"]))
        assert rarest < FEWEST == page["findings"]["fewest"]
    wrong = ((row.average >= 0.5) != row.y) & (row.y != UNKNOWN)
    for mistake in page["mistakes"]:
        (place,) = np.flatnonzero(table.path == mistake["path"])
        k = names.index(mistake["finding"])
        assert wrong[place, k] and mistake["label"] == row.y[place, k]
        same("mistake", mistake["probability"], row.average[place, k])
        kind = wrong[:, k] & (row.y[:, k] == mistake["label"])
        surer = abs(row.average[:, k] - 0.5) > abs(row.average[place, k] - 0.5)
        assert (kind & surer).sum() < 2, "a more confident mistake of this kind is missing"
    kinds = sum(wrong[row.y[:, k] == value, k].any() for k in range(len(names)) for value in (0, 1))
    assert len(page["mistakes"]) >= min(24, kinds)
