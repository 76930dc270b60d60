"""Runs with more than two classes, from the command to the tracker, beside a run with two classes."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from recompute import recompute
from sklearn import metrics as reference
from support.commands import Command, Ending

from pneumo.names import BEST_FACTS, CLASSES_TAG, TEST_PREDICTIONS, VAL_PREDICTIONS
from pneumo.tracking.journal import Journal

pytestmark = pytest.mark.usefixtures("store", "tiny")
NAMED = "data.classes=[healthy,'bacterial, lobar',viral/other]"
SMALL = "data.image_size=32 trainer.epochs=2 trainer.batch_size=16 trainer.precision=float32".split()


def drawn(classes: int, *more: str) -> list[str]:
    train, test = (60, 45) if classes == 15 else (40, 20)
    counts = (f"data.phantom.train_patients={train}", f"data.phantom.test_patients={test}")
    return ["data=phantom", f"data.phantom.classes={classes}", *counts, *SMALL, *more]


def folder_of(tmp_path: Path, number: int = -1) -> Path:
    files = sorted((tmp_path / "outputs").glob("*/journal.jsonl"), key=lambda file: file.stat().st_ctime_ns)
    return files[number].parent


def rows_of(file: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Class names, labels [N], called classes [N] and probabilities [N, K] of a predictions CSV."""
    with file.open(newline="") as text:
        header, *rows = csv.reader(text)
    assert header[:4] == ["path", "patient", "label", "prediction"]
    assert all(name.startswith("p_") for name in header[4:])
    table = np.array([row[2:] for row in rows], dtype=np.float64)
    return [name[2:] for name in header[4:]], table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:]


def tracked(tmp_path: Path, fingerprint: str) -> Any:
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    return client.search_runs(experiments, f"tags.`pneumo.fingerprint` = '{fingerprint}'")[0]


@pytest.mark.parametrize("classes", [3, 15])
def test_every_score_follows_from_the_predictions(command: Command, tmp_path: Path, classes: int) -> None:
    named = [NAMED] if classes == 3 else []
    ending = command("train", *drawn(classes, *named))
    assert ending.code == 0, ending.err
    folder = folder_of(tmp_path)
    names, labels, called, chances = rows_of(folder / "artifacts" / TEST_PREDICTIONS)
    assert len(names) == classes and sorted(set(labels)) == list(range(classes))
    assert (called == chances.argmax(1)).all() and chances.sum(1) == pytest.approx(1, abs=1e-9)
    metrics = tracked(tmp_path, folder.name).data.metrics
    every, hot = np.arange(classes), np.eye(classes)[labels]
    macro = {"labels": every, "average": "macro", "zero_division": 0}
    areas = [reference.roc_auc_score(labels == k, chances[:, k]) for k in every]
    expected = {
        "accuracy": (called == labels).mean(),
        "precision": reference.precision_score(labels, called, **macro),
        "recall": reference.recall_score(labels, called, **macro),
        "f1": reference.f1_score(labels, called, **macro),
        "auroc": np.mean(areas),
        "auprc": reference.average_precision_score(hot, chances, average="macro"),
        "brier": ((chances - hot) ** 2).sum(1).mean(),
        "log_loss": -np.log(chances[hot == 1]).mean(),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, called),
        "f1_weighted": reference.f1_score(labels, called, average="weighted"),
        "mcc": reference.matthews_corrcoef(labels, called),
        "kappa": reference.cohen_kappa_score(labels, called),
    }
    for name, value in expected.items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-9), name
    parts = ["healthy", "bacterial_ lobar", "viral_other"] if classes == 3 else names
    for k, part in enumerate(parts):
        assert metrics[f"test/class/{part}/auroc"] == pytest.approx(areas[k], abs=1e-9)
        hits = reference.recall_score(labels == k, called == k)
        assert metrics[f"test/class/{part}/recall"] == pytest.approx(hits, abs=1e-9)
        assert {f"test/class/{part}/precision", f"test/class/{part}/f1"} <= {*metrics}
    # The chosen epoch's validation figures, from its predictions.
    _, labels, _, chances = rows_of(folder / "artifacts" / VAL_PREDICTIONS)
    areas = [reference.roc_auc_score(labels == k, chances[:, k]) for k in every]
    assert metrics["best/val_auroc"] == pytest.approx(np.mean(areas), abs=1e-6)


