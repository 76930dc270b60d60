"""`pneumo evaluate ... data=csv`: trained models on another labelled set."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image
from recompute import recompute
from support.commands import Command, small_run

import pneumo.inference.bundle
from pneumo import models, names
from pneumo.data import phantom
from pneumo.data.settings import PhantomSettings
from pneumo.evaluation.predictions import read_any_predictions
from pneumo.inference import labelled_set
from pneumo.tracking.journal import Journal

LINE = small_run(train_patients=40, test_patients=24, batch_size=8, epochs=1)
OTHER = ["data=phantom", "data.phantom.seed=5", "data.phantom.train_patients=24", "draws=100"]

pytestmark = pytest.mark.usefixtures("tiny", "store")


@pytest.fixture(autouse=True)
def _tiny_bundle(tiny: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pneumo.inference.bundle, "build_model", models.build_model)


def sweep(command: Command, *more: str) -> str:
    """Train two configurations of two seeds; the sweep's id."""
    assert (
        command("train", "--multirun", *LINE, "model.dropout=0,0.3", "seed=0,1", "keep_best=null", *more).code
        == 0
    )
    (folder,) = Path("outputs/sweeps").iterdir()
    return folder.name


def runs() -> list[Path]:
    return sorted(file.parent for file in Path("outputs").glob("*/journal.jsonl"))


def drawn(folder: Path, count: int = 24, seed: int = 9, **columns: Any) -> Path:
    """A set of `count` drawn images of other patients in files with a table; `columns` are added to it."""
    settings = PhantomSettings(train_patients=2 * count, test_patients=8, seed=seed)
    table = phantom.table(settings)
    table = table.groupby("label").head(count // 2)[["path", "label", "patient"]].reset_index(drop=True)
    for path in table["path"]:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.render(path, settings)).save(file)
    table["patient"] = folder.name + table["patient"]
    table.assign(**columns).to_csv(folder / "labels.csv", index=False)
    return folder


def as_set(folder: Path, *more: str) -> list[str]:
    return ["data=csv", f"data.table={folder / 'labels.csv'}", f"data.root={folder}", "draws=100", *more]


@pytest.fixture
def trained_on_files(command: Command, tmp_path: Path) -> Path:
    """A run on drawn images in files, whose patients' ids are those of the hospital north."""
    folder = drawn(tmp_path / "trained", count=64, seed=3)
    line = ["data=csv", f"data.table={folder / 'labels.csv'}", f"data.root={folder}", "data.image_size=64"]
    more = ["trainer.epochs=1", "trainer.batch_size=8", "data.patient_namespace=north"]
    ending = command("train", *line, *more)
    assert ending.code == 0, ending.err
    (run,) = runs()
    return run


def known_rows(run: Path, folder: Path) -> pd.DataFrame:
    """The rows of the table whose images trained or chose the model."""
    table = pd.read_csv(folder / "labels.csv")
    tested = read_any_predictions((run / "artifacts" / names.TEST_PREDICTIONS).read_text()).paths
    return table[~table["path"].isin(tested)]


def test_a_sweep_is_scored_on_another_set_beside_its_own(command: Command, tmp_path: Path) -> None:
    which = sweep(command)
    ending = command("evaluate", f"sweep_id={which}", *OTHER, "name=city", "output=page")
    assert ending.code == 0, ending.err
    page = json.loads(Path("page/comparison.json").read_text())
    assert page["external"]["name"] == "city" and len(page["external"]["rows"]) == 2
    for run in runs():
        journal = Journal(run)
        result = read_any_predictions((run / "artifacts/external/city/predictions.csv").read_text())
        assert journal.tags_logged[names.EXTERNAL_TAG] == "city"
        known = {key: value for key, value, _, _ in journal.metric_rows()}
        assert known["external/city/auroc"] == pytest.approx(result.scores()["auroc"])
        assert known["external/city/images"] == len(result.paths)
        own = read_any_predictions((run / "artifacts" / names.TEST_PREDICTIONS).read_text())
        entry = next(row for row in page["configurations"] if run_of(row, journal))
        drop = page["external"]["rows"][entry["id"]]["drops"]["auroc"]
        assert own.scores()["auroc"] in [pytest.approx(value) for value in own_values(page, entry)]
        assert drop["difference"] == pytest.approx(drop["external"] - drop["internal"])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("pneumo")
    tracked = client.search_runs([experiment.experiment_id], f"tags.`{names.EXTERNAL_TAG}` = 'city'")
    assert len(tracked) == 5  # four runs and the parent
    parent = next(run for run in tracked if names.FINGERPRINT_TAG not in run.data.tags)
    listed = [file.path for file in client.list_artifacts(parent.info.run_id, "external/city")]
    assert "external/city/index.html" in listed
    html = Path("page/index.html").read_text()
    assert "Own test images and this set" in html and "Kendall" in ending.out
    done = recompute(Path("page/comparison.json"), tmp_path / "mlartifacts")
    assert done.count > 2000 and done.largest < 1e-9, done.where


