"""Probabilities for a clinic where another share of the patients is ill than among the validation images.

Of a model that was recalibrated, the site's images are meant.

By Bayes' rule, the odds of a class change by the ratio of its odds there and here (Saerens et al. 2002), if
the images of each class look the same in both. Thresholds move along, so no decision changes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pneumo import UserError
from pneumo.evaluation import multilabel
from pneumo.evaluation.metrics import Floats, logit
from pneumo.inference.bundle import Bundle

SUM_TOLERANCE = 0.001


class PriorShift:
    """From the shares among the validation images of `bundle` to the shares `given`.

    `given` is one number for two classes; of more, a list with a share of each class; of several findings, a
    list with a share of each finding.
    """

    def __init__(self, bundle: Bundle, given: Any) -> None:
        names = bundle.class_names
        self.many = bundle.many and not bundle.multilabel
        shares = np.asarray(given if isinstance(given, Sequence) else [given], dtype=np.float64)
        count = len(names) if bundle.many else 1
        if len(shares) != count:
            wanted = f"a list of {count} shares: of {', '.join(names)}" if bundle.many else "one share"
            raise UserError(f"prevalence={given}: give {wanted}, in this order.")
        if self.many and abs(float(shares.sum()) - 1) > SUM_TOLERANCE:
            raise UserError(f"prevalence={given}: the shares of the classes must have the sum 1.")
        before = _shares_of(bundle)
        if bad := [name for name, share in zip(names[-count:], before, strict=True) if not 0 < share < 1]:
            raise UserError(
                f"prevalence={given}: the {bundle.chosen_on} have no image with, or none without, "
                f"{', '.join(bad)}, so its probability cannot be shifted."
            )
        self.before, self.after = before, shares
        if self.many:
            self.ratios = shares / before
        else:
            self.log_ratios = logit(shares) - logit(before)

    def probabilities(self, calibrated: ArrayLike, back: bool = False) -> Floats:
        """Shifted probabilities of calibrated ones [N] or [N, K]; with `back`, the other way round."""
        chances = np.asarray(calibrated, dtype=np.float64)
        if self.many:
            weighted = chances * (1 / self.ratios if back else self.ratios)
            return np.asarray(weighted / weighted.sum(-1, keepdims=True))
        moved = logit(chances) + (-self.log_ratios if back else self.log_ratios)
        return np.asarray(1 / (1 + np.exp(-moved)))

    def thresholds(self, thresholds: ArrayLike, calibrated: ArrayLike) -> Floats:
        """The thresholds [K] that decide about an image of probabilities `calibrated` [K] as before.

        Of more than two classes they depend on the image: the shares of the other classes decide what the
        odds against one are.
        """
        cuts = np.asarray(thresholds, dtype=np.float64)
        if not self.many:
            return self.probabilities(cuts)
        chances = np.asarray(calibrated, dtype=np.float64)
        weighted = chances * self.ratios
        others = (weighted.sum() - weighted) / np.maximum(1 - chances, 1e-12)
        odds = cuts * self.ratios
        return np.asarray(odds / np.maximum(odds + (1 - cuts) * others, 1e-300))


def _shares_of(bundle: Bundle) -> Floats:
    """The share of each class among the validation images; of two, of PNEUMONIA alone."""
    labels = np.asarray(bundle.past["labels"])
    if not labels.size:
        raise UserError("prevalence=: the model keeps no validation images, so their shares are not known.")
    if bundle.multilabel:
        known = labels != multilabel.UNKNOWN
        return np.asarray((labels == 1).sum(0) / np.maximum(known.sum(0), 1))
    shares = np.bincount(labels, minlength=len(bundle.class_names)) / len(labels)
    return shares if bundle.many else shares[1:]
