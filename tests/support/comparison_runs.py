"""Finished runs without training: journals and artifacts sent to a SQLite store, or candidates in memory."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pneumo.comparison import result
from pneumo.comparison.candidates import Candidate, unscored
from pneumo.comparison.content import Comparison
from pneumo.config import Config
from pneumo.evaluation import metrics
from pneumo.evaluation.predictions import SplitResult, predictions_csv
from pneumo.files import write_atomically
from pneumo.fingerprint import fingerprint as fingerprint_of
from pneumo.models.settings import ModelSettings
from pneumo.tracking.journal import Journal
from pneumo.tracking.sender import sync
from pneumo.tracking.settings import TrackingSettings
from support import plain_settings

QUALITY = {"resnet18": 1.3, "resnet50": 1.2, "densenet121": 0.7}  # how far apart a model's logits lie
DIGEST = "d" * 64
PATIENTS_A_SPLIT = 60
FOLDS = 5  # of a cross-validation


def split(name: str, seed: int, quality: float, known: bool = True) -> SplitResult:
    """A split of patients with one to three images, named as in the public set; the same for every seed."""
    rng = np.random.default_rng({"test": 1, "val": 2}[name])
    paths, people, labels = [], [], []
    for number in range(PATIENTS_A_SPLIT):
        ill = number % 5 > 1
        kind = ("bacteria", "virus")[number % 2]
        for k in range(1 + int(rng.integers(3))):
            if ill:
                paths.append(f"{name}/PNEUMONIA/person{number}_{kind}_{k}.jpeg")
                people.append(f"person-{kind}-{number}")
            else:
                paths.append(f"{name}/NORMAL/IM-{number:04d}-{k:04d}.jpeg")
                people.append(f"IM-{number}")
            labels.append(int(ill))
    hard = rng.normal(0, 1.3, len(labels))  # an image that is hard is hard for every model
    own = np.random.default_rng([seed, int(10 * quality)]).normal(0, 0.5, len(labels))
    logits = quality * (np.array(labels) - 0.5) * 2 + hard + own
    return SplitResult(
        paths=paths,
        patients=people if known else [None] * len(paths),
        labels=np.array(labels),
        probabilities=1 / (1 + np.exp(-logits)),
    )


def make(
    root: Path,
    uri: str,
    model: str = "resnet18",
    seed: int = 0,
    *,
    experiment: str = "pneumo",
    protocol: str = "patient_val",
    digest: str = DIGEST,
    known: bool = True,
    without: str = "",
    status: str = "FINISHED",
    sweep_id: str | None = None,
    epochs: int = 4,
    data_root: str = "/nowhere",
    lr: float = 0.001,
    slow_last_epoch: bool = False,
) -> Path:
    """One run of `model` below `root`, sent to `uri`; `without` names an artifact that is not written."""
    settings = Config(
        model=ModelSettings(name=model),
        seed=seed,
        augment=plain_settings.augment(),
        optim=plain_settings.optim(lr=lr),
        schedule=plain_settings.schedule(),
        trainer=plain_settings.trainer(
            epochs=epochs, select_on="test" if protocol == "test_selected" else "val"
        ),
    )
    settings.data.root, settings.data.image_size = data_root, 32
    fingerprint = fingerprint_of(settings.as_dict(), digest)
    folder = root / f"{fingerprint}-{protocol}"
    splits = {name: split(name, seed, QUALITY[model], known=known) for name in ("test", "val")}
    if digest != DIGEST:  # another data set has other test images
        splits["test"].paths = [f"other/{path}" for path in splits["test"].paths]
    journal = Journal(folder)
    tags = {
        "pneumo.fingerprint": fingerprint,
        "pneumo.protocol": protocol,
        "pneumo.data_digest": digest,
        "pneumo.synthetic": "false",
    }
    if sweep_id:
        tags["pneumo.sweep"] = sweep_id
    journal.start(f"{model}-{seed}-{protocol}", experiment, tags)
    journal.params({"model.name": model, "seed": seed, "device": "cpu"})
    parts = ("train", "val", "test") if protocol == "test_selected" else ("train", "val")
    history = []
    for epoch in range(1, epochs + 1):
        values = {
            f"{part}/{key}": 0.5 + epoch / 20 + seed / 100 for part in parts for key in ("accuracy", "f1")
        }
        values |= {f"{part}/loss": 1 / epoch for part in parts}
        values |= {"val/auroc": 0.9 + epoch / 100}
        measured = {"time/images_per_s": 90.0 + seed, "time/epoch_s": 50.0, "memory/peak_mib": 2000.0 + seed}
        if slow_last_epoch and epoch == epochs:
            measured["time/epoch_s"] = 900.0
        journal.metrics(values | measured, epoch)
        history.append({"epoch": epoch, **values})
    scored = metrics.scores(splits["test"].labels, splits["test"].probabilities)
    journal.metrics({f"test/{key}": value for key, value in scored.items()}, epochs + 1)
    facts = {"epoch": epochs, "history": history, "images": COUNTS, "patients": PATIENTS}
    files = {
        "config.yaml": settings.as_yaml().encode(),
        "checkpoints/best.json": json.dumps(facts).encode(),
        "checkpoints/best.safetensors": bytes(4096),
        **{f"predictions/{name}.csv": predictions_csv(content) for name, content in splits.items()},
    }
    for name, content in files.items():
        if name != without:
            write_atomically(folder / "artifacts" / name, content)
            journal.artifact(name)
    journal.end(status)
    journal.close()
    sent = sync(folder, TrackingSettings(flush_s=30), uri)
    assert sent.left == 0 and not sent.error, sent
    return folder


COUNTS = {
    "train": {"NORMAL": 120, "PNEUMONIA": 350},
    "val": {"NORMAL": 47, "PNEUMONIA": 71},
    "test": {"NORMAL": 46, "PNEUMONIA": 73},
}
PATIENTS = {"train": 300, "val": 60, "test": 60}
SIZES = {
    name: {
        "images": sum(counts.values()),
        "normal": counts["NORMAL"],
        "pneumonia": counts["PNEUMONIA"],
        "patients": PATIENTS[name],
    }
    for name, counts in COUNTS.items()
}


def candidate(model: str = "resnet18", seed: int = 0, quality: float = 2.0, **keys: object) -> Candidate:
    """A candidate in memory; `keys` replace its fields."""
    test, val = (split(name, seed, quality) for name in ("test", "val"))
    return candidate_of(model, seed, {"test": test, "val": val} | keys)


def candidate_of(model: str, seed: int, keys: dict) -> Candidate:
    """A candidate whose other fields are `keys`."""
    fields: dict = {
        "run_id": f"{model}{seed}",
        "name": f"{model}-{seed}",
        "seed": seed,
        "config": {"model.name": model},
        "protocol": "patient_val",
        "digest": DIGEST,
        "epoch": seed,
    }
    return Candidate(**(fields | keys))


def candidates() -> list[Candidate]:
    """Two seeds each of a better and a worse model."""
    models = (("resnet18", 2.0), ("resnet50", 1.5))
    return [candidate(model, seed, quality) for model, quality in models for seed in range(2)]


def part_of(whole: SplitResult, fold: int) -> SplitResult:
    """The images of every fifth five patients, from `fold` on."""
    people = {patient: number for number, patient in enumerate(dict.fromkeys(whole.patients))}
    rows = [i for i, patient in enumerate(whole.patients) if people[patient] // 5 % FOLDS == fold]
    return SplitResult(
        paths=[whole.paths[i] for i in rows],
        patients=[whole.patients[i] for i in rows],
        labels=whole.labels[rows],
        probabilities=whole.probabilities[rows],
        class_names=whole.class_names,
    )


def sharper(found: SplitResult, times: float, shift: float = 0.0) -> SplitResult:
    """`found` with its logits times a factor, as an uncalibrated network has them, and shifted."""
    logits = metrics.logit(found.probabilities) * times + shift
    return replace(found, probabilities=1 / (1 + np.exp(-logits)))


def cross_validation(
    model: str = "resnet18",
    quality: float = 2.0,
    seed: int = 0,
    scored: bool = False,
    folds: Sequence[int] = range(FOLDS),
    shift: float = 0.0,
) -> list[Candidate]:
    """The runs of a cross-validation: each network is sharper than it should be, by another factor."""
    found = []
    for fold in folds:
        whole = sharper(split("val", seed, quality), 1 + fold, shift)
        val = part_of(whole, fold)
        test = sharper(split("test", 10 * seed + fold, quality), 1 + fold) if scored else val
        config = {"model.name": model, "data.val_protocol": "fold", "data.fold": fold}
        found.append(
            candidate(
                model,
                seed,
                run_id=f"{model}-{seed}-{fold}",
                name=f"fold={fold} {model}",
                config=config,
                saved={"data": {"fold": fold}},
                fingerprint=f"{model}{seed}{fold}",
                pool="p",
                test_set="t",
                digest=f"d{fold}",
                scored=scored,
                val=val,
                test=test,
            )
        )
    return found


def finished(runs: list[Candidate], draws: int = 100, **keys: object) -> Comparison:
    """A finished comparison of `runs`; `keys` replace what is known about it."""
    about: dict = {
        "experiment": "pneumo", "sweep": None, "made": "today", "version": "0", "command": "a command",
        "software": {"numpy": "2"}, "commits": ["abc"], "digest": DIGEST, "data": "chest_xray",
        "synthetic": False, "runs_at": "http://127.0.0.1:5000/#/experiments/1/runs/",
        "show_runs": "pneumo ui tracking.experiment=pneumo",
    }  # fmt: skip
    options: dict = {key: keys.pop(key) for key in ("rank_by", "margin") if key in keys}
    rest: dict = {"about": about | keys, "left_out": [], "unscored": unscored(runs), "splits": SIZES}
    return {**result.build(runs, draws=draws, **options), **rest}  # type: ignore[typeddict-item]
