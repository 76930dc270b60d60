"""What the section and the figure of subgroups say."""

import re

import numpy as np
import pytest

from pneumo.comparison import subgroup_drawing, subgroup_sections
from pneumo.comparison.blocks import Section, Table
from pneumo.evaluation.subgroup_statistics import SubgroupResult, analyse
from pneumo.evaluation.subgroups import columns_of


def found(lower: float = 0.0, by: tuple[str, ...] = ("sex", "age", "view", "sex*age:40")) -> SubgroupResult:
    """600 patients, nine ill ones are children; `lower` is taken from the logits of women's pneumonias."""
    rng = np.random.default_rng(0)
    truth = (np.arange(600) < 350).astype(int)
    women = rng.random(600) < 0.5
    ages = rng.choice([25, 35, 55], 600)
    ages[:9] = 7
    table = {
        "sex": np.where(women, "F", "M").tolist(),
        "age": [f"{age:03d}Y" for age in ages],
        "view": ["", *rng.choice(["PA", "AP"], 599).tolist()],
    }
    logits = 3 * truth - 1.5 - lower * (women & (truth == 1)) + rng.normal(0, 1, (2, 600))
    networks = list(1 / (1 + np.exp(-logits)))
    return analyse(
        truth, networks, [0.5, 0.5], [f"p{n}" for n in range(600)], columns_of(by, table), draws=100
    )


@pytest.fixture(scope="module")
def result() -> SubgroupResult:
    return found(lower=1.5)


@pytest.fixture(scope="module")
def section(result: SubgroupResult) -> Section:
    return subgroup_sections.section(result)


def tables(section: Section) -> list[Table]:
    return [*section.tables, *(table for details in section.details for table in details.tables)]


def test_the_answer_says_which_group_is_lower_and_by_how_much(result: SubgroupResult) -> None:
    women = next(group for group in result["columns"]["sex"] if group["name"] == "F")["gaps"]["recall"]
    ends = [f"{-women[end]:.3f}".removeprefix("0") for end in ("high", "low")]
    gap = f"{-women['difference']:.3f}".removeprefix("0")
    answer = subgroup_sections.answer(result)
    assert f"Sensitivity is {gap} lower (95 % {ends[0]} to {ends[1]}) for sex F than for sex M." in answer
    assert "for sex M than" not in answer  # two groups have one gap
    shown = answer.count("Sensitivity is")
    assert answer.endswith(f"No other gap of {result['gaps']['recall']} can be shown.") and shown >= 1


def test_where_no_gap_is_shown_the_largest_is_named_with_its_interval() -> None:
    nothing = subgroup_sections.answer(found())
    assert re.fullmatch(
        r"None of 9 gaps in sensitivity can be shown. The largest: sensitivity is \.\d{3} (lower|higher) "
        r"\(95 % -?\.\d{3} to \.\d{3}\) for .+ than for .+\.",
        nothing,
    )
    alone = subgroup_sections.answer(found(by=("sex",)))
    assert alone.startswith("The gap in sensitivity cannot be shown. Sensitivity is .")


def test_without_two_groups_the_answer_says_what_is_missing() -> None:
    truth = np.arange(40) % 2
    chances = np.linspace(0, 1, 40)
    alone = analyse(truth, [chances], [0.5], [None] * 40, {"sex": ["F"] * 40}, draws=20)
    answer = subgroup_sections.answer(alone)
    assert answer == (
        "No gap in sensitivity can be tested: no column has two groups with 10 or more ill patients."
    )
    assert len(subgroup_sections.section(alone).tables) == 1


def test_few_and_not_known_patients_and_the_smallest_group_are_named(section: Section) -> None:
    text = " ".join(section.text)
    assert "corrected for the number of gaps of that score in all columns (Bonferroni): 9 in" in text
    assert "The smallest group is age under 18: 9 ill patients, 9 images." in text
    assert "fewer than 10 ill patients take part in no gap in sensitivity: age under 18 (9)." in text
    assert "view is not known of 1 image (1 patient), which take part in no gap." in text


