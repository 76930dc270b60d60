"""data.pseudonymise=true: no name of a patient or of a file reaches the tracker, now or later."""

import csv
import json
import sqlite3
from pathlib import Path

import pytest
from support.commands import Command
from support.images import make_kaggle, picture, save

from pneumo.data.pseudonyms import KEY_VARIABLE
from pneumo.names import BAD_IMAGES, TEST_PREDICTIONS
from pneumo.tracking.journal import Journal

pytestmark = pytest.mark.usefixtures("tiny", "store")
SECRETS = (b"person", b"IM-0", b"M\xc3\xbcller")
PSEUDONYMISE = "data.pseudonymise=true"


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key"))
    root = make_kaggle(tmp_path / "xrays", patients=12)
    broken = save(picture(1, 1), root / "train" / "PNEUMONIA" / "person77_virus_1.jpeg")
    broken.write_bytes(broken.read_bytes()[:300])
    small = "data.image_size=32 trainer.epochs=1 trainer.batch_size=16 data.on_bad_image=skip".split()
    return [f"data.root={root}", *small]


def naming(tmp_path: Path) -> list[str]:
    """What in the tracker holds a name."""
    stored = [file for file in (tmp_path / "mlartifacts").rglob("*") if file.is_file()]
    found = [str(file) for file in stored if any(secret in file.read_bytes() for secret in SECRETS)]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        dump = "\n".join(database.iterdump()).encode()
    return found + ["mlflow.db"] * any(secret in dump for secret in SECRETS)


def run_folder(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "outputs").glob("*/journal.jsonl")
    return file.parent


def test_no_name_reaches_the_tracker(command: Command, tmp_path: Path, line: list[str]) -> None:
    assert command("train", *line, PSEUDONYMISE).code == 0
    assert not naming(tmp_path)
    folder = run_folder(tmp_path)
    rows = list(csv.DictReader((folder / "artifacts" / TEST_PREDICTIONS).open()))
    assert len({row["patient"] for row in rows}) == 8  # equal names have equal pseudonyms
    bad = (folder / "artifacts" / BAD_IMAGES).read_text()
    assert bad.startswith("image-") and bad.count("\n") == 1


def test_a_finished_run_is_pseudonymised_without_training(
    command: Command, tmp_path: Path, line: list[str]
) -> None:
    assert command("train", *line).code == 0
    before = naming(tmp_path)
    assert {Path(name).name for name in before} == {"val.csv", "test.csv", "bad_images.txt"}
    folder = run_folder(tmp_path)
    scores = Journal(folder).metric_rows()
    ending = command("train", *line, PSEUDONYMISE)
    assert ending.code == 0 and "have pseudonyms now" in ending.out
    assert run_folder(tmp_path) == folder and Journal(folder).metric_rows() == scores
    assert not naming(tmp_path)
    assert "have pseudonyms now" not in command("train", *line, PSEUDONYMISE).out


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A table with subgroups, in which each patient has two spellings."""
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key"))
    lines = ["Image Index,Finding Labels,Patient ID,Patient Gender,View Position"]
    for number in range(40):
        for spelling in (f"77{number:03d}", f"77{number:03d}.0"):
            name = f"77{number:03d}_{len(lines)}.png"
            save(picture(number % 2, len(lines)), tmp_path / "set" / "images" / name)
            finding = "Pneumonia" if number % 2 else "No Finding"
            lines.append(f"{name},{finding},{spelling},{'MF'[number % 2]},")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(lines))
    small = "data.image_size=32 trainer.epochs=1 trainer.batch_size=16".split()
    return ["data=csv", f"data.table={tmp_path}/set/labels.csv", "data.positive=[Pneumonia]", *small]


def predicted(tmp_path: Path) -> list[dict[str, str]]:
    with (run_folder(tmp_path) / "artifacts" / TEST_PREDICTIONS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_end_with_the_subgroups_as_given(
    command: Command, tmp_path: Path, table: list[str]
) -> None:
    assert command("train", *table).code == 0
    rows = predicted(tmp_path)
    assert list(rows[0])[5:] == ["Patient Gender", "View Position"]
    assert {(row["label"], row["Patient Gender"], row["View Position"]) for row in rows} == {
        ("0", "M", ""),
        ("1", "F", ""),
    }
    assert {row["patient"].partition(".")[0] for row in rows} == {row["path"][:5] for row in rows}


def test_pseudonyms_keep_subgroups_and_count_each_patient_once(
    command: Command, tmp_path: Path, table: list[str]
) -> None:
    assert command("train", *table).code == 0
    before = predicted(tmp_path)
    assert command("train", *table, PSEUDONYMISE).code == 0
    after = predicted(tmp_path)
    assert [row["Patient Gender"] for row in after] == [row["Patient Gender"] for row in before]
    assert {row["patient"][:8] for row in after} == {"patient-"}
    assert len({row["patient"] for row in after}) == len(after) // 2


def test_a_namespace_is_recorded_with_a_finished_run_and_renames_its_patients(
    command: Command, tmp_path: Path, table: list[str]
) -> None:
    assert command("train", *table, PSEUDONYMISE).code == 0
    folder, first = run_folder(tmp_path), predicted(tmp_path)
    ending = command("train", *table, "data.patient_namespace=north")
    assert ending.code == 0 and "data.patient_namespace=north is recorded now" in ending.out
    second = predicted(tmp_path)
    assert run_folder(tmp_path) == folder
    assert {row["patient"] for row in first}.isdisjoint(row["patient"] for row in second)
    assert [row["path"] for row in first] == [row["path"] for row in second]
    assert "patient_namespace: north" in (folder / "artifacts" / "config.yaml").read_text()
    assert "recorded now" not in command("train", *table, "data.patient_namespace=north").out
    (tmp_path / "outputs").rename(tmp_path / "before")
    assert command("train", *table, PSEUDONYMISE, "data.patient_namespace=north").code == 0
    assert predicted(tmp_path) == second


def test_pseudonymised_runs_are_compared(command: Command, tmp_path: Path, line: list[str]) -> None:
    for seed in (0, 1):
        assert command("train", *line, PSEUDONYMISE, f"seed={seed}").code == 0
    where = [f"data.root={tmp_path / 'xrays'}", f"output={tmp_path / 'page'}"]
    ending = command("compare", *where, "latency=false")
    assert ending.code == 0, ending.err
    page = json.loads((tmp_path / "page" / "comparison.json").read_text())
    assert page["configurations"][0]["seeds"] == [0, 1]
    assert "mistakes are shown without images" in ending.out
    assert not naming(tmp_path)
