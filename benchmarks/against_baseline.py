"""Question: how much faster than the seed report's program, and where does an epoch's time go in each?

    python benchmarks/against_baseline.py [--rounds 5] [--images 160] [--batch 16] [--figure FILE.png]

ResNet-18 at 224 px from original files (PNEUMO_ORIGINALS, else synthetic ones), `augment=light`, the same
sampler and scores. The baseline prepares every image again in two workers and trains in float32. pneumo
reads images from its cache and trains in float32 and with trainer.precision=auto. Then both evaluate as many
images.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import seed_baseline
import torch
from ceiling import TimedLog, train_epoch, trainer_for

from pneumo.data.images import preprocess, read
from pneumo.data.loader import Split
from pneumo.models import build_model
from pneumo.models.precision import cpu_has_bf16
from pneumo.training.trainer import Trainer

SIZE, WORKERS = 224, 2
PARTS = (
    "decode",
    "crop, equalise",
    "resize",
    "augment",
    "to tensor",
    "network",
    "optimiser",
    "figures",
    "rest",
)


def warm_cache(files: list[Path], labels: list[int], folder: Path) -> dict[str, Split]:
    """The files as in a cache: uint8, mapped from the disk."""
    np.save(folder / "images.npy", np.stack([preprocess(read(file), image_size=SIZE) for file in files]))
    images = np.load(folder / "images.npy", mmap_mode="r")

    def split(name: str, rows: torch.Tensor) -> Split:
        chosen = rows.tolist()
        return Split(
            name=name,
            images=images,
            rows=rows,
            labels=torch.tensor([labels[row] for row in chosen]),
            paths=[f"{row}" for row in chosen],
            patients=[None for _ in chosen],
            device=torch.device("cpu"),
        )

    every = torch.arange(len(files))
    return {
        "train": split("train", every),
        "val": split("val", every[:: len(every) // 4]),
        "test": split("test", every),
    }


def watched(trainer: Trainer, watch: measure.Stopwatch) -> None:
    """Time the parts of a step. The network's time is the rest of the step."""

    def timed(function: Callable, part: str) -> Callable:
        @functools.wraps(function)
        def run(*args: object, **keys: object) -> object:
            with watch.part(part):
                return function(*args, **keys)

        return run

    train = trainer.splits["train"]
    train.take = timed(train.take, "to tensor")  # type: ignore[method-assign]
    trainer.augment = timed(trainer.augment, "augment")  # type: ignore[assignment]
    trainer._add = timed(trainer._add, "figures")  # type: ignore[method-assign]
    trainer.optimizer.step = timed(trainer.optimizer.step, "optimiser")  # type: ignore[method-assign]
    trainer._step = timed(trainer._step, "step")  # type: ignore[method-assign]


