"""A model of three classes from training to its use: predict, explain, register, serve, export."""

import base64
import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import Command
from support.images import make_kaggle
from support.model_runs import images

from pneumo.evaluation import multiclass
from pneumo.evaluation.predictions import read_any_predictions
from pneumo.inference import model_folder
from pneumo.names import BEST_FACTS, TEST_PREDICTIONS

pytestmark = pytest.mark.usefixtures("store")
NAMES = ["NORMAL", "BACTERIA", "VIRUS"]
SMALL = (
    *("data.image_size=32", "model=resnet18", "trainer.epochs=1", "trainer.batch_size=16"),
    *("trainer.limit_batches=2", "trainer.precision=float32", "data.val_fraction=0.3"),
)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def trained(command: Command, root: Path, tmp_path: Path) -> Path:
    """The folder of a finished run on the Kaggle set at `root` as three classes."""
    ending = command("train", "data=kermany3", f"data.root={root}", *SMALL)
    assert ending.code == 0, ending.err
    folder = max((tmp_path / "outputs").glob("*/journal.jsonl")).parent
    assert f"next:    pneumo predict model={folder.name}" in ending.out
    return folder


def compare_with_test(folder: Path, root: Path, rows: list[dict[str, str]]) -> None:
    """Predictions of the test files are those of predictions/test.csv, calibrated."""
    test = read_any_predictions((folder / "artifacts" / TEST_PREDICTIONS).read_text())
    facts = model_folder.read(folder)
    calibrated = multiclass.tempered(test.probabilities, facts.temperature)
    by_path = {str(Path(row["path"]).relative_to(root)): row for row in rows}
    assert {*test.paths} <= {*by_path} and facts.class_names == NAMES
    for path, chances, called in zip(test.paths, calibrated, test.predictions, strict=True):
        row = by_path[path]
        found = [float(row[f"p_{name}"]) for name in NAMES]
        assert found == pytest.approx(chances, abs=1e-6)
        assert row["prediction"] == NAMES[called] and not row["error"]


def test_a_model_of_three_classes_is_used_in_every_way(command: Command, tmp_path: Path) -> None:
    root = make_kaggle(tmp_path / "set", patients=12)
    folder = trained(command, root, tmp_path)
    where = f"output_dir={tmp_path / 'outputs'}"
    ending = command(
        "predict", f"model={folder.name}", f"input={root / 'test'}", "output=own.csv", "abstain=false", where
    )
    assert ending.code == 0 and "Not a medical device" in ending.out, ending.err
    own = rows_of(tmp_path / "own.csv")
    compare_with_test(folder, root, own)

    ending = command("runs", "register", folder.name, "alias=champion")
    assert ending.code == 0 and "pneumo 1: registered" in ending.out, ending.err
    model = "model=models:/pneumo@champion"
    image = str(next((root / "test").rglob("*virus*.jpeg")))
    assert command("predict", model, f"input={root / 'test'}", "output=all.json", "abstain=false").code == 0
    listed = json.loads((tmp_path / "all.json").read_text())
    for entry, row in zip(listed, own, strict=True):
        assert [entry[f"p_{name}"] for name in NAMES] == [float(row[f"p_{name}"]) for name in NAMES]
        assert entry["model"] == "pneumo 1" and "; ".join(entry["reached"]) == row["reached"]

    ending = command("runs", "export", "models:/pneumo@champion", "output=model.onnx")
    assert ending.code == 0 and "differ from the model's in float32 by at most" in ending.out, ending.err
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "model.onnx")
    bundle = model_folder.read(folder)
    (found,) = session.run(["probabilities"], {"images": images(3)})
    np.testing.assert_allclose(found, bundle.probabilities(images(3)), atol=1e-5)

    import mlflow

    served = mlflow.pyfunc.load_model("models:/pneumo@champion")
    text = base64.b64encode(Path(image).read_bytes()).decode()
    (answer,) = served.predict(pd.DataFrame({"image": [text]}))
    (row,) = [row for row in own if row["path"] == image]
    assert [answer[f"p_{name}"] for name in NAMES] == pytest.approx(
        [float(row[f"p_{name}"]) for name in NAMES], abs=1e-6
    )
    assert answer["class"] == row["prediction"] and answer["version"] == "pneumo 1"


def test_an_overlay_is_of_the_called_class_or_of_the_one_that_is_named(
    command: Command, tmp_path: Path
) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install 'pneumo[explain]'")
    root = make_kaggle(tmp_path / "set", patients=12)
    folder = trained(command, root, tmp_path)
    model, image = f"model={folder}", str(next((root / "test").rglob("*virus*.jpeg")))
    pictures = {}
    for asked in ("null", *NAMES):
        line = (
            model,
            f"input={image}",
            f"output={asked}.csv",
            "explain=true",
            f"explain_class={asked}",
            "abstain=false",
        )
        assert command("predict", *line).code == 0
        (row,) = rows_of(tmp_path / f"{asked}.csv")
        pictures[asked] = np.asarray(Image.open(tmp_path / row["overlay"]))
    np.testing.assert_array_equal(pictures["null"], pictures[row["prediction"]])
    for first, second in (("NORMAL", "BACTERIA"), ("BACTERIA", "VIRUS")):
        assert (pictures[first][-50:] != pictures[second][-50:]).any(), "the captions name the class"
    wrong = command("predict", model, f"input={image}", "explain=true", "explain_class=VIRAL")
    assert wrong.code == 1 and wrong.err.count("error:") == 1 and "Traceback" not in wrong.err
    assert "explain_class=VIRAL is not known; the options are NORMAL, BACTERIA, VIRUS" in wrong.err


def test_the_real_set_as_three_classes_is_predicted_as_it_was_tested(
    command: Command, real_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    for split, count in (("train", 30), ("val", 4), ("test", 8)):
        for part in ("NORMAL/*", "PNEUMONIA/*_bacteria_*", "PNEUMONIA/*_virus_*"):
            for file in sorted((real_root / split).glob(part))[:count]:
                target = root / split / file.parent.name / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
    folder = trained(command, root, tmp_path)
    assert json.loads((folder / "artifacts" / BEST_FACTS).read_text())["class_names"] == NAMES
    assert (
        command(
            "predict", f"model={folder}", f"input={root / 'test'}", "output=own.csv", "abstain=false"
        ).code
        == 0
    )
    compare_with_test(folder, root, rows_of(tmp_path / "own.csv"))
