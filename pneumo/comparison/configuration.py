"""The scores of one configuration: its runs' means, and their spread over patients and over seeds.

Thresholds and temperatures come from each run's validation images; test labels only ever score.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pneumo.comparison import out_of_fold
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import (
    CalibrationRow,
    ConfigurationRow,
    ConfigurationStart,
    Confusion,
    Curve,
    Curves,
    OperatingPoint,
    PredictiveValues,
    RecalibrationRow,
    RunRow,
    ScoreInterval,
    ScoreRow,
    SubtypeRow,
    Temperature,
    Validation,
)
from pneumo.comparison.words import SCORE_WORDS
from pneumo.evaluation import calibration, class_statistics, decisions, metrics, multiclass, statistics
from pneumo.evaluation.calibration import Recalibration
from pneumo.evaluation.contrasts import Spread
from pneumo.evaluation.predictions import SplitResult
from pneumo.names import RANKED_BY, THRESHOLD_RULES

RULE_SCORES = ("accuracy", "balanced_accuracy", "recall", "specificity", "precision", "f1", "mcc")
PAIRED = (  # compared in pairs
    *("accuracy", "balanced_accuracy", "f1", "recall", "specificity", "precision", "mcc"),
    *("auroc", "auprc", "brier", "log_loss"),
)
POINT_SCORES = ("recall", "specificity", "balanced_accuracy")  # compared in pairs at each threshold rule
TEMPERED_SCORES = ("brier", "log_loss")  # compared in pairs after temperature
GRID = np.linspace(0, 1, 101)
FEW_DRAWS = 500  # for subtypes and bands, the first of the draws: two decimals in a quarter of the time


class Configuration:
    """Runs that differ by their seed alone, scored on the test images and on every bootstrap draw.

    With `average` the runs' probabilities are averaged first: one ensemble instead of several models.
    """

    ranked_by: Sequence[str] = RANKED_BY
    paired: Sequence[str] = PAIRED
    words: Mapping[str, str] = SCORE_WORDS

    def __init__(
        self,
        name: str,
        runs: Sequence[Candidate],
        test: SplitResult,
        weights: statistics.Weights,
        average: bool = False,
        seed: int = 0,
    ) -> None:
        self.name, self.runs = name, sorted(runs, key=lambda run: (run.seed, run.run_id))
        self.optimistic, self.average = runs[0].optimistic, average
        self.probabilities = np.mean([run.test.probabilities for run in self.runs], axis=0)
        same_val = len({tuple(run.val.paths) for run in self.runs}) == 1
        # Predictions from elsewhere may come without any of validation images.
        val = [(run.val.labels, run.val.probabilities) for run in self.runs if run.val.paths]
        if average:
            tests = [self.probabilities]
            # Models that were validated on different images have no common validation to choose by.
            val = [(val[0][0], np.mean([c for _, c in val], axis=0))] if same_val and val else []
        else:
            tests = [run.test.probabilities for run in self.runs]
        self._splits = [""] if average else [run.split for run in self.runs]
        self.tests, self.val, self._truth = tests, val, test.labels
        classes = len(test.class_names)
        self._test = test
        self._counts = class_statistics.counts_of(test.labels, test.patients, classes)
        # Per run at each threshold rule, and after temperature: scores of the images, and of every draw.
        self._at: dict[str, list[tuple[dict[str, float], dict[str, metrics.Floats]]]] = {}
        self._tempered: list[tuple[dict[str, float], dict[str, metrics.Floats]]] = []
        self._resampled = self._resample(weights)
        self.draws = _mean_draws(self._resampled)
        self.by_network = {} if average else out_of_fold.by_network(self.runs, _score)
        self.folds = out_of_fold.by_fold(self.runs, self.by_network) if self.by_network else {}
        self.per_run = [_score(test.labels, chances) for chances in tests]
        self.row = self._row(weights, seed)

    def _resample(self, weights: statistics.Weights) -> list[dict[str, metrics.Floats]]:
        """Each run's scores on every draw."""
        return [statistics.resampled_scores(self._truth, chances, weights) for chances in self.tests]

    def _row(self, weights: statistics.Weights, seed: int) -> ConfigurationRow:
        test = self._test
        if_calibrated = calibration.error_if_calibrated(test.labels, test.patients, self.tests, seed)
        row: ConfigurationRow = {
            **self._start(),
            "points": self._points(weights),
            "temperature": self._temperature(weights),
            "calibration": self._calibration(test.labels, self.tests, if_calibrated, test.patients),
            "net_benefit": self._net_benefit(np.ones((len(test.labels), 1), np.uint16))[:, 0].tolist(),
            "subtypes": self._subtypes(test, weights),
            "confusion": [matrix_of(test.labels, chances) for chances in self.tests],
        }
        self._set_error_interval(row["scores"]["ece"], "ece", if_calibrated)
        return row

    def _start(self) -> ConfigurationStart:
        return {
            "name": self.name,
            "model": str(self.runs[0].config.get("model.name", "?")),
            "protocol": self.runs[0].protocol,
            "seeds": [run.seed for run in self.runs],
            "rank": None,
            "ensemble": self.average,
            "runs": [_run_row(run) for run in self.runs],
            "scores": {score: self._score_row(score) for score in self.per_run[0]},
            "validation": self._validation(),
        }

    def _set_error_interval(self, entry: ScoreInterval, score: str, if_calibrated: metrics.Floats) -> None:
        """Set the interval of a calibration error, which needs its draws if the networks were calibrated."""
        entry["low"], entry["high"] = calibration.error_interval(
            entry["value"], if_calibrated, self.draws[score], self._counts.smaller_class
        )

    def value(self, score: str) -> float:
        return float(self.row["scores"][score]["value"])

    def spread(self, score: str) -> Spread:
        """The score of each run, on the images and on every draw."""
        return Spread.of(
            [scored[score] for scored in self.per_run],
            [draws[score] for draws in self._resampled],
            self._splits,
            self.folds.get(score) if self.runs[0].on_validation else None,
        )

    def point_spread(self, rule: str, score: str) -> Spread | None:
        """As `spread`, at the thresholds that validation chose by `rule`; None where it chose none."""
        return _spread(self._at.get(rule, []), score, self._splits)

    def tempered_spread(self, score: str) -> Spread | None:
        """As `spread`, after each run's temperature; None where there is none."""
        return _spread(self._tempered, score, self._splits)

    def _score_row(self, score: str) -> ScoreRow:
        values = [scored[score] for scored in self.per_run]
        return {
            **self._interval(score, values, self.draws),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "per_run": values,
        }

    def _validation(self) -> Validation:
        scored = [_score(*pair) for pair in self.val]

        def mean(score: str) -> float | None:
            return float(np.mean([run[score] for run in scored])) if scored else None

        return {
            "accuracy": mean("accuracy"),
            "f1": mean("f1"),
            "auroc": mean("auroc"),
            "scores": {
                score: float(np.mean([run[score] for run in scored]))
                for score in (*self.ranked_by, "log_loss")
                if scored
            },
            "confusion": [matrix_of(*pair) for pair in self.val],
        }

    def _points(self, weights: statistics.Weights) -> dict[str, OperatingPoint]:
        """Thresholds chosen on validation, and what they give on test, unchanged."""
        # On the images that chose a threshold, what it gives is not a result.
        chosen = [] if self.runs[0].on_validation else [metrics.operating_points(*pair) for pair in self.val]
        points: dict[str, OperatingPoint] = {}
        for rule in THRESHOLD_RULES:
            if rule == "half":
                points[rule] = self._point([0.5] * len(self.tests), self.per_run, self.draws)
            elif chosen and all(rule in found for found in chosen):
                thresholds = [found[rule] for found in chosen]
                cuts = list(zip(self.tests, thresholds, strict=True))
                scored = [_score(self._truth, *cut) for cut in cuts]
                draws = [
                    statistics.resampled_scores(self._truth, chances, weights, threshold, parts=("counts",))
                    for chances, threshold in cuts
                ]
                points[rule] = self._point(thresholds, scored, _mean_draws(draws))
                self._at[rule] = [
                    (one, {score: drawn[score] for score in POINT_SCORES})
                    for one, drawn in zip(scored, draws, strict=True)
                ]
        return points

    def _point(
        self,
        thresholds: list[float],
        scored: Sequence[Mapping[str, float]],
        draws: Mapping[str, metrics.Floats],
    ) -> OperatingPoint:
        called = self._patients_called(thresholds)
        scores = {
            score: self._interval(
                score, [run[score] for run in scored], draws, called if score == "precision" else None
            )
            for score in RULE_SCORES
        }
        on_val = [
            float((chances[labels == 1] >= threshold).mean())
            for (labels, chances), threshold in zip(self.val, thresholds, strict=False)
            if labels.any()
        ]
        return {
            "thresholds": thresholds,
            "validation_recall": float(np.mean(on_val)) if on_val else None,
            "scores": scores,
            "predictive_values": {
                f"{prevalence:g}": _predictive_values(scores["recall"], scores["specificity"], prevalence)
                for prevalence in metrics.PREVALENCES
            },
        }

    def _temperature(self, weights: statistics.Weights) -> Temperature | None:
        one_class = any(len(np.unique(labels)) < 2 for labels, _ in self.val)
        if not self.val or one_class or self.runs[0].on_validation:
            return None
        fitted = [multiclass.temperature_of(*pair) for pair in self.val]
        cooled = [
            multiclass.tempered_of(chances, value) for chances, value in zip(self.tests, fitted, strict=True)
        ]
        after = [_score(self._truth, chances, parts=("losses",)) for chances in cooled]
        self._tempered = [
            (one, class_statistics.resampled_scores(self._truth, chances, weights, parts=("losses",)))
            for one, chances in zip(after, cooled, strict=True)
        ]
        keys = [key for key in ("ece", "log_loss", "brier", "ece_top") if key in after[0]]
        return {"values": fitted, "after": {key: float(np.mean([run[key] for run in after])) for key in keys}}

    def _calibration(
        self,
        labels: metrics.Ints,
        tests: Sequence[metrics.Floats],
        if_calibrated: metrics.Floats,
        patients: Sequence[str | None],
    ) -> CalibrationRow:
        """Of `tests`, the runs' probabilities of class 1 of the `labels`, and the images' `patients`."""
        fits = [Recalibration.of(labels, chances) for chances in tests]
        _, _, patient_of = statistics.clusters(labels, patients)
        least = statistics.PatientCounts.of(labels, patients).smaller_class

        def row(values: list[float], influences: list[metrics.Floats]) -> RecalibrationRow:
            mean = float(np.mean(values))
            low, high = calibration.over_patients(mean, influences, patient_of, least)
            return {"value": mean, "low": low, "high": high, "per_run": values}

        return {
            "slope": row([fit.slope for fit in fits], [fit.slope_influence for fit in fits]),
            "intercept": row([fit.intercept for fit in fits], [fit.intercept_influence for fit in fits]),
            "ece_if_calibrated": float(if_calibrated.mean()),
        }

    def _net_benefit(self, weights: statistics.Weights) -> metrics.Floats:
        """The runs' mean net benefit [thresholds, draws]."""
        each = [decisions.net_benefit(self._truth, chances, weights) for chances in self.tests]
        return np.asarray(np.mean(each, axis=0))

    def _subtypes(self, test: SplitResult, weights: statistics.Weights) -> dict[str, SubtypeRow]:
        rows: dict[str, SubtypeRow] = {}
        weights, parts = weights[:, :FEW_DRAWS], ("counts", "areas")
        for kind, mask in metrics.by_subtype(test.patients, test.labels).items():
            truth = test.labels[mask]
            some = [chances[mask] for chances in self.tests]
            scored = [_score(truth, chances, parts=parts) for chances in some]
            people = [patient for patient, kept in zip(test.patients, mask, strict=True) if kept]
            counts = statistics.PatientCounts.of(truth, people)
            mine = weights[mask]
            mine = mine[:, mine[truth == 1].any(axis=0)]  # a rare kind is missing from some draws
            draws = _mean_draws([statistics.resampled_scores(truth, c, mine, parts=parts) for c in some])
            found = {
                score: self._interval(score, [run[score] for run in scored], draws, counts=counts)
                for score in ("recall", "auroc", "auprc", "accuracy")
            }
            rows[kind] = {
                "images": int(truth.sum()),
                "normal": int((truth == 0).sum()),
                "recall": found["recall"],
                "auroc": found["auroc"],
                "auprc": found["auprc"],
                "accuracy": found["accuracy"],
            }
        return rows

    def _interval(
        self,
        score: str,
        values: Sequence[float],
        draws: Mapping[str, metrics.Floats],
        behind: float | None = None,
        counts: statistics.Counts | None = None,
    ) -> ScoreInterval:
        """The mean of the runs' `values` with its interval over patients."""
        if score == "precision" and behind is None:
            behind = self._behind_precision()
        mean = float(np.mean(values))
        low, high = statistics.interval(score, mean, draws[score], counts or self._counts, behind)
        return {"value": mean, "low": low, "high": high}

    def _behind_precision(self) -> float | None:
        """The patients behind the score `precision`, if the number of patients does not tell."""
        return self._patients_called([0.5] * len(self.tests))

    def _patients_called(self, thresholds: Sequence[float]) -> float:
        """Patients with an image that is called PNEUMONIA, the mean over the runs."""
        found = []
        for chances, threshold in zip(self.tests, thresholds, strict=True):
            found.append(statistics.patients_of(self._test.patients, chances >= threshold))
        return float(np.mean(found))

    def add_curves(self, test: SplitResult, weights: statistics.Weights) -> None:
        """Mean ROC, precision-recall and net benefit, with 95 % percentile bands; pooled calibration."""
        once = np.ones((len(test.labels), 1), dtype=np.uint16)
        both = np.concatenate([once, weights[:, :FEW_DRAWS]], axis=1)
        stacks = [statistics.resampled_curves(test.labels, chances, both, GRID) for chances in self.tests]
        roc, pr = (mean_curve(stack) for stack in zip(*stacks, strict=True))
        ends = calibration.bin_intervals(test.labels, test.patients, self.tests)
        images, chance, share = metrics.calibration_bins(
            np.tile(test.labels, len(self.tests)), np.concatenate(self.tests)
        )
        curves: Curves = {
            "grid": GRID.tolist(),
            "roc": roc,
            "pr": pr,
            "calibration": [
                {"images": int(n), "mean": float(p), "share": float(s), "low": low, "high": high}
                for n, p, s, (low, high) in zip(images, chance, share, ends, strict=True)
                if n
            ],
            "net_benefit": mean_curve([self._net_benefit(both)]),
        }
        self.row["curves"] = curves


