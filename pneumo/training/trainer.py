"""The shared core: one training loop for every model, sampler, augmentation and device."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from pneumo import UserError
from pneumo.data.augment import Augment, normalise, step_generator
from pneumo.data.loader import Split, batches, epoch_order, evaluation_batch, mix
from pneumo.data.settings import AugmentSettings, SamplerSettings
from pneumo.evaluation import metrics
from pneumo.names import MEASURED
from pneumo.training.checkpoint import load_resume, save_resume, save_weights
from pneumo.training.optim import WeightAverage, build_optimizer, learning_rate
from pneumo.training.runtime import Runtime, forget_peak_memory, peak_memory_mib
from pneumo.training.settings import OptimSettings, ScheduleSettings, TrainerSettings
from pneumo.training.signals import Stopped

VAL_METRICS = ("accuracy", "f1", "precision", "recall", "auroc")


class NonFiniteLoss(UserError):
    """The loss became infinite or not a number."""


class Record(Protocol):
    """Where an epoch's figures go."""

    def metrics(self, values: dict[str, float], step: int) -> None: ...


@dataclass(kw_only=True)
class Recipe:
    """Everything that decides how a model is trained."""

    trainer: TrainerSettings
    optim: OptimSettings
    schedule: ScheduleSettings
    sampler: SamplerSettings
    augment: AugmentSettings
    in_channels: int = 3
    seed: int = 0


@dataclass
class Evaluation:
    """A split's scores: row numbers, labels and PNEUMONIA probabilities [N], and the mean cross-entropy."""

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    loss: float

    def scores(self) -> dict[str, float]:
        return {"loss": self.loss, **metrics.scores(self.labels, self.probabilities)}


@dataclass
class Progress:
    """How far a run is; with the weights and the optimiser, all that a resumed run needs.

    Random numbers need no saving: every step draws them from (seed, epoch, step, rank).
    """

    epoch: int = 1  # the one being trained
    step: int = 0  # optimiser steps done in it
    best_epoch: int = 0
    best_score: float = -math.inf
    best_loss: float = math.inf
    best_before: int = 0  # the best epoch before that one: the saved state before the last may still name it
    elapsed_s: float = 0.0  # spent in this epoch before an interruption
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def repeatable(self) -> list[dict[str, float]]:
        """The history without what was measured of the machine: the same run again has the same."""
        return [
            {key: value for key, value in row.items() if not key.startswith(MEASURED)} for row in self.history
        ]


