"""Candidates of more than two classes in memory: a better and a worse model, and hard images."""

from dataclasses import replace

import numpy as np

from pneumo.comparison import result
from pneumo.comparison.candidates import Candidate, unscored
from pneumo.comparison.content import Comparison
from pneumo.evaluation.predictions import SplitResult
from support.comparison_runs import DIGEST, FOLDS, candidate_of, part_of

NAMES = ("NORMAL", "BACTERIA", "VIRUS")
PATIENTS_A_CLASS = 15


def split(name: str, seed: int, quality: float, class_names: tuple[str, ...] = NAMES) -> SplitResult:
    """Patients with one to three images; the images are the same for every seed."""
    rng = np.random.default_rng({"test": 1, "val": 2}[name])
    classes = len(class_names)
    paths, people, labels = [], [], []
    for number in range(PATIENTS_A_CLASS * classes):
        label = number % classes
        for k in range(1 + int(rng.integers(3))):
            paths.append(f"{name}/{class_names[label]}/{number}_{k}.jpeg")
            people.append(f"patient {number}")
            labels.append(label)
    truth = np.array(labels)
    hard = rng.normal(0, 1, (len(truth), classes))  # an image that is hard is hard for every model
    own = np.random.default_rng([seed, int(10 * quality)]).normal(0, 0.5, hard.shape)
    logits = hard + own + quality * np.eye(classes)[truth]
    powers = np.exp(logits)
    return SplitResult(
        paths=paths,
        patients=list(people),
        labels=truth,
        probabilities=powers / powers.sum(axis=1, keepdims=True),
        class_names=class_names,
    )


def candidate(
    model: str = "resnet18",
    seed: int = 0,
    quality: float = 2.0,
    class_names: tuple[str, ...] = NAMES,
    **keys: object,
) -> Candidate:
    """A candidate in memory; `keys` replace its fields."""
    test, val = (split(name, seed, quality, class_names) for name in ("test", "val"))
    return candidate_of(model, seed, {"test": test, "val": val} | keys)


def candidates(class_names: tuple[str, ...] = NAMES) -> list[Candidate]:
    """Two seeds each of a better and a worse model."""
    models = (("resnet18", 2.0), ("resnet50", 1.5))
    return [candidate(model, seed, quality, class_names) for model, quality in models for seed in range(2)]


def cross_validation(
    model: str = "resnet18", quality: float = 2.0, seed: int = 0, scored: bool = False
) -> list[Candidate]:
    """The runs of a cross-validation; each network is sharper than it should be, by another factor."""
    found = []
    for fold in range(FOLDS):
        val = part_of(sharper(split("val", seed, quality), 1 + fold / 4), fold)
        test = sharper(split("test", 10 * seed + fold, quality), 1 + fold / 4) if scored else val
        found.append(
            candidate(
                model,
                seed,
                run_id=f"{model}-{seed}-{fold}",
                name=f"fold={fold} {model}",
                config={"model.name": model, "data.val_protocol": "fold", "data.fold": fold},
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


def sharper(found: SplitResult, times: float) -> SplitResult:
    """`found` with its logits times a factor, as an uncalibrated network has them."""
    powers = found.probabilities**times
    return replace(found, probabilities=powers / powers.sum(axis=1, keepdims=True))


def sizes(run: Candidate) -> dict:
    """Split sizes as a run records them; training is four times validation."""
    found = {}
    for name, part, times in (("train", run.val, 4), ("val", run.val, 1), ("test", run.test, 1)):
        one_hot = np.eye(len(part.class_names), dtype=int)
        present = part.labels == 1 if part.multilabel else one_hot[part.labels]
        counts = times * present.sum(axis=0)
        found[name] = {
            "images": times * len(part.paths),
            "classes": dict(zip(part.class_names, counts.tolist(), strict=True)),
            "patients": times * len(set(part.patients)),
        }
    return found


def finished(runs: list[Candidate], draws: int = 100, **keys: object) -> Comparison:
    """A finished comparison of `runs`; `keys` replace what is known about it."""
    about: dict = {
        "experiment": "pneumo", "sweep": None, "made": "today", "version": "0", "command": "a command",
        "software": {"numpy": "2"}, "commits": ["abc"], "digest": DIGEST, "data": "kermany3",
        "synthetic": False, "runs_at": "http://127.0.0.1:5000/#/experiments/1/runs/",
        "show_runs": "pneumo ui tracking.experiment=pneumo",
    }  # fmt: skip
    options: dict = {key: keys.pop(key) for key in ("rank_by", "margin") if key in keys}
    rest: dict = {"about": about | keys, "left_out": [], "unscored": unscored(runs), "splits": sizes(runs[0])}
    return {**result.build(runs, draws=draws, **options), **rest}  # type: ignore[typeddict-item]