def where_time_goes(
    files: list[Path], labels: list[int], data: dict[str, Split], folder: Path, batch: int
) -> dict[str, dict[str, float]]:
    """Processor ms per image, by part, for one epoch of each program (the baseline in one process)."""
    shares = {}
    watch = measure.Stopwatch()
    model = build_model("resnet18")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=1e-4)
    images = seed_baseline.loader(seed_baseline.XRays(files, labels, SIZE, True, watch), batch, 0)
    cpu = time.process_time()
    seed_baseline.train_epoch(model, images, optimizer, watch)
    taken = watch.cpu_s | {"whole": time.process_time() - cpu}
    taken["rest"] = taken.pop("whole") - sum(value for part, value in taken.items() if part in PARTS)
    shares["baseline"] = taken

    watch = measure.Stopwatch()
    trainer, log = trainer_for("resnet18", "light", data, folder / "watched", batch, len(files) // batch)
    train_epoch(trainer, log)  # warms up
    watched(trainer, watch)
    cpu = time.process_time()
    trainer._train_epoch()
    taken = watch.cpu_s | {"whole": time.process_time() - cpu}
    inside = sum(taken[part] for part in ("augment", "figures", "optimiser"))
    taken["network"] = taken.pop("step") - inside
    taken["rest"] = taken.pop("whole") - sum(value for part, value in taken.items() if part in PARTS)
    shares[f"pneumo, {trainer.runtime.precision}"] = taken
    log.finish()
    return {
        name: {part: 1e3 * taken.get(part, 0.0) / len(files) for part in PARTS}
        for name, taken in shares.items()
    }


def draw(shares: dict[str, dict[str, float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = (
        "#7a4b00",
        "#b97400",
        "#e69f00",
        "#56b4e9",
        "#9ad0f0",
        "#0072b2",
        "#009e73",
        "#cc79a7",
        "#999999",
    )
    figure, axes = pyplot.subplots(figsize=(9, 2.9), layout="constrained")
    names = list(shares)[::-1]
    left = np.zeros(len(names))
    for part, colour in zip(PARTS, colours, strict=True):
        widths = np.array([max(0.0, shares[name][part]) for name in names])
        axes.barh(names, widths, left=left, color=colour, label=part)
        left += widths
    for name, total in zip(names, left, strict=True):
        axes.text(total, name, f" {total:.0f} ms", va="center")
    axes.set_xlim(0, 1.12 * left.max())
    axes.set_xlabel("processor time per image, milliseconds (ResNet-18, 224 px, training from originals)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = measure.options(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--figure", type=Path, help="where to draw the shares of an epoch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pneumo-bench-") as name:
        folder = Path(name)
        compare(folder, args)


def compare(folder: Path, args: argparse.Namespace) -> None:
    files = measure.originals(folder / "originals", args.images)
    labels = [number % 2 for number in range(len(files))]
    data = warm_cache(files, labels, folder)
    steps = len(files) // args.batch
    precisions = ["float32", *(["bf16"] if cpu_has_bf16() else [])]
    trainers = {
        f"pneumo, {precision}": trainer_for(
            "resnet18", "light", data, folder / precision, args.batch, steps, precision=precision
        )
        for precision in precisions
    }
    model = build_model("resnet18")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=1e-4)
    train, test = (
        seed_baseline.loader(seed_baseline.XRays(files, labels, SIZE, kind), args.batch, WORKERS)
        for kind in (True, False)
    )

    def training(trainer: Trainer, log: TimedLog) -> Callable[[], float]:
        return lambda: train_epoch(trainer, log)[0]

    def evaluation(trainer: Trainer) -> Callable[[], object]:
        return lambda: trainer.score(trainer.network, data["test"])

    taken = measure.interleaved(
        {
            "baseline": lambda: seed_baseline.train_epoch(model, train, optimizer),
            **{name: training(*pair) for name, pair in trainers.items()},
        },
        args.rounds,
    )
    scored = measure.interleaved(
        {
            "baseline": lambda: seed_baseline.evaluate(model, test),
            **{name: evaluation(trainer) for name, (trainer, _) in trainers.items()},
        },
        args.rounds,
    )
    middle = args.rounds // 2
    speeds = {
        name: [len(files) / sorted(seconds[name])[middle] for seconds in (taken, scored)] for name in taken
    }
    print()
    measure.table(
        ["ResNet-18, 224 px, from originals", "training images/s", "evaluation images/s"],
        [[name, *both] for name, both in speeds.items()],
    )
    shares = where_time_goes(files, labels, data, folder, args.batch)
    print()
    measure.table(
        ["processor ms per image", *shares],
        [[part, *(shares[name][part] for name in shares)] for part in PARTS],
    )
    fastest = f"pneumo, {precisions[-1]}"
    remark = {} if cpu_has_bf16() else {"note": "this processor has no bf16 units: auto is float32"}
    for question, seconds, ours, target in (
        ("training, trainer.precision=auto", taken, fastest, 5.0),
        ("training, both float32", taken, "pneumo, float32", 1.5),
        ("evaluation, trainer.precision=auto", scored, fastest, 5.0),
    ):
        kind = int(seconds is scored)
        measure.record(
            f"baseline/{question}",
            measure.ratio(seconds["baseline"], seconds[ours]),
            target,
            images_per_s=round(speeds[ours][kind], 2),
            baseline_images_per_s=round(speeds["baseline"][kind], 2),
            **(remark if target == 5.0 else {}),
            **({"processor_ms": shares} if target == 1.5 else {}),
        )
    for _, log in trainers.values():
        log.finish()
    if args.figure:
        draw(shares, args.figure)


if __name__ == "__main__":
    main()
