"""Settings for tests that do not use Hydra: everything that regularises or slows training is off.

The dataclasses have the command line's defaults (conf/). Tests that need a plain recipe use these functions.
"""

from pathlib import Path
from typing import Any

import yaml

from pneumo.data.settings import AugmentSettings
from pneumo.training.settings import OptimSettings, ScheduleSettings, TrainerSettings

CONF = Path(__file__).parents[2] / "conf"


def augment(**keys: Any) -> AugmentSettings:
    """No augmentation except that in `keys`."""
    return AugmentSettings(**{**yaml.safe_load((CONF / "augment" / "none.yaml").read_text()), **keys})


def optim(**keys: Any) -> OptimSettings:
    """A low learning rate and little weight decay."""
    return OptimSettings(**{"lr": 1e-4, "weight_decay": 1e-4, **keys})


def schedule(**keys: Any) -> ScheduleSettings:
    """A constant learning rate, unless `keys` change it."""
    return ScheduleSettings(**{"name": "constant", "warmup_fraction": 0.0, "final_fraction": 0.0, **keys})


def trainer(**keys: Any) -> TrainerSettings:
    """No label smoothing and no weight average."""
    return TrainerSettings(**{"label_smoothing": 0.0, "ema_decay": None, **keys})
