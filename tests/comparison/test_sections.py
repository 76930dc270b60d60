"""The tables of the page's results."""

import pytest
from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import sections
from pneumo.comparison.blocks import PageContent, Section
from pneumo.comparison.content import Comparison

HISTORY = [
    {"epoch": 1, "val/auroc": 0.9, "test/accuracy": 0.80, "test/f1": 0.9},
    {"epoch": 2, "val/auroc": 0.8, "test/accuracy": 0.95, "test/f1": 0.7},
    {"epoch": 3, "val/auroc": 0.7, "test/accuracy": 0.85, "test/f1": 0.6},
]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return finished([*candidates(), candidate(protocol="test_selected", history=HISTORY)])


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> PageContent:
    return sections.page(comparison, {})


def section(page: PageContent, title: str) -> Section:
    return next(section for section in page.sections if section.title == title)


def test_sections_come_in_order_with_their_own_anchors(page: PageContent) -> None:
    titles = [section.title for section in page.sections]
    assert titles[:4] == ["In short", "Ranking", "Paired differences", "Ensembles"]
    assert titles[-3:] == ["What this comparison does not show", "Reporting items", "How it was made"]
    anchors = [section.anchor for section in page.sections]
    assert anchors[0] == "in-short" and len(set(anchors)) == len(anchors)


def test_every_table_is_rectangular(page: PageContent) -> None:
    tables = [table for section in page.sections for table in section.tables]
    tables += [table for s in page.sections for details in s.details for table in details.tables]
    assert len(tables) > 20
    for table in tables:
        assert table.caption and all(len(row) == len(table.columns) for row in table.rows), table.caption
        assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_the_ranking_never_lists_optimistic_runs(page: PageContent, comparison: Comparison) -> None:
    ranking = section(page, "Ranking").tables[0]
    assert [row[0] for row in ranking.rows] == ["1. resnet18", "2. resnet50"]
    value = comparison["configurations"][0]["scores"]["auroc"]["value"]
    assert ranking.rows[0][2].startswith(f"{value:.4f} (")


def test_choosing_on_test_is_shown_beside_honest_choices(page: PageContent) -> None:
    tables = section(page, "As the student report shows it").tables
    assert [row[-1] for row in tables[0].rows] == [
        "epoch chosen on validation",
        "OPTIMISTIC: epoch chosen on test",
        "epoch chosen on validation",
    ]
    assert tables[2].rows == [
        [
            "resnet18, seed 0",
            "0.9500 (epoch 2)",
            "0.9000 (epoch 1)",
            "0.8000 (epoch 1)",
            "0.8500",
            "0.8500",
        ]
    ]


def test_pair_tables_have_their_companion_tests(page: PageContent) -> None:
    paired = section(page, "Paired differences")
    assert [table.caption for table in paired.tables] == ["Differences in AUROC", "Differences in accuracy"]
    assert paired.tables[1].columns[-1] == "only first / only second right"
    assert paired.tables[0].columns[-2:] == ["DeLong p", "DeLong p, Holm"]
    assert paired.tables[0].columns[2:4] == ["over seeds and patients", "p, Holm"]
    assert len(paired.details) == 9


def test_of_many_pairs_only_those_with_the_first_are_shown() -> None:
    runs = [candidate(seed=0, config={"optim.lr": n}, run_id=str(n)) for n in range(11)]
    many = finished(runs, draws=50)
    assert len(many["pairs"]) == 55 > sections.MOST_PAIRS
    paired = section(sections.page(many, {}), "Paired differences")
    assert len(paired.tables[0].rows) == 10 and "10 pairs with the first" in paired.text[1]


def test_matrices_have_counts_and_shares(page: PageContent, comparison: Comparison) -> None:
    groups = section(page, "Confusion matrices").matrices
    assert [group.title for group in groups] == ["Test images", "Validation images"]
    assert [matrix.name for matrix in groups[0].matrices][-1] == "resnet18, seed 0 (optimistic)"
    (tn, fp), _ = comparison["configurations"][0]["confusion"][0]
    cells = groups[0].matrices[0].lines[0].cells
    assert [cell.count for cell in cells] == [tn, fp] and cells[0].share == f"{tn / (tn + fp):.1%}"


def test_sections_without_data_are_left_out() -> None:
    run = candidate()
    run.test.patients[:] = [None] * len(run.test.patients)
    titles = [section.title for section in sections.page(finished([run]), {}).sections]
    assert not {"By subtype", "Paired differences", "Ensembles", "Cost"} & set(titles)
