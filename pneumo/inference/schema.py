"""What a model's model.json may hold: the types of its parts, and a rule for every key.

The file may come from anywhere. Every value is checked and bounded before it is used.
"""

import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pneumo import UserError
from pneumo.models import MODELS
from pneumo.models.precision import PRECISIONS
from pneumo.names import PROTOCOLS, THRESHOLD_RULES
from pneumo.versions import PIXEL_RULES

MAX_PAST = 200_000

Rule = Callable[[Any], bool]


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


class PastCases(TypedDict):
    """The validation images: labels (0 or 1) and calibrated probabilities, in the same order."""

    labels: list[int]
    probabilities: list[float]


def check(facts: dict[str, Any], source: Path) -> None:
    """Raise UserError, with `source` in the message, unless `facts` are those of a trained model."""
    for key in sorted({*facts, *_RULES}):
        if key not in _RULES or key not in facts:
            problem = "has an unknown key" if key in facts else "does not have the key"
            raise UserError(f"{source} {problem} {key[:100]!r}.")
        if not _RULES[key](facts[key]):
            shown = reprlib.repr(facts[key])[:100]
            raise UserError(f"{source}: {key} is {shown}, which no trained model has.")
    if facts["threshold_rule"] not in facts["thresholds"]:
        raise UserError(f"{source}: there is no threshold for {facts['threshold_rule']}.")
    if len(facts["past"]["labels"]) != len(facts["past"]["probabilities"]):
        raise UserError(
            f"{source}: the stored validation images (past) do not have one probability for each label."
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


def _every(keys: Rule, values: Rule) -> Rule:
    return lambda value: (
        isinstance(value, dict)
        and len(value) <= 40
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
    return number(value) or _every(_text, number)(value)


def _figure(value: Any) -> bool:
    part = _maybe(_number(-1, 1e6))
    return _mapping(value=part, low=part, high=part)(value)


_PREPROCESS = {"image_size": _whole(16, 2048), "crop_black": _flag, "equalize": _flag}
_PIXEL_RULE = {"pixels": lambda value: type(value) is int and value in PIXEL_RULES}

# The limits of sizes are those of training; the other limits keep absurd values out.
_RULES: dict[str, Rule] = {
    "model": _mapping(
        name=lambda value: value in list(MODELS),
        in_channels=_whole(1, 64),
        dropout=_number(0, 0.999),
        num_classes=_whole(2, 2),
    ),
    "preprocess": lambda value: (
        _mapping(**_PREPROCESS)(value) or _mapping(**_PREPROCESS, **_PIXEL_RULE)(value)
    ),
    "white": _maybe(_whole(1, 65535)),
    "class_names": lambda value: _listed(_text, 2)(value) and len(value) == 2,
    "data_digest": _text,
    "test_digest": _text,
    "protocol": lambda value: value in list(PROTOCOLS),
    "synthetic": _flag,
    "fingerprint": _text,
    "thresholds": lambda value: _every(lambda key: key in THRESHOLD_RULES, _share)(value) and "half" in value,
    "temperature": _number(0.01, 100),
    "threshold_rule": lambda value: value in list(THRESHOLD_RULES),
    "figures": _every(_text, _figure),
    "past": _mapping(labels=_listed(_whole(0, 1), MAX_PAST), probabilities=_listed(_share, MAX_PAST)),
    "monitor": _text,
    "epoch": _whole(0, 10**7),
    "precision": lambda value: value in list(PRECISIONS),
    "counts": _every(_text, lambda value: _count(value) or _every(_text, _count)(value)),
    "familiarity": _maybe(lambda value: isinstance(value, dict)),
    "run_id": _maybe(_text),
    "weights_sha256": _maybe(_text),
}
