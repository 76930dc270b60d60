"""What a set of finished runs allows one to say of their configurations. Arrays in, one plain dict out.

Everything the page shows stands in that dict (and in comparison.json), so that it can be recomputed.
Thresholds and temperatures come from each run's validation images; test labels only ever score.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pneumo import UserError, one_of
from pneumo.comparison import pairs
from pneumo.evaluation import metrics, statistics
from pneumo.evaluation.predictions import SplitResult
from pneumo.names import THRESHOLD_RULES

RULE_SCORES = ("accuracy", "balanced_accuracy", "recall", "specificity", "precision", "f1", "mcc")
RANKED_BY = ("accuracy", "balanced_accuracy", "f1", "mcc", "auroc", "auprc")
CURVES = 6  # configurations drawn over one another; more cannot be told apart
GRID = np.linspace(0, 1, 101)
MISTAKES = 10
FEW_DRAWS = 500  # of the same draws, for subtypes and bands: two decimals in a quarter of the time


@dataclass(kw_only=True)
class Candidate:
    """A finished run that may be compared."""

    run_id: str
    name: str
    seed: int
    config: dict[str, Any]  # flat: what can change the result, without the seed
    protocol: str
    digest: str
    test: SplitResult
    val: SplitResult
    fingerprint: str = ""
    started_ms: int = 0
    epoch: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)  # what the door adds: commit, parameters, bytes

    @property
    def optimistic(self) -> bool:
        return self.protocol == "test_selected"


def sort_out(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[dict[str, str]]]:
    """Those that were scored on the same images, and the others, each with the reason in words.

    Compared is the data set most runs have; of equally many, the one with more test images, then the newest.
    """
    kept = list(candidates)
    left: list[dict[str, str]] = []

    def keep(key: Any, reason: Any) -> None:
        nonlocal kept
        order = sorted(kept, key=lambda run: run.started_ms)
        size = {key(run): (len(run.test.paths), run.started_ms) for run in order}
        counted = Counter(key(run) for run in kept)
        chosen = max(counted, key=lambda value: (counted[value], size[value]), default=None)
        left.extend({"run": run.name, "reason": reason(run)} for run in kept if key(run) != chosen)
        kept = [run for run in kept if key(run) == chosen]

    keep(
        lambda run: run.digest,
        lambda run: (
            f"another data set (digest {run.digest[:12] or 'missing'}); its figures are of other images"
        ),
    )
    keep(
        lambda run: tuple(zip(run.test.paths, run.test.labels.tolist(), strict=True)),
        lambda run: (
            f"its {len(run.test.paths)} test predictions are not of the same images (trainer.limit_batches?)"
        ),
    )
    keep(
        lambda run: tuple(run.test.patients),
        lambda run: "its predictions name no patients, or others than the runs it would be compared with",
    )
    newest: dict[str, Candidate] = {}
    for run in sorted(kept, key=lambda run: run.started_ms):
        mark = run.fingerprint or run.run_id
        if mark in newest:
            left.append({"run": newest[mark].name, "reason": "the same run was made again later"})
        newest[mark] = run
    return list(newest.values()), left


def build(
    runs: Sequence[Candidate], *, rank_by: str = "accuracy", draws: int = statistics.DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Compare `runs`, which `sort_out` let through. Raises UserError where there is none."""
    one_of("rank_by", rank_by, RANKED_BY)
    if not runs:
        raise UserError("there is no finished run to compare.")
    test = runs[0].test
    if len(np.unique(test.labels)) < 2:
        raise UserError("the test images are all of one class: nothing can be compared on them.")
    weights = statistics.resample(test.labels, test.patients, draws, seed)
    groups = _groups(runs)
    rows: list[_Row] = []
    for optimistic in (False, True):  # shown apart, so named apart
        mine = [group for group in groups if group[0].optimistic == optimistic]
        names = _names([group[0].config for group in mine])
        rows += [_Row(name, group, test, weights) for name, group in zip(names, mine, strict=True)]
    rows.sort(key=lambda row: -row.value(rank_by))
    ranked = [row for row in rows if not row.optimistic]
    apart = [row for row in rows if row.optimistic]
    for place, row in enumerate(ranked + apart, start=1):
        row.facts |= {"id": f"c{place}", "rank": None if row.optimistic else place}
    for row in (ranked + apart)[:CURVES]:
        row.add_curves(test, weights)
    members = [run for row in ranked for run in row.runs]
    ensembles = [
        _Row(f"{row.name}: its {len(row.runs)} seeds averaged", row.runs, test, weights, average=True)
        for row in ranked
        if len(row.runs) > 1
    ]
    if len(ranked) > 1:
        ensembles.append(_Row(f"all {len(members)} runs averaged", members, test, weights, average=True))
    found = statistics.clusters(test.labels, test.patients)
    return {
        "rank_by": rank_by,
        "bootstrap": {"draws": draws, "seed": seed, "scheme": statistics.__doc__, "level": statistics.LEVEL},
        "test": _about_test(test, len(found[0])),
        "configurations": [row.facts for row in ranked],
        "optimistic": [row.facts for row in apart],
        "ensembles": [row.facts for row in ensembles],
        "pairs": pairs.compare(ranked, test.labels, rank_by),
        "differences": _differences(ranked + apart),
        "mistakes": _mistakes(ranked, test) if ranked else [],
    }


