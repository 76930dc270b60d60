"""The output file of a prediction: the same values in CSV and JSON, whole at any moment."""

import csv
import json
from pathlib import Path

import pytest
from support.model_runs import FINDINGS, image_folder

from pneumo import UserError
from pneumo.inference import inputs, model_folder, output
from pneumo.inference.predictor import ClassChance, Prediction, Predictor
from pneumo.names import CLASS_NAMES

GOOD = Prediction(
    path="a,b\n.png",
    probability=0.12345678,
    decision="NORMAL",
    threshold=0.5,
    model="pneumo 3",
    warnings=["seems upside down", "colour in 30% of the pixels: an X-ray has none"],
)
ODD = Prediction(path="x\udcff.png", probability=float("nan"), threshold=None)
BAD = Prediction(path="bad.png", model="pneumo 3", error="not a JPEG, PNG, TIFF")


def test_csv_and_json_hold_the_same_values(tmp_path: Path) -> None:
    for name in ("out.csv", "deeper/out.json"):
        with output.PredictionFile(tmp_path / name) as file:
            for prediction in (GOOD, ODD, BAD):
                file.write(prediction)
    with (tmp_path / "out.csv").open(newline="", errors="surrogateescape") as opened:
        rows = list(csv.DictReader(opened))
    listed = json.loads((tmp_path / "deeper" / "out.json").read_text(errors="surrogateescape"))
    assert list(rows[0]) == [*output.COLUMNS, *output.LATER] == list(listed[0])
    assert (
        [row["path"] for row in rows] == [row["path"] for row in listed] == [p.path for p in (GOOD, ODD, BAD)]
    )
    assert [row["probability"] for row in rows] == ["0.123457", "", ""]
    assert [row["probability"] for row in listed] == [0.123457, None, None]
    assert rows[0]["warnings"] == "; ".join(GOOD.warnings) and listed[0]["warnings"] == GOOD.warnings
    assert rows[2]["error"] == listed[2]["error"] == BAD.error


def test_a_withheld_decision_is_null_and_says_why(tmp_path: Path) -> None:
    of_two = Prediction(path="a.png", probability=0.9, threshold=0.5, withheld="blank", warnings=["blank"])
    of_three = Prediction(path="a.png", classes=CHANCES, withheld="blank", warnings=["blank"])
    for row, names, keys in (
        (of_two, CLASS_NAMES, ["decision"]),
        (of_three, THREE_CLASSES, ["prediction", "reached"]),
    ):
        for name in ("out.csv", "out.json"):
            with output.PredictionFile(tmp_path / name, names) as file:
                file.write(row)
        with (tmp_path / "out.csv").open(newline="") as opened:
            (line,) = csv.DictReader(opened)
        (entry,) = json.loads((tmp_path / "out.json").read_text())
        assert line["withheld"] == entry["withheld"] == "blank"
        assert [line[key] for key in keys] == [""] * len(keys)
        assert [entry[key] for key in keys] == [None] * len(keys)


def test_json_is_whole_also_without_rows(tmp_path: Path) -> None:
    with output.PredictionFile(tmp_path / "none.json"):
        pass
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["none.json"]


def test_after_an_error_the_old_file_and_the_new_rows_stay(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text("[1]")
    with pytest.raises(KeyboardInterrupt), output.PredictionFile(tmp_path / "cut.json") as file:
        file.write(GOOD)
        raise KeyboardInterrupt
    assert (tmp_path / "cut.json").read_text() == "[1]"
    with output.PredictionFile(tmp_path / "cut.json", resume=True) as file:
        assert len(file.side) == 1
        file.write(BAD)
    assert [row["path"] for row in json.loads((tmp_path / "cut.json").read_text())] == [GOOD.path, BAD.path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"output=.*out\.csv cannot be written"),
        output.PredictionFile(tmp_path / "file" / "out.csv"),
    ):
        pass


THREE_CLASSES = ("NORMAL", "viral, other", "bacterial")
CHANCES = [
    ClassChance(name, chance, 0.25) for name, chance in zip(THREE_CLASSES, (0.2, 0.3, 0.5), strict=True)
]


def test_more_than_two_classes_have_a_column_for_each(tmp_path: Path) -> None:
    row = Prediction(
        path="a.png", decision="bacterial", model="pneumo 3", classes=CHANCES, warnings=["w", "v"]
    )
    for name in ("out.csv", "out.json"):
        with output.PredictionFile(tmp_path / name, THREE_CLASSES) as file:
            file.write(row)
            file.write(BAD)
    with (tmp_path / "out.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    listed = json.loads((tmp_path / "out.json").read_text())
    assert (
        list(rows[0])
        == list(listed[0])
        == [
            *("path", "prediction", "p_NORMAL", "p_viral, other", "p_bacterial", "reached"),
            *("threshold_NORMAL", "threshold_viral, other", "threshold_bacterial"),
            *("model", "warnings", "error", "overlay", *output.LATER),
        ]
    )
    assert [rows[0][f"p_{name}"] for name in THREE_CLASSES] == ["0.2", "0.3", "0.5"]
    assert rows[0]["prediction"] == listed[0]["prediction"] == "bacterial"
    assert rows[0]["reached"] == "viral, other; bacterial" and rows[0]["threshold_NORMAL"] == "0.25"
    assert listed[0]["reached"] == ["viral, other", "bacterial"] and listed[0]["p_NORMAL"] == 0.2
    assert rows[1]["p_NORMAL"] == rows[1]["prediction"] == rows[1]["reached"] == ""
    assert listed[1]["p_NORMAL"] is None and listed[1]["reached"] == [] and listed[1]["error"] == BAD.error


def test_findings_have_the_same_columns_and_none_is_an_empty_prediction(tmp_path: Path) -> None:
    names = ("Edema", "Mass")
    both = [ClassChance(name, 0.6, 0.25) for name in names]
    none = [ClassChance(name, 0.1, 0.25) for name in names]
    for name in ("out.csv", "out.json"):
        with output.PredictionFile(tmp_path / name, names) as file:
            file.write(Prediction(path="a.png", decision="Edema|Mass", model="m", classes=both))
            file.write(Prediction(path="b.png", model="m", classes=none))
    with (tmp_path / "out.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    listed = json.loads((tmp_path / "out.json").read_text())
    assert list(rows[0])[:7] == [
        *("path", "prediction", "p_Edema", "p_Mass", "reached", "threshold_Edema", "threshold_Mass")
    ]
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in listed] == ["Edema|Mass", ""]
    assert [row["reached"] for row in rows] == ["Edema; Mass", ""]
    assert [row["reached"] for row in listed] == [["Edema", "Mass"], []]


def test_an_image_counts_for_each_finding_that_it_is_predicted_to_have(
    made_of_findings: Path, tmp_path: Path
) -> None:
    found = inputs.find(image_folder(tmp_path, 3))
    (Path(found.files[0]).parent / "bad.png").write_bytes(b"no image")
    found = inputs.find(Path(found.files[0]).parent)
    for threshold, expected in ((0.0, dict.fromkeys(FINDINGS, 3)), (1.0, {output.NO_FINDING: 3})):
        predictor = Predictor(model_folder.read(made_of_findings), threshold=threshold)
        counts: dict[str, int] = {}
        with output.PredictionFile(tmp_path / "out.csv", FINDINGS) as file:
            output.write_all(predictor, found, file, counts, batch_size=4)
        assert counts == {output.UNREADABLE: 1, **expected}
