"""A run's identity: every key that can change a result is in it. Code and hardware are recorded instead.

The keys of version 0.1 are hashed as they are. Every later key declares in LATER its neutral value: the one
that computes as if the key did not exist. At that value it is left out, so a new key moves no fingerprint.
Two versions decide numbers besides the configuration (pneumo.versions). They are hashed where a change of
theirs touches the configuration.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumo.versions import CORE, PIXELS, core_touches, pixels_touches

Flat = dict[str, Any]

# How the images, labels, patients and splits are read. Another value is another sweep and another study, but
# the same run where it yields the same data.
TABLE_KEYS = (
    "table",
    "columns",
    "positive",
    "labels",
    "classes",
    "separator",
    "uncertain",
    "patient_pattern",
    "path_prefix",
    "split",
)

# What cannot change a run's result: where things are, how many workers, which device, how it is tracked.
IRRELEVANT = {
    "": (
        "force",
        "output_dir",
        "tracking",
        "search",
        "sweep_id",
        "on_failure",
        "keep_best",
        "keep_state",
        "on_code_change",
    ),
    # `pixels` names a version, and the version is hashed. What the keys of TABLE_KEYS yield (paths, labels,
    # patients, splits) is in the data's digest, which is hashed.
    "data": (
        *("root", "cache_dir", "num_workers", "on_bad_image", "near_copies", "pseudonymise"),
        *("patient_namespace", "phantom", "name", "pixels"),
        *TABLE_KEYS,
    ),
    "trainer": ("device", "compile", "checkpoint_every_s", "grace_s", "score_test"),
}

# Every key that decides results and was hashed by version 0.1. This list never changes.
KEYS_0_1 = frozenset(
    """
    seed model.name model.dropout model.pretrained model.weights model.in_channels sampler.name
    sampler.smoothing optim.name optim.lr optim.weight_decay optim.momentum schedule.name
    schedule.warmup_fraction schedule.final_fraction augment.name augment.rotate_deg augment.translate
    augment.scale augment.scale_each_axis augment.flip_p augment.brightness augment.contrast augment.gamma
    augment.blur_p augment.blur_sigma_min augment.blur_sigma_max augment.degrade_p augment.noise_p
    augment.noise_std augment.erase_p augment.erase_min augment.erase_max trainer.epochs trainer.batch_size
    trainer.precision trainer.class_weights trainer.label_smoothing trainer.ema_decay
    trainer.early_stop_epochs trainer.monitor trainer.select_on trainer.limit_batches
    trainer.grad_accum_steps trainer.grad_clip_norm trainer.deterministic data.image_size data.val_protocol
    data.val_fraction data.split_seed data.equalize data.crop_black
    """.split()
)


def _always(flat: Mapping[str, Any]) -> bool:
    return True


def _folded(flat: Mapping[str, Any]) -> bool:
    return flat.get("data.val_protocol") == "fold"


def _learns(flat: Mapping[str, Any]) -> bool:
    """Does the backbone learn?"""
    return flat.get("model.freeze", "none") == "none"


@dataclass(frozen=True, kw_only=True)
class LaterKey:
    """A key that came after version 0.1.

    `neutral` is a literal that never changes, whatever the default becomes. Where `matters` is false for a
    configuration, the key has no effect on it and is left out.
    """

    neutral: Any
    matters: Callable[[Mapping[str, Any]], bool] = _always


LATER: dict[str, LaterKey] = {
    "data.pixels": LaterKey(neutral=None),  # hashed as a version, but another rule is another sweep
    "data.table": LaterKey(neutral=None),
    "data.columns.path": LaterKey(neutral=None),
    "data.columns.label": LaterKey(neutral=None),
    "data.columns.patient": LaterKey(neutral=None),
    "data.columns.split": LaterKey(neutral=None),
    "data.columns.subgroups": LaterKey(neutral=None),
    "data.positive": LaterKey(neutral=None),
    "data.labels": LaterKey(neutral={}),
    "data.classes": LaterKey(neutral=None),
    "data.task": LaterKey(neutral="classes"),
    "data.separator": LaterKey(neutral="|"),
    "data.uncertain": LaterKey(neutral="ignore"),
    "data.patient_pattern": LaterKey(neutral=None),
    "data.path_prefix": LaterKey(neutral=None),
    "data.split.test_fraction": LaterKey(neutral=None),
    "data.split.seed": LaterKey(neutral=0),
    "data.phantom.classes": LaterKey(neutral=2),
    "data.folds": LaterKey(neutral=5, matters=_folded),
    "data.fold": LaterKey(neutral=None, matters=_folded),
    "trainer.sync_batchnorm": LaterKey(neutral=False),
    "model.freeze": LaterKey(neutral="none"),
    "optim.layer_decay": LaterKey(neutral=1.0, matters=_learns),
}


def is_neutral(key: str, value: Any, flat: Mapping[str, Any] | None = None) -> bool:
    """True where `key` came after version 0.1 and `value` computes as if it did not exist."""
    later = LATER.get(key)
    if later is None:
        return False
    return value == later.neutral or (flat is not None and not later.matters(flat))


def without_neutral(values: Mapping[str, Any], above: str) -> Flat:
    """`values`, the keys below `above`, without those at their neutral value: what a hash may cover."""
    kept: Flat = {}
    for key, value in values.items():
        name = f"{above}.{key}"
        if isinstance(value, Mapping) and name not in LATER:
            if inner := without_neutral(value, name):
                kept[key] = inner
        elif not is_neutral(name, value):
            kept[key] = value
    return kept


def reading(data: Mapping[str, Any]) -> Flat:
    """The keys of `data` that say how it is read, without those at their neutral value."""
    return without_neutral({key: data[key] for key in TABLE_KEYS if key in data}, "data")


def with_neutral(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration, completed by the neutral values of the keys that came after it."""
    whole = {group: dict(part) if isinstance(part, Mapping) else part for group, part in saved.items()}
    for key, later in LATER.items():
        *above, name = key.split(".")
        part: Any = whole
        for group in above:
            if part is not whole:  # a nested group may have come later too
                part[group] = dict(part.get(group) or {})
            part = part.get(group)
            if not isinstance(part, dict):
                break
        else:
            part.setdefault(name, later.neutral)
    return whole


