"""The scores of a run's chosen weights: on validation and, once, on the test set, now or after it ended."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pneumo import UserError, config, models, names, run_note
from pneumo.data import cache, manifest
from pneumo.data.cache import ImageCache
from pneumo.data.loader import Split, splits
from pneumo.data.pseudonyms import Pseudonyms
from pneumo.data.settings import DataSettings
from pneumo.data.training_images import KnownImages
from pneumo.evaluation import multiclass, run_report
from pneumo.evaluation.predictions import SplitResult, predictions_csv, read_any_predictions
from pneumo.files import write_atomically
from pneumo.inference import neighbours, ood
from pneumo.patient_ids import one_spelling
from pneumo.run_overrides import train_again
from pneumo.run_plan import RunPlan, plan_run
from pneumo.text import utc_now
from pneumo.tracking.journal import Journal
from pneumo.tracking.run_log import RunLog
from pneumo.training import runtime, scoring
from pneumo.training.checkpoint import load_weights, save_weights
from pneumo.training.objective import objective_of
from pneumo.training.scoring import Evaluation
from pneumo.training.trainer import Trainer
from pneumo.versions import CORE

HOW_CHOSEN = {
    names.TEST_SELECTED: "TEST-SELECTED, optimistic: the epoch was chosen on these images",
    names.OFFICIAL_VAL: "the epoch was chosen on the set's own validation images, unchanged",
    names.PATIENT_VAL: "scored once",
}


def report(plan: RunPlan, log: RunLog, trainer: Trainer) -> None:
    """Score the selected weights; write and record what the scores show. Every process takes part."""
    progress, settings, data = trainer.progress, plan.settings, plan.data
    load_weights(trainer.best_path, trainer.network)
    wanted = ("val", "test") if settings.trainer.score_test else ("val",)
    scored = {name: trainer.score(trainer.network, trainer.splits[name]) for name in wanted}
    if trainer.runtime.rank > 0:
        return
    best = progress.history[progress.best_epoch - 1]
    facts = {
        "fingerprint": plan.fingerprint,
        "protocol": plan.protocol,
        "epoch": progress.best_epoch,
        "monitor": settings.trainer.monitor,
        "score": best[settings.trainer.monitor],
        "model": settings.model.network(),
        "preprocess": data.preprocess,
        **({} if data.white is None else {"white": data.white}),
        "class_names": plan.class_names,
        **({"task": "multilabel"} if plan.settings.data.multilabel else {}),
        "data_digest": data.digest,
        "synthetic": plan.synthetic,
        "precision": trainer.runtime.precision,
        "images": data.manifest.counts(),
        "patients": data.manifest.patients(),
        "history": progress.repeatable,  # the same run twice leaves the same bytes
    }
    save_weights(log.artifacts / names.BEST_WEIGHTS, trainer.network.state_dict(), facts)
    # Both references only look at what training has left: they change none of its figures.
    in_splits = data.manifest.table["split"].tolist()
    reference = ood.fit_split(data.images, data.rows, in_splits)
    trainer.network.eval()
    reference["features"] = neighbours.fit_split(
        trainer.network,
        data.images,
        data.rows,
        in_splits,
        settings.model.in_channels,
        trainer.runtime.autocast,
    )
    content = json.dumps(reference, indent=1).encode()
    write_atomically(log.artifacts / names.TRAINING_REFERENCE, content)
    _write_known_images(plan, log, plan.settings.data)
    results = {
        name: _result(plan, trainer.splits[name], evaluation, plan.settings.data)
        for name, evaluation in scored.items()
    }
    scores = _write(plan, log, results, progress.history, progress.best_epoch)
    best_values = {
        "best/epoch": float(progress.best_epoch),
        "best/val_auroc": best["val/auroc"],
        "best/val_accuracy": best["val/accuracy"],
    }
    log.journal.metrics({k: v for k, v in best_values.items() if math.isfinite(v)}, progress.best_epoch)
    auroc, accuracy = best["val/auroc"], best["val/accuracy"]
    print(f"chosen: epoch {progress.best_epoch}, validation AUROC {auroc:.4f}, accuracy {accuracy:.4f}")
    if "test" in scored:
        # A run that also saw the test set in every epoch has those points: the chosen one comes after them.
        selected = plan.protocol == names.TEST_SELECTED
        step = len(progress.history) + 1 if selected else progress.best_epoch
        _record_test(plan, log, results["test"], scores["test"], step)
    else:
        later = f"pneumo evaluate model={plan.fingerprint} split=test"
        print(f"test: not scored (trainer.score_test=false); {later}")
    log.record_artifacts()
    log.journal.tags({names.NOTE_TAG: run_note.ended(plan, log.journal, results.get("test"))})


def is_scored(journal: Journal) -> bool:
    """True if the run's model was given its test images."""
    return names.TEST_PREDICTIONS in journal.artifacts


