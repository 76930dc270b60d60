"""Question: does training reach the speed of the network alone on a CUDA device? How long do 50 epochs take?

    python benchmarks/on_cuda.py [--rounds 5] [--epochs 50] [--batch 64] [--images 4700] [--compile auto]

ResNet-18 at 224 px with trainer.precision=auto, on as many random images as the public training set has.
Compares an epoch with the same steps on one fixed batch, also replayed as a CUDA graph (target .95). Then
times a whole training from its first step: recording, compiling and validation included, and every image of
the last batch (target on an H100: 30 s). Ends at once without a CUDA device.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import torch
from ceiling import train_epoch, trainer_for
from torch import Tensor
from torch.nn.functional import cross_entropy

from pneumo.data.augment import normalise
from pneumo.data.loader import Split
from pneumo.training.step_graph import StepGraph
from pneumo.training.trainer import Trainer

TARGET_S = 30.0


def random_split(name: str, count: int, device: torch.device) -> Split:
    """`count` random images of 224 px on the device."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, 224, 224), dtype=np.uint8)
    return Split(
        name=name,
        images=torch.from_numpy(pixels).to(device),
        rows=torch.arange(count, device=device),
        labels=torch.arange(count, device=device) % 2,
        paths=[str(row) for row in range(count)],
        patients=[None] * count,
        device=device,
    )


def fixed_steps(trainer: Trainer, steps: int) -> Callable[[], None]:
    """The steps on one prepared batch, with nothing around them; those of a network that trains."""
    rows = torch.arange(trainer.settings.batch_size, device=trainer.runtime.device)
    images, labels = trainer.splits["train"].take(rows)
    inputs, number = normalise(images), torch.zeros((), dtype=torch.int64, device=images.device)
    generator = torch.Generator(images.device)

    def run_pass(images: Tensor, labels: Tensor, generator: torch.Generator, number: Tensor) -> None:
        with trainer.runtime.autocast():
            logits = trainer.model(inputs)
        cross_entropy(logits.float(), labels).backward()

    graph = StepGraph(run_pass, list(trainer.network.parameters()), len(images))

    def run() -> None:
        trainer.model.train()
        for _ in range(steps):
            graph.run(images, labels, generator, number)
            trainer.optimizer.step()
        torch.cuda.synchronize()

    return run


def main() -> None:
    parser = measure.options(__doc__)
    for name, default in (("epochs", 50), ("batch", 64), ("images", 4700)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", default="auto", choices=("auto", "true", "false"))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device that torch can use")
    device, card = torch.device("cuda", 0), torch.cuda.get_device_name(0)
    counts = {"train": args.images, "val": args.images // 9, "test": 64}
    data = {name: random_split(name, count, device) for name, count in counts.items()}
    steps = args.images // args.batch
    options = {"device": "cuda", "compile": args.compile}
    with tempfile.TemporaryDirectory(prefix="pneumo-bench-") as name:
        folder = Path(name)
        trainer, log = trainer_for("resnet18", "light", data, folder / "run", args.batch, steps, **options)
        fixed = fixed_steps(trainer, steps)
        taken = measure.interleaved(
            {"fixed batch": fixed, "epoch": lambda: train_epoch(trainer, log)[0]}, args.rounds
        )
        log.finish()
        measure.record(
            "cuda/ceiling, resnet18 224 px light",
            measure.ratio(taken["fixed batch"], taken["epoch"]),
            0.95,
            card=card,
            images_per_s=round(steps * args.batch / sorted(taken["epoch"])[args.rounds // 2]),
            fixed_batch_images_per_s=round(
                steps * args.batch / sorted(taken["fixed batch"])[args.rounds // 2]
            ),
        )
        torch.compiler.reset()
        trainer, log = trainer_for(
            "resnet18", "light", data, folder / "whole", args.batch, steps + 1, **options
        )
        trainer.settings.epochs = args.epochs
        began = time.perf_counter()
        trainer.fit()
        whole_s = time.perf_counter() - began
        first_s = trainer.progress.history[0]["time/epoch_s"]
        log.finish()
    measure.record(
        f"cuda/{args.epochs} epochs of resnet18, 224 px",
        TARGET_S * args.epochs / 50 / whole_s,
        1.0,
        card=card,
        seconds=round(whole_s, 1),
        first_epoch_s=round(first_s, 1),
    )


if __name__ == "__main__":
    main()