def relevant(config: Mapping[str, Any], core: int = CORE, pixels: int | None = None) -> Flat:
    """The resolved configuration without what cannot change the result, flat: {"optim.lr": 0.001, ...}.

    It holds the versions `core` and `pixels` where they touch the configuration. `pixels` defaults to the
    rule that the configuration asks for. For a saved configuration, give the versions that were recorded
    with it: one that recorded none is of version 0.1, that is 1 and 1.
    """
    flat: Flat = {}
    for group, value in config.items():
        if group in IRRELEVANT[""]:
            continue
        if not isinstance(value, Mapping):
            flat[group] = value
            continue
        kept = {key: entry for key, entry in value.items() if key not in IRRELEVANT.get(group, ())}
        flat |= {f"{group}.{key}": entry for key, entry in kept.items()}
    flat = {key: value for key, value in flat.items() if not is_neutral(key, value, flat)}
    weights = flat.get("model.weights")
    if weights and Path(weights).expanduser().is_file():  # which file it is matters, not where it is
        with Path(weights).expanduser().open("rb") as file:
            flat["model.weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    rule = pixel_rule(config) if pixels is None else pixels
    versions = {"core": core if core_touches(flat) else 1, "pixels": rule if pixels_touches(flat) else 1}
    return flat | {name: version for name, version in versions.items() if version > 1}


def value_of(flat: Mapping[str, Any], key: str) -> Any:
    """The value of `key` in what `relevant` gave; one that was left out has its neutral value."""
    if key in flat:
        return flat[key]
    if key in ("core", "pixels"):
        return 1
    return LATER[key].neutral if key in LATER else None


def pixel_rule(config: Mapping[str, Any]) -> int:
    """The pixel rule that a configuration asks for: data.pixels, or the newest."""
    data = config.get("data")
    asked = data.get("pixels") if isinstance(data, Mapping) else None
    return PIXELS if asked is None else int(asked)


def fingerprint(
    config: Mapping[str, Any], data_digest: str, core: int = CORE, pixels: int | None = None
) -> str:
    """A run's identity, 16 hex digits: equal for runs that must give the same result."""
    text = json.dumps({**relevant(config, core, pixels), "data.digest": data_digest}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def older_fingerprints(config: Mapping[str, Any], data_digest: str) -> dict[str, str]:
    """The fingerprints that this configuration had under older versions, by a description of these."""
    now = fingerprint(config, data_digest)
    rule = pixel_rule(config)
    found: dict[str, str] = {}
    for core in range(CORE, 0, -1):
        for pixels in range(rule, 0, -1):
            older = fingerprint(config, data_digest, core, pixels)
            if older != now and older not in found.values():
                found[f"core {core}, pixels {pixels}"] = older
    return found
