"""Candidates that look for several findings, in memory: a better and a worse model, and unknown labels."""

import numpy as np

from pneumo.comparison.candidates import Candidate
from pneumo.evaluation.predictions import SplitResult
from support.comparison_runs import candidate_of

NAMES = ("Edema", "Mass, large", "Hernia", "Nodule")
SHARES = (0.4, 0.25, 0.015, 0.3)  # of the images; three patients have a hernia


def split(name: str, seed: int, quality: float) -> SplitResult:
    """Patients with one to three images; images and labels are the same for every seed."""
    rng = np.random.default_rng({"test": 1, "val": 2}[name])
    people = [f"patient {number}" for number in range(60) for _ in range(1 + int(rng.integers(3)))]
    shape = (len(people), len(NAMES))
    labels = (rng.random(shape) < SHARES).astype(np.int64)
    labels[:, 2] = [patient in ("patient 7", "patient 8", "patient 9") for patient in people]
    hard = rng.normal(0, 1, shape)  # an image that is hard is hard for every model
    own = np.random.default_rng([seed, int(10 * quality)]).normal(0, 0.5, shape)
    logits = hard + own + quality * (labels - 0.5)
    labels[rng.random(shape) < 0.1] = -1
    return SplitResult(
        paths=[f"{name}/{number}.png" for number in range(len(people))],
        patients=list(people),
        labels=labels,
        probabilities=1 / (1 + np.exp(-logits)),
        class_names=NAMES,
    )


def candidate(model: str = "resnet18", seed: int = 0, quality: float = 2.0, **keys: object) -> Candidate:
    """A candidate in memory; `keys` replace its fields."""
    test, val = (split(name, seed, quality) for name in ("test", "val"))
    return candidate_of(model, seed, {"test": test, "val": val} | keys)
