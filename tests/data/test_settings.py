"""Settings of the data, the sampler and the augmentation: what is refused, with value, options and fix."""

from typing import Any

import pytest

from pneumo import UserError
from pneumo.data.settings import AugmentSettings, DataSettings, SamplerSettings
from pneumo.versions import PIXELS

PROBABILITIES = ("flip_p", "blur_p", "degrade_p", "noise_p", "erase_p")
STRENGTHS = ("rotate_deg", "translate", "brightness", "contrast", "gamma", "noise_std", "blur_sigma_min")
FACTORS = "must be at most 1: a larger one draws factors below 0, which invert or blacken the image."
SCALE = "must be at least 0 and below 1; 0.15 draws 0.85 to 1.15."
SIDES = "are fractions of a side, the first at most the second."
REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (
        DataSettings,
        {"name": "phantm"},
        "data.name=phantm is not known; the options are chest_xray, csv, phantom, nih14, chexpert, rsna, "
        "covid_radiography, kermany3. Did you mean phantom?",
    ),
    (
        DataSettings,
        {"val_protocol": "oficial"},
        "data.val_protocol=oficial is not known; the options are patient, official, fold. Did you mean "
        "official?",
    ),
    (
        DataSettings,
        {"on_bad_image": "ignore"},
        "data.on_bad_image=ignore is not known; the options are error, skip.",
    ),
    (
        DataSettings,
        {"val_fraction": 0.0},
        "data.val_fraction=0.0 must be between 0 and 1, for example 0.1.",
    ),
    (
        DataSettings,
        {"val_fraction": 1.0},
        "data.val_fraction=1.0 must be between 0 and 1, for example 0.1.",
    ),
    *(
        (
            DataSettings,
            {"pixels": pixels},
            f"data.pixels={pixels} is not a pixel rule; the rules are 1 (the seed report's chain) and 2. "
            "null takes the newest.",
        )
        for pixels in (0, 3)
    ),
    (DataSettings, {"image_size": 15}, "data.image_size=15 must be between 16 and 2048 pixels."),
    (DataSettings, {"image_size": 2049}, "data.image_size=2049 must be between 16 and 2048 pixels."),
    (DataSettings, {"num_workers": 0}, "data.num_workers=0 must be at least 1, or null for all cores."),
    (
        SamplerSettings,
        {"name": "balanced"},
        "sampler=balanced is not known; the options are shuffle, imbalanced, weighted. "
        "Did you mean imbalanced?",
    ),
    (SamplerSettings, {"smoothing": -1.0}, "sampler.smoothing=-1.0 must not be negative; 0 means none."),
    *(
        (AugmentSettings, {key: value}, f"augment.{key}={value} is a probability: give 0 to 1.")
        for key in PROBABILITIES
        for value in (-0.1, 1.1)
    ),
    *(
        (AugmentSettings, {key: -0.5}, f"augment.{key}=-0.5 must not be negative; 0 means none.")
        for key in STRENGTHS
    ),
    *((AugmentSettings, {key: 1.5}, f"augment.{key}=1.5 {FACTORS}") for key in ("brightness", "contrast")),
    *((AugmentSettings, {"scale": value}, f"augment.scale={value} {SCALE}") for value in (-0.1, 1.0)),
    *(
        (
            AugmentSettings,
            {"erase_min": low, "erase_max": high},
            f"augment.erase_min={low} and augment.erase_max={high} {SIDES}",
        )
        for low, high in ((0.0, 0.3), (0.4, 0.3), (0.4, 1.1))
    ),
    (
        AugmentSettings,
        {"blur_sigma_min": 0.7, "blur_sigma_max": 0.6},
        "augment.blur_sigma_min=0.7 must be between 0 and augment.blur_sigma_max=0.6.",
    ),
    (
        DataSettings,
        {"patient_namespace": " "},
        "data.patient_namespace is empty: name who gave the patients' ids, or leave the key out.",
    ),
]
ACCEPTED: list[tuple[type, dict[str, Any]]] = [
    (DataSettings, {"name": "csv", "val_protocol": "official", "on_bad_image": "skip"}),
    (DataSettings, {"val_fraction": 0.001, "image_size": 16, "num_workers": 1}),
    (DataSettings, {"val_fraction": 0.999, "image_size": 2048, "num_workers": None}),
    (SamplerSettings, {"name": "weighted", "smoothing": 0.0}),
    (AugmentSettings, dict.fromkeys((*PROBABILITIES, *STRENGTHS, "scale", "blur_sigma_max"), 0.0)),
    (AugmentSettings, dict.fromkeys((*PROBABILITIES, "brightness", "contrast"), 1.0)),
    (AugmentSettings, {"scale": 0.999, "erase_min": 1.0, "erase_max": 1.0}),
    (AugmentSettings, {"blur_sigma_min": 0.6, "blur_sigma_max": 0.6}),
]


@pytest.mark.parametrize(("settings", "keys", "message"), REFUSED)
def test_a_value_that_cannot_work_is_refused(settings: type, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        settings(**keys)
    assert str(error.value) == message


@pytest.mark.parametrize(("settings", "keys"), ACCEPTED)
def test_a_value_at_the_limit_is_kept(settings: type, keys: dict[str, Any]) -> None:
    made = settings(**keys)
    assert {key: getattr(made, key) for key in keys} == keys


@pytest.mark.parametrize("settings", [DataSettings, SamplerSettings, AugmentSettings])
def test_the_defaults_are_accepted(settings: type) -> None:
    settings()


@pytest.mark.parametrize(("given", "rule"), [(None, PIXELS), (1, 1), (2, 2)])
def test_the_pixel_rule_is_the_given_one_or_the_newest(given: int | None, rule: int) -> None:
    assert DataSettings(pixels=given).pixel_rule == rule
