"""python -m pneumo.predict: one row a file, whatever the files are; the same pixels as in training."""

import csv
import json
import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import odd_files
from support.commands import Ending
from support.images import picture, save

from pneumo import UserError, predict
from pneumo.data import cache, images, manifest
from pneumo.data.settings import DataSettings
from pneumo.inference import bundle
from pneumo.inference import ood as familiarity
from pneumo.inference.predictor import Predictor, Row, inputs

Door = Callable[..., Ending]


@pytest.fixture(scope="module")
def predictor(made_models: dict[str, Path]) -> Predictor:
    return Predictor(bundle.read(made_models["resnet18"]))


def folder_of(tmp_path: Path, count: int = 5) -> Path:
    for number in range(count):
        save(picture(number % 2, number), tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", errors="surrogateescape") as opened:
        return list(csv.DictReader(opened))


# ---- what it says


def test_a_row_a_file_in_order_and_the_others_go_on(
    door: Door, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    (folder / "2b.jpeg").write_bytes(b"no image")
    save(picture(0, 9), folder / "deeper" / "x.png")
    (folder / "notes.txt").write_text("left out")
    model = made_models["resnet18"]
    ending = door("predict", f"model={model}", f"input={folder}", "output=out.csv", "batch_size=2")
    assert ending.code == 1 and "1 could not be read" in ending.out and "No medical device" in ending.out
    assert "notes.txt" in ending.out and not ending.err
    rows = table(tmp_path / "out.csv")
    names = ["0.png", "1.png", "2.png", "2b.jpeg", "3.png", "4.png", "deeper/x.png"]
    assert [row["path"] for row in rows] == [str(folder / name) for name in names]
    assert "neither a JPEG nor a PNG" in rows[3]["error"] and not rows[3]["probability"]
    known = bundle.read(model)
    for row in rows[:3] + rows[4:]:
        square = images.preprocess(images.read(row["path"]), **known.preprocess)
        raw = known.probabilities(square[None])
        assert float(row["probability"]) == pytest.approx(known.calibrated(raw)[0], abs=2e-6)
        assert row["decision"] == known.class_names[int(known.decide(raw)[0])] and not row["error"]
        assert float(row["threshold"]) == pytest.approx(known.threshold, abs=1e-6) and row["model"] == str(
            model
        )

    again = door("predict", f"model={model}", f"input={folder}", "output=out.json")
    listed = json.loads((tmp_path / "out.json").read_text())
    assert again.code == 1 and [entry["path"] for entry in listed] == [row["path"] for row in rows]
    for entry, row in zip(listed, rows, strict=True):
        assert (entry["decision"], entry["error"]) == (row["decision"], row["error"])
        assert str(entry["probability"] if entry["probability"] is not None else "") == row["probability"]
    one = door("predict", f"model={model}", f"input={folder / '0.png'}", "output=one.csv", "threshold=0")
    assert one.code == 0 and [row["decision"] for row in table(tmp_path / "one.csv")] == ["PNEUMONIA"]
    none = door("predict", f"model={model}", f"input={folder / '0.png'}", "output=one.csv", "threshold=1")
    assert none.code == 0 and table(tmp_path / "one.csv")[0]["decision"] == "NORMAL"


def test_what_is_written_stays_when_it_is_stopped(
    door: Door, made_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path, 9)
    flush, calls = predict.Rows.flush, []

    def stopped(rows: predict.Rows) -> None:
        flush(rows)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(predict.Rows, "flush", stopped)
    for name, read in (("out.csv", table), ("out.json", lambda file: json.loads(file.read_text()))):
        calls.clear()
        told = (f"model={made_models['resnet18']}", f"input={folder}", f"output={name}", "batch_size=2")
        ending = door("predict", *told)
        assert ending.code == 130 and "stopped" in ending.err
        assert [Path(row["path"]).name for row in read(tmp_path / name)] == [
            "0.png",
            "1.png",
            "2.png",
            "3.png",
        ]


def test_neither_batches_nor_threads_change_a_row(made_models: dict[str, Path], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 9)
    (folder / "4b.png").write_bytes(b"no image")
    model, files = bundle.read(made_models["resnet18"]), inputs(folder).files

    def said(num_workers: int, batch_size: int) -> list[Row]:
        predictor = Predictor(model, num_workers=num_workers)
        return [row for batch in predictor.predict(files, batch_size=batch_size) for row, _ in batch]

    alone = said(1, 64)
    assert [Path(row.path).name for row in alone if row.error] == ["4b.png"] and len(alone) == 10
    for rows in (said(3, 1), said(2, 4)):
        assert [(row.path, row.error, row.decision) for row in rows] == [
            (row.path, row.error, row.decision) for row in alone
        ]
        assert [row.probability for row in rows if not row.error] == pytest.approx(
            [row.probability for row in alone if not row.error], abs=1e-6
        )


def test_overlays_lie_under_the_names_of_their_images(
    door: Door, made_models: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install 'pneumo[explain]'")
    folder = folder_of(tmp_path, 2)
    save(picture(0, 9), folder / "deeper" / "0.png")
    (folder / "bad.png").write_bytes(b"no image")
    told = (f"model={made_models['densenet121']}", f"input={folder}", "output=out.csv", "explain=true")
    assert door("predict", *told).code == 1
    rows = {Path(row["path"]).relative_to(folder).as_posix(): row for row in table(tmp_path / "out.csv")}
    assert list(rows) == ["0.png", "1.png", "bad.png", "deeper/0.png"] and not rows["bad.png"]["overlay"]
    for name in ("0.png", "1.png", "deeper/0.png"):
        assert rows[name]["overlay"] == f"out_overlays/{name}.png"
        with Image.open(tmp_path / rows[name]["overlay"]) as overlay:
            assert overlay.width >= 2 * overlay.height - 60


@pytest.mark.parametrize(
    ("told", "said"),
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
    door: Door, made_models: dict[str, Path], told: list[str], said: str
) -> None:
    ending = door("predict", *(word.replace("MODEL", str(made_models["resnet18"])) for word in told))
    assert ending.code == 2 and said in ending.err and ending.err.count("error:") == 1
    assert "Traceback" not in ending.err


def test_a_model_that_is_not_there_is_named(door: Door, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    ending = door("predict", f"model={tmp_path}/none", f"input={folder}")
    assert ending.code == 1 and "is no folder and no run id" in ending.err and not ending.out


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    secret = save(picture(0, 3), tmp_path / "secret" / "other.png")
    (folder / "out.png").symlink_to(secret)
    (folder / "in.png").symlink_to("0.png")
    (folder / "away").symlink_to(secret.parent)
    found = inputs(folder)
    assert [Path(path).name for path in found.files] == ["0.png", "1.png", "in.png"]
    assert [Path(path).name for path in found.outside] == ["out.png"]
    assert found.left_out == [f"{folder}/away (a link)"]
    with pytest.raises(UserError, match="holds no image"):
        inputs(save(picture(0, 1), tmp_path / "empty" / "x.txt").parent)


# ---- the same pixels as in training


def test_the_pixels_are_those_of_training(native: list[Path], predictor: Predictor, tmp_path: Path) -> None:
    """Every original: what the prediction prepares is byte for byte what the training's cache holds."""
    root = native[0].parents[1]
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for file in native:
        patient, _ = manifest.parse_name(file.name) or ("", "")
        line = f"{file.relative_to(root)},{int(file.parent.name == 'PNEUMONIA')}\n"
        parts["test" if int(patient.rpartition("-")[2]) % 2 else "train"].append(line)
    for split, part in parts.items():
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "".join(part))
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)  # no path of a set may lead out of its folder
    size = predictor.bundle.image_size
    settings = DataSettings(
        name="csv", root=str(tmp_path), image_size=size, cache_dir=str(tmp_path / "cache"), num_workers=2
    )
    data = cache.prepare(manifest.build(settings), settings)
    trained = dict(zip(data.manifest.table["path"], data.images[data.rows], strict=True))
    prepared = predictor.predict([str(file) for file in native])
    seen = {str(Path(row.path).relative_to(root)): image for batch in prepared for row, image in batch}
    assert len(seen) == len(native) == len(trained)
    for path, image in seen.items():
        assert image is not None and image.square.tobytes() == trained[path].tobytes(), path


# ---- odd and hostile files


def test_two_hundred_odd_files(made_models: dict[str, Path], tmp_path: Path) -> None:
    kinds = odd_files.make(tmp_path)
    assert len(kinds) >= 200
    model = bundle.read(made_models["resnet18"])
    train, val = odd_files.phantoms(200, "train"), odd_files.phantoms(60)
    squares = [
        [images.preprocess(np.asarray(image), **model.preprocess) for image in part] for part in (train, val)
    ]
    model.familiarity = familiarity.fit(*squares)
    found = inputs(tmp_path / "in")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = {row.path: row for batch in Predictor(model).predict(found.files) for row, _ in batch}
    assert time.process_time() - started < 60  # 8 s on an idle machine
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 1500  # MB
    assert {os.path.relpath(path, tmp_path / "in") for path in [*said, *found.outside]} == set(kinds)
    assert not (tmp_path / odd_files.MARK).exists() and not Path(odd_files.MARK).exists()
    outcomes: dict[str, Counter] = {}
    for path, row in said.items():
        assert bool(row.error) is (row.probability is None)
        assert row.error or 0 <= float(str(row.probability)) <= 1
        assert "\n" not in row.error and "SECRET" not in row.error + "".join(row.warnings)
        outcome = odd_files.REFUSED if row.error else odd_files.WARNED if row.warnings else odd_files.READ
        outcomes.setdefault(kinds[os.path.relpath(path, tmp_path / "in")], Counter())[outcome] += 1
    for kind in ("X-ray, JPEG", "X-ray, PNG", "X-ray, odd form or size", "X-ray with EXIF orientation",
                 "wrong suffix", "odd file name", "with something after it"):  # fmt: skip
        assert not outcomes[kind][odd_files.REFUSED], kind
    for kind in ("cut short", "empty", "bomb", "another kind of file", "DICOM, of another kind or damaged"):
        assert set(outcomes[kind]) == {odd_files.REFUSED}, kind
    for kind in ("colour photo", "noise", "blank", "checkerboard", "rotated 90 degrees", "upside down"):
        assert set(outcomes[f"unlike: {kind}"]) == {odd_files.WARNED}, kind
    assert outcomes["X-ray, PNG"][odd_files.READ] >= 5 and outcomes["odd file name"][odd_files.READ] == 18
    assert len(found.outside) == 3 and all(Path(path).is_symlink() for path in found.outside)


# ---- what is unlike the training images


POSED = {
    "rotated 90 degrees": "turned by 90 degrees counter-clockwise",
    "rotated 270 degrees": "turned by 90 degrees clockwise",
    "upside down": "upside down",
    "inverted": "inverted",
}


@pytest.fixture(scope="module")
def phantoms() -> dict[str, list[np.ndarray]]:
    made = {"train": odd_files.phantoms(300, "train"), "test": odd_files.phantoms(150)}
    made |= {"val": made["train"][200:], "train": made["train"][:200]}
    turned = {
        kind: [odd_files.strange(kind, image, np.random.default_rng(0)) for image in made["test"][:60]]
        for kind in POSED
    }
    return {
        name: [images.preprocess(np.asarray(image), image_size=48) for image in part]
        for name, part in (made | turned).items()
    }


def test_limits_of_validation_hold_for_others_and_poses_are_named(phantoms: dict) -> None:
    reference = familiarity.fit(phantoms["train"], phantoms["val"])
    assert len(json.dumps(reference)) < 40_000
    known = familiarity.Familiarity(json.loads(json.dumps(reference)))
    squares = phantoms["test"]
    warned = sum(bool(known.warnings(square)) for square in squares)
    assert warned <= 0.25 * len(squares)  # the phantom's test set is shifted on purpose
    for kind, word in POSED.items():
        said = [" ".join(known.warnings(square)) for square in phantoms[kind]]
        assert sum(bool(words) for words in said) >= 57, kind
        assert sum(word in words for words in said) >= 40, (kind, Counter(said))
    assert known.warnings(np.zeros((48, 48), np.uint8)) == [
        "blank: there is hardly anything to be seen in it"
    ]
    assert "colour in 30%" in known.warnings(squares[0], 0.3)[0]


@pytest.mark.parametrize("key", ["mean", "components", "variances", "noise", "distance", "poses", "aspect"])
def test_a_damaged_reference_is_refused(phantoms: dict, key: str) -> None:
    reference = familiarity.fit(phantoms["train"][:30], phantoms["val"][:20])
    for value in (None, [], {}, "x" * 50, [float("nan")], -1, True, [[1]], "A" * 2_000_000, 10**400):
        with pytest.raises(UserError, match="no reference"):
            familiarity.Familiarity({**reference, key: value})
    with pytest.raises(UserError, match="no reference"):
        familiarity.Familiarity({})


def test_the_run_keeps_its_reference_and_a_run_without_gets_it_again(
    phantom_run: Path, tmp_path: Path
) -> None:
    kept = json.loads((phantom_run / bundle.FAMILIARITY).read_text())
    model = bundle.read(phantom_run)
    assert model.familiarity == kept
    again = familiarity.fit_again(phantom_run / "config.yaml", model.data_digest, str(tmp_path / "cache"))
    assert again == kept
    with pytest.raises(UserError, match="are not those of the run"):
        familiarity.fit_again(phantom_run / "config.yaml", "0" * 64, str(tmp_path / "cache"))
    with pytest.raises(UserError, match="tells of no data set"):
        familiarity.fit_again(tmp_path / "config.yaml", "0" * 64, str(tmp_path / "cache"))


def test_colour_is_measured_on_the_original(tmp_path: Path) -> None:
    grey = Image.fromarray(picture(0, 1, 300, 400))
    for mode in ("L", "RGB", "CMYK"):
        grey.convert(mode).save(tmp_path / "grey.jpeg")
        found, share = images.read_with_colour(tmp_path / "grey.jpeg")
        assert share == 0 and np.array_equal(found, images.read(tmp_path / "grey.jpeg")), mode
    half = grey.convert("RGB")
    half.paste((200, 30, 30), (0, 0, 200, 300))
    for name, image in (("half.png", half), ("palette.png", half.convert("P")), ("half.jpeg", half)):
        save(image, tmp_path / name)
        assert images.read_with_colour(tmp_path / name)[1] == pytest.approx(0.5, abs=0.1), name