def test_a_run_of_three_classes_leaves_what_is_promised(command: Command, tmp_path: Path) -> None:
    assert command("train", *drawn(3, NAMED)).code == 0
    folder = folder_of(tmp_path)
    run = tracked(tmp_path, folder.name)
    names = ["healthy", "bacterial, lobar", "viral/other"]
    assert json.loads(run.data.tags[CLASSES_TAG]) == names
    note = run.data.tags["mlflow.note.content"]
    ends = r"0\.\d{3} to [01]\.\d{3}"
    assert re.search(rf"\| viral/other: AUROC, sensitivity \| [\d.]+, [\d.]+ \| {ends}, {ends} \|", note)
    assert re.search(rf"\| test macro AUROC \| [\d.]+ \| {ends} \|", note)
    facts = json.loads((folder / "artifacts" / BEST_FACTS).read_text())
    assert facts["class_names"] == names and [*facts["images"]["train"]] == names
    report = json.loads((folder / "artifacts/reports/classification_test.json").read_text())
    matrix = np.array(report["confusion_matrix"])
    assert matrix.shape == (3, 3) and matrix.sum() == report["images"]
    assert report["class_scores"].keys() == {*names} and report["undefined"] is None
    page = (folder / "artifacts/reports/classification_test.txt").read_text()
    assert "macro avg" in page and "weighted avg" in page and "viral/other" in page
    figures = {file.stem for file in (folder / "artifacts/figures").glob("*.png")}
    assert figures == {
        *("class_distribution", "curves_loss", "curves_accuracy", "curves_f1", "confusion_val"),
        *("confusion_test", "roc_test", "pr_test", "calibration_test"),
    }
    again = command("train", *drawn(3, NAMED))
    assert again.code == 0 and "done already, skipped" in again.out


def test_a_test_set_is_scored_later_with_the_same_figures(command: Command, tmp_path: Path) -> None:
    later = drawn(3, "trainer.score_test=false", "tracking.enabled=false")
    assert command("train", *later).code == 0
    folder = folder_of(tmp_path)
    assert not (folder / "artifacts" / TEST_PREDICTIONS).exists()
    assert command("evaluate", f"model={folder.name}", "split=test", "tracking.enabled=false").code == 0
    later_bytes = (folder / "artifacts" / TEST_PREDICTIONS).read_bytes()
    assert "test/class/NORMAL/auroc" in {key for key, *_ in Journal(folder).metric_rows()}
    assert command("train", *drawn(3, "force=true", "tracking.enabled=false")).code == 0
    assert (folder / "artifacts" / TEST_PREDICTIONS).read_bytes() == later_bytes


def one_line(ending: Ending) -> str:
    lines = [line for line in ending.err.splitlines() if line.startswith("error:")]
    assert ending.code == 1 and len(lines) == 1 and "Traceback" not in ending.err, ending.err
    return lines[0]


def test_what_takes_two_classes_refuses_more_in_one_line(command: Command, tmp_path: Path) -> None:
    assert command("train", *drawn(15)).code == 0
    assert command("train", *drawn(2)).code == 0
    mixed = one_line(command("compare", "experiment=pneumo"))
    assert "the runs tell different classes apart: 1 run with 15 (NORMAL, PATTERN_1, " in mixed
    assert "1 run with 2 (NORMAL, PNEUMONIA)" in mixed