class _Row:
    """One configuration: its runs' mean scores and how they spread over draws of patients and over seeds.

    With `average` the runs' probabilities are averaged first: one ensemble instead of several models.
    """

    def __init__(
        self,
        name: str,
        runs: Sequence[Candidate],
        test: SplitResult,
        weights: statistics.Weights,
        average: bool = False,
    ) -> None:
        self.name, self.runs = name, sorted(runs, key=lambda run: (run.seed, run.run_id))
        self.optimistic = runs[0].optimistic
        self.probabilities = np.mean([run.test.probabilities for run in self.runs], axis=0)
        same_val = len({tuple(run.val.paths) for run in self.runs}) == 1
        val = [(run.val.labels, run.val.probabilities) for run in self.runs]
        if average:
            tests = [self.probabilities]
            # Models that were validated on different images have no common validation to choose by.
            val = [(val[0][0], np.mean([chances for _, chances in val], axis=0))] if same_val else []
        else:
            tests = [run.test.probabilities for run in self.runs]
        self._tests, self._val, self._truth = tests, val, test.labels
        self._resampled = [statistics.resampled_scores(test.labels, chances, weights) for chances in tests]
        self.draws = _mean_draws(self._resampled)
        self.per_run = [_score(test.labels, chances) for chances in tests]
        self.facts: dict[str, Any] = {
            "name": name,
            "model": str(runs[0].config.get("model.name", "?")),
            "protocol": runs[0].protocol,
            "seeds": [run.seed for run in self.runs],
            "rank": None,
            "ensemble": average,
            "runs": [_about_run(run) for run in self.runs],
            "scores": {score: self._entry(score) for score in self.per_run[0]},
            "validation": self._validation(),
            "points": self._points(weights),
            "temperature": self._temperature(),
            "subtypes": self._subtypes(test, weights),
            "confusion": [metrics.confusion(test.labels, chances >= 0.5).tolist() for chances in tests],
        }

    def value(self, score: str) -> float:
        return float(self.facts["scores"][score]["value"])

    def _entry(self, score: str) -> dict[str, Any]:
        values = [scored[score] for scored in self.per_run]
        mean = float(np.mean(values))
        low, high = statistics.interval(score, mean, self.draws[score])
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return {"value": mean, "low": low, "high": high, "sd": sd, "per_run": values}

    def _validation(self) -> dict[str, Any]:
        scored = [_score(*pair) for pair in self._val]
        keys = ("accuracy", "f1", "auroc")
        return {
            **{key: float(np.mean([run[key] for run in scored])) if scored else None for key in keys},
            "confusion": [
                metrics.confusion(labels, chances >= 0.5).tolist() for labels, chances in self._val
            ],
        }

    def _points(self, weights: statistics.Weights) -> dict[str, Any]:
        """Thresholds chosen on validation, and what they give on test, unchanged."""
        chosen = [metrics.operating_points(*pair) for pair in self._val]
        found: dict[str, Any] = {}
        for rule in THRESHOLD_RULES:
            if rule == "half":
                thresholds = [0.5] * len(self._tests)
            elif chosen and all(rule in points for points in chosen):
                thresholds = [points[rule] for points in chosen]
            else:
                continue
            cuts = list(zip(self._tests, thresholds, strict=True))
            at = self.per_run if rule == "half" else [_score(self._truth, *pair) for pair in cuts]
            resampled = (
                self._resampled
                if rule == "half"
                else [
                    statistics.resampled_scores(self._truth, chances, weights, cut, parts=("counts",))
                    for chances, cut in cuts
                ]
            )
            draws = _mean_draws(resampled)
            scores = {}
            for score in RULE_SCORES:
                mean = float(np.mean([scored[score] for scored in at]))
                low, high = statistics.interval(score, mean, draws[score])
                scores[score] = {"value": mean, "low": low, "high": high}
            on_val = [
                float((chances[labels == 1] >= cut).mean())
                for (labels, chances), cut in zip(self._val, thresholds, strict=False)
                if labels.any()
            ]
            values = {
                f"{prevalence:g}": metrics.predictive_values(
                    scores["recall"]["value"], scores["specificity"]["value"], prevalence
                )
                for prevalence in metrics.PREVALENCES
            }
            found[rule] = {
                "thresholds": thresholds,
                "validation_recall": float(np.mean(on_val)) if on_val else None,
                "scores": scores,
                "predictive_values": {key: {"ppv": ppv, "npv": npv} for key, (ppv, npv) in values.items()},
            }
        return found

    def _temperature(self) -> dict[str, Any] | None:
        if not self._val:
            return None
        fitted = [metrics.temperature(*pair) for pair in self._val]
        after = [
            _score(self._truth, metrics.tempered(chances, value), parts=("losses",))
            for chances, value in zip(self._tests, fitted, strict=True)
        ]
        keys = ("ece", "log_loss", "brier")
        return {"values": fitted, "after": {key: float(np.mean([run[key] for run in after])) for key in keys}}

    def _subtypes(self, test: SplitResult, weights: statistics.Weights) -> dict[str, Any]:
        found = {}
        weights = weights[:, :FEW_DRAWS]
        for kind, mask in metrics.by_subtype(test.patients, test.labels).items():
            truth = test.labels[mask]
            some = [chances[mask] for chances in self._tests]
            scored = [_score(truth, chances, parts=("counts", "areas")) for chances in some]
            draws = _mean_draws(
                [
                    statistics.resampled_scores(truth, c, weights[mask], parts=("counts", "areas"))
                    for c in some
                ]
            )
            entry: dict[str, Any] = {"images": int(truth.sum()), "normal": int((truth == 0).sum())}
            for score in ("recall", "auroc", "auprc", "accuracy"):
                mean = float(np.mean([run[score] for run in scored]))
                low, high = statistics.interval(score, mean, draws[score])
                entry[score] = {"value": mean, "low": low, "high": high}
            found[kind] = entry
        return found

    def add_curves(self, test: SplitResult, weights: statistics.Weights) -> None:
        """Mean ROC and precision-recall over the runs, with 95 % percentile bands; pooled calibration."""
        one = np.ones((len(test.labels), 1), dtype=np.uint16)
        both = np.concatenate([one, weights[:, :FEW_DRAWS]], axis=1)
        curves = [statistics.resampled_curves(test.labels, chances, both, GRID) for chances in self._tests]
        found: dict[str, Any] = {"grid": GRID.tolist()}
        for key, stack in zip(("roc", "pr"), zip(*curves, strict=True), strict=True):
            mean = np.mean(stack, axis=0)
            low, high = np.quantile(mean[:, 1:], (0.025, 0.975), axis=1)
            found[key] = {"value": mean[:, 0].tolist(), "low": low.tolist(), "high": high.tolist()}
        images, chance, share = metrics.calibration_bins(
            np.tile(test.labels, len(self._tests)), np.concatenate(self._tests)
        )
        found["calibration"] = [
            {"images": int(n), "mean": float(p), "share": float(s)}
            for n, p, s in zip(images, chance, share, strict=True)
            if n
        ]
        self.facts["curves"] = found


