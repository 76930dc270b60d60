"""Calibration, thresholds and the decision curve as tables."""

import pytest
from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import clinical
from pneumo.comparison.blocks import Section
from pneumo.comparison.content import Comparison


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return finished([*candidates(), candidate(protocol="test_selected")])


@pytest.fixture(scope="module")
def found(comparison: Comparison) -> dict[str, Section]:
    return {section.title: section for section in clinical.sections(comparison)}


def test_every_table_is_rectangular(found: dict[str, Section]) -> None:
    assert list(found) == ["Calibration", "Thresholds", "Decision curve"]
    tables = [table for section in found.values() for table in section.tables]
    tables += [table for section in found.values() for details in section.details for table in details.tables]
    assert len(tables) == 12
    for table in tables:
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows), table.caption
        assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_each_threshold_rule_has_a_table(found: dict[str, Section], comparison: Comparison) -> None:
    tables = found["Thresholds"].tables
    assert [len(table.rows) for table in tables] == [3, 3, 3] and len(tables) == len(clinical.RULE_WORDS)
    point = comparison["configurations"][0]["points"]["youden"]
    assert tables[2].rows[0][1] == ", ".join(f"{value:.4f}" for value in point["thresholds"])
    (predictive,) = found["Thresholds"].details[0].tables
    values = comparison["configurations"][0]["points"]["half"]["predictive_values"]["0.1"]
    assert predictive.rows[0][1] == "10.0%"
    assert predictive.rows[0][2].startswith(f"{values['ppv']:.3f} ({values['ppv_low']:.3f}")


def test_deployed_thresholds_are_compared_and_called_exploratory(
    found: dict[str, Section], comparison: Comparison
) -> None:
    details = [details for details in found["Thresholds"].details if "Differences" in details.summary]
    assert len(details) == 2 and all("exploratory" in entry.summary for entry in details)
    (table,) = details[0].tables
    entry = comparison["pairs"][0]["points"]["sensitivity_95"]["recall"]
    assert table.rows[0][:3] == [
        "1. resnet18 minus 2. resnet50",
        "sensitivity",
        f"{entry['difference']:+.4f}",
    ]
    assert [row[1] for row in table.rows] == ["sensitivity", "specificity", "balanced accuracy"]


def test_one_seed_is_about_the_networks_only() -> None:
    one = finished([candidate("resnet18", 0, 2.0), candidate("resnet50", 0, 1.5)])
    section = clinical.sections(one)[1]
    details = section.details[-1]
    assert details.tables[0].rows[0][3:5] == ["one seed", "-"]
    assert "between these trained networks only" in details.text


def test_calibration_shows_what_a_calibrated_network_would(
    found: dict[str, Section], comparison: Comparison
) -> None:
    row = comparison["configurations"][0]
    cells = found["Calibration"].tables[0].rows[0]
    assert cells[1].startswith(f"{row['calibration']['slope']['value']:.4f} (")
    assert cells[4] == f"{row['calibration']['ece_if_calibrated']:.4f}"
    assert "Temperature" in found["Calibration"].tables[1].caption
    one_class = candidate()
    one_class.val.labels[:] = 1
    assert len(clinical.sections(finished([one_class]))[0].tables) == 1  # no temperature


def test_the_decision_table_ends_with_what_needs_no_model(
    found: dict[str, Section], comparison: Comparison
) -> None:
    table = found["Decision curve"].tables[0]
    assert [row[0] for row in table.rows[-2:]] == ["treat all", "treat none"]
    assert table.columns[1] == "at 5%" and set(table.rows[-1][1:]) == {"0.000"}
    benefit = comparison["configurations"][0]["net_benefit"][comparison["decision"]["thresholds"].index(0.5)]
    assert table.rows[0][5] == f"{benefit:.3f}"