class Trainer:
    """Trains `model` on `splits["train"]` and keeps the weights of the epoch that `trainer.monitor` prefers.

    `folder` receives resume states and best weights, `record` every epoch's figures, `identity` is stored
    with the state and must be the same on resuming. `should_stop` is asked between steps.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        splits: dict[str, Split],
        runtime: Runtime,
        *,
        folder: Path,
        record: Record,
        identity: dict[str, Any] | None = None,
        should_stop: Callable[[], str | None] = lambda: None,
        quiet: bool = False,
    ) -> None:
        self.recipe, self.settings, self.runtime = recipe, recipe.trainer, runtime
        self.splits, self.folder, self.record = splits, folder, record
        self.identity, self.should_stop = identity or {}, should_stop
        self.quiet = quiet or runtime.rank > 0
        self.progress = Progress()
        self.network = model.to(runtime.device).to(memory_format=torch.channels_last)
        decay = self.settings.ema_decay
        self.average = WeightAverage(self.network, decay) if decay is not None else None
        self.optimizer = build_optimizer(recipe.optim, list(self.network.parameters()))
        self.scaler = torch.amp.GradScaler(
            runtime.device.type, enabled=runtime.autocast_dtype is torch.float16
        )
        self.model: nn.Module = self.network
        if runtime.compile:
            # Else the smaller last batch brings a network for any size, which all batches then take.
            self.model = torch.compile(self.network, dynamic=False)  # type: ignore[assignment]
        if runtime.world_size > 1:
            self.model = DistributedDataParallel(self.model)
        self.augment = Augment(recipe.augment, recipe.in_channels)
        self.train_labels = splits["train"].labels.cpu().numpy()  # the sampler draws on the host
        self.class_weights = self._class_weights()
        # Sums over the epoch (loss, images, true negatives, false positives, false negatives, true positives)
        # and the first step whose loss was not finite, or -1. They stay on the device until the epoch ends.
        self.sums = torch.zeros(6, device=runtime.device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=runtime.device)
        self._started = self._saved_at = self._shown_at = time.monotonic()

    # ---- fit

    def fit(self) -> Progress:
        """Train to the end, from the saved state if there is one. Raises Stopped or NonFiniteLoss."""
        self._resume()
        forget_peak_memory(self.runtime.device)
        while not self.finished:
            self._train_epoch()
            self._finish_epoch()
        return self.progress

    @property
    def finished(self) -> bool:
        """True once the last epoch is done, or `early_stop_epochs` went by without a better one."""
        done, patience = self.progress.epoch - 1, self.settings.early_stop_epochs
        stale = patience is not None and done - self.progress.best_epoch >= patience
        return stale or done >= self.settings.epochs

    def _train_epoch(self) -> None:
        progress, settings = self.progress, self.settings
        self._started = time.monotonic() - progress.elapsed_s
        groups = self._groups(progress.epoch)
        self.model.train()
        title, hidden = f"Epoch {progress.epoch}/{settings.epochs}", True if self.quiet else None
        bar = tqdm(
            total=len(groups), desc=title, leave=False, initial=progress.step, unit="step", disable=hidden
        )
        with bar:
            for number in range(progress.step, len(groups)):
                if self.runtime.world_size == 1 or number % 16 == 0:
                    self._obey_stop()
                self._train_group(groups[number], number, (progress.epoch - 1) * len(groups), len(groups))
                progress.step = number + 1
                self._show(bar)
        self._obey_stop()

    def _train_group(self, group: list[Tensor], number: int, steps_before: int, steps_an_epoch: int) -> None:
        """One optimiser step on the micro-batches of `group`, this process taking its share of each."""
        rank, world_size = self.runtime.rank, self.runtime.world_size
        epoch, seed = self.progress.epoch, self.recipe.seed
        total = steps_an_epoch * self.settings.epochs
        rate = learning_rate(self.recipe.schedule, self.recipe.optim.lr, steps_before + number, total)
        for options in self.optimizer.param_groups:
            options["lr"] = rate
        torch.manual_seed(mix(seed, epoch, number, rank))  # for dropout
        generator = step_generator(seed, epoch, number, self.runtime.device, rank)
        micro = [self.splits["train"].take(indices[rank::world_size]) for indices in group]
        self._step(micro, generator, sum(len(indices) for indices in group), number)
        if self.average is not None:
            self.average.update(steps_before + number)

    def _step(
        self, micro: list[tuple[Tensor, Tensor]], generator: torch.Generator | None, count: int, number: int
    ) -> None:
        """Forward, backward and update on images uint8 [B, S, S] and labels [B]; `count` images over all
        processes. Nothing in it waits for the device."""
        for last, (images, labels) in enumerate(micro, 1 - len(micro)):
            inputs = self.augment(images, generator)
            with self._sync_gradients(last == 0):
                with self.runtime.autocast():
                    logits = self.model(inputs)
                logits = logits.float()
                smoothing = self.settings.label_smoothing
                loss = cross_entropy(
                    logits, labels, self.class_weights, reduction="sum", label_smoothing=smoothing
                )
                # DDP averages gradients over the processes; the mean over all `count` images is wanted.
                self.scaler.scale(loss * (self.runtime.world_size / count)).backward()
            self._add(loss.detach(), logits.detach(), labels, number)
        if self.settings.grad_clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.grad_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _add(self, loss: Tensor, logits: Tensor, labels: Tensor, number: int) -> None:
        """Add a batch to the epoch's sums. The loss shown is the plain cross-entropy, without class weights
        and label smoothing, so that curves of different recipes can be laid over one another."""
        predicted = logits[:, 1] >= logits[:, 0]
        actual = labels == 1
        ones = torch.ones_like(labels)
        self.sums += torch.stack(
            [
                cross_entropy(logits, labels, reduction="sum"),
                ones.sum(),
                (~predicted & ~actual).sum(),
                (predicted & ~actual).sum(),
                (~predicted & actual).sum(),
                (predicted & actual).sum(),
            ]
        )
        first = (self.bad_step < 0) & ~torch.isfinite(loss)
        self.bad_step.copy_(torch.where(first, number, self.bad_step))

    def _finish_epoch(self) -> None:
        """Evaluate, record the epoch's figures, keep the weights if they are the best, save the state."""
        progress = self.progress
        sums = self.runtime.sum(self.sums.clone()).tolist()
        self._check_finite()
        train_s = time.monotonic() - self._started
        counts = metrics.from_counts(*(int(count) for count in sums[2:]))
        figures = {
            "train/loss": sums[0] / sums[1],
            "train/accuracy": counts["accuracy"],
            "train/f1": counts["f1"],
        }
        val = self.evaluate("val").scores()
        figures |= {f"val/{name}": val[name] for name in ("loss", *VAL_METRICS)}
        test = self.evaluate("test").scores() if self.settings.select_on == "test" else {}
        figures |= {f"test/{name}": value for name, value in test.items()}
        figures |= {
            "optim/lr": float(self.optimizer.param_groups[0]["lr"]),
            "time/epoch_s": time.monotonic() - self._started,
            "time/images_per_s": sums[1] / train_s,
            "memory/peak_mib": peak_memory_mib(self.runtime.device),
        }
        progress.history.append({"epoch": progress.epoch, **figures})
        self._keep_best(figures)
        self._say(figures)
        progress.epoch, progress.step = progress.epoch + 1, 0
        self.sums.zero_()
        self._save()
        self._record_epoch()

    def _record_epoch(self) -> None:
        """Record the last epoch's figures: after its state is saved, and again on resuming. What is recorded
        is what the state holds, also where an epoch repeated would give other last digits."""
        figures = dict(self.progress.history[-1])
        epoch = int(figures.pop("epoch"))
        self.record.metrics({name: value for name, value in figures.items() if math.isfinite(value)}, epoch)

    def _keep_best(self, figures: dict[str, float]) -> None:
        """Keep the weights if `trainer.monitor` rose, or stayed while the loss fell (AUROCs often tie)."""
        progress, monitor = self.progress, self.settings.monitor
        if self.settings.select_on == "test":  # the seed report's rule: its first best test accuracy
            score, loss = figures["test/accuracy"], 0.0
        else:
            score = -figures[monitor] if monitor == "val/loss" else figures[monitor]
            loss = figures["val/loss"]
        if math.isnan(score):  # an AUROC of one class
            score = -math.inf
        if (score, -loss) <= (progress.best_score, -progress.best_loss):
            return
        progress.best_before, progress.best_epoch = progress.best_epoch, progress.epoch
        progress.best_score, progress.best_loss = score, loss
        if self.runtime.rank == 0:
            facts = {"epoch": progress.epoch, **figures}
            save_weights(self.best_path, self._evaluated().state_dict(), facts)

    @property
    def best_path(self) -> Path:
        """Named by epoch: should a kill lose this epoch, the file of the one before it is still there."""
        return self.folder / f"best-{self.progress.best_epoch:05d}.safetensors"

    # ---- evaluate

    def evaluate(self, split_name: str) -> Evaluation:
        """Score a split with the averaged weights, or the current ones where averaging is off."""
        return self.score(self._evaluated(), self.splits[split_name])

    @torch.inference_mode()
    def score(self, model: nn.Module, split: Split) -> Evaluation:
        """Score a split with `model`; under several processes each takes a share and all get the whole."""
        indices = self._evaluation_indices(len(split))
        mine = indices[self.runtime.rank :: self.runtime.world_size]
        if self.runtime.world_size > 1:
            for buffer in model.buffers():  # BatchNorm statistics drift apart between processes
                torch.distributed.broadcast(buffer, 0)
        model.eval()
        rows = []
        together = evaluation_batch(self.settings.batch_size, split.images.shape[-1], self.runtime.device)
        for part in mine.split(together) if len(mine) else ():
            if self.runtime.world_size == 1:  # shares differ in length, so processes could not agree here
                self._obey_stop()
            images, labels = split.take(part)
            with self.runtime.autocast():
                logits = model(normalise(images, self.recipe.in_channels))
            logits = logits.double()
            loss = cross_entropy(logits, labels, reduction="none")
            rows.append(torch.stack([labels, logits.softmax(1)[:, 1], loss], 1))
        own = torch.cat(rows) if rows else torch.zeros(0, 3, dtype=torch.float64, device=self.runtime.device)
        numbers = self.runtime.gather(mine[:, None].to(own)).flatten().cpu().numpy().astype(np.int64)
        table = self.runtime.gather(own).cpu().numpy()
        order = np.argsort(numbers, kind="stable")
        labels_, probabilities, losses = table[order].T
        if not np.isfinite(losses).all():
            raise NonFiniteLoss(
                f"the {split.name} loss is not finite in epoch {self.progress.epoch}; "
                f"try a lower learning rate than optim.lr={self.recipe.optim.lr:g}"
            )
        return Evaluation(numbers[order], labels_.astype(np.int64), probabilities, float(losses.mean()))

    def _evaluation_indices(self, count: int) -> Tensor:
        limit = (self.settings.limit_batches or count) * self.settings.batch_size
        if limit >= count:
            return torch.arange(count)
        # Spread over the split, which is sorted by class: a smoke run must meet both.
        return torch.from_numpy(np.linspace(0, count - 1, limit).astype(np.int64))

    def _evaluated(self) -> nn.Module:
        return self.network if self.average is None else self.average.model

    # ---- state

    def _save(self) -> None:
        """Save the state, on rank 0; all processes call it together."""
        self._check_finite()  # a state from which only the same failure follows would be of no use
        progress = self.progress
        progress.elapsed_s = time.monotonic() - self._started if progress.step else 0.0
        self._saved_at = time.monotonic()
        sums = self.runtime.gather(self.sums[None])
        if self.runtime.rank > 0:
            return
        state = {
            "identity": self.identity,
            "progress": vars(progress),
            "model": self.network.state_dict(),
            "average": self.average.model.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sums": sums,
        }
        save_resume(self.folder, state, (progress.epoch - 1) * 1_000_000 + progress.step)
        for weights in self.folder.glob("best-*.safetensors"):
            if int(weights.stem.removeprefix("best-")) not in (progress.best_epoch, progress.best_before):
                weights.unlink()
                weights.with_suffix(".json").unlink(missing_ok=True)

    def _resume(self) -> None:
        state = load_resume(self.folder)
        if state is None:
            return
        there, here = state["identity"], self.identity
        differing = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
        if differing:
            words = (f"{key} ({there.get(key)} there, {here.get(key)} here)" for key in differing)
            raise UserError(
                f"{self.folder} holds the state of another configuration; differing: {', '.join(words)}"
            )
        self.progress = Progress(**state["progress"])
        self.network.load_state_dict(state["model"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        sums, rank = state["sums"].reshape(-1, len(self.sums)), self.runtime.rank  # a row a process
        self.sums.copy_(sums[rank] if len(sums) == self.runtime.world_size else sums.sum(0) * (rank == 0))
        if self.progress.history:
            self._record_epoch()

    def _obey_stop(self) -> None:
        """Save the state when that is due, and stop if asked to; several processes do so at the same step."""
        reason = self.should_stop()
        stop, due = reason is not None, time.monotonic() - self._saved_at > self.settings.checkpoint_every_s
        if self.runtime.world_size > 1:
            stop, due = self.runtime.sum(torch.tensor([stop, due], device=self.runtime.device).int()).tolist()
        if (stop or due) and not self.finished:
            self._save()
        if stop:
            raise Stopped(reason or "another process of this run was asked to stop")

    # ---- small parts

    def _groups(self, epoch: int) -> list[list[Tensor]]:
        """The epoch's batches, as many together as make one optimiser step."""
        train, size = self.splits["train"], self.settings.grad_accum_steps
        order = epoch_order(self.recipe.sampler, self.train_labels, seed=self.recipe.seed, epoch=epoch)
        if train.resident:
            order = order.to(train.device)  # once an epoch: a step then only cuts its rows out of it
        cut = batches(order, self.settings.batch_size, self.runtime.world_size)[: self.settings.limit_batches]
        return [cut[start : start + size] for start in range(0, len(cut), size)]

    def _class_weights(self) -> Tensor | None:
        """Inverse class frequencies, scaled so that their mean over what the sampler draws is one."""
        if not self.settings.class_weights:
            return None
        counts = torch.bincount(torch.from_numpy(self.train_labels), minlength=2).double()
        weights = counts.sum() / counts
        drawn = counts / counts.sum() if self.recipe.sampler.name == "shuffle" else torch.full((2,), 0.5)
        return (weights / (weights * drawn).sum()).float().to(self.runtime.device)

    def _sync_gradients(self, now: bool) -> AbstractContextManager[Any]:
        if isinstance(self.model, DistributedDataParallel) and not now:
            return self.model.no_sync()
        return nullcontext()

    def _check_finite(self) -> None:
        bad = [step for step in self.runtime.gather(self.bad_step[None]).tolist() if step >= 0]
        if bad:
            step = min(bad)
            steps = len(self._groups(self.progress.epoch))
            number = (self.progress.epoch - 1) * steps + step
            rate = learning_rate(
                self.recipe.schedule, self.recipe.optim.lr, number, steps * self.settings.epochs
            )
            raise NonFiniteLoss(
                f"the loss is not finite in epoch {self.progress.epoch}, step {step + 1} of {steps}, "
                f"at learning rate {rate:.3g}; try a lower optim.lr or trainer.grad_clip_norm=1"
            )

    def _show(self, bar: tqdm) -> None:
        """Put the running figures on the bar, twice a second at most: each look waits for the device."""
        now = time.monotonic()
        if bar.disable or now - self._shown_at < 0.5:
            bar.update()
            return
        self._shown_at = now
        loss, count, *counts = self.sums.tolist()
        figures = metrics.from_counts(*(int(value) for value in counts))
        bar.set_postfix(
            loss=f"{loss / count:.4f}", accuracy=f"{figures['accuracy']:.4f}", f1=f"{figures['f1']:.4f}"
        )
        bar.update()

    def _say(self, figures: dict[str, float]) -> None:
        if self.quiet:
            return
        shown = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/auroc", "test/accuracy")
        text = "  ".join(f"{name} {figures[name]:.4f}" for name in shown if name in figures)
        mark = " *" if self.progress.best_epoch == self.progress.epoch else ""
        speed = f"{figures['time/images_per_s']:.0f} images/s"
        tqdm.write(f"epoch {self.progress.epoch:3d}  {text}  {speed}{mark}")
