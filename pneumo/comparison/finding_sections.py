"""The sections of the page that differ for several findings: scores of each, calibration, right calls."""

from collections.abc import Sequence

from pneumo.comparison import clinical
from pneumo.comparison.appendix import MOST_REPORTS
from pneumo.comparison.blocks import Details, Section, Table
from pneumo.comparison.class_sections import MOST_TABLES
from pneumo.comparison.content import Comparison, ConfigurationRow, Confusion, all_rows, class_names
from pneumo.comparison.words import SCORE_WORDS, images_word, number, ranked, with_interval

FINDING_SCORES = ("auroc", "auprc", "recall", "specificity", "precision", "f1")
LEFT_OUT = (
    "A finding is called from probability 0.5 on, which few images of a rare finding reach: judge rare ones "
    "by AUROC and AUPRC. Thresholds from validation are in each model's card. Predictive values, the "
    "decision curve and subtypes are left out."
)


def by_finding(comparison: Comparison) -> Section | None:
    """The scores of each finding."""
    rows, names = all_rows(comparison), class_names(comparison)
    if not rows:
        return None
    images = comparison["test"]["classes"]
    areas = Table(
        caption=f"AUROC of each finding, {images_word(comparison)} images",
        columns=["configuration", *(f"{name} ({images[name]:,} images)" for name in names)],
        rows=[
            [ranked(row), *(with_interval(row["classes"][name]["scores"]["auroc"]) for name in names)]
            for row in rows
        ],
    )
    tables = [_of_configuration(row) for row in rows[:MOST_TABLES]]
    text = [
        "Each finding on the images whose label of it is known: the mean over the seeds, with 95 % intervals "
        f"over patients. They are exploratory. {LEFT_OUT}"
    ]
    if len(rows) > MOST_TABLES:
        text.append(f"The first {MOST_TABLES} configurations have a table; comparison.json has all.")
    return Section(
        title="By finding",
        text=text,
        tables=[areas, tables[0]],
        figures=["classes"],
        details=[Details(summary=table.caption, tables=[table]) for table in tables[1:]],
    )


def _of_configuration(row: ConfigurationRow) -> Table:
    return Table(
        caption=f"{ranked(row)}: each finding",
        columns=["finding", "images / patients", *(SCORE_WORDS[score] for score in FINDING_SCORES)],
        rows=[
            [
                name,
                f"{entry['images']:,} / {entry['patients']:,}",
                *(with_interval(entry["scores"][score]) for score in FINDING_SCORES),
            ]
            for name, entry in row["classes"].items()
        ],
    )


def calibration(comparison: Comparison) -> Section:
    """The calibration error, and slope and intercept of each finding."""
    rows = all_rows(comparison)
    text = [
        "The mean of the findings' ECE (15 bins) is above 0 for a calibrated network too. The column beside "
        "it shows by how much on these images, and its interval subtracts that.",
        "In the figure, the findings and the runs of a configuration are pooled. Bars are 95 % intervals "
        "over patients.",
    ]
    table = Table(
        caption=f"Calibration of the {images_word(comparison)} images",
        columns=["configuration", "mean ECE", "of a calibrated network"],
        rows=[
            [ranked(row), with_interval(row["scores"]["ece"]), number(row["if_calibrated"]["ece"])]
            for row in rows
        ],
    )
    section = Section(title="Calibration", text=text, tables=[table], figures=["calibration"])
    clinical.add_temperatures(section, comparison)
    section.details += [_calibration_of(row) for row in rows[:MOST_TABLES]]
    return section


def _calibration_of(row: ConfigurationRow) -> Details:
    table = Table(
        caption=f"{ranked(row)}: calibration of each finding",
        columns=["finding", "slope", "intercept", "ECE", "ECE of a calibrated network"],
        rows=[
            [
                name,
                with_interval(entry["calibration"]["slope"]),
                with_interval(entry["calibration"]["intercept"]),
                with_interval(entry["scores"]["ece"]),
                number(entry["calibration"]["ece_if_calibrated"]),
            ]
            for name, entry in row["classes"].items()
        ],
    )
    text = (
        "Slope below 1: the finding's probabilities are too extreme. Intercept above 0: they are too low. "
        "Without a slope, the probabilities separate the images that have it from the others."
    )
    return Details(summary=table.caption, text=text, tables=[table])


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
