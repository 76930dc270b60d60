"""What a model's model.json may hold: the types of its parts, and a rule for every key.

The file may come from anywhere. Every value is checked and bounded before it is used.
"""

import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pneumo import UserError
from pneumo.evaluation import calibrators
from pneumo.models import MODELS
from pneumo.models.precision import PRECISIONS
from pneumo.names import CLASS_NAMES, MULTILABEL, PROTOCOLS, THRESHOLD_RULES, many_classes
from pneumo.versions import PIXEL_RULES

MAX_PAST = 200_000
MAX_CLASSES = 200  # that a model.json may name

Rule = Callable[[Any], bool]
OF_MANY = ("class_thresholds", "class_figures")  # the file of a model of two classes does not have these keys
LATER = (
    "calibration",
    "ages",
    "past_patients",
    "site",
)  # keys that came later; a file without them means None
OF_FINDINGS = ("class_temperatures", "task")  # only the file of a model of several findings has these keys


class ModelArguments(TypedDict):
    """Arguments of `pneumo.models.build_model`."""

    name: str
    in_channels: int
    dropout: float
    num_classes: int


class PreprocessArguments(TypedDict):
    """Arguments of `pneumo.data.images.preprocess`."""

    image_size: int
    crop_black: bool
    equalize: bool
    pixels: NotRequired[int]  # the pixel rule, which reads the file too; a model of version 0.1 has none: 1