def test_tables_have_each_group_and_the_figures_of_the_result(
    section: Section, result: SubgroupResult
) -> None:
    for table in tables(section):
        assert table.caption and all(len(row) == len(table.columns) for row in table.rows), table.caption
        assert all(isinstance(cell, str) for row in table.rows for cell in row)
    scores, gaps = section.tables[:2]
    assert [row[0] for row in scores.rows] == ["F", "M", "all images"] and scores.marked == {2}
    women = result["columns"]["sex"][0]
    assert scores.rows[0][3] == f"{women['by_class'][1]} / {women['by_class'][0]}"
    assert scores.rows[0][4].startswith(f"{women['scores']['recall']['value']:.4f} (")
    assert gaps.caption == "sex: gaps in sensitivity, corrected for 9 gaps"
    assert gaps.rows[0][0] == "F" and gaps.rows[0][-1] == "lower than the others"
    assert gaps.rows[0][3] == f"{women['gaps']['recall']['difference']:+.4f}"
    ages = next(table for table in section.tables if table.caption.startswith("age: scores"))
    assert ages.rows[0][0] == "under 18" and ages.rows[0][4].endswith(", few") and ages.rows[0][6] == "-"
    assert ages.caption.endswith("few: fewer than 10 patients of a class")


def test_intersections_and_exploratory_scores_are_folded(section: Section) -> None:
    assert not any("sex and age" in table.caption for table in section.tables)
    summaries = [details.summary for details in section.details]
    assert summaries == [
        "Intersections: sex and age",
        "Gaps in specificity (exploratory)",
        "Gaps in AUROC (exploratory)",
    ]
    rows = [row[0] for row in section.details[0].tables[0].rows]
    assert rows == ["F, under 40", "F, 40 and over", "M, under 40", "M, 40 and over", "all images"]


def test_the_figure_has_a_row_for_each_group_with_its_size(result: SubgroupResult) -> None:
    figure = subgroup_drawing.draw(result)
    assert figure is not None
    (axes,) = figure.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    women = result["columns"]["sex"][0]
    assert names[0] == f"sex F ({women['by_class'][1]})" and "age under 18 (9)" in names
    assert names[-1].startswith("sex M and age 40 and over (")
    points = {line.get_ydata()[0]: line for line in axes.lines if line.get_marker() == "o"}
    assert points[len(names) - 1].get_xdata()[0] == women["scores"]["recall"]["value"]
    hollow = {names[len(names) - 1 - int(place)] for place, line in points.items()
              if line.get_markerfacecolor() == "white"}  # fmt: skip
    assert {name.rsplit(" (")[0] for name in hollow} >= {"age under 18"}
    assert axes.lines[0].get_xdata()[0] == result["whole"]["scores"]["recall"]["value"]


def test_the_figure_is_rendered_for_the_page_and_the_folder(result: SubgroupResult) -> None:
    rendered = subgroup_drawing.render(result)["subgroups"]
    assert rendered.png.startswith(b"\x89PNG") and rendered.svg.startswith("<svg ")
    assert subgroup_drawing.caption(result).startswith("Sensitivity of each group")
    assert "Orange: the gap" in subgroup_drawing.caption(result)
    assert "Orange" not in subgroup_drawing.caption(found())


def test_a_hostile_name_of_a_group_stays_text() -> None:
    truth = np.arange(80) % 2
    name = r"$\bad{<script>"
    sex = {"a$b": [name if number % 4 < 2 else "M" for number in range(80)]}
    hostile = analyse(truth, [np.linspace(0, 1, 80)], [0.5], [None] * 80, sex, draws=20)
    svg = subgroup_drawing.render(hostile)["subgroups"].svg
    assert "<script>" not in svg and "&lt;script&gt;" in svg


def test_more_classes_have_their_own_words() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 240)
    logits = rng.normal(0, 1, (240, 3)) + 1.5 * np.eye(3)[truth]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    site = rng.choice(["A", "B"], 240).tolist()
    many = analyse(truth, [chances], [], [None] * 240, {"site": site}, draws=50)
    section = subgroup_sections.section(many)
    assert "balanced accuracy" in section.verdicts[0].lower() and "threshold" not in section.text[0]
    assert section.tables[0].columns == [
        *("group", "images", "patients", "smallest class", "balanced accuracy", "macro AUROC"),
    ]
    assert "patients of the smallest class" in subgroup_drawing.caption(many)
