"""The training loop that all models, samplers, augmentations and devices share."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from pneumo import UserError
from pneumo.data.augment import Augment, step_generator
from pneumo.data.loader import Split, batches, drawn_shares, epoch_order, mix
from pneumo.data.settings import AugmentSettings, SamplerSettings
from pneumo.models import stages
from pneumo.names import MEASURED
from pneumo.training import scoring
from pneumo.training.checkpoint import load_resume
from pneumo.training.objective import objective_of
from pneumo.training.optim import WeightAverage, build_optimizer, learning_rate
from pneumo.training.runtime import Runtime, forget_peak_memory, peak_memory_mib, usage
from pneumo.training.scoring import Evaluation
from pneumo.training.settings import OptimSettings, ScheduleSettings, TrainerSettings
from pneumo.training.signals import Stopped
from pneumo.training.state_writer import BestWeights, Snapshot, StateWriter, host_copy
from pneumo.training.step_graph import StepGraph

VAL_METRICS = ("accuracy", "f1", "precision", "recall", "auroc")


class NonFiniteLoss(UserError):
    """The loss became infinite or not a number."""


class Record(Protocol):
    """Receives the figures of each epoch."""

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
    num_classes: int = 2
    multilabel: bool = False  # several findings an image instead of one class
    seed: int = 0


@dataclass
class Progress:
    """How far a run is. A resumed run needs only this, the weights and the optimiser.

    Random generators are not saved, because every step draws from (seed, epoch, step, rank).
    """

    epoch: int = 1  # the one being trained
    step: int = 0  # optimiser steps done in it
    best_epoch: int = 0
    best_score: float = -math.inf
    best_loss: float = math.inf
    best_before: int = 0  # the best epoch before that one; read by version 0.1
    elapsed_s: float = 0.0  # spent in this epoch before an interruption
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def repeatable(self) -> list[dict[str, float]]:
        """The history without measurements of the machine. It is equal when the same run is repeated."""
        return [
            {key: value for key, value in row.items() if not key.startswith(MEASURED)} for row in self.history
        ]


class Trainer:
    """Trains `model` on `splits["train"]` and keeps the weights of the epoch that `trainer.monitor` prefers.

    `folder` receives resume states and best weights. `record` receives every epoch's figures. `identity` is
    stored with the state and must be equal when the run resumes. `start` describes what this start computes
    with, and is also stored. `should_stop` is called between steps.
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
        start: dict[str, Any] | None = None,
        should_stop: Callable[[], str | None] = lambda: None,
        quiet: bool = False,
    ) -> None:
        self.recipe, self.settings, self.runtime = recipe, recipe.trainer, runtime
        self.splits, self.folder, self.record = splits, folder, record
        self.identity, self.start, self.should_stop = identity or {}, start or {}, should_stop
        self.quiet = quiet or runtime.rank > 0
        self.progress = Progress()
        if self.settings.sync_batchnorm and runtime.world_size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.network = model.to(runtime.device).to(memory_format=torch.channels_last)
        decay = self.settings.ema_decay
        self.average = WeightAverage(self.network, decay) if decay is not None else None
        learning = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        depths = [stages.HEAD - stages.stage_of(name) for name in learning]
        self.optimizer = build_optimizer(recipe.optim, list(learning.values()), depths)
        self._frozen_norms = stages.frozen_norms(self.network)
        self.scaler = torch.amp.GradScaler(
            runtime.device.type, enabled=runtime.autocast_dtype is torch.float16
        )
        self.model: nn.Module = self.network
        if runtime.compile:
            # With dynamic shapes, the smaller last batch would compile a network that all batches then use.
            self.model = torch.compile(self.network, dynamic=False)  # type: ignore[assignment]
        self.augment = Augment(recipe.augment, recipe.in_channels)
        self.objective = objective_of(recipe.num_classes, recipe.multilabel)
        self.strata = splits["train"].strata.cpu().numpy()  # the sampler draws on the host
        self.class_weights = self._class_weights()
        self._graph = self._step_graph()
        # Sums over the epoch (loss, images, and the images of each true and called class, row by row) and the
        # first step whose loss was not finite, or -1. They stay on the device until the epoch ends.
        self.sums = torch.zeros(2 + self.objective.cells, device=runtime.device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=runtime.device)
        self._started = self._saved_at = self._shown_at = time.monotonic()
        self._writer = StateWriter(folder)
        self._unsaved_best: BestWeights | None = None
        self._recorded = 0  # epochs whose figures `record` has

    # ---- fit

    def fit(self, state: dict[str, Any] | None = None) -> Progress:
        """Train to the end, from `state` or the newest saved state. Raises Stopped or NonFiniteLoss."""
        self._resume(load_resume(self.folder) if state is None else state)
        forget_peak_memory(self.runtime.device)
        try:
            with self._joined():
                while not self.finished:
                    self._train_epoch()
                    self._finish_epoch()
            self._settle()
            self.runtime.wait_for_all()  # every process loads the best weights next, and rank 0 wrote them
        except Exception:
            self._settle()  # so that earlier epochs are on the disk and recorded
            raise
        finally:
            self._writer.close()
        return self.progress

    @contextmanager
    def _joined(self) -> Iterator[None]:
        """Average gradients over all processes inside this context.

        DistributedDataParallel must be gone before its process group is. About 10 % of two-process scripts
        aborted at exit because a trainer still held one.
        """
        alone = self.model
        if self.runtime.world_size > 1:
            self.model = DistributedDataParallel(alone)
        try:
            yield
        finally:
            self.model = alone
            if self.runtime.world_size > 1:
                gc.collect()  # it is part of cycles

    @property
    def finished(self) -> bool:
        """True after the last epoch, or after `early_stop_epochs` epochs without a better one."""
        done, patience = self.progress.epoch - 1, self.settings.early_stop_epochs
        stale = patience is not None and done - self.progress.best_epoch >= patience
        return stale or done >= self.settings.epochs

    def _train_epoch(self) -> None:
        progress, settings = self.progress, self.settings
        self._started = time.monotonic() - progress.elapsed_s
        groups = self._groups(progress.epoch)
        self.model.train()
        for norm in self._frozen_norms:
            norm.eval()
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
        """One optimiser step on the micro-batches of `group`. This process takes its share of each."""
        rank, world_size = self.runtime.rank, self.runtime.world_size
        epoch, seed = self.progress.epoch, self.recipe.seed
        total = steps_an_epoch * self.settings.epochs
        rate = learning_rate(self.recipe.schedule, self.recipe.optim.lr, steps_before + number, total)
        for options in self.optimizer.param_groups:
            options["lr"] = rate * options.get("share", 1.0)
        torch.manual_seed(mix(seed, epoch, number, rank))  # for dropout
        generator = step_generator(seed, epoch, number, self.runtime.device, rank)
        step = torch.full((), number, device=self.runtime.device)
        micro = [self.splits["train"].take(indices[rank::world_size]) for indices in group]
        self._step(micro, generator, sum(len(indices) for indices in group), step)
        if self.average is not None:
            self.average.update(steps_before + number)

    def _step(
        self, micro: list[tuple[Tensor, Tensor]], generator: torch.Generator, count: int, number: Tensor
    ) -> None:
        """Gradients and update on images uint8 [B, S, S] and labels [B].

        `count` is the number of images in all processes. Nothing here waits for the device.
        """
        if self._graph is not None:
            self._graph.run(*micro[0], generator, number)
        else:
            for last, (images, labels) in enumerate(micro, 1 - len(micro)):
                with self._sync_gradients(last == 0):
                    self._pass(images, labels, generator, number, count)
        if self.settings.grad_clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.grad_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._graph is None:
            self.optimizer.zero_grad(set_to_none=True)

    def _pass(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        number: Tensor,
        count: int | None = None,
    ) -> None:
        """Forward and backward pass of a micro-batch; `count` is the number of images of the whole step."""
        inputs = self.augment(images, generator)
        with self.runtime.autocast():
            logits = self.model(inputs)
        logits = logits.float()
        smoothing = self.settings.label_smoothing
        loss = self.objective.loss(logits, labels, self.class_weights, smoothing)
        # DDP averages gradients over processes, but we need the mean over all `count` images.
        share = self.runtime.world_size / (count or len(images))
        self.scaler.scale(loss * share).backward()
        self._add(loss.detach(), logits.detach(), labels, number)

    def _add(self, loss: Tensor, logits: Tensor, labels: Tensor, number: Tensor) -> None:
        """Add a batch to the epoch's sums.

        The recorded loss is the plain cross-entropy without class weights and label smoothing, so that curves
        of different recipes are comparable.
        """
        counts = self.objective.counts(logits, labels)
        loss_sum = self.objective.plain_loss(logits, labels)
        images = torch.full_like(loss_sum, len(labels))
        self.sums += torch.cat([torch.stack([loss_sum, images]), counts])
        first = (self.bad_step < 0) & ~torch.isfinite(loss)
        self.bad_step.copy_(torch.where(first, number, self.bad_step))

    def _finish_epoch(self) -> None:
        """Evaluate, add the figures to the history, keep the weights if they are the best, save the state."""
        progress = self.progress
        sums = self.runtime.sum(self.sums.clone()).tolist()
        self._check_finite()
        train_s = time.monotonic() - self._started
        counts = self.objective.figures(sums[2:])
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
            "optim/lr": max(float(options["lr"]) for options in self.optimizer.param_groups),
            "time/epoch_s": time.monotonic() - self._started,
            "time/images_per_s": sums[1] / train_s,
            "memory/peak_mib": peak_memory_mib(self.runtime.device),
            **usage(self.runtime.device),
        }
        progress.history.append({"epoch": progress.epoch, **figures})
        self._keep_best(figures)
        self._print_epoch(figures)
        progress.epoch, progress.step = progress.epoch + 1, 0
        self.sums.zero_()
        self._save()

    def _record_saved(self) -> None:
        """Record the figures of the epochs that a state on the disk contains.

        So a resumed run continues after the recorded epochs: an epoch once recorded is never trained again.
        """
        self._writer.check()
        saved = self._writer.written if self.runtime.rank == 0 else self.progress.epoch - 1
        for figures in self.progress.history[self._recorded : saved]:
            self._recorded += 1
            values = {k: v for k, v in figures.items() if k != "epoch" and math.isfinite(v)}
            self.record.metrics(values, int(figures["epoch"]))

    def _settle(self) -> None:
        """Wait for the disk, then record the saved epochs."""
        self._writer.drain()
        self._record_saved()

    def _keep_best(self, figures: dict[str, float]) -> None:
        """Keep the weights if `trainer.monitor` rose, or tied while the loss fell (AUROCs often tie)."""
        progress, monitor = self.progress, self.settings.monitor
        if self.settings.select_on == "test":  # the seed report's rule: its first best test accuracy
            score, loss = figures["test/accuracy"], 0.0
        else:
            score = -figures[monitor] if monitor == "val/loss" else figures[monitor]
            loss = figures["val/loss"]
        if math.isnan(score):  # an AUROC of one class, or with a class without images
            score = -math.inf
        if (score, -loss) <= (progress.best_score, -progress.best_loss):
            return
        progress.best_before, progress.best_epoch = progress.best_epoch, progress.epoch
        progress.best_score, progress.best_loss = score, loss
        if self.runtime.rank == 0:
            facts = {"epoch": progress.epoch, **figures}
            weights = host_copy(self._evaluated().state_dict())
            self._unsaved_best = BestWeights(path=self.best_path, state=weights, facts=facts)

    @property
    def best_path(self) -> Path:
        """The name contains the epoch: if a kill loses this epoch, the previous best file still exists."""
        return self.folder / f"best-{self.progress.best_epoch:05d}.safetensors"

    # ---- evaluate

    def evaluate(self, split_name: str) -> Evaluation:
        """Score a split with the averaged weights, or with the current weights if averaging is off."""
        return self.score(self._evaluated(), self.splits[split_name])

    def score(self, model: nn.Module, split: Split) -> Evaluation:
        """Score a split with `model`. With several processes, each scores a share and all get the whole."""
        recipe = self.recipe
        evaluation = scoring.score(
            model,
            split,
            self.runtime,
            self.settings,
            recipe.in_channels,
            self.objective,
            self._obey_stop,
        )
        if not evaluation.finite:
            raise NonFiniteLoss(
                f"the {split.name} loss is not finite in epoch {self.progress.epoch}; "
                f"try a lower learning rate than optim.lr={self.recipe.optim.lr:g}"
            )
        return evaluation

    def _evaluated(self) -> nn.Module:
        return self.network if self.average is None else self.average.model

    # ---- state

    def _save(self) -> None:
        """Submit the state for writing. All processes call this together; rank 0 writes in a thread."""
        self._check_finite()  # a state that can only lead to the same failure is useless
        progress = self.progress
        progress.elapsed_s = time.monotonic() - self._started if progress.step else 0.0
        self._saved_at = time.monotonic()
        sums = self.runtime.gather(self.sums[None])
        if self.runtime.rank > 0:
            return
        state = {
            "identity": self.identity,
            "start": self.start,
            "progress": vars(progress),
            "model": self.network.state_dict(),
            "average": self.average.model.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sums": sums,
        }
        best, self._unsaved_best = self._unsaved_best, None
        self._writer.submit(
            Snapshot(
                step=(progress.epoch - 1) * 1_000_000 + progress.step,
                epochs=progress.epoch - 1,
                state=host_copy(state),
                best_epoch=progress.best_epoch,
                best=best,
            )
        )

    def _resume(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        there, here = state["identity"], self.identity
        differing = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
        if differing:
            changes = (f"{key} ({there.get(key)} there, {here.get(key)} here)" for key in differing)
            raise UserError(
                f"{self.folder} holds the state of another configuration; differing: {', '.join(changes)}"
            )
        self.progress = Progress(**state["progress"])
        self.network.load_state_dict(state["model"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        sums, rank = state["sums"].reshape(-1, len(self.sums)), self.runtime.rank  # one row per process
        self.sums.copy_(sums[rank] if len(sums) == self.runtime.world_size else sums.sum(0) * (rank == 0))
        self._writer = StateWriter(
            self.folder, written=self.progress.epoch - 1, best_epoch=self.progress.best_epoch
        )
        self._record_saved()

    def _obey_stop(self) -> None:
        """Save the state if it is due, and stop if asked to. All processes do so at the same step."""
        self._record_saved()
        reason = self.should_stop()
        stop, due = reason is not None, time.monotonic() - self._saved_at > self.settings.checkpoint_every_s
        if self.runtime.world_size > 1:
            stop, due = self.runtime.sum(torch.tensor([stop, due], device=self.runtime.device).int()).tolist()
        if (stop or due) and not self.finished:
            self._save()
        if stop:
            self._settle()
            raise Stopped(reason or "another process of this run was asked to stop")

    # ---- small parts

    def _groups(self, epoch: int) -> list[list[Tensor]]:
        """The epoch's batches, grouped by optimiser step."""
        train, size = self.splits["train"], self.settings.grad_accum_steps
        order = epoch_order(self.recipe.sampler, self.strata, seed=self.recipe.seed, epoch=epoch)
        if train.resident:
            order = order.to(train.device)  # once per epoch; each step then slices it
        cut = batches(order, self.settings.batch_size, self.runtime.world_size)[: self.settings.limit_batches]
        return [cut[start : start + size] for start in range(0, len(cut), size)]

    def _step_graph(self) -> StepGraph | None:
        """A graph of the steps, on a CUDA device where a step is one batch of one process."""
        runtime, settings = self.runtime, self.settings
        alone = runtime.world_size == 1 and settings.grad_accum_steps == 1 and not self.scaler.is_enabled()
        if runtime.device.type != "cuda" or not alone:
            return None
        return StepGraph(self._pass, list(self.network.parameters()), settings.batch_size)

    def _class_weights(self) -> Tensor | None:
        """Inverse class frequencies, scaled so that their mean over the sampler's draws is one."""
        if not self.settings.class_weights:
            return None
        labels, strata = self.splits["train"].labels.cpu(), torch.from_numpy(self.strata)
        shares = partial(drawn_shares, self.recipe.sampler)
        return self.objective.class_weights(labels, strata, shares).to(self.runtime.device)

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
        """Show the running figures on the bar, at most twice a second: each read waits for the device."""
        now = time.monotonic()
        if bar.disable or now - self._shown_at < 0.5:
            bar.update()
            return
        self._shown_at = now
        loss, count, *counts = self.sums.tolist()
        figures = self.objective.figures(counts)
        bar.set_postfix(
            loss=f"{loss / count:.4f}", accuracy=f"{figures['accuracy']:.4f}", f1=f"{figures['f1']:.4f}"
        )
        bar.update()

    def _print_epoch(self, figures: dict[str, float]) -> None:
        if self.quiet:
            return
        shown = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/auroc", "test/accuracy")
        text = "  ".join(f"{name} {figures[name]:.4f}" for name in shown if name in figures)
        mark = " *" if self.progress.best_epoch == self.progress.epoch else ""
        speed = f"{figures['time/images_per_s']:.0f} images/s"
        tqdm.write(f"epoch {self.progress.epoch:3d}  {text}  {speed}{mark}")
