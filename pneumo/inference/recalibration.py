"""A model's calibration and thresholds for a new site, from labelled images of the site.

The network does not change. The site's images are in the place of validation: calibration and thresholds are
chosen on all of them by the rules of `model_folder.decisions`. Figures on the same images would be too good,
so they are cross-fitted: the patients are divided into five parts, and the images of a part are calibrated
and called as the other four parts choose. The model's past cases (similar cases, prediction sets) are
cross-fitted, too. AUROC and AUPRC are of the network's own probabilities, which were fitted to no site.

The detector of unlike images keeps the reference of the training images: it tells what the network has not
seen, and the network has not seen the site. So more decisions may be withheld there than at home.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pneumo import UserError
from pneumo.evaluation import calibrators, statistics
from pneumo.evaluation.metrics import Floats, Ints
from pneumo.evaluation.multilabel import UNKNOWN
from pneumo.evaluation.predictions import SplitResult
from pneumo.inference import finding_figures, model_folder, scores
from pneumo.inference.bundle import Bundle
from pneumo.inference.schema import Figure, Site

# Of each class. A threshold that should find 95 % of the ill found 90 % of others in 9 of 10 draws of 40
# patients a class, and in 7 of 10 of 20 (NIH adults, a network trained on children).
FEWEST_PATIENTS = 40
FOLDS = calibrators.FOLDS
HALF = 0.5
OF_DECISIONS = ("accuracy", "recall", "specificity", "precision", "f1")


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """Calibrated probabilities [N] or [N, K] of images, and where they reach the threshold, bool alike."""

    chances: Floats
    reached: NDArray[np.bool_]

    @classmethod
    def of(cls, parent: Bundle, rows: SplitResult, kept: list[str]) -> "CrossFitted":
        """Each image as the images of other patients choose."""
        fold_of = _folds(rows)
        raw = np.asarray(rows.probabilities, dtype=np.float64)
        chances, reached = np.zeros_like(raw), np.zeros(raw.shape, dtype=bool)
        for fold in range(FOLDS):
            out = fold_of == fold
            if out.any():
                chosen = _chosen(parent, _part(rows, ~out), kept)
                chances[out], reached[out] = applied(chosen, raw[out])
        return cls(chances=chances, reached=reached)


def recalibrated(
    parent: Bundle, rows: SplitResult, *, name: str, digest: str, unlike: NDArray[np.bool_]
) -> Bundle:
    """`parent` with calibration and thresholds from the site's `rows`, and cross-fitted figures on them.

    `rows` have the network's uncalibrated probabilities. `name` is what the parent is called, `digest`
    identifies the images, `unlike` [N] says which of them look unlike the training images. Of several
    findings, those with fewer than FEWEST_PATIENTS patients that have it, or that do not, stay as they were.
    UserError if a class has fewer patients, or every finding.
    """
    kept = refuse_few(rows.class_names, rows.labels, rows.patients)
    chosen = _chosen(parent, rows, kept)
    fitted = CrossFitted.of(parent, rows, kept)
    figures, of_class = _figures(rows, fitted)
    probabilities = fitted.chances
    if rows.multilabel:
        probabilities = np.round(probabilities, model_folder.PAST_DIGITS)
    return replace(
        chosen,
        figures=figures,
        class_figures=of_class,
        past={"labels": rows.labels.tolist(), "probabilities": probabilities.tolist()},
        past_patients=model_folder.numbered(rows.patients),
        ages=model_folder.ages(rows),
        test_digest=model_folder.test_digest(rows),
        site=_site(rows, name, digest, unlike, kept),
    )


def applied(bundle: Bundle, raw: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Calibrated probabilities of uncalibrated ones, and where they reach the threshold."""
    chances = bundle.calibrated(raw)
    if not bundle.many:
        return chances, bundle.decide(raw)
    return chances, chances >= np.array([*bundle.threshold_of_class.values()])


def mean_log_loss(labels: Ints, chances: Floats) -> float:
    """Over the images, and of several findings over every known label."""
    if labels.ndim == 2:
        known = labels != UNKNOWN
        labels, chances = labels[known], chances[known]
    every = chances if chances.ndim == 2 else np.stack([1 - chances, chances], axis=1)
    return float(-np.log(np.maximum(every[np.arange(len(labels)), labels], 1e-12)).mean())


