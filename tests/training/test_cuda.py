"""Training on a CUDA device: steps, their graph, precisions, and a whole command."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import AUGMENT, CPU, Tiny, make_trainer, recipe, three_splits
from torch import nn

from pneumo.data.loader import Split
from pneumo.training.runtime import Runtime
from pneumo.training.signals import Stopped
from pneumo.training.trainer import Trainer

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


@contextmanager
def deterministic() -> Iterator[None]:
    """What open_runtime sets for trainer.deterministic=true."""
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = benchmark


def make(
    folder: Path,
    *,
    train: int = 40,
    resident: bool = True,
    autocast: torch.dtype | None = None,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    **options: Any,
) -> Trainer:
    splits = {name: on_cuda(split, resident) for name, split in three_splits(train).items()}
    made = recipe(augment=AUGMENT, **options)
    return make_trainer(folder, made, model, splits, runtime=runtime or Runtime(CUDA, autocast))


def trained(folder: Path, *, graph: bool = True, **options: Any) -> Trainer:
    trainer = make(folder, **options)
    if not graph:
        trainer._graph = None
    trainer.fit()
    return trainer


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
        with deterministic():
            histories.append(trained(tmp_path / str(resident), resident=resident).progress.repeatable)
    assert histories[0] == histories[1]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "grad_clip_norm": 1.0, "class_weights": True}])
def test_a_step_graph_gives_what_eager_steps_give(
    tmp_path: Path, options: dict, autocast: torch.dtype | None
) -> None:
    """Dropout, augmentation, a last batch of another size and the running sums included."""
    with deterministic():
        graph = trained(tmp_path / "graph", train=46, autocast=autocast, **options)
        eager = trained(tmp_path / "eager", train=46, autocast=autocast, graph=False, **options)
    assert graph._graph is not None and graph._graph._graph is not None and eager._graph is None
    assert graph.progress.repeatable == eager.progress.repeatable
    for name, value in eager.network.state_dict().items():
        assert torch.equal(value, graph.network.state_dict()[name]), name


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_step_graph_of_more_classes_or_several_findings(tmp_path: Path, multilabel: bool) -> None:
    classes = 4
    made = recipe(augment=AUGMENT, num_classes=classes, multilabel=multilabel, class_weights=True)
    found = []
    for graph in (True, False):
        splits = {}
        for name, split in three_splits(46).items():
            rng = torch.Generator().manual_seed(len(name))
            rarest = torch.arange(len(split)) % classes
            labels = torch.randint(-1, 2, (len(split), classes), generator=rng) if multilabel else rarest
            changed = replace(split, labels=labels, rarest=rarest if multilabel else None)
            splits[name] = on_cuda(changed, True)
        with deterministic():
            model = Tiny(classes=classes)
            runtime = Runtime(CUDA, torch.bfloat16)
            trainer = make_trainer(tmp_path / str(graph), made, model, splits, runtime=runtime)
            if not graph:
                trainer._graph = None
            trainer.fit()
        found.append(trainer)
    assert found[0]._graph is not None and found[0]._graph._graph is not None
    assert found[0].progress.repeatable == found[1].progress.repeatable
    for name, value in found[1].network.state_dict().items():
        assert torch.equal(value, found[0].network.state_dict()[name]), name


def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """The graph is recorded again at another step."""
    with deterministic():
        whole = trained(tmp_path / "whole", epochs=3)
        short = make(tmp_path / "resumed", epochs=3)
        calls = iter(range(1000))
        short.should_stop = lambda: "a test" if next(calls) == 17 else None
        with pytest.raises(Stopped):
            short.fit()
        resumed = trained(tmp_path / "resumed", epochs=3)
    assert resumed.progress.repeatable == whole.progress.repeatable
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_fp16_trains_with_a_scaled_loss(tmp_path: Path) -> None:
    trainer = trained(tmp_path, autocast=torch.float16, epochs=4, optim={"lr": 0.003})
    losses = [row["train/loss"] for row in trainer.progress.history]
    assert trainer.scaler.is_enabled() and losses[-1] < losses[0]


def test_a_compiled_network_trains_as_an_eager_one_does(tmp_path: Path) -> None:
    losses = []
    for compiled in (True, False):
        folder = tmp_path / str(compiled)
        runtime = Runtime(CUDA, None, compile=compiled)
        trainer = make(folder, model=Tiny(dropout=0.0), runtime=runtime)
        trainer.fit()
        assert not any("_orig_mod" in name for name in trainer.network.state_dict())
        losses.append([row["train/loss"] for row in trainer.progress.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_whole_command_twice_gives_the_same_predictions(tmp_path: Path) -> None:
    found = []
    for number in range(2):
        folder = tmp_path / str(number)
        typed = ["model=resnet18", "data=phantom", "data.image_size=32", "trainer.epochs=2"]
        typed += ["trainer.batch_size=16", "trainer.deterministic=true", "trainer.device=cuda"]
        typed += [f"output_dir={folder}", "tracking.enabled=false", "data.phantom.train_patients=60"]
        subprocess.run([sys.executable, "-m", "pneumo.train", *typed], check=True)
        (file,) = folder.glob("*/artifacts/predictions/test.csv")
        found.append(file.read_bytes())
    assert found[0] == found[1] and len(found[0].splitlines()) > 10


def test_cuda_trains_as_the_cpu_does(tmp_path: Path) -> None:
    """Without augmentation and dropout, because devices draw different random numbers."""
    losses = []
    for device in (CPU, CUDA):
        splits = three_splits(40)
        if device.type == "cuda":
            splits = {name: on_cuda(split, True) for name, split in splits.items()}
        model = Tiny(dropout=0.0)
        trainer = make_trainer(tmp_path / device.type, recipe(), model, splits, runtime=Runtime(device, None))
        losses.append([row["train/loss"] for row in trainer.fit().history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
