"""Training on a CUDA device: no step waits for it, with images on the device or on the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.training import AUGMENT, CPU, make_trainer, recipe, three_splits

from pneumo.data.loader import Split
from pneumo.training.runtime import Runtime

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)


def on_cuda(split: Split, resident: bool) -> Split:
    """`split` with its images on the device, or on the host as if they did not fit."""
    if not resident:
        return replace(split, device=CUDA)
    images = torch.from_numpy(split.images).to(CUDA)  # type: ignore[arg-type]
    return replace(split, images=images, rows=split.rows.to(CUDA), labels=split.labels.to(CUDA), device=CUDA)


@contextmanager
def never_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"grad_clip_norm": 1.0, "class_weights": True}])
def test_no_step_waits_for_the_device(tmp_path: Path, resident: bool, options: dict) -> None:
    splits = {name: on_cuda(split, resident) for name, split in three_splits(40).items()}
    made = recipe(augment=AUGMENT, sampler="imbalanced", **options)
    trainer = make_trainer(tmp_path, made, splits=splits, runtime=Runtime(CUDA, torch.bfloat16))
    trainer._train_epoch()  # the first epoch allocates memory and chooses kernels
    groups = trainer._groups(1)
    with never_waiting():
        for number, group in enumerate(groups):
            trainer._train_group(group, number, 0, len(groups))
    assert trainer.sums[1].item() == 2 * 40 and trainer.bad_step.item() == -1


def test_images_on_the_host_give_what_those_on_the_device_give(tmp_path: Path) -> None:
    histories = []
    for resident in (True, False):
        splits = {name: on_cuda(split, resident) for name, split in three_splits(40).items()}
        folder = tmp_path / str(resident)
        made = recipe(augment=AUGMENT, deterministic=True)
        trained = make_trainer(folder, made, splits=splits, runtime=Runtime(CUDA, None)).fit()
        histories.append(trained.repeatable)
    assert histories[0] == histories[1]


def test_cuda_trains_as_the_cpu_does(tmp_path: Path) -> None:
    """Without augmentation and dropout, because devices draw different random numbers."""
    from support.training import Tiny

    losses = []
    for device in (CPU, CUDA):
        splits = three_splits(40)
        if device.type == "cuda":
            splits = {name: on_cuda(split, True) for name, split in splits.items()}
        model = Tiny(dropout=0.0)
        trainer = make_trainer(tmp_path / device.type, recipe(), model, splits, runtime=Runtime(device, None))
        losses.append([row["train/loss"] for row in trainer.fit().history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