def run_of(row: dict[str, Any], journal: Journal) -> bool:
    return any(run["name"] == journal.name for run in row["runs"])


def own_values(page: dict[str, Any], row: dict[str, Any]) -> list[float]:
    """AUROC of a configuration's runs on their own test images, from their predictions."""
    names_of = {Journal(run).name: run for run in runs()}
    found = []
    for run in row["runs"]:
        table = (names_of[run["name"]] / "artifacts" / names.TEST_PREDICTIONS).read_text()
        found.append(read_any_predictions(table).scores()["auroc"])
    assert page["external"]["rows"][row["id"]]["drops"]["auroc"]["internal"] == pytest.approx(np.mean(found))
    return found


def test_its_own_test_images_as_another_set_have_the_runs_own_probabilities(
    command: Command, trained_on_files: Path, tmp_path: Path
) -> None:
    folder, again = tmp_path / "trained", tmp_path / "again"
    own = read_any_predictions((trained_on_files / "artifacts" / names.TEST_PREDICTIONS).read_text())
    shutil.copytree(folder, again)
    table = pd.read_csv(again / "labels.csv")
    table[table["path"].isin(own.paths)].to_csv(again / "labels.csv", index=False)
    ending = command("evaluate", f"model={trained_on_files}", *as_set(again), "name=own", "output=page")
    assert ending.code == 0, ending.err
    found = read_any_predictions((trained_on_files / "artifacts/external/own/predictions.csv").read_text())
    assert found.paths == own.paths
    np.testing.assert_allclose(found.probabilities, own.probabilities, rtol=0, atol=1e-6)


def test_the_same_command_again_scores_nothing_twice(command: Command) -> None:
    which = sweep(command)
    line = ("evaluate", f"sweep_id={which}", *OTHER, "name=city", "output=page")
    assert command(*line).code == 0
    first = [(run / "artifacts/external/city/predictions.csv").read_bytes() for run in runs()]
    ending = command(*line)
    assert ending.code == 0 and ending.out.count("scored on city before") == 4
    assert first == [(run / "artifacts/external/city/predictions.csv").read_bytes() for run in runs()]


def test_a_name_means_one_set(command: Command) -> None:
    assert command("train", *LINE).code == 0
    (run,) = runs()
    line = ("evaluate", f"model={run}", "data=phantom", "draws=100", "name=city", "output=page")
    assert command(*line, "data.phantom.seed=5").code == 0
    ending = command(*line, "data.phantom.seed=6")
    assert ending.code == 1 and "name=city is another set already" in ending.err
    assert command(*line, "data.phantom.seed=6", "name=town").code == 0
    assert Journal(run).tags_logged[names.EXTERNAL_TAG] == "city town"


def test_runs_without_weights_and_unfinished_runs_are_listed(command: Command) -> None:
    which = sweep(command)
    lost, stopped = runs()[:2]
    (lost / "artifacts" / names.BEST_WEIGHTS).unlink()
    journal = Journal(stopped)
    journal.hold()
    journal.resume()
    journal.close()
    ending = command("evaluate", f"sweep_id={which}", *OTHER, "name=city", "output=page")
    assert ending.code == 1
    assert "its weights were deleted (keep_best); train it again: pneumo train" in ending.out
    assert "not finished: running" in ending.out
    assert len(json.loads(Path("page/comparison.json").read_text())["left_out"]) == 2


# ---- overlap with the training images


def test_patients_of_the_training_set_are_refused_by_name(
    command: Command, trained_on_files: Path, tmp_path: Path
) -> None:
    known = known_rows(trained_on_files, tmp_path / "trained")
    people = known["patient"].unique()[:20]
    other = drawn(tmp_path / "other")
    table = pd.read_csv(other / "labels.csv")
    table.loc[: len(people) - 1, "patient"] = people
    table.to_csv(other / "labels.csv", index=False)
    line = ("evaluate", f"model={trained_on_files}", *as_set(other), "name=city", "output=page")
    ending = command(*line, "data.patient_namespace=north")
    assert ending.code == 1 and len(people) == 20 and "20 patients of the training set" in ending.err
    listed = pd.read_csv("page/overlap.csv")
    assert set(listed["patient"]) == {*people} and set(listed["known_by"]) == {"its patient"}
    assert not (trained_on_files / "artifacts/external").exists()
    # The same ids from another hospital are other patients.
    ending = command(*line, "data.patient_namespace=south")
    assert ending.code == 0, ending.err
    assert "not checked for patients" not in ending.out
    ending = command(*line[:-2], "name=undeclared", "output=page")
    assert ending.code == 0 and "not checked for patients" in ending.out