def mean_curve(stack: Sequence[metrics.Floats]) -> Curve:
    """The runs' curves, each [GRID, 1 + draws]: the first column is of the images themselves."""
    mean = np.mean(stack, axis=0)
    low, high = np.quantile(mean[:, 1:], (0.025, 0.975), axis=1)
    return {"value": mean[:, 0].tolist(), "low": low.tolist(), "high": high.tolist()}


def _predictive_values(recall: ScoreInterval, specificity: ScoreInterval, share: float) -> PredictiveValues:
    ppv, npv = metrics.predictive_values(recall["value"], specificity["value"], share)
    ends = decisions.predictive_intervals(
        (recall["value"], recall["low"], recall["high"]),
        (specificity["value"], specificity["low"], specificity["high"]),
        share,
    )
    (ppv_low, ppv_high), (npv_low, npv_high) = ends
    return {
        "ppv": ppv,
        "ppv_low": ppv_low,
        "ppv_high": ppv_high,
        "npv": npv,
        "npv_low": npv_low,
        "npv_high": npv_high,
    }


def _spread(
    runs: Sequence[tuple[Mapping[str, float], Mapping[str, metrics.Floats]]],
    score: str,
    splits: Sequence[str],
) -> Spread | None:
    if not runs:
        return None
    return Spread.of([one[score] for one, _ in runs], [drawn[score] for _, drawn in runs], splits)


