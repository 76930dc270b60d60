"""The scores of one configuration with more than two classes: macro scores, and each class against the rest.

An image is called the class with the largest probability, so there are no thresholds to choose. Predictive
values and the decision curve need one positive class, and are left out. One class against the rest is judged
by the functions that judge two classes.
"""

from collections.abc import Mapping, Sequence

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
ERRORS = ("ece", "ece_top")


class ClassConfiguration(Configuration):
    """As `Configuration`, for probabilities [N, K]."""

    ranked_by: Sequence[str] = CLASS_RANKED_BY
    paired: Sequence[str] = CLASS_PAIRED
    words: Mapping[str, str] = CLASS_SCORE_WORDS

    def _resample(self, weights: statistics.Weights) -> list[dict[str, metrics.Floats]]:
        both = [class_statistics.resampled_both(self._truth, chances, weights) for chances in self.tests]
        self._of_class = [of_class for _, of_class in both]
        return [macro for macro, _ in both]

    def _row(self, weights: statistics.Weights, seed: int) -> ConfigurationRow:
        test = self._test
        errors = calibration.class_errors_if_calibrated(test.labels, test.patients, self.tests, seed)
        # The mean of the classes' errors, and the error of the called class.
        if_calibrated = dict(zip(ERRORS, (errors[:-1].mean(axis=0), errors[-1]), strict=True))
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
        each = [
            (
                class_statistics.resampled_both(self._truth, chances, once)[1],
                drawn,
            )
            for chances, drawn in zip(self.tests, self._of_class, strict=True)
        ]
        rows: dict[str, ClassRow] = {}
        for label, name in enumerate(self._test.class_names):
            own = (self._truth == label).astype(np.int64)
            counts = statistics.PatientCounts.of(own, self._test.patients)
            called = np.mean(
                [
                    statistics.patients_of(self._test.patients, multiclass.called_of(chances) == label)
                    for chances in self.tests
                ]
            )
            chances_of = [chances[:, label] for chances in self.tests]
            rows[name] = {
                "images": int(own.sum()),
                "patients": counts.ill,
                "scores": {
                    **{
                        score: self._interval(
                            score,
                            [float(values[score][label, 0]) for values, _ in each],
                            {score: np.mean([drawn[score][label] for _, drawn in each], axis=0)},
                            float(called) if score == "precision" else None,
                            counts,
                        )
                        for score in CLASS_SCORES
                    },
                    "ece": self._error(own, chances_of, weights, errors[label], counts),
                },
                "calibration": self._calibration(own, chances_of, errors[label]),
            }
        return rows

    def _error(
        self,
        own: metrics.Ints,
        tests: Sequence[metrics.Floats],
        weights: statistics.Weights,
        if_calibrated: metrics.Floats,
        counts: statistics.PatientCounts,
    ) -> ScoreInterval:
        """One class's calibration error with its interval."""
        value = float(np.mean([metrics.calibration_error(own, chances) for chances in tests]))
        drawn = [
            statistics.resampled_scores(own, chances, weights, parts=("losses",))["ece"] for chances in tests
        ]
        low, high = calibration.error_interval(
            value, if_calibrated, np.mean(drawn, axis=0), counts.smaller_class
        )
        return {"value": value, "low": low, "high": high}

    def _behind_precision(self) -> float | None:
        return None  # macro precision is a mean over the classes, as macro F1 is

    def add_curves(self, test: SplitResult, weights: statistics.Weights) -> None:
        """ROC and precision-recall, the means over classes and runs, with bands; calibration of the called
        class's probability, the runs pooled."""
        once = np.ones((len(test.labels), 1), dtype=np.uint16)
        both = np.concatenate([once, weights[:, :FEW_DRAWS]], axis=1)
        stacks = [
            statistics.resampled_curves(test.labels == label, chances[:, label], both, GRID)
            for chances in self.tests
            for label in range(len(test.class_names))
        ]
        roc, pr = (mean_curve(stack) for stack in zip(*stacks, strict=True))
        top = np.concatenate([chances.max(1) for chances in self.tests])
        right = np.concatenate([multiclass.called_of(chances) == test.labels for chances in self.tests])
        ends = calibration.share_intervals(test.labels, test.patients, right.astype(np.int64), top)
        images, chance, share = metrics.calibration_bins(right, top)
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


def configuration_of(classes: int) -> type[Configuration]:
    """What scores a configuration of so many classes."""
    return ClassConfiguration if classes > 2 else Configuration
