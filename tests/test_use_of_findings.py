"""A model of several findings an image from training to its use: predict, explain, register, export."""

import base64
import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit, logit
from support.commands import Command
from support.images import picture, save
from support.model_runs import images

from pneumo.data.settings import FINDINGS
from pneumo.evaluation.predictions import read_any_predictions
from pneumo.inference import model_folder
from pneumo.names import BEST_FACTS, TEST_PREDICTIONS

pytestmark = pytest.mark.usefixtures("store")
NAMES = ["Edema", "Mass", "Nodule"]
SMALL = (
    *("data.task=multilabel", "data.image_size=32", "model=resnet18", "trainer.epochs=1"),
    *("trainer.batch_size=16", "trainer.limit_batches=2", "trainer.precision=float32"),
)
LABELS = ["No Finding", "Edema", "Edema|Mass", "Mass", "Nodule", "Nodule|Edema"]


def table_set(root: Path, patients: int = 60) -> Path:
    """One image a patient, the LABELS in turn."""
    lines = ["path,patient,Finding Labels"]
    for number in range(patients):
        save(picture(number % 2, number), root / f"{number}.png")
        lines.append(f"{number}.png,p{number},{LABELS[number % len(LABELS)]}")
    (root / "all.csv").write_text("\n".join(lines))
    return root


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def trained(command: Command, tmp_path: Path, *overrides: str) -> Path:
    """The folder of a finished run."""
    ending = command("train", *overrides, *SMALL)
    assert ending.code == 0, ending.err
    folder = max((tmp_path / "outputs").glob("*/journal.jsonl")).parent
    assert json.loads((folder / "artifacts" / BEST_FACTS).read_text())["task"] == "multilabel"
    return folder


def compare_with_test(folder: Path, names: list[str], rows: list[dict[str, str]]) -> None:
    """Predictions of the test files are those of predictions/test.csv after the temperatures."""
    test = read_any_predictions((folder / "artifacts" / TEST_PREDICTIONS).read_text())
    model = model_folder.read(folder)
    assert model.class_names == names == [*test.class_names]
    calibrated = expit(logit(test.probabilities) / [*model.class_temperatures.values()])
    by_name = {Path(row["path"]).name: row for row in rows}
    for path, chances in zip(test.paths, calibrated, strict=True):
        row = by_name[Path(path).name]
        found = [float(row[f"p_{name}"]) for name in names]
        assert found == pytest.approx(chances, abs=2e-6) and not row["error"]
        thresholds = [float(row[f"threshold_{name}"]) for name in names]
        assert thresholds == pytest.approx([*model.threshold_of_class.values()], abs=1e-6)
        called = [name for name, p, t in zip(names, found, thresholds, strict=True) if p >= t]
        # A probability may be a threshold but for its rounding.
        if min(np.abs(np.subtract(found, thresholds))) > 2e-6:
            assert row["prediction"].split("|") == (called or [""])
        assert row["reached"] == row["prediction"].replace("|", "; ")


def test_a_model_of_findings_is_used_in_every_way(command: Command, tmp_path: Path) -> None:
    root = table_set(tmp_path / "set")
    data = ("data=csv", f"data.root={root}", "data.table=all.csv", f"data.classes={NAMES}".replace(" ", ""))
    folder = trained(command, tmp_path, *data, "data.val_fraction=0.3")
    where = f"output_dir={tmp_path / 'outputs'}"
    ending = command(
        "predict", f"model={folder.name}", f"input={root}", "output=own.csv", "abstain=false", where
    )
    assert ending.code == 0 and "Not a medical device" in ending.out, ending.err
    own = rows_of(tmp_path / "own.csv")
    compare_with_test(folder, NAMES, own)

    ending = command("runs", "register", folder.name, "alias=champion")
    assert ending.code == 0 and "pneumo 1: registered" in ending.out, ending.err
    model = "model=models:/pneumo@champion"
    assert command("predict", model, f"input={root}", "output=all.json", "abstain=false").code == 0
    listed = json.loads((tmp_path / "all.json").read_text())
    for entry, row in zip(listed, own, strict=True):
        assert [entry[f"p_{name}"] for name in NAMES] == [float(row[f"p_{name}"]) for name in NAMES]
        assert entry["model"] == "pneumo 1" and entry["prediction"] == row["prediction"]
        assert "|".join(entry["reached"]) == entry["prediction"]

    ending = command("runs", "export", "models:/pneumo@champion", "output=model.onnx")
    assert ending.code == 0 and "differ from the model's in float32 by at most" in ending.out, ending.err
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(["probabilities"], {"images": images(3)})
    np.testing.assert_allclose(found, model_folder.read(folder).probabilities(images(3)), atol=1e-5)

    import mlflow

    served = mlflow.pyfunc.load_model("models:/pneumo@champion")
    row = own[0]
    text = base64.b64encode(Path(row["path"]).read_bytes()).decode()
    (answer,) = served.predict(pd.DataFrame({"image": [text]}))
    assert [answer[f"p_{name}"] for name in NAMES] == pytest.approx(
        [float(row[f"p_{name}"]) for name in NAMES], abs=1e-6
    )
    assert answer["prediction"] == row["prediction"] and answer["version"] == "pneumo 1"


def test_the_real_set_is_predicted_and_explained_as_it_was_tested(
    command: Command, shared: Path, tmp_path: Path
) -> None:
    nih = shared / "data" / "nih_adult"
    if not nih.is_dir():
        pytest.skip(f"the set is missing: {nih}")
    pytest.importorskip("captum", reason="captum is not installed: pip install 'pneumo[explain]'")
    folder = trained(command, tmp_path, "data=nih14", f"data.root={nih}", "data.table=labels.csv")
    names = [*FINDINGS["nih14"]]
    test = read_any_predictions((folder / "artifacts" / TEST_PREDICTIONS).read_text())
    wanted = {Path(path).name for path in test.paths}
    (tmp_path / "in").mkdir()
    for file in nih.rglob("*.jpg"):
        if file.name in wanted:
            (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    ending = command(
        "predict", f"model={folder}", f"input={tmp_path / 'in'}", "output=own.csv", "abstain=false"
    )
    assert ending.code == 0, ending.err
    rows = rows_of(tmp_path / "own.csv")
    compare_with_test(folder, names, rows)
    image = f"input={rows[0]['path']}"
    captions = []
    for asked in names[:2]:
        line = (f"model={folder}", image, "output=one.csv", "explain=true", f"explain_class={asked}")
        assert command("predict", *line).code == 0
        (row,) = rows_of(tmp_path / "one.csv")
        captions.append(np.asarray(Image.open(tmp_path / row["overlay"]))[-50:].tobytes())
    assert captions[0] != captions[1], "the legends name the finding"
    wrong = command("predict", f"model={folder}", image, "explain=true", "explain_class=Cough")
    assert wrong.code == 1 and wrong.err.count("error:") == 1 and "Traceback" not in wrong.err
    assert "explain_class=Cough is not known; the options are Atelectasis" in wrong.err
