"""What one of two processes does for test_distributed.py: torchrun starts it with a folder."""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from pneumo import UserError
from pneumo.training.runtime import Runtime, close_runtime, open_runtime
from pneumo.training.signals import Stopped
from pneumo.training.state_writer import Snapshot, StateWriter
from pneumo.training.trainer import Recipe, Trainer
from support.training import AUGMENT, Recorder, Tiny, make_trainer, recipe, split, three_splits

SIZES = {"train": 146, "val": 11, "test": 9}  # 21 steps of 7 and 6 images: uneven shares


def plain(**settings: object) -> Recipe:
    """No BatchNorm, dropout or augmentation: any number of processes gives the same weights."""
    return recipe(
        **{"batch_size": 7, "ema_decay": 0.9, "class_weights": True, "grad_clip_norm": 0.5, **settings}
    )


def lively(**settings: object) -> Recipe:
    return recipe(**{"ema_decay": 0.9, "augment": AUGMENT, "grad_accum_steps": 2, **settings})


def trained(
    folder: Path,
    runtime: Runtime,
    made: Recipe,
    tiny: Tiny,
    stop: Callable[[], str | None] = lambda: None,
    **kwargs: object,
) -> tuple[Trainer, list[list[int]]]:
    """A trainer after `fit`, and the images of each optimiser step that this process saw, in order."""
    trainer = make_trainer(
        folder,
        made,
        tiny,
        three_splits(**SIZES),
        runtime=runtime,
        should_stop=stop,
        **{"record": Recorder(), **kwargs},
    )
    seen: list[list[int]] = []
    take = trainer.splits["train"].take

    def noting(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(indices.tolist())
        return take(indices)

    trainer.splits["train"].take = noting  # type: ignore[method-assign]
    trainer.fit()
    return trainer, seen


def history(trainer: Trainer) -> list[dict[str, float]]:
    return trainer.progress.repeatable


def main(folder: Path) -> None:
    runtime = open_runtime(recipe(device="cpu", deterministic=True).trainer)
    torch.set_num_threads(1)
    rank, results, tensors = runtime.rank, {}, {}

    trainer, seen = trained(folder / "plain", runtime, plain(), Tiny(norm=False, dropout=0.0))
    results |= {"seen": seen, "history": history(trainer)}
    tensors["plain"] = trainer.network.state_dict()
    fresh = make_trainer(folder / "x", plain(), Tiny(), three_splits(**SIZES), runtime=runtime)
    scored = {name: fresh.evaluate(name) for name in ("val", "test")}
    scored["one image"] = fresh.score(fresh.network, split("val", 1))
    results["scored"] = {
        name: {"indices": e.indices.tolist(), "probabilities": e.probabilities.tolist(), "loss": e.loss}
        for name, e in scored.items()
    }

    # With BatchNorm, dropout and augmentation: once undisturbed, once stopped inside an epoch by process 1.
    trainer, _ = trained(folder / "whole", runtime, lively(), Tiny())
    results["whole"] = history(trainer)
    tensors["whole"] = trainer.network.state_dict()
    looks = iter(range(1000))

    def second_look() -> str | None:
        return "asked" if next(looks) == 1 and rank == 1 else None

    try:
        trained(folder / "cut", runtime, lively(), Tiny(), second_look)
        results["stopped"] = None
    except Stopped as stopped:
        results["stopped"] = str(stopped)
    trainer, seen = trained(folder / "cut", runtime, lively(), Tiny(seed=5))
    results |= {"cut": history(trainer), "cut_seen": len(seen)}
    tensors["cut"] = trainer.network.state_dict()

    # A loss that is not finite on one process: all report it.
    class Breaks(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (float("nan") if rank == 1 and self.training else 1.0)

    try:
        trained(folder / "broken", runtime, plain(), Breaks())
    except UserError as error:
        results["broken"] = str(error)

    # A slow disk: only process 0 writes, and both need the file when fit returns.
    write = StateWriter._write

    def write_slowly(writer: StateWriter, snapshot: Snapshot) -> None:
        time.sleep(0.5)
        write(writer, snapshot)

    StateWriter._write = write_slowly  # type: ignore[method-assign]
    trainer, _ = trained(folder / "slow", runtime, plain(epochs=1), Tiny(norm=False))
    results["best_is_there"] = trainer.best_path.is_file()

    # All trainers are still alive, including one that never trained.
    assert isinstance(trainer, Trainer) and isinstance(fresh, Trainer)
    results["ddp_left"] = sum(isinstance(each, DistributedDataParallel) for each in gc.get_objects())
    (folder / f"rank{rank}.json").write_text(json.dumps(results))
    torch.save(tensors, folder / f"rank{rank}.pt")
    close_runtime(runtime)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
