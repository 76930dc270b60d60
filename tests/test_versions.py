"""Which configurations each change of core 2 and of pixel rule 2 touches."""

from dataclasses import asdict
from typing import Any

import pytest

from pneumo import config, fingerprint, versions

# A configuration that no change of core 2 touches.
UNTOUCHED = {
    "model.dropout": 0.0,
    "optim.weight_decay": 0.0,
    "trainer.class_weights": False,
    "trainer.label_smoothing": 0.0,
    "trainer.precision": "float32",
}


def flat(**keys: Any) -> dict[str, Any]:
    """The flat configuration of the defaults with `keys`, whose names have __ for the dot."""
    return (
        fingerprint.relevant(asdict(config.Config()))
        | UNTOUCHED
        | {key.replace("__", "."): value for key, value in keys.items()}
    )


def test_the_versions_are_numbered() -> None:
    assert (versions.CORE, versions.PIXELS) == (2, 2)


def test_a_configuration_that_no_change_touches_keeps_core_1() -> None:
    assert versions.core_touches(flat()) == []
    assert versions.core_touches({}) == []  # a record that lacks every key computes as 0.1 did


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [  # the change, what it touches, what it does not
    (
        "class weights with label smoothing",
        {"trainer__class_weights": True, "trainer__label_smoothing": 0.1},
        {"trainer__class_weights": True, "trainer__label_smoothing": 0.0},
    ),
    (
        "class weights with a smoothed sampler",
        {"trainer__class_weights": True, "sampler__name": "imbalanced", "sampler__smoothing": 10.0},
        {"trainer__class_weights": True, "sampler__name": "weighted", "sampler__smoothing": 10.0},
    ),
    ("dropout's seeds", {"model__dropout": 0.1}, {"model__dropout": 0.0}),
    ("weight decay on norms and biases", {"optim__weight_decay": 1e-4}, {"optim__weight_decay": 0.0}),
    (
        "the end of a schedule of few steps",
        {"schedule__name": "onecycle", "schedule__warmup_fraction": 0.25, "trainer__epochs": 2},
        {"schedule__name": "onecycle", "schedule__warmup_fraction": 0.25, "trainer__epochs": 3},
    ),
    (
        "reduced precision in evaluation",
        {"trainer__precision": "auto"},
        {"trainer__precision": "float32"},
    ),
]


@pytest.mark.parametrize(("change", "touched", "spared"), CASES)
def test_each_change_of_core_2_names_what_it_touches(
    change: str, touched: dict[str, Any], spared: dict[str, Any]
) -> None:
    assert versions.core_touches(flat(**touched)) == [change]
    assert versions.core_touches(flat(**spared)) == []


def test_pixel_rule_2_touches_every_configuration() -> None:
    """The configuration does not say whether the data holds 16-bit files."""
    levels, border = "grey levels of 16-bit files", "black borders up to level 4"
    assert versions.pixels_touches(flat(data__crop_black=True)) == [border, levels]
    assert versions.pixels_touches(flat(data__crop_black=False)) == [levels]


def test_every_change_has_a_case() -> None:
    assert {change for change, _, _ in CASES} == set(versions.CORE_2)
