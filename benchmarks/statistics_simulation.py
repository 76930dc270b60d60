"""Question: do 95 % intervals cover 95 %, and do the paired tests reject 5 % if nothing differs?

Sets like the public test set are drawn from a known population. Patients have one or more images, and the
scores of a patient's images share that patient's effect. Two models of equal quality make some of the same
mistakes.
Command: python benchmarks/statistics_simulation.py [sets]. About 6 minutes of processor time for 2,000 sets.
Expected: coverage of .93 to .97 and rejections of .03 to .07 for every score.
"""

import sys
import time

import measure
import numpy as np

from pneumo.evaluation import statistics

# Separation of the classes, and variances of: patient (both models), patient (one model), image (both), image
# (one model). They give accuracy .93 and AUROC .98, as good classifiers have on the public test set.
SEPARATION = 3.0
PATIENT, PATIENT_OWN, IMAGE, IMAGE_OWN = 0.35, 0.25, 0.2, 0.2


def draw(rng: np.random.Generator, patients: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels [N], probabilities [2, N] and patients [N] of a new set of `patients` normal and ill ones."""
    labels_of = np.repeat((0, 1), patients)
    # Most patients have one image, some have five.
    sizes = 1 + rng.poisson(np.where(labels_of == 1, 0.55, 0.2))
    of = np.repeat(np.arange(len(labels_of)), sizes)
    labels = labels_of[of]
    n, p = len(of), len(labels_of)
    shared = rng.normal(0, PATIENT**0.5, p)[of] + rng.normal(0, IMAGE**0.5, n)
    own = rng.normal(0, PATIENT_OWN**0.5, (2, p))[:, of] + rng.normal(0, IMAGE_OWN**0.5, (2, n))
    logits = SEPARATION * (labels - 0.5) + shared + own
    return labels, 1 / (1 + np.exp(-logits)), [f"p{number:04d}" for number in of]


def simulate(
    sets: int, patients: tuple[int, int] = (190, 238), draws: int = statistics.DRAWS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Shares of sets whose interval covers the truth, and whose paired tests reject at .05."""
    rng = np.random.default_rng(seed)
    names = ("accuracy", "balanced_accuracy", "recall", "specificity", "f1", "auroc", "auprc", "brier")
    labels, chances, _ = draw(rng, tuple(count * 400_000 // sum(patients) for count in patients))
    ones = np.ones((len(labels), 1), dtype=np.uint16)
    known = [statistics.resampled_scores(labels, model, ones) for model in chances]
    truth = {name: (known[0][name][0] + known[1][name][0]) / 2 for name in names}
    covered = dict.fromkeys(names, 0)
    rejected = dict.fromkeys(names, 0)
    by_images = {"auroc": 0, "accuracy": 0}
    for index in range(sets):
        labels, chances, people = draw(rng, patients)
        ones = np.ones((len(labels), 1), dtype=np.uint16)  # the set itself, after its draws
        weights = np.concatenate([statistics.resample(labels, people, draws, seed=index), ones], axis=1)
        first, second = (statistics.resampled_scores(labels, model, weights) for model in chances)
        for name in names:
            seen, other = (float(scores[name][-1]) for scores in (first, second))
            low, high = statistics.interval(name, seen, first[name][:-1])
            covered[name] += low <= truth[name] <= high
            test = statistics.compare_draws(seen - other, (first[name] - second[name])[:-1])
            rejected[name] += test["p"] < 0.05
        by_images["auroc"] += (
            statistics.delong_p(*statistics.delong(labels, list(chances)), (1, -1))[1] < 0.05
        )
        by_images["accuracy"] += statistics.mcnemar(labels, *(chances >= 0.5))[2] < 0.05
    return {
        name: {
            "truth": float(truth[name]),
            "coverage": covered[name] / sets,
            "rejects_patients": rejected[name] / sets,
            **({"rejects_images": by_images[name] / sets} if name in by_images else {}),
        }
        for name in names
    }


def main() -> None:
    sets = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    began = time.monotonic()
    results = simulate(sets)
    print(f"{sets} sets of 428 patients, 2,000 draws each, {time.monotonic() - began:.0f} s")
    print(f"{'score':<18} {'truth':>8} {'coverage':>9} {'rejects (patients)':>19} {'rejects (images)':>17}")
    for name, row in results.items():
        images = f"{row['rejects_images']:.3f}" if "rejects_images" in row else "-"
        figures = f"{row['truth']:8.4f} {row['coverage']:9.3f} {row['rejects_patients']:19.3f}"
        print(f"{name:<18} {figures} {images:>17}")
    for name, row in results.items():
        for kind, key, low, high in (
            ("coverage", "coverage", 0.93, 0.97),
            ("type-one", "rejects_patients", 0.03, 0.07),
        ):
            measure.record(
                f"statistics/{kind}/{name}",
                1.0 if low <= row[key] <= high else 0.0,
                1.0,
                value=row[key],
                bounds=[low, high],
                sets=sets,
            )


if __name__ == "__main__":
    main()
