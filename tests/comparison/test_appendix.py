"""What backs the results up: data, cost, mistakes, reports, settings."""

from sklearn.metrics import classification_report
from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import appendix


def test_the_data_flow_has_images_and_patients() -> None:
    comparison = finished([candidate()])
    section = appendix.data(comparison)
    assert section.flow[0] == ("All usable images", "707 images of 420 patients")
    assert [name for name, _ in section.flow[1:]] == ["Training", "Validation", "Test"]
    assert section.flow[1][1] == "470 images of 300 patients: 120 normal, 350 pneumonia; fits the weights"
    assert "bacteria" in section.flow[3][1]
    comparison["splits"] = None
    missing = appendix.data(comparison)
    assert not missing.flow and "do not record the sizes" in missing.text[1]


def test_unknown_costs_are_dashes() -> None:
    comparison = finished([candidate()])
    assert appendix.cost(comparison) is None
    comparison["configurations"][0]["cost"] = {"parameters": 11.2e6, "flops": 3.6e9, "image_size": 224}
    section = appendix.cost(comparison)
    assert section is not None
    assert section.tables[0].rows == [
        ["1. resnet18", "224", "11.20 M", "3.60 G", "-", "-", "-", "-", "-", "-"]
    ]


def test_mistakes_are_shown_with_their_image_where_there_is_one() -> None:
    comparison = finished(candidates())
    first = comparison["mistakes"][0]
    section = appendix.mistakes(comparison, {first["path"]: "data:x"})
    assert section is not None and [picture.data for picture in section.pictures][:2] == ["data:x", ""]
    assert f"wrong in {first['wrong_in']} of 4 runs" in section.pictures[0].caption
    without = appendix.mistakes(comparison, {})
    assert without is not None and "data.root=DIR" in without.text[1]
    comparison["mistakes"] = []
    assert appendix.mistakes(comparison, {}) is None


def test_a_classification_report_by_hand() -> None:
    table = appendix._classification("x", [[8, 2], [1, 9]], ["NORMAL", "PNEUMONIA"])
    assert table.rows[1] == ["PNEUMONIA", "0.8182", "0.9000", "0.8571", "10"]
    assert table.rows[2] == ["accuracy", "", "", "0.8500", "20"]
    assert table.rows[3][1] == table.rows[4][1] == "0.8535"


def test_settings_list_what_differs_and_what_is_shared() -> None:
    runs = [
        candidate(config={"optim.lr": lr, "seedless": 1}, run_id=str(lr), commit="a" * 40) for lr in (1, 2)
    ]
    comparison = finished(runs)
    section = appendix.settings(comparison)
    assert [table.caption for table in section.tables] == ["What differs between the configurations"]
    assert section.tables[0].columns == ["configuration", "optim.lr"]
    assert section.details[0].tables[0].rows == [["seedless", "1"]]
    assert {row[5] for row in appendix.runs(comparison).tables[0].rows} == {"a" * 12}


def test_without_an_address_runs_are_named_but_not_linked() -> None:
    comparison = finished([candidate()])
    del comparison["about"]["runs_at"]
    assert appendix.runs(comparison).tables[0].links == [[("resnet18", "")]]


def test_open_reporting_items_are_marked() -> None:
    section = appendix.reporting(finished([candidate()]), ["Calibration"])
    table = section.tables[0]
    assert {i for i, row in enumerate(table.rows) if row[2].startswith("OPEN")} == table.marked != set()


def test_the_method_quotes_the_scheme_and_the_command() -> None:
    section = appendix.method(finished([candidate()]))
    assert section.text == ["100 draws, seed 0. Made with a command."]
    assert "default_rng(seed)" in section.details[0].text


def test_a_report_of_three_classes_is_that_of_scikit_learn() -> None:
    matrix = [[5, 1, 2], [0, 7, 3], [1, 1, 4]]
    truth = [true for true, row in enumerate(matrix) for count in row for _ in range(count)]
    called = [k for row in matrix for k, count in enumerate(row) for _ in range(count)]
    names = ["a", "b", "c"]
    expected = classification_report(truth, called, target_names=names, output_dict=True)
    table = appendix._classification("x", matrix, names)
    for row in table.rows[:3]:
        assert row[1:4] == [f"{expected[row[0]][key]:.4f}" for key in ("precision", "recall", "f1-score")]
    assert table.rows[3][3] == f"{expected['accuracy']:.4f}"
    for row, name in zip(table.rows[4:], ("macro avg", "weighted avg"), strict=True):
        assert row[1:4] == [f"{expected[name][key]:.4f}" for key in ("precision", "recall", "f1-score")]
