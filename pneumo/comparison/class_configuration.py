"""The scores of one configuration with more than two classes: macro scores, and each class against the rest.

An image is called the class with the largest probability, so no threshold is chosen. Predictive
values and the decision curve need one positive class, and are left out. One class against the rest is judged
by the functions that judge two classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pneumo.comparison.configuration import FEW_DRAWS, GRID, Configuration, matrix_of, mean_curve
from pneumo.comparison.content import ClassRow, ConfigurationRow, ScoreInterval
from pneumo.comparison.words import CLASS_SCORE_WORDS
from pneumo.evaluation import calibration, class_statistics, metrics, multiclass, statistics
from pneumo.evaluation.predictions import SplitResult
from pneumo.names import CLASS_RANKED_BY

CLASS_PAIRED = (
    *("accuracy", "balanced_accuracy", "f1", "f1_weighted", "precision", "specificity", "mcc", "kappa"),
    *("auroc", "auprc", "brier", "log_loss"),
)
CLASS_SCORES = ("auroc", "recall", "specificity", "precision", "f1", "auprc")  # of each class; and ece


@dataclass(kw_only=True)
class OneClass:
    """One class against the rest, or one finding: the images that tell, and each run's answer for them."""

    name: str
    truth: metrics.Ints  # 0 and 1 [N]
    patients: Sequence[str | None]
    chances: list[metrics.Floats]  # of each run
    called: list[np.ndarray]  # of each run, bool [N]
    weights: statistics.Weights


class ClassConfiguration(Configuration):
    """As `Configuration`, for probabilities [N, K]."""

    ranked_by: Sequence[str] = CLASS_RANKED_BY
    paired: Sequence[str] = CLASS_PAIRED
    words: Mapping[str, str] = CLASS_SCORE_WORDS
    errors: Sequence[str] = ("ece", "ece_top")

    def _both(
        self, chances: metrics.Floats, weights: statistics.Weights
    ) -> tuple[dict[str, metrics.Floats], dict[str, metrics.Floats]]:
        """One run's scores on every draw, and those of each class."""
        return class_statistics.resampled_both(self._truth, chances, weights)

    def _each(self, weights: statistics.Weights) -> Iterator[OneClass]:
        """The classes in the order of their labels."""
        for label, name in enumerate(self._test.class_names):
            yield OneClass(
                name=name,
                truth=(self._truth == label).astype(np.int64),
                patients=self._test.patients,
                chances=[chances[:, label] for chances in self.tests],
                called=[multiclass.called_of(chances) == label for chances in self.tests],
                weights=weights,
            )

    def _errors_if_calibrated(self, seed: int) -> metrics.Floats:
        """The mean ECE of each class, then that of the called class: [K + 1, draws]."""
        test = self._test
        return calibration.class_errors_if_calibrated(test.labels, test.patients, self.tests, seed)

    def _calibration_bins(self) -> tuple[metrics.Ints, metrics.Ints, metrics.Floats]:
        """What the calibration curve shows, the runs pooled: numbers of patients, hits, probabilities."""
        _, _, patient_of = statistics.clusters(self._truth, self._test.patients)
        top = np.concatenate([chances.max(1) for chances in self.tests])
        right = np.concatenate([multiclass.called_of(chances) == self._truth for chances in self.tests])
        return np.tile(patient_of, len(self.tests)), right.astype(np.int64), top

    def _resample(self, weights: statistics.Weights) -> list[dict[str, metrics.Floats]]:
        both = [self._both(chances, weights) for chances in self.tests]
        self._of_class = [of_class for _, of_class in both]
        return [macro for macro, _ in both]

    def _row(self, weights: statistics.Weights, seed: int) -> ConfigurationRow:
        test, errors = self._test, self._errors_if_calibrated(seed)
        classes = len(test.class_names)
        # The mean of the classes' errors, and what comes after them.
        if_calibrated = dict(
            zip(self.errors, (errors[:classes].mean(axis=0), *errors[classes:]), strict=True)
        )
        row: ConfigurationRow = {
            **self._start(),
            "points": {},
            "temperature": self._temperature(weights),
            "subtypes": {},
            "confusion": [matrix_of(test.labels, chances) for chances in self.tests],
            "classes": self._classes(weights, errors),
            "if_calibrated": {score: float(draws.mean()) for score, draws in if_calibrated.items()},
        }
        for score, drawn in if_calibrated.items():
            self._set_error_interval(row["scores"][score], score, drawn)
        return row

    def _classes(self, weights: statistics.Weights, errors: metrics.Floats) -> dict[str, ClassRow]:
        once = np.ones((len(self._truth), 1), dtype=np.uint16)
        observed = [self._both(chances, once)[1] for chances in self.tests]
        rows: dict[str, ClassRow] = {}
        for label, one in enumerate(self._each(weights)):
            counts = statistics.PatientCounts.of(one.truth, one.patients)
            called = np.mean([statistics.patients_of(one.patients, called) for called in one.called])
            rows[one.name] = {
                "images": int(one.truth.sum()),
                "patients": counts.ill,
                "scores": {
                    **{
                        score: self._interval(
                            score,
                            [float(values[score][label, 0]) for values in observed],
                            {score: np.mean([drawn[score][label] for drawn in self._of_class], axis=0)},
                            float(called) if score == "precision" else None,
                            counts,
                        )
                        for score in CLASS_SCORES
                    },
                    "ece": _error(one, errors[label], counts),
                },
                "calibration": self._calibration(one.truth, one.chances, errors[label], one.patients),
            }
        return rows

    def _behind_precision(self) -> float | None:
        return None  # macro precision is a mean over the classes, as macro F1 is

    def add_curves(self, test: SplitResult, weights: statistics.Weights) -> None:
        """ROC and precision-recall, the means over classes and runs, with bands; calibration of the called
        class's probability, the runs pooled."""
        once = np.ones((len(test.labels), 1), dtype=np.uint16)
        both = np.concatenate([once, weights[:, :FEW_DRAWS]], axis=1)
        stacks = [
            statistics.resampled_curves(one.truth, chances, one.weights, GRID)
            for one in self._each(both)
            for chances in one.chances
        ]
        roc, pr = (mean_curve(stack) for stack in zip(*stacks, strict=True))
        people, hits, pooled = self._calibration_bins()
        ends = calibration.share_intervals(people, hits, pooled)
        images, chance, share = metrics.calibration_bins(hits, pooled)
        self.row["curves"] = {
            "grid": GRID.tolist(),
            "roc": roc,
            "pr": pr,
            "calibration": [
                {"images": int(n), "mean": float(p), "share": float(s), "low": low, "high": high}
                for n, p, s, (low, high) in zip(images, chance, share, ends, strict=True)
                if n
            ],
        }


def _error(one: OneClass, if_calibrated: metrics.Floats, counts: statistics.PatientCounts) -> ScoreInterval:
    """One class's calibration error with its interval."""
    value = float(np.mean([metrics.calibration_error(one.truth, chances) for chances in one.chances]))
    drawn = [
        statistics.resampled_scores(one.truth, chances, one.weights, parts=("losses",))["ece"]
        for chances in one.chances
    ]
    low, high = calibration.error_interval(value, if_calibrated, np.mean(drawn, axis=0), counts.smaller_class)
    return {"value": value, "low": low, "high": high}
