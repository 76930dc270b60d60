"""Settings for tests that build them without Hydra: what makes a training regular or slow is off.

The dataclasses have the defaults of the command line (conf/). Tests that rely on another recipe use these.
"""

from pathlib import Path
from typing import Any

import yaml

from pneumo.data.settings import AugmentSettings
from pneumo.training.settings import OptimSettings, ScheduleSettings, TrainerSettings

CONF = Path(__file__).parents[2] / "conf"


def augment(**keys: Any) -> AugmentSettings:
    """No augmentation but what `keys` ask for."""
    return AugmentSettings(**{**yaml.safe_load((CONF / "augment" / "none.yaml").read_text()), **keys})


def optim(**keys: Any) -> OptimSettings:
    """A low learning rate and little weight decay."""
    return OptimSettings(**{"lr": 1e-4, "weight_decay": 1e-4, **keys})


def schedule(**keys: Any) -> ScheduleSettings:
    """The same learning rate throughout, unless `keys` say otherwise."""
    return ScheduleSettings(**{"name": "constant", "warmup_fraction": 0.0, "final_fraction": 0.0, **keys})


def trainer(**keys: Any) -> TrainerSettings:
    """No label smoothing and no weight average."""
    return TrainerSettings(**{"label_smoothing": 0.0, "ema_decay": None, **keys})