@pytest.mark.parametrize("classes", [3, 15])
def test_runs_of_more_classes_are_compared(command: Command, tmp_path: Path, classes: int) -> None:
    named = [NAMED] if classes == 3 else []
    for seed in (0, 1):
        ending = command("train", *drawn(classes, *named, f"seed={seed}"))
        assert ending.code == 0, ending.err
    line = ("experiment=pneumo", f"output={tmp_path / 'page'}", "latency=false", "draws=50")
    ending = command("compare", *line, "rank_by=kappa" if classes == 3 else "rank_by=auroc")
    assert ending.code == 0, ending.err
    assert ("kappa" if classes == 3 else "macro AUROC") in ending.out.splitlines()[0]
    saved = json.loads((tmp_path / "page/comparison.json").read_text())
    assert len(saved["class_names"]) == classes and saved["configurations"][0]["seeds"] == [0, 1]
    assert saved["splits"]["train"]["classes"].keys() == {*saved["class_names"]}
    if classes == 3:  # of 15, scikit-learn takes minutes
        done = recompute(tmp_path / "page/comparison.json", tmp_path / "mlartifacts")
        assert done.count > 500 and done.largest < 1e-9, done.where
    wrong = command("compare", *line, "rank_by=luck")
    assert wrong.code == 2 and "rank_by=luck is not known" in wrong.err


def test_two_classes_write_what_they_always_wrote(command: Command, tmp_path: Path) -> None:
    assert command("train", *drawn(2)).code == 0
    folder = folder_of(tmp_path)
    run = tracked(tmp_path, folder.name)
    assert CLASSES_TAG not in run.data.tags
    tests = {name for name in run.data.metrics if name.startswith("test/")}
    nine = ("accuracy", "precision", "recall", "specificity", "f1", "auroc", "auprc", "brier", "ece")
    assert tests == {f"test/{name}" for name in nine}
    header = (folder / "artifacts" / TEST_PREDICTIONS).read_text().splitlines()[0]
    assert header == "path,patient,label,probability,prediction"
    report = json.loads((folder / "artifacts/reports/classification_test.json").read_text())
    assert report["threshold"] == 0.5 and not {"class_scores", "undefined"} & {*report}


def test_a_smoke_run_without_some_class_ends_well_and_is_not_compared(
    command: Command, tmp_path: Path
) -> None:
    smoke = drawn(15, "trainer.limit_batches=1", "trainer.batch_size=8")
    ending = command("train", *smoke)
    assert ending.code == 0, ending.err
    assert "note: no image has the class " in ending.out and "are not defined" in ending.out
    metrics = tracked(tmp_path, folder_of(tmp_path).name).data.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert "test/auroc" not in metrics and "test/accuracy" in metrics and "best/val_accuracy" in metrics
    report = json.loads((folder_of(tmp_path) / "artifacts/reports/classification_test.json").read_text())
    assert report["scores"]["auroc"] is None and report["undefined"].startswith("no image has the class")
    assert "no test image has the class PATTERN_" in one_line(command("compare", "experiment=pneumo"))


def test_a_finished_run_of_three_classes_is_pseudonymised(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pneumo.data.pseudonyms import KEY_VARIABLE

    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key"))
    assert command("train", *drawn(3)).code == 0
    file = folder_of(tmp_path) / "artifacts" / TEST_PREDICTIONS
    before = rows_of(file)
    assert command("train", *drawn(3, "data.pseudonymise=true")).code == 0
    after = rows_of(file)
    assert before[0] == after[0] and (before[3] == after[3]).all() and b"NORMAL_" not in file.read_bytes()
    assert b"test0001" not in file.read_bytes()


def test_an_old_configuration_without_the_key_has_two_classes(command: Command, tmp_path: Path) -> None:
    from pneumo import config

    assert command("train", *drawn(2)).code == 0
    file = folder_of(tmp_path) / "artifacts/config.yaml"
    lines = [line for line in file.read_text().splitlines() if line != "    classes: 2"]
    old = tmp_path / "old.yaml"
    old.write_text("\n".join(lines))
    assert "classes: 2" not in old.read_text() and config.from_saved(old) == config.from_saved(file)
