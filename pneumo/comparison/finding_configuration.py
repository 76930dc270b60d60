"""The scores of one configuration that looks for several findings: means over the findings, and each of them.

A finding is judged on the images whose label is known, by the functions that judge two classes. It is called
from probability 0.5 on.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pneumo.comparison.class_configuration import ClassConfiguration, OneClass
from pneumo.comparison.configuration import PAIRED, Configuration
from pneumo.comparison.words import FINDING_SCORE_WORDS
from pneumo.evaluation import calibration, finding_statistics, metrics, statistics
from pneumo.evaluation.predictions import SplitResult
from pneumo.names import RANKED_BY

FINDING_PAIRED = (*PAIRED, "exact_match")


class FindingConfiguration(ClassConfiguration):
    """As `ClassConfiguration`, for labels [N, K] of findings that are present, absent or not known."""

    ranked_by: Sequence[str] = RANKED_BY
    paired: Sequence[str] = FINDING_PAIRED
    words: Mapping[str, str] = FINDING_SCORE_WORDS
    errors: Sequence[str] = ("ece",)

    def _both(
        self, chances: metrics.Floats, weights: statistics.Weights
    ) -> tuple[dict[str, metrics.Floats], dict[str, metrics.Floats]]:
        return finding_statistics.resampled_both(self._truth, chances, weights)

    def _each(self, weights: statistics.Weights) -> Iterator[OneClass]:
        for k, known in finding_statistics.scored(self._truth):
            chances = [answers[known, k] for answers in self.tests]
            yield OneClass(
                name=self._test.class_names[k],
                truth=self._truth[known, k],
                patients=[self._test.patients[row] for row in known],
                chances=chances,
                called=[answers >= 0.5 for answers in chances],
                weights=weights[known],
            )

    def _errors_if_calibrated(self, seed: int) -> metrics.Floats:
        each = self._each(np.ones((len(self._truth), 1), dtype=np.uint16))
        return np.stack(
            [calibration.error_if_calibrated(one.truth, one.patients, one.chances, seed) for one in each]
        )

    def _calibration_bins(self) -> tuple[metrics.Ints, metrics.Ints, metrics.Floats]:
        """The findings are pooled, too."""
        one_class = np.zeros(len(self._truth), dtype=np.int64)
        _, _, patient_of = statistics.clusters(one_class, self._test.patients)
        pooled = [
            (patient_of[known], self._truth[known, k], chances[known, k])
            for k, known in finding_statistics.scored(self._truth)
            for chances in self.tests
        ]
        people, hits, chances = (np.concatenate(part) for part in zip(*pooled, strict=True))
        return people, hits, chances


def configuration_of(test: SplitResult) -> type[Configuration]:
    """What scores a configuration on images like these."""
    if test.multilabel:
        return FindingConfiguration
    return ClassConfiguration if test.many else Configuration