def test_allow_overlap_marks_the_result(command: Command, trained_on_files: Path, tmp_path: Path) -> None:
    known = known_rows(trained_on_files, tmp_path / "trained").groupby("label").head(6)
    other = tmp_path / "other"
    for path in known["path"]:
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "trained" / path, other / path)
    known.to_csv(other / "labels.csv", index=False)
    line = ("evaluate", f"model={trained_on_files}", *as_set(other), "name=copies", "output=page")
    ending = command(*line)
    assert ending.code == 1 and "12 images with the same bytes" in ending.err
    ending = command(*line, "allow_overlap=true")
    assert ending.code == 0, ending.err
    assert "Not independent" in ending.out and "Not independent." in Path("page/index.html").read_text()
    assert command(*line).code == 1  # the recorded result is refused too


def test_real_images_that_were_saved_again_are_refused_by_name(
    command: Command, real_root: Path, shared: Path, tmp_path: Path
) -> None:
    root = tmp_path / "children"
    for split, count in (("train", 24), ("test", 6)):
        for name in names.CLASS_NAMES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for file in sorted((real_root / split / name).iterdir())[:: 200 // count * 4][:count]:
                shutil.copy(file, folder)
    line = [f"data.root={root}", "data.image_size=96", "trainer.epochs=1", "trainer.batch_size=8"]
    assert command("train", *line).code == 0
    (run,) = runs()
    table = pd.read_csv(shared / "data/nih_adult/labels.csv")
    table["Pneumonia"] = table["Finding Labels"].str.contains("Pneumonia")
    table = table.groupby("Pneumonia").head(10)
    adults = tmp_path / "adults"
    adults.mkdir()
    rows = [(row["Image Index"], int(row["Pneumonia"])) for _, row in table.iterrows()]
    for name, _ in rows:
        shutil.copy(next((shared / "data/nih_adult/images").rglob(name)), adults)
    planted = []
    for file in sorted((root / "train").rglob("*.jpeg"))[::2][:20]:
        name = f"again_{file.stem}.png"
        Image.open(file).convert("L").resize((200, 200)).save(adults / name)
        planted.append(name)
        rows.append((name, int(file.parent.name == "PNEUMONIA")))
    pd.DataFrame(rows, columns=["path", "label"]).to_csv(adults / "labels.csv", index=False)
    ending = command("evaluate", f"model={run}", *as_set(adults), "name=adults", "output=page")
    assert ending.code == 1 and "20 images saved again" in ending.err and planted[0] in ending.err
    listed = pd.read_csv("page/overlap.csv")
    assert sorted(listed["path"]) == sorted(planted) and set(listed["known_by"]) == {"saved again"}
    clean = pd.DataFrame(rows, columns=["path", "label"])
    clean[~clean["path"].isin(planted)].to_csv(adults / "labels.csv", index=False)
    ending = command("evaluate", f"model={run}", *as_set(adults), "name=adults", "output=page")
    assert ending.code == 0, ending.err


def test_fine_tuning_is_refused_where_the_weights_know_the_test_images(
    command: Command, trained_on_files: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "trained"
    weights = f"model.weights={trained_on_files / 'artifacts' / names.BEST_WEIGHTS}"
    line = ["train", *as_set(folder)[:3], "data.image_size=64", "trainer.epochs=1", "trainer.batch_size=8"]
    known = known_rows(trained_on_files, folder)
    table = pd.read_csv(folder / "labels.csv")
    people = known.groupby("label")["patient"].first()  # a known patient of each class
    table["split"] = np.where(table["patient"].isin(people), "test", "train")
    table.to_csv(folder / "labels.csv", index=False)
    ending = command(*line, weights)
    assert ending.code == 1 and "was trained on images that would now choose or test" in ending.err
    table.drop(columns="split").to_csv(folder / "labels.csv", index=False)
    ending = command(*line, weights)  # the split of the run that made the weights
    assert ending.code == 0, ending.err
    (tuned,) = [run for run in runs() if run != trained_on_files and Journal(run).status == "FINISHED"]
    record = json.loads((tuned / "artifacts" / names.TRAINING_IMAGES).read_text())
    assert record["before"]["images"] and record["before"]["namespace"] == "north"


# ---- what is refused


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["split=val"], "only a run's test set is scored later"),
        (["name=city"], "name the set with data=csv data.root=DIR"),
        ([*OTHER, "name=../up"], "give at most 60 letters, digits"),
        ([*OTHER, "rank_by=auc"], "rank_by=auc"),
        ([*OTHER, "name=city", "by=[sex]"], "has no table with such a column"),
        ([*OTHER, "name=city", "split=tast"], "split=tast"),
    ],
)
def test_a_wrong_line_is_refused_in_words(command: Command, more: list[str], words: str) -> None:
    assert command("train", *LINE).code == 0
    (run,) = runs()
    ending = command("evaluate", f"model={run}", *more)
    assert ending.code in (1, 2) and words in ending.err and "Traceback" not in ending.err
    assert not (run / "artifacts/external").exists()


