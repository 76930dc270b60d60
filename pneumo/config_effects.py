"""Keys that have no effect on a configuration, so that a user who typed one hears of it."""

from collections.abc import Callable, Iterable

from pneumo.config import Config

# What makes the key useless, and where it does.
WITHOUT_EFFECT: dict[str, tuple[str, Callable[[Config], bool]]] = {
    "sampler.smoothing": ("only sampler=imbalanced reads it", lambda c: c.sampler.name != "imbalanced"),
    "optim.momentum": ("only optim=sgd reads it", lambda c: c.optim.name != "sgd"),
    "optim.layer_decay": ("model.freeze=backbone: only the head learns", lambda c: c.model.freeze != "none"),
    "schedule.final_fraction": ("a constant schedule never falls", lambda c: c.schedule.name == "constant"),
    "data.val_fraction": (
        "only data.val_protocol=patient reads it",
        lambda c: c.data.val_protocol != "patient",
    ),
    "data.folds": ("only data.val_protocol=fold reads it", lambda c: c.data.val_protocol != "fold"),
    "data.fold": ("only data.val_protocol=fold reads it", lambda c: c.data.val_protocol != "fold"),
    "augment.blur_sigma_min": ("augment.blur_p is 0", lambda c: c.augment.blur_p == 0),
    "augment.blur_sigma_max": ("augment.blur_p is 0", lambda c: c.augment.blur_p == 0),
    "augment.noise_std": ("augment.noise_p is 0", lambda c: c.augment.noise_p == 0),
    "augment.noise_p": ("augment.noise_std is 0", lambda c: c.augment.noise_std == 0),
    "augment.erase_min": ("augment.erase_p is 0", lambda c: c.augment.erase_p == 0),
    "augment.erase_max": ("augment.erase_p is 0", lambda c: c.augment.erase_p == 0),
}


def without_effect(settings: Config, typed: Iterable[str]) -> list[str]:
    """One line for each override in `typed` whose key does nothing under `settings`.

    The value is still part of the fingerprint, as in version 0.1.
    """
    lines = []
    for override in typed:
        key, _, value = override.partition("=")
        reason, useless = WITHOUT_EFFECT.get(key.lstrip("+"), ("", lambda c: False))
        if useless(settings):
            lines.append(f"{key.lstrip('+')}={value} has no effect here: {reason}")
    return lines
