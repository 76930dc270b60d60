"""python -m pneumo.train: one run, or with --multirun one for each combination."""

import json
import os
import shutil
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from pneumo import UserError, config
from pneumo.config import Config

if TYPE_CHECKING:
    from pneumo.data.cache import ImageCache
    from pneumo.training.trainer import Evaluation, Trainer

# Params are the columns of the runs table: what differs between runs, not where things lie.
PARAM_GROUPS = ("model", "sampler", "optim", "schedule", "trainer")
PARAM_DATA = ("name", "image_size", "val_protocol", "val_fraction", "split_seed", "equalize", "crop_black")


@dataclass(kw_only=True)
class Outcome:
    """How a job ended: its exit code, its validation score and a row for the table of a sweep."""

    row: dict[str, object]
    code: int = 0
    stop_code: int = 0  # 143 or 130 where a signal came, also if the run could still finish
    score: float = float("nan")


outcomes: list[Outcome] = []


def main() -> None:
    """Run the command line; the exit code is 0 done, 1 failed, 2 wrong usage, 143 or 130 stopped."""
    from pneumo.training.signals import Interrupted, StopRequest

    try:
        with StopRequest():  # while Hydra composes, and between the jobs of a sweep
            code = config.run_hydra(job, "train")
    except Interrupted as error:
        sys.exit(config.complain(error, error.code))
    if len(outcomes) > 1:
        _print_table()
    failed = [outcome.code for outcome in outcomes if outcome.code]
    if failed:
        code = failed[0] if len(outcomes) == 1 else 1
    sys.exit(code)


def _print_table() -> None:
    """The jobs of a sweep side by side, each named by what it does not share with all the others."""
    from pneumo.evaluation.run_report import terminal_table

    choices = [str(outcome.row["run"]).split(", ") for outcome in outcomes]
    shared = set(choices[0]).intersection(*choices)
    own = [", ".join(choice for choice in mine if choice not in shared) for mine in choices]
    rows = [{**outcome.row, "run": name} for outcome, name in zip(outcomes, own, strict=True)]
    print("\n" + terminal_table(rows))