def images_again(
    artifacts: Path, tags: Mapping[str, str], name: str, *, root: str | None, cache_dir: str | None
) -> tuple[DataSettings, ImageCache]:
    """The images of a finished run, with its own splits and pixel rule, and the settings that gave them.

    `root` and `cache_dir` say where the images are now, None: where the run had them. Raises UserError if
    they are not those of the run, which the message calls `name`.
    """
    saved = config.from_saved(artifacts / names.CONFIG).data
    settings = replace(
        saved,
        pixels=saved.pixels or int(tags.get(names.PIXELS_TAG, "1")),
        root=root or saved.root,
        cache_dir=cache_dir or saved.cache_dir,
    )
    data = cache.prepare(manifest.build(settings), settings)
    if data.digest != tags[names.DATA_DIGEST_TAG]:
        raise UserError(
            f"data.root={settings.root} does not hold the images and labels of {name} (digest "
            f"{data.digest[:12]} instead of {tags[names.DATA_DIGEST_TAG][:12]}). Give data.root= with "
            "the images that the run was trained on."
        )
    return settings, data


def plan_again(log: RunLog, *, root: str | None, cache_dir: str | None, device: str) -> RunPlan:
    """The plan of the finished run that `log` recorded, on its own images (see `images_again`).

    Raises UserError if the images or this version's numbers are not those of the run.
    """
    tags = log.journal.tags_logged
    data, images = images_again(log.artifacts, tags, log.folder.name, root=root, cache_dir=cache_dir)
    saved = config.from_saved(log.artifacts / names.CONFIG)
    plan = plan_run(replace(saved, data=data, trainer=replace(saved.trainer, device=device)), images)
    if plan.fingerprint != tags[names.FINGERPRINT_TAG]:
        raise UserError(
            f"{log.folder.name} was trained under core {tags.get(names.CORE_TAG, '1')}; this version "
            f"computes core {CORE}, which gives other figures. Score it with the version that trained it, or "
            f"train it again: {train_again(log.folder)}"
        )
    return plan


def score_test(plan: RunPlan, log: RunLog) -> None:
    """Score the test set of the finished, unscored run `plan`; the journal must be held.

    The model is the run's own, with the precision that it was trained in. Raises UserError if its weights
    were deleted.
    """
    weights = log.artifacts / names.BEST_WEIGHTS
    if not weights.is_file():
        raise UserError(
            f"{plan.name} cannot be scored on its test set: its weights were deleted (keep_best). "
            f"Train it again: {train_again(log.folder)}"
        )
    facts: dict[str, Any] = json.loads((log.artifacts / names.BEST_FACTS).read_text())
    settings = replace(plan.settings.trainer, precision=facts["precision"], compile="false")
    machine = runtime.open_runtime(settings)
    # The weights come from the run, not from where its training began.
    model = plan.settings.model.network() | {"pretrained": False, "weights": None}
    network = models.build_model(num_classes=len(plan.class_names), **model)
    load_weights(weights, network)
    network = network.to(machine.device).to(memory_format=torch.channels_last)
    split = splits(plan.data, machine.device)["test"]
    evaluation = scoring.score(
        network,
        split,
        machine,
        settings,
        plan.settings.model.in_channels,
        objective_of(len(plan.class_names), plan.settings.data.multilabel),
    )
    if not evaluation.finite:
        raise UserError(f"{plan.name} gives test probabilities that are not finite in {machine.precision}.")
    epoch = int(facts["epoch"])
    result = _result(plan, split, evaluation, config.from_saved(log.artifacts / names.CONFIG).data)
    scores = _write(plan, log, {"test": result}, facts["history"], epoch)
    _record_test(plan, log, result, scores["test"], epoch)
    log.record_artifacts()
    log.journal.tags({names.NOTE_TAG: run_note.ended(plan, log.journal, result)})


def recorded(journal: Journal) -> str:
    """When the test set of a scored run was scored, and its figures, for the terminal."""
    when = journal.tags_logged.get(names.SCORED_TAG, "the end of its training")
    keys = sorted({key for key, _, _, _ in journal.metric_rows() if key.startswith("test/")})
    figures = (f"{key.removeprefix('test/')} {journal.history(key)[-1][1]:.4f}" for key in keys)
    return f"its test set was scored at {when}:\n  {'  '.join(figures)}"


def naming_changes(asked: DataSettings, log: RunLog) -> dict[str, Any]:
    """The keys of how patients are named that `asked` sets, and that the finished run recorded otherwise."""
    wanted = {"pseudonymise": asked.pseudonymise, "patient_namespace": asked.patient_namespace}
    if not any(wanted.values()):
        return {}
    saved = config.from_saved(log.artifacts / names.CONFIG).data
    return {key: value for key, value in wanted.items() if value and value != getattr(saved, key)}


