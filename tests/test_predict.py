"""`pneumo predict`: one row per file, whatever the files are."""

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image
from support.commands import Ending, environment
from support.images import picture, save
from support.model_runs import image_folder

from pneumo.data import images
from pneumo.inference import model_folder, output
from pneumo.inference.predictor import Prediction

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


def test_a_stopped_prediction_leaves_the_old_output_and_continues(
    command: Command, made_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(tmp_path, 9)
    (folder / "5b.png").write_bytes(b"no image")
    flush, calls = output.PredictionFile.flush, []

    def stopped(rows: output.PredictionFile) -> None:
        flush(rows)
        calls.append(1)
        if len(calls) == 3:  # the first is of the links
            raise KeyboardInterrupt

    for name, old in (("out.csv", "path\nold\n"), ("out.json", "[]")):
        arguments = (f"model={made_models['resnet18']}", f"input={folder}", "batch_size=2")
        whole = command("predict", *arguments, f"output=whole{Path(name).suffix}")
        assert whole.code == 1
        (tmp_path / name).write_text(old)
        calls.clear()
        with monkeypatch.context() as patched:
            patched.setattr(output.PredictionFile, "flush", stopped)
            ending = command("predict", *arguments, f"output={name}")
        assert ending.code == 130 and "stopped after 4 of 10 files" in ending.out
        assert "add resume=true" in ending.out and (tmp_path / name).read_text() == old
        side = tmp_path / f"{name}.part"
        with side.open("a") as torn:
            torn.write('{"row": {"path"')
        assert len(side.read_text().splitlines()) == 6
        other = command("predict", *arguments, f"output={name}", "resume=true", "threshold=0.3")
        assert other.code == 1 and "threshold was null and is 0.3" in other.err
        assert "4 rows" in other.err and side.is_file()
        ending = command("predict", *arguments, f"output={name}", "resume=true")
        assert ending.code == 1 and "4 rows are in out" in ending.out, ending.err
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole{Path(name).suffix}").read_bytes()
        assert whole.out.splitlines()[0].partition(";")[0] in ending.out, "the counts are those of all files"
        assert not side.exists()


def test_a_stopped_prediction_begins_again_unless_resume_is_set(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = image_folder(tmp_path, 2)
    arguments = (f"model={made_models['resnet18']}", f"input={folder}", "output=out.csv")
    none = command("predict", *arguments, "resume=true")
    assert none.code == 0 and "holds no row" in none.out
    with output.PredictionFile(tmp_path / "out.csv") as file, suppress(RuntimeError):
        file.write(Prediction(path="old.png"))
        file.flush()
        shutil.copy(tmp_path / "out.csv.part", tmp_path / "kept")
    shutil.move(tmp_path / "kept", tmp_path / "out.csv.part")
    again = command("predict", *arguments)
    assert again.code == 0 and "1 rows of a stopped prediction are given up" in again.out
    assert [Path(row["path"]).name for row in table(tmp_path / "out.csv")] == ["0.png", "1.png"]


def test_a_killed_prediction_continues_to_the_same_bytes(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = image_folder(tmp_path, 4)
    for number in range(4, 400):
        os.link(folder / f"{number % 4}.png", folder / f"{number}.png")
    (folder / "7b.png").write_bytes(b"no image")
    arguments = [f"model={made_models['resnet18']}", f"input={folder}", "batch_size=3", "num_workers=2"]
    for name in ("out.csv", "out.json"):
        (tmp_path / name).write_text("what was there before")
        side = tmp_path / f"{name}.part"
        process = subprocess.Popen(
            [sys.executable, "-m", "pneumo", "predict", *arguments, f"output={name}"],
            cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and (not side.exists() or side.read_bytes().count(b"\n") < 10):
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert (tmp_path / name).read_text() == "what was there before"
        rows = side.read_bytes().count(b"\n") - 1
        assert 9 <= rows < 401
        continued = command("predict", *arguments, f"output={name}", "resume=true")
        assert continued.code == 1 and "the prediction continues after them" in continued.out
        undisturbed = command("predict", *arguments, f"output=whole{Path(name).suffix}")
        assert undisturbed.code == 1
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole{Path(name).suffix}").read_bytes()


def test_without_captum_nothing_is_touched(
    command: Command, made_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(tmp_path, 1)
    (tmp_path / "out.csv").write_text("path\nold\n")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "captum" else find_spec(name, *more)
    )
    ending = command(
        "predict", f"model={made_models['resnet18']}", f"input={folder}", "output=out.csv", "explain=true"
    )
    assert ending.code == 1 and "explain=true needs captum: pip install 'pneumo[explain]'" in ending.err
    assert (tmp_path / "out.csv").read_text() == "path\nold\n"
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv"]


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
            assert overlay.width == 60 * 7 and overlay.height > 48 * 7, "enlarged, with a legend below"


def test_overlays_of_long_names_do_not_collide(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install 'pneumo[explain]'")
    names = ["a" * 240 + f"{number}.png" for number in range(2)] + ["肺" * 80 + ".png", "x\udcff.png"]
    for number, name in enumerate(names):
        save(picture(0, number), tmp_path / "in" / name)
    ending = command(
        "predict", f"model={made_models['resnet18']}", "input=in", "output=out.csv", "explain=true"
    )
    assert ending.code == 0, ending.err
    overlays = [row["overlay"] for row in table(tmp_path / "out.csv")]
    assert len({*overlays}) == 4 and all((tmp_path / overlay).is_file() for overlay in overlays)
    assert all(len(os.fsencode(Path(overlay).name)) < 240 for overlay in overlays)


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


def test_a_model_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 1)
    ending = command("predict", f"model={tmp_path}/none", f"input={folder}")
    assert ending.code == 1 and "is neither a folder nor a known run" in ending.err and not ending.out
