"""Question: how close is a real training epoch to the speed of the network alone?

    python benchmarks/ceiling.py [--models resnet18 resnet50 densenet121] [--sizes 64 224] [--rounds 5]

Takes turns between two runs. One trains through `Trainer` (cache, sampler, augmentation, metrics, journal and
MLflow in SQLite). The other makes the same steps on one fixed, prepared batch: forward, loss, backward,
optimiser. Prints images per second of the training part of the epoch, including the record of its figures.
Validation has no counterpart with a fixed batch, so its time is a separate column. The state is not saved,
because the write would overlap with the next measurement.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import measure
import torch
import yaml
from torch.nn.functional import cross_entropy

from pneumo.config import Config
from pneumo.data import cache, manifest
from pneumo.data.augment import normalise
from pneumo.data.cache import ImageCache
from pneumo.data.loader import Split
from pneumo.data.settings import AugmentSettings, DataSettings, PhantomSettings
from pneumo.models.settings import ModelSettings
from pneumo.run import build_trainer
from pneumo.tracking.run_log import RunLog
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.settings import OptimSettings, ScheduleSettings, TrainerSettings
from pneumo.training.trainer import Trainer

TARGETS = {64: 0.93, 224: 0.97}


class TimedLog(RunLog):
    """A run's log that measures how long recording an epoch takes."""

    spent_s = 0.0

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        started = time.perf_counter()
        super().metrics(values, step)
        self.spent_s = time.perf_counter() - started

    def finish(self) -> None:
        self.journal.end("FINISHED")
        self.close()
        if left := self.sender.finish(60):
            raise SystemExit(f"{left} records did not reach MLflow")


def trainer_for(
    model: str,
    augment: str,
    data: ImageCache | dict[str, Split],
    folder: Path,
    batch: int,
    steps: int,
    **trainer: str,
) -> tuple[Trainer, TimedLog]:
    """A run's trainer and its log. The rate is low, and only augmentation regularises.

    `trainer` are further keys of TrainerSettings.
    """
    strengths = yaml.safe_load((measure.PROJECT / "conf" / "augment" / f"{augment}.yaml").read_text())
    settings = Config(
        model=ModelSettings(name=model),
        augment=AugmentSettings(**strengths),
        optim=OptimSettings(lr=1e-5),
        schedule=ScheduleSettings(name="constant", warmup_fraction=0.0, final_fraction=0.0),
        trainer=TrainerSettings(
            epochs=10_000,
            batch_size=batch,
            limit_batches=steps,
            label_smoothing=0.0,
            ema_decay=None,
            checkpoint_every_s=1e9,
            **{"device": "cpu", **trainer},
        ),
        tracking=TrackingSettings(uri=f"sqlite:///{folder.parent}/mlflow.db"),
    )
    log = TimedLog(folder, settings.tracking)
    log.start(folder.name, "bench", {})
    return build_trainer(settings, data, log, identity={}, quiet=True), log


def train_epoch(trainer: Trainer, log: TimedLog) -> tuple[float, float]:
    """Seconds for training an epoch and recording it, and for the whole epoch."""
    began = time.perf_counter()
    trainer._train_epoch()
    trainer._finish_epoch()
    figures, whole = trainer.progress.history[-1], time.perf_counter() - began
    count = min(trainer.settings.limit_batches * trainer.settings.batch_size, len(trainer.splits["train"]))
    return count / figures["time/images_per_s"] + log.spent_s, whole


def fixed_steps(trainer: Trainer, steps: int) -> None:
    """The same steps on one prepared batch, with nothing around them."""
    images, labels = trainer.splits["train"].take(torch.arange(trainer.settings.batch_size))
    inputs = normalise(images)
    trainer.model.train()
    for _ in range(steps):
        with trainer.runtime.autocast():
            logits = trainer.model(inputs)
        loss = cross_entropy(logits.float(), labels)
        trainer.scaler.scale(loss).backward()
        trainer.scaler.step(trainer.optimizer)
        trainer.scaler.update()
        trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.runtime.device.type == "cuda":
        torch.cuda.synchronize()


def compare(model: str, size: int, batch: int, steps: int, rounds: int, folder: Path) -> list[list[object]]:
    settings = DataSettings(
        name="phantom",
        image_size=size,
        cache_dir=str(folder / "cache"),
        val_fraction=0.02,
        phantom=PhantomSettings(train_patients=max(100, batch * steps), test_patients=8),
    )
    data = cache.prepare(manifest.build(settings), settings)
    runs = {
        augment: trainer_for(model, augment, data, folder / f"{model}-{size}-{augment}", batch, steps)
        for augment in ("light", "strong")
    }
    for trainer, _ in runs.values():
        trainer._save = trainer._keep_best = lambda *_: None  # type: ignore[method-assign,assignment]
    whole: dict[str, list[float]] = {augment: [] for augment in runs}

    def epoch(augment: str) -> float:
        taken, epoch_s = train_epoch(*runs[augment])
        whole[augment].append(epoch_s)
        return taken

    taken = measure.interleaved(
        {
            "fixed batch": lambda: fixed_steps(runs["light"][0], steps),
            "light": lambda: epoch("light"),
            "strong": lambda: epoch("strong"),
        },
        rounds,
    )
    rows = []
    speed = {name: batch * steps / sorted(seconds)[rounds // 2] for name, seconds in taken.items()}
    for augment, (trainer, log) in runs.items():
        log.finish()
        reached = measure.ratio(taken["fixed batch"], taken[augment])
        rest_s = sorted(
            epoch_s - part for epoch_s, part in zip(whole[augment][1:], taken[augment], strict=True)
        )
        rows.append(
            [
                f"{model} {size} px {augment}",
                speed["fixed batch"],
                speed[augment],
                reached,
                rest_s[rounds // 2],
            ]
        )
        measure.record(
            f"ceiling/{model} {size} px {augment}",
            reached,
            TARGETS.get(size, TARGETS[64]),
            images_per_s=round(speed[augment], 2),
            fixed_batch_images_per_s=round(speed["fixed batch"], 2),
            precision=trainer.runtime.precision,
            batch=batch,
        )
    return rows


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "densenet121"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument(
        "--batch", type=int, help="default 64 at 64 px, 8 at 224 px, where time allows no more"
    )
    parser.add_argument("--steps", type=int, help="of an epoch; default 1 at 64 px, 2 at 224 px")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="pneumo-bench-") as folder:
        for size in args.sizes:
            batch, steps = args.batch or (64 if size <= 64 else 8), args.steps or (1 if size <= 64 else 2)
            for model in args.models:
                rows += compare(model, size, batch, steps, args.rounds, Path(folder))
    print()
    measure.table(["", "fixed batch images/s", "epoch images/s", "ratio", "validation s"], rows)


if __name__ == "__main__":
    main()
