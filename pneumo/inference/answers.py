"""An answer in words: which threshold an image reaches, and what that threshold did on other images.

Every figure comes from the model's own record: its test images, or the validation images where it was not
scored on a test set or where the threshold is the user's. A model that was recalibrated for a site has the
site's images in the place of both.
"""

from dataclasses import dataclass, replace

import numpy as np

from pneumo.evaluation.metrics import SENSITIVITY_WANTED
from pneumo.evaluation.multilabel import UNKNOWN
from pneumo.inference.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A threshold of one class or finding: how it was set, and what it found and flagged on which images."""

    name: str
    rule: str
    given: bool
    several: bool  # one of more than two classes or of findings
    chosen_on: str = "validation"
    images: str = ""  # "the test images", or others; empty where no figure is known
    found: float = float("nan")
    flagged: float = float("nan")

    def words(self, reached: bool) -> str:
        """Without a full stop: "Above the alarm threshold, which ..."."""
        where = "Above" if reached else "Below"
        of = f" of {self.name}" if self.several else ""
        start = f"{where} the alarm threshold{of}, which {self._set()}"
        if not self.images:
            return start
        its, others = ("its images", "the others") if self.several else ("them", "the normal ones")
        if reached:
            return f"{start}; on {self.images} it also flagged {_percent(self.flagged)} of {others}"
        return f"{start}; on {self.images} it missed {_percent(1 - self.found)} of {its}"

    def both(self) -> str:
        """What the threshold did, for the terminal."""
        others = f"images without {self.name}" if self.several else "normal ones"
        start = f"the alarm threshold of {self.name} {self._set()}"
        if not self.images:
            return start
        return (
            f"{start}; on {self.images} it found {_percent(self.found)} of them and also flagged "
            f"{_percent(self.flagged)} of the {others}"
        )

    def _set(self) -> str:
        if self.given:
            return "you gave"
        whose = "its images" if self.several else "pneumonias"
        return {
            "half": "is at probability 0.5",
            "sensitivity_95": f"is set to find {_percent(SENSITIVITY_WANTED)} of {whose}",
            "youden": f"is set where sensitivity + specificity is highest on {self.chosen_on}",
        }[self.rule]


def alarm(bundle: Bundle, label: int, given: float | None = None, known: bool = True) -> Alarm:
    """The threshold of class or finding number `label`.

    `given` is the user's threshold on the scale of calibrated probabilities, None: the model's own. Without
    `known`, its figures are left out.
    """
    name, rule = bundle.class_names[label], bundle.threshold_rule
    figures, suffix = bundle.figures, ""
    if bundle.many:
        assert bundle.class_thresholds is not None
        rule = rule if rule in bundle.class_thresholds[name] else "half"
        figures = (bundle.class_figures or {}).get(name, {})
        suffix = "" if bundle.multilabel else "_at_threshold"
    start = Alarm(
        name=name,
        rule=rule,
        given=given is not None,
        several=bundle.many,
        chosen_on=f"the {bundle.chosen_on}" if bundle.site else "validation",
    )
    images, found, flagged = "", None, None
    if known and given is None and figures:
        images = bundle.scored_on
        found, specificity = (figures[f"{score}{suffix}"]["value"] for score in ("recall", "specificity"))
        flagged = None if specificity is None else 1 - specificity
    elif known:
        own = bundle.threshold_of_class[name] if bundle.many else bundle.threshold
        images, (found, flagged) = _chosen_on(bundle), _rates(bundle, label, own if given is None else given)
    if found is None or flagged is None or not np.isfinite([found, flagged]).all():
        return start
    return replace(start, images=images, found=found, flagged=flagged)


def _chosen_on(bundle: Bundle) -> str:
    # The probabilities of a site's images are cross-fitted, too.
    return bundle.scored_on if bundle.site else "the validation images"


def _rates(bundle: Bundle, label: int, threshold: float) -> tuple[float | None, float | None]:
    """The shares of the images of `past` with and without a class whose probability reaches `threshold`."""
    labels, chances = np.asarray(bundle.past["labels"]), np.asarray(bundle.past["probabilities"])
    if not labels.size:
        return None, None
    if bundle.multilabel:
        labels, chances = labels[:, label], chances[:, label]
        known = labels != UNKNOWN
        own, chances = labels[known] == 1, chances[known]
    else:
        own = labels == label
        chances = chances[:, label] if bundle.many else chances
    reached = chances >= threshold
    if not own.any() or own.all():
        return None, None
    return float(reached[own].mean()), float(reached[~own].mean())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
