"""`pneumo predict`: one row per file, whatever the files are."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.commands import Ending
from support.images import picture, save
from support.model_runs import image_folder

from pneumo.data import images
from pneumo.inference import model_folder, output

Command = Callable[..., Ending]


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", errors="surrogateescape") as opened:
        return list(csv.DictReader(opened))


def test_a_row_a_file_in_order_and_the_others_go_on(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = image_folder(tmp_path)
    (folder / "2b.jpeg").write_bytes(b"no image")
    save(picture(0, 9), folder / "deeper" / "x.png")
    (folder / "notes.txt").write_text("left out")
    model = made_models["resnet18"]
    ending = command("predict", f"model={model}", f"input={folder}", "output=out.csv", "batch_size=2")
    assert ending.code == 1 and "1 could not be read" in ending.out and "Not a medical device" in ending.out
    assert "notes.txt" in ending.out and not ending.err
    rows = table(tmp_path / "out.csv")
    names = ["0.png", "1.png", "2.png", "2b.jpeg", "3.png", "4.png", "deeper/x.png"]
    assert [row["path"] for row in rows] == [str(folder / name) for name in names]
    assert "not a JPEG, PNG, TIFF" in rows[3]["error"] and not rows[3]["probability"]
    known = model_folder.read(model)
    for row in rows[:3] + rows[4:]:
        square = images.preprocess(images.read(row["path"]), **known.preprocess)
        raw = known.probabilities(square[None])
        assert float(row["probability"]) == pytest.approx(known.calibrated(raw)[0], abs=2e-6)
        assert row["decision"] == known.class_names[int(known.decide(raw)[0])] and not row["error"]
        assert float(row["threshold"]) == pytest.approx(known.threshold, abs=1e-6) and row["model"] == str(
            model
        )

    again = command("predict", f"model={model}", f"input={folder}", "output=out.json")
    listed = json.loads((tmp_path / "out.json").read_text())
    assert again.code == 1 and [entry["path"] for entry in listed] == [row["path"] for row in rows]
    for entry, row in zip(listed, rows, strict=True):
        assert (entry["decision"], entry["error"]) == (row["decision"], row["error"])
        assert str(entry["probability"] if entry["probability"] is not None else "") == row["probability"]
    one = command("predict", f"model={model}", f"input={folder / '0.png'}", "output=one.csv", "threshold=0")
    assert one.code == 0 and [row["decision"] for row in table(tmp_path / "one.csv")] == ["PNEUMONIA"]
    none = command("predict", f"model={model}", f"input={folder / '0.png'}", "output=one.csv", "threshold=1")
    assert none.code == 0 and table(tmp_path / "one.csv")[0]["decision"] == "NORMAL"


def test_what_is_written_stays_when_it_is_stopped(
    command: Command, made_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(tmp_path, 9)
    flush, calls = output.PredictionFile.flush, []

    def stopped(rows: output.PredictionFile) -> None:
        flush(rows)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(output.PredictionFile, "flush", stopped)
    for name, read in (("out.csv", table), ("out.json", lambda file: json.loads(file.read_text()))):
        calls.clear()
        arguments = (f"model={made_models['resnet18']}", f"input={folder}", f"output={name}", "batch_size=2")
        ending = command("predict", *arguments)
        assert ending.code == 130 and "stopped" in ending.err
        assert [Path(row["path"]).name for row in read(tmp_path / name)] == [
            "0.png",
            "1.png",
            "2.png",
            "3.png",
        ]


def test_overlays_lie_under_the_names_of_their_images(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install 'pneumo[explain]'")
    folder = image_folder(tmp_path, 2)
    save(picture(0, 9), folder / "deeper" / "0.png")
    (folder / "bad.png").write_bytes(b"no image")
    arguments = (f"model={made_models['densenet121']}", f"input={folder}", "output=out.csv", "explain=true")
    assert command("predict", *arguments).code == 1
    rows = {Path(row["path"]).relative_to(folder).as_posix(): row for row in table(tmp_path / "out.csv")}
    assert list(rows) == ["0.png", "1.png", "bad.png", "deeper/0.png"] and not rows["bad.png"]["overlay"]
    for name in ("0.png", "1.png", "deeper/0.png"):
        assert rows[name]["overlay"] == f"out_overlays/{name}.png"
        with Image.open(tmp_path / rows[name]["overlay"]) as overlay:
            assert overlay.width >= 2 * overlay.height - 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which model?"),
        (["model=MODEL"], "which images?"),
        (["model=MODEL", "input=nowhere"], "input=nowhere does not exist"),
        (["model=MODEL", "input=.", "output=x.txt"], "output=x.txt must end with .csv or .json"),
        (["model=MODEL", "input=.", "threshold=2"], "threshold=2.0"),
        (["model=MODEL", "input=.", "batch_size=0"], "batch_size=0"),
        (["model=MODEL", "input=.", "device=tpu"], "auto, cpu, cuda"),
        (["model=MODEL", "input=.", "explian=true"], "Did you mean explain?"),
        (["model=MODEL", "ui=true", "port=99999"], "port=99999"),
        (["model=MODEL", "input=.", "prevalence=5"], "prevalence=5 is a share of the patients"),
        (["model=MODEL", "input=.", "prevalence=[0.1,x]"], "prevalence="),
        (["model=MODEL", "input=.", "coverage=90"], "coverage=90.0 is a share"),
        (["model=MODEL", "input=.", "window=wide"], "window=wide is not a window"),
        (["model=MODEL", "input=.", "window='10,0'"], "window=10,0 is not a window"),
    ],
)
def test_wrong_usage_ends_with_two_and_one_line(
    command: Command, made_models: dict[str, Path], arguments: list[str], message: str
) -> None:
    ending = command("predict", *(word.replace("MODEL", str(made_models["resnet18"])) for word in arguments))
    assert ending.code == 2 and message in ending.err and ending.err.count("error:") == 1
    assert "Traceback" not in ending.err


def test_several_inputs_and_a_name_with_a_comma(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = image_folder(tmp_path, 2)
    odd = save(picture(0, 9), tmp_path / "a,b [1].png")
    model = f"model={made_models['resnet18']}"
    both = command("predict", model, f"input=[{folder}/0.png,{folder}]", "output=both.csv")
    assert both.code == 0, both.err
    assert [row["path"] for row in table(tmp_path / "both.csv")] == [f"{folder}/0.png", f"{folder}/1.png"]
    one = command("predict", model, f"input={odd}", "output=胸部, 1.csv")
    assert one.code == 0 and [row["path"] for row in table(tmp_path / "胸部, 1.csv")] == [str(odd)]
    missing = command("predict", model, f"input=[{odd.parent}/in,none.png]")
    assert missing.code == 2 and "input=none.png does not exist" in missing.err


def test_another_share_of_ill_changes_the_numbers_and_no_decision(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = image_folder(tmp_path, 6)
    model, asked = f"model={made_models['resnet18']}", f"input={folder}"
    plain = command("predict", model, asked, "output=plain.csv")
    assert plain.code == 0 and "the alarm threshold of PNEUMONIA is set to find 95 %" in plain.out
    moved = command("predict", model, asked, "output=moved.csv", "prevalence=0.05", "coverage=null")
    assert moved.code == 0 and "for a clinic with 5.0% PNEUMONIA (validation: 50.0%)" in moved.out
    for here, there in zip(table(tmp_path / "plain.csv"), table(tmp_path / "moved.csv"), strict=True):
        assert here["decision"] == there["decision"] and here["answer"] == there["answer"]
        odds = [float(row["probability"]) / (1 - float(row["probability"])) for row in (here, there)]
        assert odds[1] == pytest.approx(odds[0] / 19, rel=1e-2)
        assert here["prediction_set"] and not there["prediction_set"] and not here["window"]
    refused = command("predict", model, asked, "prevalence=[0.5,0.5]")
    assert refused.code == 1 and "give one share" in refused.err


def test_a_model_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 1)
    ending = command("predict", f"model={tmp_path}/none", f"input={folder}")
    assert ending.code == 1 and "is neither a folder nor a known run" in ending.err and not ending.out
