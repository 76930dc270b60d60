"""The tables of the page's results."""

import pytest
from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import sections
from pneumo.comparison.blocks import PageContent, Section
from pneumo.comparison.content import Comparison, all_rows
from pneumo.comparison.words import MOST_PAIRS, compact

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
    assert titles[:5] == ["Conclusions", "Warnings", "What this does not show", "All scores", "Pairs"]
    assert titles[-3:] == ["Runs", "Reporting items", "How it was made"]
    assert [section.title for section in page.sections if section.open] == ["Conclusions", "Warnings"]
    anchors = [section.anchor for section in page.sections]
    assert anchors[2] == "what-this-does-not-show" and len(set(anchors)) == len(anchors)


def test_every_table_is_rectangular(page: PageContent) -> None:
    tables = [table for section in page.sections for table in section.tables]
    tables += [table for s in page.sections for details in s.details for table in details.tables]
    assert len(tables) > 20
    for table in tables:
        assert table.caption and all(len(row) == len(table.columns) for row in table.rows), table.caption
        assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_the_ranking_never_lists_optimistic_runs(page: PageContent, comparison: Comparison) -> None:
    scores = section(page, "All scores").tables[0]
    assert [row[0] for row in scores.rows] == ["1. resnet18", "2. resnet50"]
    value = comparison["configurations"][0]["scores"]["auroc"]["value"]
    assert scores.rows[0][2].startswith(f"{value:.4f} (")
    assert page.ranking is not None and not page.ranking.rest
    assert [place.name for place in page.ranking.places] == ["resnet18", "resnet50"]


def test_the_first_table_marks_validations_choice_and_links_every_run(
    page: PageContent, comparison: Comparison
) -> None:
    assert page.ranking is not None and comparison["choice"] is not None
    chosen = [row["id"] == comparison["choice"]["id"] for row in comparison["configurations"]]
    assert [place.chosen for place in page.ranking.places] == chosen
    first, row = page.ranking.places[0], comparison["configurations"][0]
    assert first.score == compact(row["scores"]["auroc"])
    assert page.ranking.further == ["SD of seeds", "val. AUROC", "accuracy"]
    address = comparison["about"]["runs_at"]
    assert first.runs == [(str(run["seed"]), address + run["run_id"]) for run in row["runs"]]
    assert "pneumo ui tracking.experiment=pneumo" in page.ranking.note
    listed = section(page, "Runs").tables[0]
    assert [link.href for (link,) in listed.links] == [
        address + run["run_id"] for row in all_rows(comparison) for run in row["runs"]
    ]


def test_a_long_ranking_is_folded_and_many_seeds_lead_to_the_runs() -> None:
    runs = [candidate(seed=0, config={"optim.lr": n}, run_id=str(n)) for n in range(14)]
    ranking = sections.page(finished(runs, draws=50), {}).ranking
    assert ranking is not None and (len(ranking.places), len(ranking.rest)) == (12, 2)
    many = sections.page(finished([candidate(seed=seed) for seed in range(6)], draws=50), {}).ranking
    assert many is not None and many.places[0].runs == [("6 runs", "#runs")]


def test_left_out_and_unscored_runs_are_listed_with_the_warnings() -> None:
    comparison = finished([candidate(scored=False), candidate("resnet50", scored=False)])
    comparison["left_out"] = [{"run": "a run", "reason": "a reason"}]
    found = section(sections.page(comparison, {}), "Warnings")
    assert found.tables[0].rows == [["a run", "a reason"]]
    assert found.tables[1].rows[0] == ["resnet18-0", "pneumo evaluate model=resnet180 split=test"]


def test_choosing_on_test_is_shown_beside_honest_choices(page: PageContent) -> None:
    tables = section(page, "Best of each model").tables
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
            "val/auroc",
            "0.8500",
            "0.8500",
        ]
    ]


@pytest.mark.parametrize(("monitor", "epoch"), [("val/loss", 3), ("val/accuracy", 2), ("val/f1", None)])
def test_the_runs_own_monitor_says_which_epoch_validation_would_choose(
    monitor: str, epoch: int | None
) -> None:
    history = [
        {"epoch": e, "test/accuracy": e / 10, "val/loss": 1 / e, "val/accuracy": a, "val/auroc": 1 - e / 10}
        for e, a in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.9))
    ]
    history[3]["val/loss"] = 2.0
    config = {"model.name": "resnet18", "trainer.monitor": monitor}
    run = candidate(protocol="test_selected", history=history, config=config)
    (row,) = section(sections.page(finished([run, candidate()]), {}), "Best of each model").tables[2].rows
    assert row[3] == (f"{epoch / 10:.4f} (epoch {epoch})" if epoch else "-") and row[4] == monitor
    assert row[5] == "0.2500"  # between the two middle epochs


def test_pair_tables_have_their_companion_tests(page: PageContent) -> None:
    paired = section(page, "Pairs")
    assert [table.caption for table in paired.tables] == ["Differences in AUROC", "Differences in accuracy"]
    assert paired.tables[1].columns[-1] == "only first / only second right"
    assert paired.tables[0].columns[-2:] == ["DeLong p", "DeLong p, Holm"]
    assert paired.tables[0].columns[2:4] == ["over seeds and patients", "p, Holm"]
    assert [row[0] for row in paired.tables[0].rows] == ["resnet18 minus resnet50"]
    assert len(paired.details) == 9


def test_of_many_pairs_only_those_with_the_first_are_shown() -> None:
    runs = [candidate(seed=0, config={"optim.lr": n}, run_id=str(n)) for n in range(11)]
    many = finished(runs, draws=50)
    assert len(many["pairs"]) == 55 > MOST_PAIRS
    paired = section(sections.page(many, {}), "Pairs")
    assert len(paired.tables[0].rows) == 10 and "10 pairs with the first" in paired.text[1]
    assert paired.tables[0].columns[0] == f"{many['configurations'][0]['name']} minus"


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
    assert not {"By subtype", "Pairs", "Ensembles", "Cost"} & set(titles)
