"""Settings of the optimiser, its schedule and the trainer.

The defaults match the default options: conf/optim/adamw.yaml, conf/schedule/onecycle.yaml and
conf/trainer/default.yaml. The option files in conf/ set and explain every key.
"""

import re
from dataclasses import dataclass

from pneumo import UserError, one_of

DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")
MONITORS = ("val/auroc", "val/loss", "val/accuracy", "val/f1", "val/precision", "val/recall")


def check_device(key: str, name: str) -> None:
    """Raise UserError for a device that torch refuses or that the project does not support."""
    if not DEVICES.fullmatch(name):
        raise UserError(f"{key}={name} is not known; the options are auto, cpu, cuda, cuda:1 and so on.")


@dataclass(kw_only=True)
class OptimSettings:
    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, ("adamw", "sgd"))
        if self.lr <= 0:
            raise UserError(f"optim.lr={self.lr} must be positive, for example 1e-3.")
        if self.weight_decay < 0:
            raise UserError(f"optim.weight_decay={self.weight_decay} must not be negative; 0 means none.")
        if not 0 < self.layer_decay <= 1:
            raise UserError(
                f"optim.layer_decay={self.layer_decay} must be above 0 and at most 1, for example 0.7: a "
                "stage's share of the next one's learning rate; 1 means one rate."
            )


@dataclass(kw_only=True)
class ScheduleSettings:
    name: str = "onecycle"
    warmup_fraction: float = 0.25
    final_fraction: float = 1e-4

    def __post_init__(self) -> None:
        one_of("schedule.name", self.name, ("constant", "cosine", "onecycle"))
        for key in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"schedule.{key}={getattr(self, key)} must be at least 0 and below 1.")


@dataclass(kw_only=True)
class TrainerSettings:
    epochs: int = 20
    batch_size: int = 64
    precision: str = "auto"
    device: str = "auto"
    compile: str = "auto"
    class_weights: bool = False
    label_smoothing: float = 0.1
    ema_decay: float | None = 0.995
    early_stop_epochs: int | None = None
    monitor: str = "val/auroc"
    select_on: str = "val"
    score_test: bool | None = None  # the whole configuration settles None
    limit_batches: int | None = None
    grad_accum_steps: int = 1
    grad_clip_norm: float | None = None
    deterministic: bool = False
    sync_batchnorm: bool = False
    checkpoint_every_s: float = 300.0
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        one_of("trainer.precision", self.precision, ("auto", "float32", "tf32", "bf16", "fp16"))
        check_device("trainer.device", self.device)
        self.compile = self.compile.lower()  # `trainer.compile=true` arrives as "True"
        one_of("trainer.compile", self.compile, ("auto", "true", "false"))
        one_of("trainer.monitor", self.monitor, MONITORS)
        one_of("trainer.select_on", self.select_on, ("val", "test"))
        if self.select_on == "test" and self.score_test is False:
            raise UserError(
                "trainer.select_on=test scores the test images in every epoch, so trainer.score_test=false "
                "cannot hold. Give trainer.select_on=val, or leave trainer.score_test=true."
            )
        for key in ("epochs", "grad_accum_steps", "early_stop_epochs", "limit_batches"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"trainer.{key}={value} must be at least 1.")
        if self.batch_size < 2:
            raise UserError(f"trainer.batch_size={self.batch_size} must be at least 2: BatchNorm needs that.")
        for key in ("grad_clip_norm", "checkpoint_every_s", "grace_s"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise UserError(f"trainer.{key}={value} must be positive.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"trainer.label_smoothing={self.label_smoothing} must be at least 0 and below 1.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(
                f"trainer.ema_decay={self.ema_decay} must be between 0 and 1, like 0.995; null means none."
            )
