"""The two versions that decide numbers besides the configuration, and what each change of them touches.

`CORE` covers training and evaluation, `PIXELS` decoding, cropping and scaling. Version 0.1 of this package is
core 1 and pixels 1. A change that alters figures raises one of them, and adds a line to its table here.
A predicate gets the flat configuration ({"optim.lr": 0.001, ...}) and is true where the change can alter a
figure. It may be true too often, which costs a training, and must never be false where a figure changes.
A key that the configuration lacks has the value that computes as version 0.1 did.
"""

from collections.abc import Callable, Mapping
from typing import Any

CORE = 2
PIXELS = 2

Flat = Mapping[str, Any]
Touches = dict[str, Callable[[Flat], bool]]

# What core 2 changed. The precision is the configured one: `auto` is resolved by the machine, which the
# fingerprint does not know, so `auto` counts as reduced. `float32` counts as untouched: version 0.1 computed it
# as TF32 on a CUDA device, and its record of the precision does not tell the two apart.
CORE_2: Touches = {
    "class weights with label smoothing": lambda c: (
        bool(c.get("trainer.class_weights")) and c.get("trainer.label_smoothing", 0) > 0
    ),
    "reduced precision in evaluation": lambda c: c.get("trainer.precision") in ("auto", "bf16", "fp16"),
}

# What pixel rule 2 changed.
PIXELS_2: Touches = {}


def core_touches(config: Flat) -> list[str]:
    """The changes of core 2 that can alter the figures of a configuration."""
    return [change for change, touched in CORE_2.items() if touched(config)]


def pixels_touches(config: Flat) -> list[str]:
    """The changes of pixel rule 2 that can alter the images of a configuration."""
    return [change for change, touched in PIXELS_2.items() if touched(config)]
