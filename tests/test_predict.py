"""`pneumo predict`: one row per file, whatever the files are."""

import csv
import hashlib
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

import numpy as np
import pytest
import torch
from PIL import Image
from support import odd_files
from support.commands import Ending, environment
from support.images import picture, save
from support.model_runs import image_folder

from pneumo import __version__
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
    for number in range(4, 160):
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
        assert 9 <= rows < 161
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


def test_the_same_folder_twice_gives_the_same_rows(
    command: Command, made_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install 'pneumo[explain]'")
    monkeypatch.chdir(image_folder(tmp_path, 2))
    arguments = (f"model={made_models['resnet18']}", "input=.", "explain=true")
    first = command("predict", *arguments)
    before = Path("predictions.csv").read_bytes()
    for more in ([], ["output=second.csv"], []):
        again = command("predict", *arguments, *more)
        assert again.code == 0
        assert [row["path"] for row in table(Path("predictions.csv"))] == ["./0.png", "./1.png"]
    assert Path("predictions.csv").read_bytes() == before and "left out" not in first.out


def test_the_name_of_a_file_does_not_steer_the_terminal(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = image_folder(tmp_path, 1)
    for name in ("bad\x1b[31m.png", "not utf-8 \udcff.png", "left\x1b[2J\udcff.txt"):
        (folder / name).write_bytes(b"no image")
    ending = command("predict", f"model={made_models['resnet18']}", f"input={folder}", "output=o\x1b[1m.csv")
    assert ending.code == 1 and "\x1b" not in ending.out + ending.err
    assert r"left\x1b[2J\udcff.txt" in ending.out and r"could not be read: " in ending.out
    assert [row["path"] for row in table(tmp_path / "o\x1b[1m.csv")][1:] == [
        str(folder / "bad\x1b[31m.png"),
        str(folder / "not utf-8 \udcff.png"),
    ]


def test_the_first_ten_unreadable_files_are_listed(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = image_folder(tmp_path, 1)
    for number in range(12):
        (folder / f"bad{number:02d}.png").write_bytes(b"no image")
    ending = command("predict", f"model={made_models['resnet18']}", f"input={folder}", "output=out.csv")
    listed = [line for line in ending.out.splitlines() if line.startswith("could not be read: ")]
    assert ending.code == 1 and len(listed) == 10 and "bad00.png: not a JPEG" in listed[0]
    assert "and 2 more: see the column error" in ending.out and "12 could not be read" in ending.out


def test_a_file_that_is_slow_to_read_gets_an_error_and_the_others_go_on(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    """49 megapixels of 16 bits take a second, and small images milliseconds."""
    folder = image_folder(tmp_path)
    rows = np.arange(7000, dtype=np.uint16)[:, None] + np.zeros(7000, np.uint16)
    Image.fromarray(rows).save(folder / "2b.png", compress_level=1)
    arguments = (f"model={made_models['resnet18']}", f"input={folder}", "num_workers=1")
    ending = command("predict", *arguments, "file_timeout_s=0.2")
    assert ending.code == 1 and "1 could not be read" in ending.out
    known = table(tmp_path / "predictions.csv")
    assert [Path(row["path"]).name for row in known if row["error"]] == ["2b.png"]
    assert known[3]["error"] == "it took more than 0.2 seconds to read" and not known[3]["probability"]
    for limit in ("600", "null"):
        ending = command("predict", *arguments, f"file_timeout_s={limit}")
        assert ending.code == 0 and not any(row["error"] for row in table(tmp_path / "predictions.csv"))
    ending = command("predict", *arguments, "file_timeout_s=0")
    assert ending.code == 2 and "file_timeout_s=0.0 must be above 0" in ending.err


def test_an_archive_of_dicom_files_is_skipped_by_kind(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    shipped = Path(pydicom.__file__).parent / "data" / "test_files"
    deep = np.arange(48 * 60, dtype=np.uint16).reshape(48, 60)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(odd_files.dicom(deep, modality="DX"))
    for name in ("CT_small.dcm", "MR_small.dcm", "DICOMDIR", "reportsi.dcm", "rtplan.dcm"):
        shutil.copy(next(shipped.rglob(name)), folder)
    (folder / "cut.dcm").write_bytes(odd_files.dicom(deep)[:300])
    model = f"model={made_models['resnet18']}"
    ending = command("predict", model, f"input={folder}", "output=out.csv", "dicom_uids=true")
    assert "5 DICOM files are not radiographs and were skipped: " in ending.out, ending.out + ending.err
    for kind in ("1 CT", "1 MR", "1 DICOMDIR", "1 SR", "1 RT"):
        assert kind in ending.out
    rows = table(tmp_path / "out.csv")
    assert [Path(row["path"]).name for row in rows] == ["1.dcm", "cut.dcm"] and ending.code == 1
    assert [*rows[0]][-2:] == ["study_uid", "sop_uid"] and not rows[0]["error"]
    facts = json.loads((tmp_path / "out.csv.provenance.json").read_text())
    assert facts["outcomes"]["skipped: CT"] == 1 and facts["settings"]["dicom_uids"] is True
    named = command("predict", model, f"input={folder / 'CT_small.dcm'}", "output=one.csv")
    assert named.code == 1 and "modality CT; only CR, DX, RG can be chest X-rays" in named.out
    (folder / "1.dcm").unlink()
    (folder / "cut.dcm").unlink()
    none = command("predict", model, f"input={folder}", "output=none.csv")
    assert none.code == 1 and "nothing; none.csv" in none.out and table(tmp_path / "none.csv") == []


def test_the_provenance_says_what_made_the_output(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = image_folder(tmp_path, 2)
    model = made_models["resnet18"]
    uri = f"tracking.uri=http://me:secret@127.0.0.1:{1}"
    assert command("predict", f"model={model}", f"input={folder}", "output=a b.csv", uri).code == 0
    facts = json.loads((tmp_path / "a b.csv.provenance.json").read_text())
    assert facts["output_sha256"] == hashlib.sha256((tmp_path / "a b.csv").read_bytes()).hexdigest()
    weights = hashlib.sha256((model / "checkpoints" / "best.safetensors").read_bytes()).hexdigest()
    assert facts["model"]["weights_sha256"] == weights and facts["model"]["version"] == str(model)
    assert facts["pneumo"] == __version__ and facts["command"].startswith("pneumo predict model=")
    assert "secret" not in json.dumps(facts) and "'output=a b.csv'" in facts["command"]
    assert facts["backend"]["torch"] == torch.__version__ and facts["backend"]["precision"] == "float32"
    assert facts["settings"]["threshold"] is None and "weights" not in facts["settings"]
    assert sum(facts["outcomes"].values()) >= 2 and facts["started"] <= facts["finished"]


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
