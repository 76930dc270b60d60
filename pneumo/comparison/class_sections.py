"""The sections of the page that differ for more than two classes, and for several findings.

They are the scores of each class or finding, and calibration; a `Wording` has what is said of either.
"""

from dataclasses import dataclass

from pneumo.comparison import clinical
from pneumo.comparison.blocks import Details, Section, Table
from pneumo.comparison.content import Comparison, ConfigurationRow, all_rows, class_names
from pneumo.comparison.words import SCORE_WORDS, images_word, number, ranked, score_words, with_interval

MOST_TABLES = 12  # configurations with a table of their own


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What is said of classes, or of findings."""

    title: str
    each: str  # one of them, in captions
    column: str
    scores: tuple[str, ...]  # of each
    scores_text: str
    errors: tuple[str, ...]  # the calibration errors of a configuration
    errors_text: tuple[str, ...]
    slope_text: str


CLASSES = Wording(
    title="By class",
    each="each class against the rest",
    column="class",
    scores=("auroc", "recall", "specificity", "precision", "f1"),
    scores_text="Each class against all others: the mean over the seeds, with 95 % intervals over patients. "
    "They are exploratory. Thresholds, predictive values, the decision curve and subtypes are left out: they "
    "need one class that is positive. Each image is called the class with the largest probability.",
    errors=("ece_top", "ece"),
    errors_text=(
        "The ECE of the call compares the called class's probability with the share of right calls. The "
        "class ECE is the mean of each class's own ECE. Both (15 bins) are above 0 for a calibrated network "
        "too; the columns beside them show by how much on these images, and their intervals subtract that.",
        "In the figure, the runs of a configuration are pooled. Bars are 95 % intervals over patients.",
    ),
    slope_text="Slope below 1: the class's probabilities are too extreme. Intercept above 0: they are too "
    "low. Without a slope, the probabilities separate the class from the others.",
)


def by_class(comparison: Comparison, wording: Wording) -> Section | None:
    """The scores of each class or finding."""
    rows, names = all_rows(comparison), class_names(comparison)
    if not rows:
        return None
    images = comparison["test"]["classes"]
    areas = Table(
        caption=f"AUROC of {wording.each}, {images_word(comparison)} images",
        columns=["configuration", *(f"{name} ({images[name]:,} images)" for name in names)],
        rows=[
            [ranked(row), *(with_interval(row["classes"][name]["scores"]["auroc"]) for name in names)]
            for row in rows
        ],
    )
    tables = [_of_configuration(row, wording) for row in rows[:MOST_TABLES]]
    text = [wording.scores_text]
    if len(rows) > MOST_TABLES:
        text.append(f"The first {MOST_TABLES} configurations have a table; comparison.json has all.")
    return Section(
        title=wording.title,
        text=text,
        tables=[areas, tables[0]],
        figures=["classes"],
        details=[Details(summary=table.caption, tables=[table]) for table in tables[1:]],
    )


def _of_configuration(row: ConfigurationRow, wording: Wording) -> Table:
    return Table(
        caption=f"{ranked(row)}: {wording.each}",
        columns=[wording.column, "images / patients", *(SCORE_WORDS[score] for score in wording.scores)],
        rows=[
            [
                name,
                f"{entry['images']:,} / {entry['patients']:,}",
                *(with_interval(entry["scores"][score]) for score in wording.scores),
            ]
            for name, entry in row["classes"].items()
        ],
    )


def calibration(comparison: Comparison, wording: Wording) -> Section:
    """The calibration errors, and slope and intercept of each class or finding."""
    rows, words = all_rows(comparison), score_words(comparison)
    columns = ["configuration"]
    for score in wording.errors:
        columns += [words[score], "of a calibrated network"]
    table = Table(
        caption=f"Calibration of the {images_word(comparison)} images",
        columns=columns,
        rows=[
            [
                ranked(row),
                *(
                    cell
                    for score in wording.errors
                    for cell in (with_interval(row["scores"][score]), number(row["if_calibrated"][score]))
                ),
            ]
            for row in rows
        ],
    )
    section = Section(
        title="Calibration", text=[*wording.errors_text], tables=[table], figures=["calibration"]
    )
    clinical.add_temperatures(section, comparison)
    section.details += [_calibration_of(row, wording) for row in rows[:MOST_TABLES]]
    return section


def _calibration_of(row: ConfigurationRow, wording: Wording) -> Details:
    table = Table(
        caption=f"{ranked(row)}: calibration of {wording.each}",
        columns=[wording.column, "slope", "intercept", "ECE", "ECE of a calibrated network"],
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
    return Details(summary=table.caption, text=wording.slope_text, tables=[table])
