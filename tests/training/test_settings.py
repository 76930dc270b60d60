"""Settings of the optimiser, the schedule and the trainer: what is refused, with value, options and fix."""

from typing import Any

import pytest

from pneumo import UserError
from pneumo.training.settings import MONITORS, OptimSettings, ScheduleSettings, TrainerSettings, check_device

AT_LEAST_0_BELOW_1 = "must be at least 0 and below 1."
REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (
        OptimSettings,
        {"name": "adam"},
        "optim.name=adam is not known; the options are adamw, sgd. Did you mean adamw?",
    ),
    (OptimSettings, {"lr": 0.0}, "optim.lr=0.0 must be positive, for example 1e-3."),
    (OptimSettings, {"lr": -1e-3}, "optim.lr=-0.001 must be positive, for example 1e-3."),
    (
        OptimSettings,
        {"weight_decay": -0.1},
        "optim.weight_decay=-0.1 must not be negative; 0 means none.",
    ),
    (
        ScheduleSettings,
        {"name": "linear"},
        "schedule.name=linear is not known; the options are constant, cosine, onecycle.",
    ),
    (ScheduleSettings, {"warmup_fraction": 1.0}, f"schedule.warmup_fraction=1.0 {AT_LEAST_0_BELOW_1}"),
    (ScheduleSettings, {"warmup_fraction": -0.1}, f"schedule.warmup_fraction=-0.1 {AT_LEAST_0_BELOW_1}"),
    (ScheduleSettings, {"final_fraction": 1.5}, f"schedule.final_fraction=1.5 {AT_LEAST_0_BELOW_1}"),
    (ScheduleSettings, {"final_fraction": -1e-4}, f"schedule.final_fraction=-0.0001 {AT_LEAST_0_BELOW_1}"),
    (
        TrainerSettings,
        {"precision": "bf61"},
        "trainer.precision=bf61 is not known; the options are auto, float32, tf32, bf16, fp16. "
        "Did you mean bf16?",
    ),
    (
        TrainerSettings,
        {"device": "gpu"},
        "trainer.device=gpu is not known; the options are auto, cpu, cuda, cuda:1 and so on.",
    ),
    (
        TrainerSettings,
        {"compile": "maybe"},
        "trainer.compile=maybe is not known; the options are auto, true, false.",
    ),
    (
        TrainerSettings,
        {"monitor": "test/auroc"},
        f"trainer.monitor=test/auroc is not known; the options are {', '.join(MONITORS)}. "
        "Did you mean val/auroc?",
    ),
    (
        TrainerSettings,
        {"select_on": "train"},
        "trainer.select_on=train is not known; the options are val, test.",
    ),
    (TrainerSettings, {"epochs": 0}, "trainer.epochs=0 must be at least 1."),
    (TrainerSettings, {"grad_accum_steps": 0}, "trainer.grad_accum_steps=0 must be at least 1."),
    (TrainerSettings, {"early_stop_epochs": 0}, "trainer.early_stop_epochs=0 must be at least 1."),
    (TrainerSettings, {"limit_batches": -1}, "trainer.limit_batches=-1 must be at least 1."),
    (
        TrainerSettings,
        {"batch_size": 1},
        "trainer.batch_size=1 must be at least 2: BatchNorm needs that.",
    ),
    (TrainerSettings, {"grad_clip_norm": 0.0}, "trainer.grad_clip_norm=0.0 must be positive."),
    (TrainerSettings, {"checkpoint_every_s": 0.0}, "trainer.checkpoint_every_s=0.0 must be positive."),
    (TrainerSettings, {"grace_s": -1.0}, "trainer.grace_s=-1.0 must be positive."),
    (TrainerSettings, {"label_smoothing": 1.0}, f"trainer.label_smoothing=1.0 {AT_LEAST_0_BELOW_1}"),
    (TrainerSettings, {"label_smoothing": -0.1}, f"trainer.label_smoothing=-0.1 {AT_LEAST_0_BELOW_1}"),
    (
        TrainerSettings,
        {"ema_decay": 1.0},
        "trainer.ema_decay=1.0 must be between 0 and 1, like 0.995; null means none.",
    ),
    (
        TrainerSettings,
        {"ema_decay": 0.0},
        "trainer.ema_decay=0.0 must be between 0 and 1, like 0.995; null means none.",
    ),
]
ACCEPTED: list[tuple[type, dict[str, Any]]] = [
    (OptimSettings, {"name": "sgd", "lr": 1e-9, "weight_decay": 0.0}),
    (ScheduleSettings, {"name": "constant", "warmup_fraction": 0.0, "final_fraction": 0.0}),
    (ScheduleSettings, {"name": "cosine", "warmup_fraction": 0.999, "final_fraction": 0.999}),
    (TrainerSettings, {"epochs": 1, "batch_size": 2, "grad_accum_steps": 1}),
    (TrainerSettings, {"early_stop_epochs": 1, "limit_batches": 1}),
    (TrainerSettings, {"early_stop_epochs": None, "limit_batches": None}),
    (TrainerSettings, {"grad_clip_norm": 1e-9, "checkpoint_every_s": 1e-9, "grace_s": 1e-9}),
    (TrainerSettings, {"grad_clip_norm": None, "ema_decay": None}),
    (TrainerSettings, {"label_smoothing": 0.0, "ema_decay": 0.001}),
    (TrainerSettings, {"label_smoothing": 0.999, "ema_decay": 0.999}),
    (TrainerSettings, {"select_on": "test", "monitor": "val/loss", "precision": "fp16"}),
]


@pytest.mark.parametrize(("settings", "keys", "message"), REFUSED)
def test_a_value_that_cannot_work_is_refused(settings: type, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        settings(**keys)
    assert str(error.value) == message


@pytest.mark.parametrize(("settings", "keys"), ACCEPTED)
def test_a_value_at_the_limit_is_kept(settings: type, keys: dict[str, Any]) -> None:
    made = settings(**keys)
    assert {key: getattr(made, key) for key in keys} == keys


@pytest.mark.parametrize("settings", [OptimSettings, ScheduleSettings, TrainerSettings])
def test_the_defaults_are_accepted(settings: type) -> None:
    settings()


@pytest.mark.parametrize(("given", "kept"), [("True", "true"), ("False", "false"), ("auto", "auto")])
def test_compile_takes_what_yaml_makes_of_true_and_false(given: str, kept: str) -> None:
    assert TrainerSettings(compile=given).compile == kept


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices_that_are_known(name: str) -> None:
    check_device("device", name)


@pytest.mark.parametrize("name", ["", "CPU", "cuda:", "cuda:a", "cuda:-1", "mps", "cpu "])
def test_a_device_that_is_not_known_is_named_with_its_key(name: str) -> None:
    with pytest.raises(UserError) as error:
        check_device("device", name)
    assert str(error.value) == (
        f"device={name} is not known; the options are auto, cpu, cuda, cuda:1 and so on."
    )
