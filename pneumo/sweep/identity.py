"""Which sweep a command means: its choices, its id and the keys of its jobs, all made from the overrides.

Equal questions have equal ids, however they are typed, so the same command continues the same sweep.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pneumo.fingerprint import IRRELEVANT, is_neutral

# Config groups whose option says enough without the group's name.
GROUPS = ("model", "sampler", "augment", "optim", "schedule", "data", "experiment")


def choices(overrides: Iterable[str]) -> list[str]:
    """The overrides that can change a result, sorted; of several for one key, the last."""
    chosen: dict[str, str] = {}
    for text in overrides:
        key, _, value = text.partition("=")
        group, _, name = key.lstrip("+~").partition(".")
        # Not all of data's: another root or phantom is another question, although equal images may result.
        left_out = (
            ("cache_dir", "num_workers", "near_copies") if group == "data" else IRRELEVANT.get(group, ())
        )
        if group in (*IRRELEVANT[""], "sweep") or name in left_out:
            continue
        try:
            override = OverridesParser.create().parse_override(text)
            if override.is_discrete_sweep():
                value = ",".join(sorted(override.sweep_string_iterator()))
            elif not override.is_sweep_override():
                value = override.get_value_element_as_str()
        except (HydraException, ValueError):
            pass  # keep it as typed; if it is not an override, composing the jobs names it
        plain = key.lstrip("+~")
        if is_neutral(plain, yaml.safe_load(value) if value else None):
            chosen.pop(key, None)  # as if the key did not exist
            continue
        chosen[key] = value
    return [f"{key}={value}" for key, value in sorted(chosen.items())]


def without_places(overrides: Sequence[str]) -> list[str]:
    """Typed overrides without those that only say where results are kept or how they are tracked."""
    keys = [text.partition("=")[0].lstrip("+~") for text in overrides]
    return [
        text
        for text, key in zip(overrides, keys, strict=True)
        if key.partition(".")[0] not in ("output_dir", "tracking", "force") and key != "data.cache_dir"
    ]


def axes(overrides: Iterable[str]) -> list[str]:
    """The keys that a sweep varies: those of overrides with several values or with a search space."""
    found = []
    for text in overrides:
        with suppress(HydraException, ValueError):  # composing the jobs names what is wrong with it
            override = OverridesParser.create().parse_override(text)
            if override.is_sweep_override():
                found.append(override.key_or_group)
    return found


def short(chosen: Iterable[str]) -> list[str]:
    """Choices as a run's name holds them: `optim.lr=0.0001` as `lr=0.0001`, `model=resnet18` as `resnet18`.

    A key whose last part another choice has too stays whole.
    """
    pairs = [choice.partition("=")[::2] for choice in chosen]
    last = Counter(key.rpartition(".")[2] for key, _ in pairs)
    words = []
    for key, value in pairs:
        name = key.lstrip("+~").rpartition(".")[2]
        with suppress(ValueError):
            value = value if len(value) < 8 else f"{float(value):.3g}"
        if key in GROUPS:
            words.append(value)
        else:
            words.append(f"{name if last[name] == 1 else key}={value}")
    return words


def job_key(chosen: list[str]) -> str:
    """The key of the job with these choices: the name of its file."""
    return _digest(chosen)


def sweep_id(file: str | None, chosen: list[str], experiment: str) -> str:
    """The id of the sweep with these choices: the name of its file in sweeps/, or "sweep", and a digest."""
    return f"{file or 'sweep'}-{_digest([chosen, experiment])}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
