"""One run: a configuration on a data set, from its folder and journal to its report."""

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumo import UserError, config, fingerprint
from pneumo.config import Config

if TYPE_CHECKING:
    from pneumo.data.cache import ImageCache
    from pneumo.sweep.jobs import Job
    from pneumo.sweep.parent import Sweep
    from pneumo.training.trainer import Evaluation, Trainer

# Params are the columns of the runs table: what differs between runs, not where things lie.
PARAM_GROUPS = ("model", "sampler", "optim", "schedule", "trainer")
PARAM_DATA = ("name", "image_size", "val_protocol", "val_fraction", "split_seed", "equalize", "crop_black")
WORDS = {"KILLED": "stopped", "PRUNED": "pruned"}


@dataclass(kw_only=True)
class Outcome:
    """How a job ended: its state and the reason for it, its exit code and its validation score."""

    state: str
    reason: str | None = None
    code: int = 0
    stop_code: int = 0  # 143 or 130 where a signal came, also if the run could still finish
    score: float = float("nan")


def rank() -> int:
    """Of this process under torchrun; 0 without."""
    return int(os.environ.get("RANK", 0))


def last_line(error: BaseException) -> str:
    """What a traceback ends with."""
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called in the run"
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def git_tags(folder: Path) -> dict[str, str]:
    """The commit of the checkout in `folder` and whether it had changes; nothing where there is none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return {}  # the package is installed somewhere inside another project
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "pneumo.git_dirty": str(dirty).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


class Run:
    """One configuration on one data set: its folder, its journal and the way from start to report."""

    def __init__(
        self, settings: Config, data: "ImageCache", stop: Any, member: "Sweep | None", entry: "Job | None"
    ) -> None:

        self.settings, self.data, self.stop = settings, data, stop
        self.member, self.entry = member, entry  # of the sweep that it runs in
        self.relevant = {**fingerprint.relevant(settings.as_dict()), "data.digest": data.digest}
        self.fingerprint = fingerprint.fingerprint(settings.as_dict(), data.digest)
        self.folder = Path(member.root if member else settings.output_dir).expanduser() / self.fingerprint
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
        from pneumo.tracking.journal import DONE, Journal, NullJournal
        from pneumo.tracking.sender import NullSender, Sender

        self.sender: Sender | NullSender = NullSender()
        self._note(fingerprint=self.fingerprint)
        self.journal = Journal(self.folder)  # every rank looks whether the run is done; rank 0 writes
        try:
            if rank() == 0 and (self.settings.force or self.journal.status not in DONE):
                self._hold()
            if self.journal.status in DONE and not self.settings.force:
                return self._skip()
            if rank() == 0:
                self._say_how()
            else:
                self.journal = NullJournal()
            return self._guarded(started)
        finally:
            self.journal.close()

    def _hold(self) -> None:
        """Become the only process that trains this run. A sweep waits for another that does, and takes what
        that one made of it; `force` sets aside what is there."""
        from pneumo.tracking.journal import Journal

        force = self.settings.force
        if not self.journal.hold():
            if force or self.member is None or "WORLD_SIZE" in os.environ:
                words = "force=true: another process" if force else "another process"
                raise UserError(f"{words} trains in {self.folder}; wait for it, or stop it first.")
            print(f"{self.name}: waits, another process trains it")
            while not self.journal.hold():
                time.sleep(0.5)  # a signal interrupts
        if force and self.journal.started:
            aside = self.folder.with_name(f"{self.fingerprint}-{time.strftime('%Y%m%dT%H%M%S')}")
            self.folder.rename(aside)
            self.journal.close()
            self.journal = Journal(self.folder)

    def _skip(self) -> Outcome:
        from pneumo.sweep import optuna_sweeper as search

        state = str(self.journal.status)
        if state == "PRUNED":
            search.note_pruned(self.settings.search)
        if rank() == 0:
            done = "done already" if state == "FINISHED" else "pruned before"
            print(f"{self.name}: {done}, skipped (force=true trains it again)")
            if self.member:
                self.member.begin(trains=False)
            self._note(happened="skipped")
            self._open_sender()
            self._close_sender()
        return self._outcome(state)

    def _say_how(self) -> None:
        status, reason = self.journal.status, self.journal.reason
        if status is None:
            happened = "begins"
        elif status == "FAILED":
            happened = f"is tried again (it FAILED: {reason})"
        else:
            happened = f"continues (was {'killed' if status == 'RUNNING' else status})"
        print(f"{self.name}: {happened} in {self.folder}")
        self._note(happened=happened)
        if self.member:
            self.member.begin(trains=True)

    def _note(self, **fields: object) -> None:
        if self.entry:
            self.entry.note(**fields)

    def _guarded(self, started: float) -> Outcome:
        from pneumo.sweep import retention
        from pneumo.tracking.journal import DONE
        from pneumo.training.signals import Interrupted, Pruned

        status, code, reason = "FINISHED", 0, None
        try:
            self._begin()
            self._train(started)
            self.stop.shielded = True
        except Pruned as error:
            self.stop.shielded = True
            status, reason = "PRUNED", str(error) or "pruned by the search"
            self.journal.tags({"pneumo.state": status})
        except (Exception, Interrupted, SystemExit) as error:
            self.stop.shielded = True
            status, code = ("KILLED", self.stop.exit_code) if self.stop.signal else ("FAILED", 1)
            reason = self._explain(error)
        if self.journal.started:
            try:
                self.journal.end(status, reason)
            except UserError as error:  # a full disk: the run stays open, and the same command continues it
                status, code = (status, code) if code else ("FAILED", 1)
                reason = reason or str(error)
            if status in DONE:  # nothing continues from it any more, and it is five times the weights
                shutil.rmtree(self.folder / "state", ignore_errors=True)
        self.journal.close()
        whole = self._close_sender()
        if reason:
            print(f"{WORDS.get(status, 'error')}: {reason}", file=sys.stderr)
        if self.member and whole and status == "FINISHED":
            for message in retention.keep_best(
                self.member.folder, self.member.keep_best, self.settings.tracking
            ):
                print(f"note: {message}")
        return self._outcome(status, code, reason)

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
        said = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
            trainer = self.settings.trainer
            return (
                f"out of memory with trainer.batch_size={trainer.batch_size} and trainer.precision="
                f"{trainer.precision}; take a smaller batch (trainer.grad_accum_steps keeps the effective "
                "size) or trainer.precision=bf16"
            )
        print(text, file=sys.stderr)
        with suppress(UserError):  # on a full disk it is only printed
            self._keep("traceback.txt", text)
        return redact(last_line(error))

    # ---- the way of a run

    def _begin(self) -> None:

        settings = self.settings
        self.journal.start(
            self.name,
            settings.tracking.experiment,
            {
                "pneumo.fingerprint": self.fingerprint,
                **({"pneumo.sweep": self.member.id} if self.member else {}),
                "pneumo.protocol": self.protocol,
                "pneumo.data_digest": self.data.digest,
                "pneumo.synthetic": str(settings.data.name == "phantom").lower(),
                "mlflow.source.name": "python -m pneumo.train",
                **git_tags(config.project_dir()),
            },
        )
        self.journal.resume()
        self._open_sender()
        whole = settings.as_dict()
        params = {
            f"{group}.{key}": value
            for group in PARAM_GROUPS
            for key, value in whole[group].items()
            # What may change from one start to the next is left out: MLflow takes a param once.
            if key not in fingerprint.IRRELEVANT.get(group, ())
        }
        params |= {f"data.{key}": whole["data"][key] for key in PARAM_DATA}
        params |= {"augment.name": settings.augment.name, "seed": settings.seed}
        self.journal.params(params)
        source = "phantom" if settings.data.name == "phantom" else str(settings.data.root)
        self.journal.dataset(settings.data.name, self.data.digest[:36], source, "training")
        if rank() == 0:
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
        self.journal.params({"model.parameters": size})
        if "device" not in self.journal.params_logged:  # it may go on elsewhere; MLflow takes a param once
            self.journal.params({"device": str(machine.device), "precision": machine.precision})
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
        from pneumo.sweep import optuna_sweeper as search

        self.journal.metrics(values, step)
        self.sender.notify()
        trainer = self.settings.trainer
        search.report(self.settings.search, values.get(trainer.monitor, float("nan")), step, trainer.epochs)

    def _report(self, trainer: "Trainer") -> None:
        """Score validation and, once, test with the selected weights; write and record what they show."""
        from pneumo.files import write_atomically
        from pneumo.inference import ood as familiarity
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
            "precision": trainer.runtime.precision,
            "images": self.data.manifest.counts(),
            "patients": self.data.manifest.patients(),
            "history": progress.repeatable,  # the same run twice leaves the same bytes
        }
        save_weights(self.artifacts / "checkpoints" / "best.safetensors", trainer.network.state_dict(), facts)
        reference = familiarity.fit_split(
            self.data.images, self.data.rows, self.data.manifest.table["split"].tolist()
        )
        content = json.dumps(reference, indent=1).encode()
        write_atomically(self.artifacts / "checkpoints" / "familiarity.json", content)
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
        from pneumo.names import CLASS_NAMES

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
        active = tracking.enabled and rank() == 0
        self.sender = Sender(self.folder, tracking, tracking.uri or "") if active else NullSender()
        self.sender.start()

    def _close_sender(self) -> bool:
        """Wait for the tracking server, at most tracking.flush_s; a signal cuts the wait short. True if all
        is there."""
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
        return not left

    def _keep(self, name: str, text: str) -> None:
        from pneumo.files import write_atomically

        write_atomically(self.artifacts / name, text.encode())
        self.journal.artifact(name)

    def _outcome(self, state: str, code: int = 0, reason: str | None = None) -> Outcome:
        from pneumo.sweep.jobs import score_of

        # A run pruned just now gives none: the search must not take it for a finished one.
        score = float("nan") if code or (state == "PRUNED" and reason) else score_of(self.journal)
        return Outcome(state=state, reason=reason, code=code, score=score)
