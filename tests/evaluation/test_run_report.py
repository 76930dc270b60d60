"""Every promised file is written, with the promised content."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumo import UserError, text
from pneumo.evaluation import metrics, plot, run_report
from pneumo.evaluation.predictions import SplitResult
from pneumo.files import write_atomically

NAMES = ("NORMAL", "PNEUMONIA")
FIGURES = [
    "class_distribution",
    "curves_loss",
    "curves_accuracy",
    "curves_f1",
    "confusion_val",
    "confusion_test",
]
FIGURES += ["roc_test", "pr_test", "calibration_test"]
CONTRACT = {
    *(f"figures/{name}.png" for name in FIGURES),
    *(f"reports/classification_{split}.{kind}" for split in ("val", "test") for kind in ("txt", "json")),
    *(f"predictions/{split}.csv" for split in ("val", "test")),
}


def split(seed: int, images: int = 40, dtype: type = np.float64) -> SplitResult:
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    return SplitResult(
        paths=[f"set {seed}/a,b '{k}' é.jpeg" for k in range(images)],
        patients=[f"bacteria-{k // 4}" for k in range(images)],
        labels=labels,
        probabilities=np.clip(rng.normal(0.3 + 0.4 * labels, 0.3), 0, 1).astype(dtype),
    )


def history(test: bool) -> list[dict[str, float]]:
    rows = []
    for epoch, (auroc, accuracy) in enumerate([(0.90, 0.70), (0.95, 0.8125), (0.95, 0.91), (0.92, 0.85)], 1):
        row = {"epoch": epoch, "val/auroc": auroc}
        row |= {f"{s}/{m}": accuracy for s in ("train", "val") for m in ("loss", "accuracy", "f1")}
        rows.append(row | ({f"test/{m}": accuracy for m in ("loss", "accuracy", "f1")} if test else {}))
    return rows


def write(directory: Path, **changed: Any) -> dict[str, dict[str, float]]:
    settings: dict[str, Any] = {
        "history": history(test=False),
        "splits": {"val": split(1), "test": split(2)},
        "class_counts": {"train": dict.fromkeys(NAMES, 50), "val": dict.fromkeys(NAMES, 20)},
        "class_names": NAMES,
        "selected_epoch": 2,
        "protocol": "patient_val",
        "note": None,
    }
    return run_report.write(directory, **(settings | changed))


@pytest.fixture(scope="module", autouse=True)
def real_pictures() -> Iterator[None]:
    """Elsewhere the tests leave them blank."""
    blank = run_report.plot
    run_report.plot = plot
    yield
    run_report.plot = blank


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that only read text: drawing takes nine tenths of the time."""
    monkeypatch.setattr(run_report, "_figures", lambda *_: {})


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fair")
    write(directory)
    return directory


@pytest.fixture(scope="module")
def optimistic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("optimistic")
    write(
        directory, history=history(test=True), protocol="test_selected", selected_epoch=3, note="Synthetic."
    )
    return directory


def test_the_files_are_exactly_those_of_the_contract(fair: Path, optimistic: Path) -> None:
    for directory in (fair, optimistic):
        assert {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} == CONTRACT