def job(composed: DictConfig) -> float:
    """Train one configuration and return its validation score; a failure ends this job alone."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from pneumo.tracking.journal import redact

    # As typed: resolved, an override could show a secret that it takes from the environment.
    typed: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    choices = redact(", ".join(typed)) or "defaults"
    try:
        if "RANK" in os.environ and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError("a sweep does not go with torchrun: every process would run the whole of it.")
        outcome = run(config.to_config(composed), choices)
    except UserError as error:
        outcome = _failed(choices, str(error), config.USAGE)
    outcomes.append(outcome)
    if outcome.stop_code and (outcome.code or HydraConfig.get().mode == RunMode.MULTIRUN):
        sys.exit(outcome.stop_code)  # asked to stop: no further job of a sweep starts
    return outcome.score


def run(settings: Config, choices: str = "") -> Outcome:
    """Prepare the data, find out what is to do, and do it."""
    from pneumo.training.signals import Interrupted, StopRequest

    started = time.monotonic()
    try:
        with StopRequest(settings.trainer.grace_s) as stop:
            data = _prepare_data(settings)
            outcome = Run(settings, data, stop, choices).carry_out(started)
            outcome.stop_code = stop.exit_code
            return outcome
    except UserError as error:
        return _failed(choices, str(error))
    except Interrupted as error:  # before the run began
        outcome = _failed(choices, f"{error}; the same command continues", error.code)
        outcome.stop_code = error.code
        return outcome


def _failed(choices: str, message: str, code: int = 1) -> Outcome:
    config.complain(message)
    return Outcome(row={"run": choices, "state": "FAILED" if code < 128 else "KILLED"}, code=code)


def _prepare_data(settings: Config) -> "ImageCache":
    from pneumo.data import cache, manifest

    table = manifest.build(settings.data)
    data = cache.prepare(table, settings.data)
    if _rank() == 0:
        for note in table.notes:
            print(f"note: {note}")
        if data.bad:
            print(f"note: {len(data.bad)} unreadable images are left out (data.on_bad_image=skip)")
        for split, counts in table.counts().items():
            text = ", ".join(f"{count} {name}" for name, count in counts.items())
            print(
                f"{split:<5}  {sum(counts.values()):6d} images of {table.patients()[split]} patients: {text}"
            )
    return data


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


class Run:
    """One configuration on one data set: its folder, its journal and the way from start to report."""

    def __init__(self, settings: Config, data: "ImageCache", stop: Any, choices: str) -> None:
        from pneumo.tracking import sweep

        self.settings, self.data, self.stop, self.choices = settings, data, stop, choices
        self.relevant = {**sweep.relevant(settings.as_dict()), "data.digest": data.digest}
        self.fingerprint = sweep.fingerprint(settings.as_dict(), data.digest)
        self.folder = Path(settings.output_dir).expanduser() / self.fingerprint
        self.artifacts = self.folder / "artifacts"
        self.protocol = "test_selected" if settings.trainer.select_on == "test" else "patient_val"
        if settings.data.val_protocol == "official" and self.protocol == "patient_val":
            self.protocol = "official_val"
        self.note = "Synthetic images (phantom), no patients." if settings.data.name == "phantom" else None

    @property
    def name(self) -> str:
        settings = self.settings
        return f"{settings.model.name}-{settings.sampler.name}-{settings.augment.name}-{self.fingerprint[:6]}"

    def carry_out(self, started: float) -> Outcome:
        """Skip, continue or begin; whatever happens, the journal says how it ended."""
        from pneumo.tracking.journal import Journal, NullJournal, is_being_written
        from pneumo.tracking.sender import NullSender, Sender

        self.sender: Sender | NullSender
        if self.settings.force and _rank() == 0 and self.folder.exists():
            if is_being_written(self.folder):
                raise UserError(f"force=true: another process trains in {self.folder}; stop it first.")
            self.folder.rename(self.folder.with_name(f"{self.fingerprint}-{time.strftime('%Y%m%dT%H%M%S')}"))
        self.sender = NullSender()
        self.journal = Journal(self.folder)  # every rank looks whether the run is done; rank 0 writes
        if self.journal.status == "FINISHED" and not self.settings.force:
            if _rank() == 0:
                print(f"{self.name}: done already, skipped (force=true trains it again)")
                self._open_sender()
                self._close_sender()
            return self._outcome("FINISHED (skipped)")
        if _rank() == 0:
            verb = "begins" if self.journal.status is None else f"continues (was {self.journal.status})"
            print(f"{self.name}: {verb} in {self.folder}")
        else:
            self.journal = NullJournal()
        try:
            return self._guarded(started)
        finally:
            self.journal.close()

    def _guarded(self, started: float) -> Outcome:
        from pneumo.training.signals import Interrupted

        status, code, reason = "FINISHED", 0, None
        try:
            self._begin()
            self._train(started)
            self.stop.shielded = True
        except (Exception, Interrupted) as error:
            self.stop.shielded = True
            status, code = ("KILLED", self.stop.exit_code) if self.stop.signal else ("FAILED", 1)
            reason = self._explain(error)
        if self.journal.started:
            try:
                self.journal.end(status, reason)
            except UserError as error:  # a full disk: the run stays open, and the same command continues it
                status, code = (status, code) if code else ("FAILED", 1)
                reason = reason or str(error)
            if status == "FINISHED":  # nothing continues from it any more, and it is five times the weights
                shutil.rmtree(self.folder / "state", ignore_errors=True)
        self._close_sender()
        if reason:
            print(f"{'stopped' if status == 'KILLED' else 'error'}: {reason}", file=sys.stderr)
        return self._outcome(status, code)

    def _explain(self, error: BaseException) -> str:
        """The reason in one line; a traceback is printed and kept unless the mistake is the user's."""
        from pneumo.tracking.journal import redact
        from pneumo.training.signals import Interrupted, Stopped

        if self.stop.signal is not None:
            if isinstance(error, Stopped):
                return f"{error}; the same command continues"
            if isinstance(error, Interrupted):
                return f"{error}; the same command continues, from the last saved state"
            return f"{self.stop.reason()}; and then: {error}"
        if isinstance(error, UserError):
            return str(error)
        text = redact("".join(traceback.format_exception(error)))
        if "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
            trainer = self.settings.trainer
            return (
                f"out of memory with trainer.batch_size={trainer.batch_size} and trainer.precision="
                f"{trainer.precision}; take a smaller batch (trainer.grad_accum_steps keeps the effective "
                "size) or trainer.precision=bf16"
            )
        print(text, file=sys.stderr)
        with suppress(UserError):  # on a full disk it is only printed
            self._keep("traceback.txt", text)
        return text.strip().splitlines()[-1]

    # ---- the way of a run

    def _begin(self) -> None:
        from pneumo.tracking import sweep

        settings = self.settings
        self.journal.start(
            self.name,
            settings.tracking.experiment,
            {
                "pneumo.fingerprint": self.fingerprint,
                "pneumo.protocol": self.protocol,
                "pneumo.data_digest": self.data.digest,
                "pneumo.synthetic": str(settings.data.name == "phantom").lower(),
                "mlflow.source.name": "python -m pneumo.train",
                **sweep.git_tags(config.project_dir()),
            },
        )
        self.journal.resume()
        self._open_sender()
        whole = settings.as_dict()
        params = {f"{group}.{key}": value for group in PARAM_GROUPS for key, value in whole[group].items()}
        params |= {f"data.{key}": whole["data"][key] for key in PARAM_DATA}
        params |= {"augment.name": settings.augment.name, "seed": settings.seed}
        self.journal.params(params)
        source = "phantom" if settings.data.name == "phantom" else str(settings.data.root)
        self.journal.dataset(settings.data.name, self.data.digest[:36], source, "training")
        if _rank() == 0:
            self._keep("config.yaml", settings.as_yaml())
            if self.data.bad:
                self._keep("bad_images.txt", "".join(f"{bad.path}: {bad.reason}\n" for bad in self.data.bad))
        self.sender.notify()

    def _train(self, started: float) -> None:
        from pneumo.data.loader import splits
        from pneumo.models import build_model
        from pneumo.training import runtime
        from pneumo.training.trainer import Recipe, Trainer

        settings = self.settings
        machine = runtime.open_runtime(settings.trainer)
        runtime.seed_everything(settings.seed)
        model = build_model(**{**vars(settings.model)})
        size = sum(parameter.numel() for parameter in model.parameters())
        self.journal.params(
            {"device": str(machine.device), "precision": machine.precision, "model.parameters": size}
        )
        recipe = Recipe(
            trainer=settings.trainer,
            optim=settings.optim,
            schedule=settings.schedule,
            sampler=settings.sampler,
            augment=settings.augment,
            in_channels=settings.model.in_channels,
            seed=settings.seed,
        )
        trainer = Trainer(
            recipe,
            model,
            splits(self.data, machine.device),
            machine,
            folder=self.folder / "state",
            record=self,
            identity=self.relevant,
            should_stop=self.stop.reason,
        )
        if machine.rank == 0:
            print(
                f"{settings.model.name}: {size / 1e6:.1f} million weights, {machine.device}, "
                f"{machine.precision}; ready after {time.monotonic() - started:.1f} s"
            )
        self.stop.deferred = True  # from here on the trainer asks between steps
        trainer.fit()
        self._report(trainer)
        runtime.close_runtime(machine)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """An epoch's figures, from the trainer."""
        self.journal.metrics(values, step)
        self.sender.notify()

    def _report(self, trainer: "Trainer") -> None:
        """Score validation and, once, test with the selected weights; write and record what they show."""
        from pneumo.training.checkpoint import load_weights, save_weights

        progress = trainer.progress
        load_weights(trainer.best_path, trainer.network)
        scored = {name: trainer.score(trainer.network, trainer.splits[name]) for name in ("val", "test")}
        if trainer.runtime.rank > 0:
            return
        best = progress.history[progress.best_epoch - 1]
        facts = {
            "fingerprint": self.fingerprint,
            "protocol": self.protocol,
            "epoch": progress.best_epoch,
            "monitor": self.settings.trainer.monitor,
            "score": best[self.settings.trainer.monitor],
            "model": vars(self.settings.model),
            "preprocess": {
                "image_size": self.settings.data.image_size,
                "crop_black": self.settings.data.crop_black,
                "equalize": self.settings.data.equalize,
            },
            "class_names": self._class_names(),
            "data_digest": self.data.digest,
            "synthetic": self.note is not None,
            "history": progress.history,
        }
        save_weights(self.artifacts / "checkpoints" / "best.safetensors", trainer.network.state_dict(), facts)
        test = self._write_report(trainer, scored)
        # A run that also saw the test set in every epoch holds those points: the chosen one comes after them.
        step = progress.best_epoch if self.protocol != "test_selected" else len(progress.history) + 1
        best_values = {
            "best/epoch": float(progress.best_epoch),
            "best/val_auroc": best["val/auroc"],
            "best/val_accuracy": best["val/accuracy"],
        }
        self.journal.metrics(best_values, progress.best_epoch)
        self.journal.metrics({f"test/{name}": value for name, value in test.items()}, step)
        for file in sorted(self.artifacts.rglob("*")):
            if file.is_file():
                self.journal.artifact(file.relative_to(self.artifacts).as_posix())
        self._say(test, progress.best_epoch, best)

    def _write_report(self, trainer: "Trainer", scored: dict[str, "Evaluation"]) -> dict[str, float]:
        from pneumo.evaluation import run_report

        results = {}
        for name, evaluation in scored.items():
            split = trainer.splits[name]
            results[name] = run_report.SplitResult(
                paths=[split.paths[index] for index in evaluation.indices],
                patients=[split.patients[index] for index in evaluation.indices],
                labels=evaluation.labels,
                probabilities=evaluation.probabilities,
            )
        return run_report.write(
            self.artifacts,
            history=trainer.progress.history,
            splits=results,
            class_counts=self.data.manifest.counts(),
            class_names=self._class_names(),
            selected_epoch=trainer.progress.best_epoch,
            protocol=self.protocol,
            note=self.note,
            val_monitor=self.settings.trainer.monitor,
            patients=self.data.manifest.patients(),
        )

    @staticmethod
    def _class_names() -> tuple[str, str]:
        from pneumo.data.manifest import CLASS_NAMES

        return CLASS_NAMES

    def _say(self, test: dict[str, float], epoch: int, best: dict[str, float]) -> None:
        print(
            f"chosen: epoch {epoch}, validation AUROC {best['val/auroc']:.4f}, "
            f"accuracy {best['val/accuracy']:.4f}"
        )
        words = {
            "test_selected": "TEST-SELECTED, optimistic: the epoch was chosen on these images",
            "official_val": "chosen on the official 16 validation images, which every model solves",
            "patient_val": "scored once",
        }[self.protocol]
        figures = "  ".join(f"{name} {value:.4f}" for name, value in test.items())
        print(f"test ({words}{'; synthetic images' if self.note else ''}):\n  {figures}")

    # ---- tracking

    def _open_sender(self) -> None:
        from pneumo.tracking.sender import NullSender, Sender

        tracking = self.settings.tracking
        active = tracking.enabled and _rank() == 0
        self.sender = Sender(self.folder, tracking, tracking.uri or "") if active else NullSender()
        self.sender.start()

    def _close_sender(self) -> None:
        """Wait for the tracking server, at most tracking.flush_s; a signal cuts the wait short."""
        from pneumo.training.signals import Interrupted

        wait_s, grace_s = self.settings.tracking.flush_s, self.stop.seconds_left
        try:
            self.stop.deferred = self.stop.shielded = False
            left = self.sender.finish(wait_s if grace_s is None else min(wait_s, grace_s))
            self.stop.shielded = True
        except Interrupted:
            left = self.sender.finish(0)
        if left:
            print(
                f"{left} records are still to be sent to the tracking server; nothing is lost: "
                "`python -m pneumo.runs sync` sends them"
            )

    def _keep(self, name: str, text: str) -> None:
        from pneumo.files import write_atomically

        write_atomically(self.artifacts / name, text.encode())
        self.journal.artifact(name)

    def _outcome(self, state: str, code: int = 0) -> Outcome:
        row: dict[str, object] = {"run": self.choices, "state": state}
        score = float("nan")
        facts_file = self.artifacts / "checkpoints" / "best.json"
        if state.startswith("FINISHED") and facts_file.is_file():
            score = json.loads(facts_file.read_text())["score"]
        for column, key in TABLE.items():
            points = self.journal.history(key)
            row[column] = points[-1][1] if points and state.startswith("FINISHED") else "-"
        return Outcome(row=row, code=code, score=score)


# The table of a sweep: column -> metric, the last point of each.
TABLE = {
    "epoch": "best/epoch",
    "val AUROC": "best/val_auroc",
    "val accuracy": "best/val_accuracy",
    "test accuracy": "test/accuracy",
    "test AUROC": "test/auroc",
    "test F1": "test/f1",
}


if __name__ == "__main__":
    main()
