"""One source of defaults: an option file sets every key of its dataclass, the default option its values."""

import dataclasses
from typing import Any

import pytest
from omegaconf import OmegaConf

from pneumo import config
from pneumo.config import Config

CONF = config.shipped_dir("conf")
TRAIN = OmegaConf.load(CONF / "train.yaml")
SCHEMAS: dict[str, Any] = {
    field.name: field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)
}
MAPPINGS = {"labels"}  # of values to classes: one value, not a group of keys
INTERNAL = {"search"}  # set by the Optuna sweeper, no group to choose from
OPTIONS = [
    (group, file.stem)
    for group in sorted(SCHEMAS.keys() - INTERNAL)
    for file in sorted((CONF / group).glob("*.yaml"))
]
DEFAULTS = {
    group: option
    for entry in TRAIN.defaults
    if not isinstance(entry, str)
    for group, option in entry.items()
    if group in SCHEMAS
}


def flat(keys: dict[str, Any], above: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in keys.items():
        nested = isinstance(value, dict) and above + key not in MAPPINGS
        values |= flat(value, f"{above}{key}.") if nested else {above + key: value}
    return values


def written(group: str, option: str) -> dict[str, Any]:
    """What an option file says, interpolations as typed."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"), resolve=False)
    return flat(content)


def test_every_group_has_a_default() -> None:
    assert DEFAULTS.keys() == SCHEMAS.keys() - INTERNAL


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_sets_every_key_of_its_dataclass(group: str, option: str) -> None:
    assert written(group, option).keys() == flat(dataclasses.asdict(SCHEMAS[group]())).keys()


@pytest.mark.parametrize(("group", "option"), DEFAULTS.items())
def test_the_dataclass_has_the_values_of_the_default_option(group: str, option: str) -> None:
    merged = OmegaConf.merge(
        OmegaConf.structured(SCHEMAS[group]), OmegaConf.load(CONF / group / f"{option}.yaml")
    )
    wanted = written(group, option)
    raw: Any = OmegaConf.to_container(merged, resolve=False)
    typed = {key: value for key, value in flat(raw).items() if "${" not in str(wanted[key])}
    defaults = flat(dataclasses.asdict(SCHEMAS[group]()))
    assert {key: defaults[key] for key in typed} == typed
    # What the environment decides has no default in the code.
    assert {defaults[key] for key in wanted if key not in typed} <= {None}


def test_the_top_level_has_the_values_of_train_yaml() -> None:
    typed: Any = OmegaConf.to_container(TRAIN, resolve=False)
    defaults = {
        field.name: field.default for field in dataclasses.fields(Config) if field.name not in SCHEMAS
    }
    assert defaults == {key: value for key, value in typed.items() if key not in ("defaults", "hydra")}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_is_named_after_its_file(group: str, option: str) -> None:
    if "name" in written(group, option):
        assert written(group, option)["name"] == option