class Figure(TypedDict):
    """A score with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class Site(TypedDict):
    """The labelled images of a site that a model was recalibrated on (pneumo.inference.recalibration)."""

    parent: str  # the model that was recalibrated: "pneumo 3", or its run
    digest: str  # of the images, their labels and patients
    images: int
    patients: int  # an image without a patient counts as one
    patients_known: bool
    images_of: dict[str, int]  # by class or finding
    patients_of: dict[str, int]
    unlike: int  # images whose decision is withheld
    kept: list[str]  # findings with too few patients, which are called as by the parent


class PastCases(TypedDict):
    """The validation images, or those of a site: labels and calibrated probabilities, in the same order.

    Of more than two classes, an image has one probability for each class. Of several findings it also has a
    label for each: 1, 0, or -1 where it is not known.
    """

    labels: list[int] | list[list[int]]
    probabilities: list[float] | list[list[float]]


def check(facts: dict[str, Any], source: Path) -> None:
    """Raise UserError, with `source` in the message, unless `facts` are those of a trained model."""
    for key in sorted({*facts, *_RULES}):
        if key not in _RULES or key not in facts:
            problem = "has an unknown key" if key in facts else "does not have the key"
            raise UserError(f"{source} {problem} {key[:100]!r}.")
        if not _RULES[key](facts[key]):
            shown = reprlib.repr(facts[key])[:100]
            raise UserError(f"{source}: {key} is {shown}, which no trained model has.")
    names, labels, chances = facts["class_names"], facts["past"]["labels"], facts["past"]["probabilities"]
    if facts["model"]["num_classes"] != len(names) or len(set(names)) != len(names):
        raise UserError(f"{source}: class_names does not have a name for each class of the model.")
    if facts["past_patients"] is not None and len(facts["past_patients"]) != len(labels):
        raise UserError(f"{source}: past_patients does not have a patient for each validation image.")
    if len(labels) != len(chances):
        raise UserError(
            f"{source}: the stored validation images (past) do not have one probability for each label."
        )
    if facts["task"] == MULTILABEL:
        _check_findings(facts, source)
        return
    if facts["class_temperatures"] is not None:
        raise UserError(f"{source}: class_temperatures is for several findings an image.")
    calibration = facts["calibration"]
    if calibration is not None and not _calibrator(len(names))(calibration):
        raise UserError(f"{source}: calibration does not fit the classes.")
    if facts["temperature"] is None:
        raise UserError(f"{source}: temperature is None, which no trained model has.")
    if not all(isinstance(label, int) for label in labels):
        raise UserError(f"{source}: the stored validation images (past) do not have one label each.")
    if many_classes(names):
        _check_many(facts, source)
        return
    if facts["threshold_rule"] not in facts["thresholds"]:
        raise UserError(f"{source}: there is no threshold for {facts['threshold_rule']}.")
    if max(labels, default=0) >= len(CLASS_NAMES) or not all(map(_share, chances)):
        raise UserError(f"{source}: the stored validation images (past) are not of two classes.")
    for key in OF_MANY:
        if facts[key] is not None:
            raise UserError(f"{source}: {key} is for more than two classes.")


def _check_findings(facts: dict[str, Any], source: Path) -> None:
    """What the keys of several findings must share: the findings."""
    names, past = facts["class_names"], facts["past"]
    if not many_classes(names):
        raise UserError(f"{source}: class_names are those of two classes, and task is {MULTILABEL}.")
    _check_entries(facts, (*OF_MANY, "class_temperatures"), source)
    if facts["temperature"] is not None:
        raise UserError(f"{source}: temperature is that of one class an image, and task is {MULTILABEL}.")
    calibration = facts["calibration"] or {}
    if not calibration.keys() <= set(names) or not all(_calibrator(2)(one) for one in calibration.values()):
        raise UserError(f"{source}: calibration does not fit the findings.")
    rows = [*past["labels"], *past["probabilities"]]
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        raise UserError(
            f"{source}: the stored validation images (past) do not have one label and one probability for "
            "each finding."
        )


def _check_entries(facts: dict[str, Any], keys: tuple[str, ...], source: Path) -> None:
    for key in keys:
        if facts[key] is None or list(facts[key]) != facts["class_names"]:
            raise UserError(f"{source}: {key} does not have an entry for each class.")


def _check_many(facts: dict[str, Any], source: Path) -> None:
    """What the keys of more than two classes must share: the classes."""
    names, past = facts["class_names"], facts["past"]
    _check_entries(facts, OF_MANY, source)
    fits = all(isinstance(row, list) and len(row) == len(names) for row in past["probabilities"])
    if not fits or max(past["labels"], default=0) >= len(names):
        raise UserError(
            f"{source}: the stored validation images (past) do not have one probability for each class."
        )


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200 and value.isprintable()


def _number(low: float, high: float) -> Rule:
    return lambda value: isinstance(value, int | float) and type(value) is not bool and low <= value <= high


def _whole(low: int, high: int) -> Rule:
    return lambda value: type(value) is int and low <= value <= high


def _share(value: Any) -> bool:
    return _number(0, 1)(value)


def _mapping(**rules: Rule) -> Rule:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() == rules.keys()
            and all(rule(value[key]) for key, rule in rules.items())
        )

    return fits


def _every(keys: Rule, values: Rule, at_most: int = 40) -> Rule:
    return lambda value: (
        isinstance(value, dict)
        and len(value) <= at_most
        and all(keys(key) and values(item) for key, item in value.items())
    )


def _maybe(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _listed(rule: Rule, at_most: int) -> Rule:
    return lambda value: isinstance(value, list) and len(value) <= at_most and all(map(rule, value))


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _count(value: Any) -> bool:
    number = _whole(0, 10**9)
    return number(value) or _every(_text, number, MAX_CLASSES)(value)


def _figure(value: Any) -> bool:
    part = _maybe(_number(-1, 1e6))
    return _mapping(value=part, low=part, high=part)(value)


def _calibrator(classes: int) -> Rule:
    """A record of `pneumo.evaluation.calibrators`."""
    part = _number(-calibrators.LIMITS, calibrators.LIMITS)
    affine = _mapping(
        kind=lambda value: value in ("bias", "platt"),
        slope=_number(1 / calibrators.LIMITS, calibrators.LIMITS),
        bias=lambda value: _listed(part, classes)(value) and len(value) == classes,
    )
    rising = _listed(_share, calibrators.MAX_KNOTS + 2)
    steps = _mapping(kind=lambda value: value == "isotonic", scores=rising, chances=rising)
    return lambda value: (
        affine(value)
        or (
            classes == 2
            and steps(value)
            and len(value["scores"]) == len(value["chances"]) >= 2
            and all(values == sorted(values) for values in (value["scores"], value["chances"]))
        )
    )


def _points(value: Any) -> bool:
    """Thresholds by rule."""
    return _every(lambda key: key in THRESHOLD_RULES, _share)(value) and "half" in value


_PREPROCESS = {"image_size": _whole(16, 2048), "crop_black": _flag, "equalize": _flag}
_PIXEL_RULE = {"pixels": lambda value: type(value) is int and value in PIXEL_RULES}

# The limits of sizes are those of training; the other limits keep absurd values out.
_RULES: dict[str, Rule] = {
    "model": _mapping(
        name=lambda value: value in list(MODELS),
        in_channels=_whole(1, 64),
        dropout=_number(0, 0.999),
        num_classes=_whole(2, MAX_CLASSES),
    ),
    "preprocess": lambda value: (
        _mapping(**_PREPROCESS)(value) or _mapping(**_PREPROCESS, **_PIXEL_RULE)(value)
    ),
    "white": _maybe(_whole(1, 65535)),
    "class_names": lambda value: _listed(_text, MAX_CLASSES)(value) and len(value) >= 2,
    "data_digest": _text,
    "test_digest": _text,
    "protocol": lambda value: value in list(PROTOCOLS),
    "synthetic": _flag,
    "fingerprint": _text,
    "thresholds": lambda value: value == {} or _points(value),  # empty with class_thresholds
    "class_thresholds": _maybe(_every(_text, _points, MAX_CLASSES)),
    "temperature": _maybe(_number(0.01, 100)),  # None with class_temperatures
    "class_temperatures": _maybe(_every(_text, _number(0.01, 100), MAX_CLASSES)),
    "calibration": _maybe(lambda value: isinstance(value, dict) and len(value) <= MAX_CLASSES),
    "ages": _maybe(lambda value: _listed(_number(0, 200), 2)(value) and len(value) == 2),
    "past_patients": _maybe(_listed(_whole(0, MAX_PAST), MAX_PAST)),
    "site": _maybe(
        _mapping(
            parent=_text,
            digest=_text,
            images=_whole(1, MAX_PAST),
            patients=_whole(1, MAX_PAST),
            patients_known=_flag,
            images_of=_every(_text, _whole(0, MAX_PAST), MAX_CLASSES),
            patients_of=_every(_text, _whole(0, MAX_PAST), MAX_CLASSES),
            unlike=_whole(0, MAX_PAST),
            kept=_listed(_text, MAX_CLASSES),
        )
    ),
    "task": lambda value: value in (None, MULTILABEL),
    "threshold_rule": lambda value: value in list(THRESHOLD_RULES),
    "figures": _every(_text, _figure),
    "class_figures": _maybe(_every(_text, _every(_text, _figure), MAX_CLASSES)),
    "past": _mapping(
        labels=_listed(
            lambda value: _whole(0, MAX_CLASSES - 1)(value) or _listed(_whole(-1, 1), MAX_CLASSES)(value),
            MAX_PAST,
        ),
        probabilities=_listed(lambda value: _share(value) or _listed(_share, MAX_CLASSES)(value), MAX_PAST),
    ),
    "monitor": _text,
    "epoch": _whole(0, 10**7),
    "precision": lambda value: value in list(PRECISIONS),
    "counts": _every(_text, lambda value: _count(value) or _every(_text, _count)(value)),
    "familiarity": _maybe(lambda value: isinstance(value, dict)),
    "run_id": _maybe(_text),
    "weights_sha256": _maybe(_text),
}
