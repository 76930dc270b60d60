"""Keys that do nothing are named, and the others are not."""

import pytest

from pneumo import config
from pneumo.config_effects import WITHOUT_EFFECT, without_effect

USELESS = [
    (["sampler=weighted", "sampler.smoothing=10"], "sampler.smoothing=10 has no effect here"),
    (["sampler=shuffle", "+sampler.smoothing=10"], "only sampler=imbalanced reads it"),
    (["optim.momentum=0.8"], "optim.momentum=0.8 has no effect here: only optim=sgd reads it"),
    (["schedule=constant", "schedule.final_fraction=0.1"], "a constant schedule never falls"),
    (["augment=none", "augment.erase_max=0.3"], "augment.erase_p is 0"),
    (["augment.noise_std=0.1"], "augment.noise_p is 0"),
]
USEFUL = [
    ["sampler.smoothing=10"],
    ["optim=sgd", "optim.momentum=0.8"],
    ["schedule.final_fraction=0.1"],
    ["augment.noise_std=0.1", "augment.noise_p=0.5"],
]


@pytest.mark.parametrize(("overrides", "words"), USELESS)
def test_a_key_without_effect_is_named(overrides: list[str], words: str) -> None:
    plain = [override.lstrip("+") for override in overrides]
    (line,) = without_effect(config.compose(plain), overrides)
    assert words in line


@pytest.mark.parametrize("overrides", USEFUL)
def test_a_key_with_an_effect_is_not_named(overrides: list[str]) -> None:
    assert without_effect(config.compose(overrides), overrides) == []


def test_the_table_names_existing_keys() -> None:
    whole = config.compose([]).as_dict()
    for key in WITHOUT_EFFECT:
        group, _, name = key.partition(".")
        assert name in whole[group]