def change_naming(plan: RunPlan, log: RunLog, changes: dict[str, Any]) -> None:
    """Make the `naming_changes` in what a finished run recorded. The tracker replaces its copies.

    The journal must be held. Safe to repeat after a kill.
    """
    saved = config.from_saved(log.artifacts / names.CONFIG)
    after = replace(saved.data, **changes)
    for name in (names.VAL_PREDICTIONS, names.TEST_PREDICTIONS):
        file = log.artifacts / name
        if after.pseudonymise and file.is_file():
            result = read_any_predictions(file.read_bytes().decode(errors="surrogateescape"))
            write_atomically(file, predictions_csv(_hidden(plan, result, after, before=saved.data)))
    if after.pseudonymise and plan.data.bad:
        log.keep_text(names.BAD_IMAGES, bad_images(plan, after))
    if (log.artifacts / names.TRAINING_IMAGES).is_file():  # an older run has none
        _write_known_images(plan, log, after)
    # Last, because it says that all the others are done.
    write_atomically(log.artifacts / names.CONFIG, replace(saved, data=after).as_yaml().encode())
    log.record_artifacts()


def _write_known_images(plan: RunPlan, log: RunLog, naming: DataSettings) -> None:
    file = log.artifacts / names.TRAINING_IMAGES
    recorded = KnownImages.read(file) if file.is_file() else None
    before = recorded.before if recorded else KnownImages.beside(plan.settings.model.weights)
    write_atomically(file, KnownImages.of(plan.data, naming, before).as_json().encode())


def bad_images(plan: RunPlan, naming: DataSettings) -> str:
    """A line for each image that was left out: its path and the reason."""
    if not naming.pseudonymise:
        return "".join(f"{bad.path}: {bad.reason}\n" for bad in plan.data.bad)
    hide = Pseudonyms().path
    return "".join(f"{hide(bad.path)}: {bad.reason.replace(bad.path, '...')}\n" for bad in plan.data.bad)


def _result(plan: RunPlan, split: Split, evaluation: Evaluation, naming: DataSettings) -> SplitResult:
    paths = [split.paths[index] for index in evaluation.indices]
    subgroups = plan.data.manifest.subgroups
    result = SplitResult(
        paths=paths,
        patients=[split.patients[index] for index in evaluation.indices],
        labels=evaluation.labels,
        probabilities=evaluation.probabilities,
        class_names=plan.class_names,
        subgroups={str(name): subgroups[name].loc[paths].tolist() for name in subgroups.columns},
    )
    return _hidden(plan, result, naming) if naming.pseudonymise else result


def _hidden(
    plan: RunPlan, result: SplitResult, naming: DataSettings, before: DataSettings | None = None
) -> SplitResult:
    """`result` with pseudonyms of its patients and paths. Spellings of one patient have one pseudonym.

    `before` is the naming of a result that may hold pseudonyms already, of another namespace.
    """
    hide = Pseudonyms(naming.patient_namespace)
    known = plan.data.manifest.table["patient"].dropna().unique().tolist()
    hidden = {name: hide.patient(key) for name, key in zip(known, one_spelling(known), strict=True)}
    if before is not None and before.pseudonymise:
        hid = Pseudonyms(before.patient_namespace)
        hidden |= {hid.patient(name): pseudonym for name, pseudonym in hidden.items()}
    return replace(
        result,
        paths=[hide.path(path) for path in result.paths],
        patients=[hidden.get(patient) or hide.patient(patient) for patient in result.patients],
    )


def _write(
    plan: RunPlan, log: RunLog, results: dict[str, SplitResult], history: list[dict[str, Any]], epoch: int
) -> dict[str, dict[str, float]]:
    return run_report.write(
        log.artifacts,
        history=history,
        splits=results,
        class_counts=plan.data.manifest.counts(),
        class_names=plan.class_names,
        selected_epoch=epoch,
        protocol=plan.protocol,
        note="Synthetic images (phantom), no patients." if plan.synthetic else None,
        val_monitor=plan.settings.trainer.monitor,
        patients=plan.data.manifest.patients(),
        images=plan.data.manifest.images(),
    )


def _record_test(
    plan: RunPlan, log: RunLog, result: SplitResult, scores: dict[str, float], step: int
) -> None:
    """Record the test scores with the time, and print them. Those that are not defined are left out."""
    of_class = {}
    if plan.many:
        of_class = multiclass.class_metrics(plan.class_names, result.labels, result.probabilities)
        if words := run_report.undefined(result):
            print(f"note: {words}")
    if names.SCORED_TAG not in log.journal.tags_logged:  # a run killed in its report scores again
        log.journal.tags({names.SCORED_TAG: utc_now()})
    recorded = {f"test/{name}": value for name, value in {**scores, **of_class}.items()}
    if plan.many:
        recorded = {name: value for name, value in recorded.items() if math.isfinite(value)}
    log.journal.metrics(recorded, step)
    figures = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    origin = "; synthetic images" if plan.synthetic else ""
    print(f"test ({HOW_CHOSEN[plan.protocol]}{origin}):\n  {figures}")