def _score(
    labels: metrics.Ints,
    chances: metrics.Floats,
    threshold: float = 0.5,
    parts: Sequence[str] = ("counts", "losses", "areas"),
) -> dict[str, float]:
    """`metrics.all_scores`, as one draw that takes every image once: a tenth of scikit-learn's time."""
    once = np.ones((len(labels), 1), dtype=np.uint16)
    found = statistics.resampled_scores(labels, chances, once, threshold, parts)
    return {score: float(values[0]) for score, values in found.items()}


def _mean_draws(resampled: Sequence[Mapping[str, metrics.Floats]]) -> dict[str, metrics.Floats]:
    return {score: np.mean([draws[score] for draws in resampled], axis=0) for score in resampled[0]}


def _groups(runs: Sequence[Candidate]) -> list[list[Candidate]]:
    """Runs of one configuration and protocol, which differ by their seed alone."""
    groups: dict[tuple[Any, ...], list[Candidate]] = {}
    for run in sorted(runs, key=lambda run: (run.started_ms, run.name)):
        mark = (run.protocol, *sorted((key, repr(value)) for key, value in run.config.items()))
        groups.setdefault(mark, []).append(run)
    return list(groups.values())


def _names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each configuration by the fewest values that tell it from all the others."""
    configs = [{k: v for k, v in config.items() if k != "trainer.select_on"} for config in configs]
    first = ("model.name", "sampler.name", "augment.name", "data.image_size", "trainer.epochs")
    keys = [*first, *sorted({key for config in configs for key in config} - set(first))]
    names: list[tuple[str, ...]] = [()] * len(configs)
    for key in keys:
        if key != "model.name" and len(set(names)) == len(names):
            break
        values = [repr(config.get(key)) for config in configs]
        finer = len({(name, value) for name, value in zip(names, values, strict=True)}) > len(set(names))
        if finer or key == "model.name":
            texts = [str(config.get(key, "-")) for config in configs]
            short = key.rpartition(".")[2]
            form = {"name": "{}", "image_size": "{} px", "epochs": "{} epochs"}.get(short, f"{short}={{}}")
            names = [(*name, form.format(text)) for name, text in zip(names, texts, strict=True)]
    full = [", ".join(name) for name in names]
    seen: Counter[str] = Counter()
    for index, name in enumerate(full):  # the same configuration under two protocols
        seen[name] += 1
        full[index] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return full


def _differences(rows: Sequence[_Row]) -> dict[str, Any]:
    """The keys in which the configurations differ, with each one's value, and those they share."""
    configs = [row.runs[0].config for row in rows]
    keys = sorted({key for config in configs for key in config})
    differ = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    return {
        "keys": differ,
        "values": {
            row.facts["id"]: [config.get(key) for key in differ]
            for row, config in zip(rows, configs, strict=True)
        },
        "shared": {key: configs[0].get(key) for key in keys if key not in differ},
    }


