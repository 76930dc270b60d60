"""What a positive or a negative call is worth: predictive values with intervals, and the net benefit.

Predictive values at a prevalence follow from the likelihood ratios: PPV = 1 / (1 + odds against * r) with
r = (1 - specificity) / sensitivity, and NPV with (1 - sensitivity) / specificity. Sensitivity and specificity
come from different patients, so a ratio's interval follows from their two intervals by Donner and Zou's
method of variance estimates recovery (2012). It needs no logarithm, so a perfect specificity has one too.

The net benefit of calling images ill from a threshold probability t on is TP / N - FP / N * t / (1 - t)
(Vickers and Elkin 2006): found patients, less the false alarms that someone who acts at t accepts for one of
them. To call nobody ill has the benefit 0; to call all ill that of the prevalence less the false alarms.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from pneumo.evaluation.metrics import Floats, checked
from pneumo.evaluation.ranking import Ranking, Weights

THRESHOLDS = np.arange(1, 100) / 100  # threshold probabilities of a decision curve

Interval = tuple[float, float]


def predictive_intervals(
    sensitivity: tuple[float, float, float], specificity: tuple[float, float, float], prevalence: float
) -> tuple[Interval, Interval]:
    """95 % intervals of the PPV and the NPV from (value, low, high) of both; nan where there is none."""
    odds = prevalence / (1 - prevalence)
    positive = ratio(_less_than_one(specificity), sensitivity)
    negative = ratio(_less_than_one(sensitivity), specificity)
    ppv = 1 / (1 + positive[1] / odds), 1 / (1 + positive[0] / odds)
    npv = 1 / (1 + negative[1] * odds), 1 / (1 + negative[0] * odds)
    return ppv, npv


def ratio(part: tuple[float, float, float], whole: tuple[float, float, float]) -> Interval:
    """Interval of part / whole from independent estimates (value, low, high), none of them negative."""
    (a, a_low, a_high), (b, b_low, b_high) = part, whole
    if not all(map(math.isfinite, (*part, *whole))) or a == b == 0:
        return math.nan, math.nan
    product = a * b
    least, most = a_low * (2 * a - a_low), b_high * (2 * b - b_high)
    root = product + math.sqrt(max(0.0, product**2 - least * most))
    low = least / root if root > 0 else 0.0
    largest, smallest = a_high * (2 * a - a_high), b_low * (2 * b - b_low)
    if smallest <= 0:  # the whole may be 0
        return low, math.inf
    return low, (product + math.sqrt(max(0.0, product**2 - largest * smallest))) / smallest


def _less_than_one(entry: tuple[float, float, float]) -> tuple[float, float, float]:
    value, low, high = entry
    return 1 - value, 1 - high, 1 - low


def net_benefit(labels: ArrayLike, probabilities: ArrayLike, weights: Weights) -> Floats:
    """Net benefit at each of THRESHOLDS on every draw: [thresholds, draws], of weights [N, draws]."""
    ill, called = Ranking(*checked(labels, probabilities)).from_thresholds(weights, THRESHOLDS)
    price = (THRESHOLDS / (1 - THRESHOLDS))[:, None]
    return np.asarray((ill - (called - ill) * price) / weights.sum(axis=0))


def treat_all(labels: ArrayLike) -> Floats:
    """Net benefit of calling every image ill, at each of THRESHOLDS."""
    share = float(np.mean(np.asarray(labels)))
    return np.asarray(share - (1 - share) * THRESHOLDS / (1 - THRESHOLDS))
