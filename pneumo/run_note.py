"""What MLflow's pages say about a run: its figures, how its epoch was chosen, links and its command.

The text is Markdown in the run's description. A link `run:/NAME` leads to an artifact of the run: the courier
writes MLflow's address, which differs in every tracker.
"""

import math
import shlex

from pneumo import names
from pneumo.evaluation import class_statistics, metrics, multiclass, multilabel, statistics
from pneumo.evaluation.metrics import Floats
from pneumo.evaluation.predictions import SplitResult
from pneumo.run_plan import RunPlan
from pneumo.sweep.identity import without_places
from pneumo.tracking.journal import Journal, redact

FIGURES = {
    "ROC": f"{names.FIGURES}/roc_test.png",
    "confusion matrix": f"{names.FIGURES}/confusion_test.png",
    "loss": f"{names.FIGURES}/curves_loss.png",
    "calibration": f"{names.FIGURES}/calibration_test.png",
    "predictions": names.TEST_PREDICTIONS,
}
SHOWN = {"auroc": "AUROC", "accuracy": "accuracy", "recall": "sensitivity", "specificity": "specificity"}
MACRO_SHOWN = {
    "auroc": "macro AUROC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "macro F1",
}

FINDINGS_SHOWN = {
    "auroc": "mean AUROC",
    "auprc": "mean average precision",
    "accuracy": "mean accuracy",
    "f1": "mean F1",
}


def begun(plan: RunPlan) -> str:
    """The description of a run that trains."""
    return f"{_what(plan)}\n\nIt trains, or its process ended without a report.\n\n{_command(plan)}"


def ended(plan: RunPlan, journal: Journal, test: SplitResult | None) -> str:
    """The description of a finished run. `test` is its result on the test set, None: not scored."""
    rows = []
    if test is not None:
        rows += _of_many(test) if test.many else _of_two(test)
    else:
        rows.append(f"| test | not scored | `pneumo evaluate model={plan.fingerprint} split=test` |")
    best = {
        key: history[-1][1]
        for key in ("epoch", "val_auroc", "val_accuracy")
        if (history := journal.history(f"best/{key}"))
    }
    for key, word in {"val_auroc": "validation AUROC", "val_accuracy": "validation accuracy"}.items():
        if key in best:  # else it is not defined
            rows.append(f"| {word} | {best[key]:.4f} | |")
    table = "\n".join(["| | | 95 % interval over patients |", "|---|---|---|", *rows])
    epoch = f"Epoch {best['epoch']:.0f}: {names.PROTOCOLS[plan.protocol]}."
    links = " · ".join(
        f"[{word}](run:/{name})" for word, name in FIGURES.items() if name in journal.artifacts
    )
    return f"{_what(plan)}\n\n{table}\n\n{epoch}\n\n{links}\n\n{_command(plan)}"


def _of_two(test: SplitResult) -> list[str]:
    scores = metrics.scores(test.labels, test.probabilities)
    weights = statistics.resample(test.labels, test.patients)
    draws = statistics.resampled_scores(test.labels, test.probabilities, weights)
    counts = statistics.PatientCounts.of(test.labels, test.patients)
    rows = []
    for score, word in SHOWN.items():
        low, high = statistics.interval(score, scores[score], draws[score], counts)
        rows.append(f"| test {word} | {scores[score]:.4f} | {low:.3f} to {high:.3f} |")
    return rows


def _of_many(test: SplitResult) -> list[str]:
    """The scores of more than two classes, then the AUROC and sensitivity of each class."""
    if test.multilabel:
        return _of_findings(test)
    classes = len(test.class_names)
    weights = class_statistics.resample(test.labels, test.patients, classes)
    macro, of_class = class_statistics.resampled_both(test.labels, test.probabilities, weights)
    counts = class_statistics.counts_of(test.labels, test.patients, classes)
    scores = test.scores()
    rows = [
        f"| test {word} | {scores[score]:.4f} | {_interval(score, scores[score], macro[score], counts)} |"
        for score, word in MACRO_SHOWN.items()
    ]
    every = multiclass.class_scores(test.labels, test.probabilities)
    for label, (name, one) in enumerate(zip(test.class_names, every, strict=True)):
        shown = name.replace("|", "\\|")
        own = statistics.PatientCounts.of(test.labels == label, test.patients)
        ends = (_interval(score, one[score], of_class[score][label], own) for score in ("auroc", "recall"))
        rows.append(
            f"| {shown}: AUROC, sensitivity | {one['auroc']:.4f}, {one['recall']:.4f} | {', '.join(ends)} |"
        )
    return rows


def _interval(score: str, value: float, draws: Floats, counts: statistics.Counts) -> str:
    low, high = statistics.interval(score, value, draws, counts)
    return f"{low:.3f} to {high:.3f}" if math.isfinite(low) else "no interval"


def _of_findings(test: SplitResult) -> list[str]:
    """The mean scores of several findings, then the AUROC and sensitivity of each finding."""
    scores = test.scores()
    rows = [f"| test {word} | {scores[score]:.4f} | |" for score, word in FINDINGS_SHOWN.items()]
    every = multilabel.finding_scores(test.labels, test.probabilities)
    for name, one in zip(test.class_names, every, strict=True):
        shown = name.replace("|", "\\|")
        rows.append(f"| {shown}: AUROC, sensitivity | {one['auroc']:.4f}, {one['recall']:.4f} | |")
    return rows


def stopped(plan: RunPlan, status: str, reason: str | None) -> str:
    """The description of a run that ended before its report."""
    return f"{_what(plan)}\n\n{status}: {reason or 'no reason is known'}.\n\n{_command(plan)}"


def _what(plan: RunPlan) -> str:
    settings = plan.settings
    data = f"{settings.data.name} at {settings.data.image_size} px"
    synthetic = " (synthetic images)" if plan.synthetic else ""
    return (
        f"**{settings.model.name}** on {data}{synthetic}, sampler {settings.sampler.name}, augment "
        f"{settings.augment.name}, {settings.optim.name} at {settings.optim.lr:g}, "
        f"{settings.trainer.epochs} epochs, seed {settings.seed}."
    )


def _command(plan: RunPlan) -> str:
    typed = without_places(plan.overrides)
    if not typed:
        return f"`pneumo runs reproduce {plan.fingerprint}` prints its command."
    return f"    pneumo train {redact(shlex.join(typed))}"