def _score(
    labels: metrics.Ints,
    chances: metrics.Floats,
    threshold: float = 0.5,
    parts: Sequence[str] = ("counts", "losses", "areas"),
) -> dict[str, float]:
    """`metrics.all_scores`, as one draw that takes every image once: a tenth of scikit-learn's time."""
    once = np.ones((len(labels), 1), dtype=np.uint16)
    found = class_statistics.resampled_scores(labels, chances, once, threshold, parts)
    return {score: float(values[0]) for score, values in found.items()}


def matrix_of(labels: metrics.Ints, chances: metrics.Floats) -> Confusion:
    matrix: Confusion = multiclass.confusion_of(labels, chances).tolist()
    return matrix


def _mean_draws(resampled: Sequence[Mapping[str, metrics.Floats]]) -> dict[str, metrics.Floats]:
    return {score: np.mean([draws[score] for draws in resampled], axis=0) for score in resampled[0]}


def _run_row(run: Candidate) -> RunRow:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "seed": run.seed,
        "epoch": run.epoch,
        "history": run.history,
        "notes": run.notes,
        "commit": run.commit,
        "device": run.device,
        "precision": run.precision,
        "monitor": str(run.config.get("trainer.monitor", "val/auroc")),
        **({"networks": len(run.parts)} if run.parts else {}),  # type: ignore[typeddict-item]
    }