def _mistakes(ranked: Sequence[_Row], test: SplitResult) -> list[dict[str, Any]]:
    """The first configuration's most confident mistakes at probability 0.5, its seeds averaged."""
    chances = ranked[0].probabilities
    wrong = (chances >= 0.5) != (test.labels == 1)
    order = [int(i) for i in np.argsort(-np.abs(chances - 0.5), kind="stable") if wrong[i]]
    runs = [run for row in ranked for run in row.runs]
    return [
        {
            "path": test.paths[i],
            "patient": test.patients[i],
            "label": int(test.labels[i]),
            "probability": float(chances[i]),
            "wrong_in": sum(int((run.test.probabilities[i] >= 0.5) != test.labels[i]) for run in runs),
            "of": len(runs),
        }
        for i in order[:MISTAKES]
    ]


def _about_run(run: Candidate) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "seed": run.seed,
        "epoch": run.epoch,
        "history": run.history,
        "notes": run.notes,
        "commit": run.about.get("commit"),
    }


def _about_test(test: SplitResult, clusters: int) -> dict[str, Any]:
    unnamed = sum(patient is None for patient in test.patients)
    masks = metrics.by_subtype(test.patients, test.labels)
    subtypes = {kind: int((mask & (test.labels == 1)).sum()) for kind, mask in masks.items()}
    return {
        "images": len(test.paths),
        "normal": int((test.labels == 0).sum()),
        "pneumonia": int((test.labels == 1).sum()),
        "patients": test.patient_count,
        "clusters": clusters,
        "images_without_patient": unnamed,
        "subtypes": subtypes,
    }
