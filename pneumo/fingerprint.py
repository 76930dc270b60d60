"""A run's identity: what of its configuration and its data decides its result."""

import hashlib
import json
from pathlib import Path
from typing import Any

# What cannot change a run's result: where things lie, how many workers, which device, how it is tracked.
IRRELEVANT = {
    "": ("force", "output_dir", "tracking", "search", "sweep_id", "on_failure", "keep_best"),
    "data": ("root", "cache_dir", "num_workers", "on_bad_image", "phantom", "name"),
    "trainer": ("device", "compile", "checkpoint_every_s", "grace_s"),
}


def relevant(config: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration without what cannot change the result, flat: {"optim.lr": 0.001, ...}."""
    flat: dict[str, Any] = {}
    for group, value in config.items():
        if group in IRRELEVANT[""]:
            continue
        if not isinstance(value, dict):
            flat[group] = value
            continue
        kept = {key: entry for key, entry in value.items() if key not in IRRELEVANT.get(group, ())}
        flat |= {f"{group}.{key}": entry for key, entry in kept.items()}
    weights = flat.get("model.weights")
    if weights and Path(weights).expanduser().is_file():  # which file it is matters, not where it lies
        with Path(weights).expanduser().open("rb") as file:
            flat["model.weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    return flat


def fingerprint(config: dict[str, Any], data_digest: str) -> str:
    """A run's identity, 16 hex digits: equal for runs that must give the same result."""
    text = json.dumps({**relevant(config), "data.digest": data_digest}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
