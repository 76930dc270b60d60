"""The sections of the page that differ for more than two classes: the scores of each class, calibration."""

from collections.abc import Sequence

from pneumo.comparison import clinical
from pneumo.comparison.blocks import Details, Section, Table
from pneumo.comparison.content import Comparison, ConfigurationRow, all_rows, class_names
from pneumo.comparison.words import CLASS_SCORE_WORDS, SCORE_WORDS, images_word, number, ranked, with_interval

CLASS_SCORES = ("auroc", "recall", "specificity", "precision", "f1")
MOST_TABLES = 12  # configurations with a table of their own
LEFT_OUT = (
    "Thresholds, predictive values, the decision curve and subtypes are left out: they need one class that "
    "is positive. Each image is called the class with the largest probability."
)


def by_class(comparison: Comparison) -> Section | None:
    """The scores of each class against the rest."""
    rows, names = all_rows(comparison), class_names(comparison)
    if not rows:
        return None
    images = comparison["test"]["classes"]
    areas = Table(
        caption=f"AUROC of each class against the rest, {images_word(comparison)} images",
        columns=["configuration", *(f"{name} ({images[name]:,} images)" for name in names)],
        rows=[
            [ranked(row), *(with_interval(row["classes"][name]["scores"]["auroc"]) for name in names)]
            for row in rows
        ],
    )
    tables = [_of_configuration(row) for row in rows[:MOST_TABLES]]
    text = [
        "Each class against all others: the mean over the seeds, with 95 % intervals over patients. They are "
        f"exploratory. {LEFT_OUT}"
    ]
    if len(rows) > MOST_TABLES:
        text.append(f"The first {MOST_TABLES} configurations have a table; comparison.json has all.")
    return Section(
        title="By class",
        text=text,
        tables=[areas, tables[0]],
        figures=["classes"],
        details=[Details(summary=table.caption, tables=[table]) for table in tables[1:]],
    )


def _of_configuration(row: ConfigurationRow) -> Table:
    return Table(
        caption=f"{ranked(row)}: each class against the rest",
        columns=["class", "images / patients", *(SCORE_WORDS[score] for score in CLASS_SCORES)],
        rows=[
            [
                name,
                f"{entry['images']:,} / {entry['patients']:,}",
                *(with_interval(entry["scores"][score]) for score in CLASS_SCORES),
            ]
            for name, entry in row["classes"].items()
        ],
    )


def calibration(comparison: Comparison) -> Section:
    """The calibration errors, and slope and intercept of each class."""
    rows = all_rows(comparison)
    text = [
        "The ECE of the call compares the called class's probability with the share of right calls. The "
        "class ECE is the mean of each class's own ECE. Both (15 bins) are above 0 for a calibrated network "
        "too; the columns beside them show by how much on these images, and their intervals subtract that.",
        "In the figure, the runs of a configuration are pooled. Bars are 95 % intervals over patients.",
    ]
    columns = ["configuration"]
    for score in ("ece_top", "ece"):
        columns += [CLASS_SCORE_WORDS[score], "of a calibrated network"]
    table = Table(
        caption=f"Calibration of the {images_word(comparison)} images",
        columns=columns,
        rows=[
            [
                ranked(row),
                *(
                    cell
                    for score in ("ece_top", "ece")
                    for cell in (with_interval(row["scores"][score]), number(row["if_calibrated"][score]))
                ),
            ]
            for row in rows
        ],
    )
    section = Section(title="Calibration", text=text, tables=[table], figures=["calibration"])
    clinical.add_temperatures(section, comparison)
    section.details += [_calibration_of(row) for row in rows[:MOST_TABLES]]
    return section


def _calibration_of(row: ConfigurationRow) -> Details:
    table = Table(
        caption=f"{ranked(row)}: calibration of each class against the rest",
        columns=["class", "slope", "intercept", "ECE", "ECE of a calibrated network"],
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
        "Slope below 1: the class's probabilities are too extreme. Intercept above 0: they are too low. "
        "Without a slope, the probabilities separate the class from the others."
    )
    return Details(summary=table.caption, text=text, tables=[table])


def sections(comparison: Comparison) -> Sequence[Section]:
    """What comes where a page of two classes has calibration, thresholds and the decision curve."""
    return [calibration(comparison)]