def _chosen(parent: Bundle, rows: SplitResult, kept: list[str]) -> Bundle:
    """`parent` with what `rows` choose; the findings `kept` are those of the parent."""
    chosen = replace(parent, **model_folder.decisions(rows, None, parent.threshold_rule))
    if not kept:
        return chosen
    assert parent.class_thresholds and parent.class_temperatures
    assert chosen.class_thresholds and chosen.class_temperatures
    calibration = dict(chosen.calibration or {})
    for name in kept:
        chosen.class_thresholds[name] = parent.class_thresholds[name]
        chosen.class_temperatures[name] = parent.class_temperatures[name]
        calibration.pop(name, None)
        if parent.calibration and name in parent.calibration:
            calibration[name] = parent.calibration[name]
    return replace(chosen, calibration=calibration or None)


def _folds(rows: SplitResult) -> NDArray[np.int64]:
    """The part [N] of each image, by patient and class; of several findings by whether there is any."""
    labels = (rows.labels == 1).any(1).astype(np.int64) if rows.multilabel else rows.labels
    _, _, patient_of = statistics.clusters(labels, rows.patients)
    return (patient_of % FOLDS).astype(np.int64)  # patients are in the order of their strata


def _part(rows: SplitResult, chosen: NDArray[np.bool_]) -> SplitResult:
    places = np.flatnonzero(chosen).tolist()
    return SplitResult(
        paths=[rows.paths[row] for row in places],
        patients=[rows.patients[row] for row in places],
        labels=rows.labels[chosen],
        probabilities=rows.probabilities[chosen],
        class_names=rows.class_names,
    )


def refuse_few(class_names: Sequence[str], labels: Ints, patients: Sequence[str | None]) -> list[str]:
    """The findings with too few patients; UserError for classes with too few, or if every finding has."""
    few, multilabel = [], labels.ndim == 2
    for k, name in enumerate(class_names):
        if multilabel:
            ill, well = (statistics.patients_of(patients, labels[:, k] == one) for one in (1, 0))
            if min(ill, well) < FEWEST_PATIENTS:
                few.append((name, f"{ill} with and {well} without {name}"))
        elif (count := statistics.patients_of(patients, labels == k)) < FEWEST_PATIENTS:
            few.append((name, f"{count} of {name}"))
    if few and (not multilabel or len(few) == len(class_names)):
        what = "any finding, and as many without it" if multilabel else "each class"
        raise UserError(
            f"the set has too few patients: {', '.join(words for _, words in few)}. A recalibration needs "
            f"{FEWEST_PATIENTS} of {what}."
        )
    return [name for name, _ in few]


def _site(rows: SplitResult, name: str, digest: str, unlike: NDArray[np.bool_], kept: list[str]) -> Site:
    everyone = statistics.patients_of(rows.patients, np.ones(len(rows.paths)))
    of = {
        label: rows.labels[:, k] == 1 if rows.multilabel else rows.labels == k
        for k, label in enumerate(rows.class_names)
    }
    return {
        "parent": name,
        "digest": digest,
        "images": len(rows.paths),
        "patients": everyone,
        "patients_known": None not in rows.patients,
        "images_of": {label: int(own.sum()) for label, own in of.items()},
        "patients_of": {label: statistics.patients_of(rows.patients, own) for label, own in of.items()},
        "unlike": int(unlike.sum()),
        "kept": kept,
    }


def _figures(
    rows: SplitResult, fitted: CrossFitted
) -> tuple[dict[str, Figure], dict[str, dict[str, Figure]] | None]:
    """The figures of a Bundle. Each fold has its own threshold, so decisions are scored as 0 and 1."""
    decided = fitted.reached.astype(np.float64)
    half = dict.fromkeys(rows.class_names, HALF)
    if rows.multilabel:
        figures, of_class = finding_figures.of_findings(rows, fitted.chances, [*half.values()])
        counted, counted_of = finding_figures.of_findings(rows, decided, [*half.values()])
        figures |= {name: counted[name] for name in OF_DECISIONS}
        of_class = {
            name: known | {score: counted_of[name][score] for score in OF_DECISIONS}
            for name, known in of_class.items()
        }
        return figures, of_class
    if rows.many:
        figures, of_class = scores.of_many(rows, fitted.chances, half)
        for k, name in enumerate(rows.class_names):
            counted = _of_decisions(rows, (rows.labels == k).astype(np.int64), decided[:, k])
            of_class[name] |= {f"{score}_at_threshold": counted[score] for score in scores.AT_THRESHOLD}
        return figures, of_class
    figures = scores.of_two(rows, fitted.chances, HALF)
    return figures | _of_decisions(rows, rows.labels, decided), None


def _of_decisions(rows: SplitResult, labels: Ints, decided: Floats) -> dict[str, Figure]:
    """OF_DECISIONS of one class against the rest, from 0 and 1 for each image."""
    one = SplitResult(paths=rows.paths, patients=rows.patients, labels=labels, probabilities=decided)
    found = scores.of_two(one, decided, HALF)
    return {name: found[name] for name in OF_DECISIONS}