def test_the_pictures_open_and_show_something(fair: Path) -> None:
    for path in (fair / "figures").iterdir():
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert path.stat().st_size > 10_000 and min(pixels.shape) >= 600
        assert 0.001 < (pixels < 200).mean() < 0.9


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_round_trip_bit_for_bit(tmp_path: Path, dtype: type) -> None:
    result = split(3, dtype=dtype)
    result.probabilities[:4] = 0.5, 1 / 3, 1e-30, 1.0
    result.patients[5] = None
    assert write(tmp_path, splits={"val": result, "test": split(2)})
    with (tmp_path / "predictions/val.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "patient", "label", "probability", "prediction"]
    assert [row["path"] for row in rows] == result.paths
    assert [row["patient"] or None for row in rows] == result.patients
    assert [int(row["label"]) for row in rows] == result.labels.tolist()
    read = np.array([float(row["probability"]) for row in rows], dtype=dtype)
    assert read.tobytes() == result.probabilities.tobytes()
    assert [int(row["prediction"]) for row in rows] == (result.probabilities >= 0.5).astype(int).tolist()


@pytest.mark.usefixtures("no_pictures")
def test_reports_agree_with_the_scores(tmp_path: Path) -> None:
    returned = write(tmp_path, note="Synthetic images.")
    for name, seed in (("val", 1), ("test", 2)):
        facts = json.loads((tmp_path / f"reports/classification_{name}.json").read_text())
        expected = metrics.scores(split(seed).labels, split(seed).probabilities)
        assert facts["scores"] == expected
        assert (facts["split"], facts["images"], facts["patients"]) == (name, 40, 10)
        assert (facts["selected_epoch"], facts["protocol"]) == (2, "patient_val")
        assert facts["optimistic"] is False and facts["note"] == "Synthetic images."
        report = facts["classification_report"]
        assert report["PNEUMONIA"]["recall"] == pytest.approx(expected["recall"])
        assert report["NORMAL"]["recall"] == pytest.approx(expected["specificity"])
        text = (tmp_path / f"reports/classification_{name}.txt").read_text()
        for said in (
            f"split:          {name}",
            "40",
            "10",
            "patient_val: the epoch was chosen on the validation",
        ):
            assert said in text
        assert "Synthetic images." in text and "PNEUMONIA" in text and f"{expected['auroc']:.4f}" in text
        assert "optimistic" not in text
    assert returned == {
        name: metrics.scores(split(seed).labels, split(seed).probabilities)
        for name, seed in (("val", 1), ("test", 2))
    }


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_test_scores_gets_no_files_of_the_test_set(tmp_path: Path) -> None:
    write(tmp_path / "val", splits={"val": split(1)})
    write(tmp_path / "both")
    made, both = (
        {file.relative_to(tmp_path / name).as_posix() for file in (tmp_path / name).rglob("*.*")}
        for name in ("val", "both")
    )
    assert made == {name for name in both if "test" not in name} and made != both


@pytest.mark.usefixtures("no_pictures")
def test_the_test_set_written_later_completes_the_files(tmp_path: Path) -> None:
    write(tmp_path / "later", splits={"val": split(1)})
    write(tmp_path / "later", splits={"test": split(2)})
    write(tmp_path / "once")
    later, once = (
        {
            file.relative_to(tmp_path / name): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("later", "once")
    )
    assert later == once


def test_test_selected_is_marked_optimistic_beside_the_honest_score(optimistic: Path) -> None:
    text = (optimistic / "reports/classification_test.txt").read_text()
    assert "optimistic" in text
    assert "epoch 2 (best val/auroc 0.9500, the first of 2 equal epochs)" in text
    assert "test/accuracy 0.8125" in text
    facts = json.loads((optimistic / "reports/classification_test.json").read_text())
    assert facts["optimistic"] is True
    honest = facts["at_epoch_chosen_by_validation"]
    assert (honest["epoch"], honest["ties"], honest["test"]["test/accuracy"]) == (2, 2, 0.8125)


def test_a_loss_chooses_its_least_epoch() -> None:
    rows = [{"epoch": 1, "val/loss": 0.4, "test/f1": 0.1}, {"epoch": 2, "val/loss": 0.2, "test/f1": 0.3}]
    chosen = run_report._chosen_by_validation(rows, "val/loss")
    assert chosen is not None and chosen["epoch"] == 2 and chosen["test"] == {"test/f1": 0.3}


@pytest.mark.usefixtures("no_pictures")
def test_test_selected_without_validation_figures_says_so(tmp_path: Path) -> None:
    rows = [{key: v for key, v in row.items() if key != "val/auroc"} for row in history(test=True)]
    write(tmp_path, history=rows, protocol="test_selected")
    assert "by validation:  not known" in (tmp_path / "reports/classification_test.txt").read_text()


def test_one_class_and_unknown_patients_still_make_a_report(tmp_path: Path) -> None:
    result = split(4)
    result.labels = np.ones_like(result.labels)
    result.patients[0] = None
    write(tmp_path, splits={"val": result, "test": result}, history=history(test=False)[:1])
    facts = json.loads((tmp_path / "reports/classification_test.json").read_text())
    assert facts["scores"]["auroc"] is None and facts["patients"] is None  # JSON has no nan
    assert "not known for every image" in (tmp_path / "reports/classification_test.txt").read_text()


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "reports" / "a.txt"
    write_atomically(target, b"old")

    def broken(self: Path, target: Path) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"


def test_mistakes_are_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"protocol=test-selected is not known.*Did you mean test_selected"):
        write(tmp_path, protocol="test-selected")
    with pytest.raises(UserError, match="split=train is not known"):
        write(tmp_path, splits={"train": split(1)})
    diverged = split(2)
    diverged.probabilities[3] = np.nan
    with pytest.raises(UserError, match="diverged"):
        write(tmp_path, splits={"val": split(1), "test": diverged})
    with pytest.raises(UserError, match=r"lengths \[1, 1, 2, 1\]"):
        SplitResult(paths=["a"], patients=[None], labels=np.array([0, 1]), probabilities=np.array([0.5]))
    assert not list(tmp_path.iterdir())


def test_terminal_table_is_aligned() -> None:
    rows: list[dict[str, object]] = [
        {"run": "resnet18", "epochs": 5, "test/auroc": np.float32(0.5), "why": None},
        {"run": "densenet121", "epochs": 50, "test/auroc": float("nan")},
    ]
    assert text.table(rows).splitlines() == [
        "run          epochs  test/auroc  why",
        "-----------  ------  ----------  ---",
        "resnet18          5      0.5000  -",
        "densenet121      50         nan  -",
    ]
    assert text.table([]) == "(no rows)"