def test_an_unfinished_run_is_refused_as_such(command: Command) -> None:
    assert command("train", *LINE).code == 0
    (run,) = runs()
    journal = Journal(run)
    journal.hold()
    journal.resume()
    journal.close()
    ending = command("evaluate", f"model={run}", *OTHER, "name=city")
    assert ending.code == 1 and "is RUNNING: only a finished run is scored" in ending.err


def test_other_classes_are_refused(command: Command) -> None:
    assert command("train", *LINE).code == 0
    (run,) = runs()
    ending = command("evaluate", f"model={run}", *OTHER, "data.phantom.classes=3", "name=three")
    assert ending.code == 1 and "PATTERN_1" in ending.err and "NORMAL, PNEUMONIA" in ending.err


# ---- stopped in the middle


def test_a_stopped_evaluation_goes_on(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    which = sweep(command)
    line = ("evaluate", f"sweep_id={which}", *OTHER, "name=city", "output=page")
    score, scored = labelled_set.score, []

    def stop_after_two(*given: Any) -> labelled_set.LabelledScores:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(given)
        return score(*given)

    with monkeypatch.context() as patch:
        patch.setattr(labelled_set, "score", stop_after_two)
        ending = command(*line)
    assert ending.code == 130 and not Path("page").exists()
    ending = command(*line)
    assert ending.code == 0 and ending.out.count("scored on city before") == 2


# ---- more than two classes


def test_three_classes_are_scored_and_recomputed(command: Command, tmp_path: Path) -> None:
    line = [
        *LINE,
        "data.phantom.classes=3",
        "data.phantom.train_patients=60",
        "data.phantom.test_patients=40",
    ]
    assert (
        command("train", "--multirun", *line, "seed=0,1", "model.dropout=0,0.3", "keep_best=null").code == 0
    )
    (folder,) = Path("outputs/sweeps").iterdir()
    more = ["data.phantom.classes=3", "data.phantom.train_patients=60", "name=city", "output=page"]
    ending = command("evaluate", f"sweep_id={folder.name}", *OTHER[:2], *more, "draws=60")
    assert ending.code == 0, ending.err
    page = json.loads(Path("page/comparison.json").read_text())
    row = page["external"]["rows"][page["configurations"][0]["id"]]
    assert row["drops"]["auroc"]["internal"] is not None and "recall" not in row["use"]["used"]
    done = recompute(Path("page/comparison.json"), tmp_path / "mlartifacts")
    assert done.largest < 1e-9, done.where


# ---- a registered model


def test_a_registered_model_is_scored_where_its_run_is_not(command: Command, tmp_path: Path) -> None:
    assert command("train", *LINE).code == 0
    (run,) = runs()
    register = ("runs", "register", str(run), "name=m", "require_external=city")
    ending = command(*register, "alias=other")
    assert ending.code == 1 and "was not scored on city" in ending.err
    assert command("runs", "register", str(run), "name=m", "alias=champion").code == 0
    Path("outputs").rename(tmp_path / "moved")
    ending = command("evaluate", "model=models:/m@champion", *OTHER, "name=city", "output=page")
    assert ending.code == 0, ending.err
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = client.get_model_version_by_alias("m", "champion").run_id
    assert run_id is not None
    tracked = client.get_run(run_id)
    assert tracked.data.tags[names.EXTERNAL_TAG] == "city" and "external/city/auroc" in tracked.data.metrics
    held = {file.path for file in client.list_artifacts(run_id, "external/city")}
    assert held >= {f"external/city/{name}" for name in ("predictions.csv", "scores.json", "index.html")}
    (tmp_path / "moved").rename("outputs")
    ending = command(*register, "alias=other", "force=true")
    assert ending.code == 0, ending.err
