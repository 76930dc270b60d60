"""Question: does training reach the speed of the network alone on a CUDA device? How long do 50 epochs take?

    python benchmarks/on_cuda.py [--rounds 5] [--epochs 50] [--batch 64] [--images 4700]

ResNet-18 at 224 px with trainer.precision=auto, on as many random images as the public training set has.
Compares an epoch with the same steps on one fixed batch (target .95). Then times the whole training,
including validation (target on an H100: 90 s). Ends at once without a CUDA device.
"""

import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import torch
from ceiling import fixed_steps, train_epoch, trainer_for

from pneumo.data.loader import Split

TARGET_S = 90.0


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


def main() -> None:
    parser = measure.options(__doc__)
    for name, default in (("epochs", 50), ("batch", 64), ("images", 4700)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device that torch can use")
    device, card = torch.device("cuda", 0), torch.cuda.get_device_name(0)
    counts = {"train": args.images, "val": args.images // 9, "test": 64}
    data = {name: random_split(name, count, device) for name, count in counts.items()}
    steps = args.images // args.batch
    with tempfile.TemporaryDirectory(prefix="pneumo-bench-") as name:
        trainer, log = trainer_for(
            "resnet18", "light", data, Path(name) / "run", args.batch, steps, device="cuda"
        )
        taken = measure.interleaved(
            {
                "fixed batch": lambda: fixed_steps(trainer, steps),
                "epoch": lambda: train_epoch(trainer, log)[0],
            },
            args.rounds,
        )
        began = time.perf_counter()
        for _ in range(args.epochs):
            train_epoch(trainer, log)
        whole_s = time.perf_counter() - began
        log.finish()
    measure.record(
        "cuda/ceiling, resnet18 224 px light",
        measure.ratio(taken["fixed batch"], taken["epoch"]),
        0.95,
        card=card,
        images_per_s=round(steps * args.batch / sorted(taken["epoch"])[args.rounds // 2]),
    )
    measure.record(
        f"cuda/{args.epochs} epochs of resnet18, 224 px",
        TARGET_S * args.epochs / 50 / whole_s,
        1.0,
        card=card,
        seconds=round(whole_s, 1),
    )


if __name__ == "__main__":
    main()
