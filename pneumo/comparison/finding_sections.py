"""What the page says of several findings, and their calls."""

from collections.abc import Sequence

from pneumo.comparison.appendix import MOST_REPORTS
from pneumo.comparison.blocks import Details, Section, Table
from pneumo.comparison.class_sections import Wording
from pneumo.comparison.content import Comparison, Confusion, all_rows, class_names
from pneumo.comparison.words import number, ranked

FINDINGS = Wording(
    title="By finding",
    each="each finding",
    column="finding",
    scores=("auroc", "auprc", "recall", "specificity", "precision", "f1"),
    scores_text="Each finding on the images whose label of it is known: the mean over the seeds, with 95 % "
    "intervals over patients. They are exploratory. A finding is called from probability 0.5 on, which few "
    "images of a rare finding reach: judge rare ones by AUROC and AUPRC. Thresholds from validation are in "
    "each model's card. Predictive values, the decision curve and subtypes are left out.",
    errors=("ece",),
    errors_text=(
        "The mean of the findings' ECE (15 bins) is above 0 for a calibrated network too. The column beside "
        "it shows by how much on these images, and its interval subtracts that.",
        "In the figure, the findings and the runs of a configuration are pooled. Bars are 95 % intervals "
        "over patients.",
    ),
    slope_text="Slope below 1: the finding's probabilities are too extreme. Intercept above 0: they are too "
    "low. Without a slope, the probabilities separate the images that have it from the others.",
)


def confusions(comparison: Comparison) -> Section:
    """The calls of each finding, right and wrong, by run."""
    rows, names = all_rows(comparison), class_names(comparison)
    details = []
    for row in rows[:MOST_REPORTS]:
        splits = {"test": row["confusion"], "validation": row["validation"]["confusion"]}
        if comparison["scored_on"] == "val":
            del splits["test"]
        tables = [
            _calls(f"{split} images, seed {run['seed']}", matrix, names)
            for split, matrices in splits.items()
            for run, matrix in zip(row["runs"], matrices, strict=False)
        ]
        details.append(Details(summary=ranked(row), tables=tables))
    text = ["Images whose label of the finding is known, called from probability 0.5 on, by run."]
    if len(rows) > MOST_REPORTS:
        text.append(f"The first {MOST_REPORTS} configurations are shown; comparison.json has all.")
    return Section(title="Confusion matrices", text=text, details=details)


def _calls(caption: str, matrix: Confusion, names: Sequence[str]) -> Table:
    def share(part: int, whole: int) -> str:
        return number(part / whole) if whole else "-"

    return Table(
        caption=caption,
        columns=["finding", "found", "missed", "wrongly called", "rightly not called", "precision", "F1"],
        rows=[
            [
                *(name, f"{tp:,}", f"{fn:,}", f"{fp:,}", f"{tn:,}"),
                *(share(tp, tp + fp), share(2 * tp, 2 * tp + fp + fn)),
            ]
            for name, (tn, fp, fn, tp) in zip(names, matrix, strict=True)
        ],
    )
