"""The model that MLflow serves, called in this process: rows out, and a 400 with a reason for bad ones."""

import base64
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from support.images import GREY, encoded
from support.model_runs import FINDINGS, THREE

from pneumo.data import images
from pneumo.inference import model_folder, pyfunc, served


def table(*texts: object) -> pd.DataFrame:
    return pd.DataFrame({pyfunc.COLUMN: list(texts)})


GOOD = base64.b64encode(encoded(GREY, "PNG")).decode()


def test_a_row_is_the_models_answer(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(base64.b64decode(GOOD))
    (model_dir / "registered_model_meta").write_text("model_name: pneumo\nmodel_version: '3'\n")
    bundle = model_folder.read(model_dir)
    square = images.preprocess(images.read(tmp_path / "x.png"), **bundle.preprocess)
    raw = bundle.probabilities(square[None])
    wrapped = "\n".join(GOOD[start : start + 76] for start in range(0, len(GOOD), 76))
    for row in pyfunc._load_pyfunc(str(model_dir)).predict(table(GOOD, wrapped)):
        assert list(row) == [*pyfunc.OUTPUTS, *pyfunc.LATER]
        np.testing.assert_allclose(row["probability"], bundle.calibrated(raw)[0], atol=1e-5)
        assert row["decision"] is bool(bundle.decide(raw)[0])
        assert row["class"] == bundle.class_names[int(row["decision"])]
        assert row["threshold"] == bundle.threshold and row["version"] == "pneumo 3"


def test_the_example_is_answered(model_dir: Path) -> None:
    example = pyfunc.serving_spec().example
    assert len(json.dumps(example)) < 50_000
    (row,) = pyfunc._load_pyfunc(str(model_dir)).predict(pd.DataFrame([example]))
    assert 0 <= row["probability"] <= 1


@pytest.mark.parametrize("folder", ["model_dir", "dir_of_three", "dir_of_findings"])
def test_a_decision_that_is_withheld_is_null(folder: str, request: pytest.FixtureRequest) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    text = base64.b64encode(encoded(photo, "PNG")).decode()
    (row,) = pyfunc._load_pyfunc(str(request.getfixturevalue(folder))).predict(table(text))
    assert "colour in" in row["withheld"] and row["withheld"] == row["warnings"][0]
    asked = row.keys() & {"decision", "class", "prediction", "reached"}
    assert asked and all(row[key] is None for key in asked)
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize(
    ("request_table", "reason"),
    [
        (pd.DataFrame({"other": [GOOD]}), "one column, image"),
        ("text", "one column, image"),
        (table(), "0 rows; give 1 to 64 images"),
        (table(*[GOOD] * 65), "65 rows; give 1 to 64 images"),
        (table(GOOD, 17), "row 1: image is int, not base64 text"),
        (table(GOOD, "not base64 !"), "row 1: image is not base64 text"),
        (table(GOOD, "AAAA"), "row 1: not a JPEG, PNG, TIFF"),
        (table("A" * (pyfunc.MAX_CHARS + 4)), "more than the limit of"),
    ],
)
def test_a_bad_request_names_the_row(request_table: pd.DataFrame, reason: str, model_dir: Path) -> None:
    with pytest.raises(MlflowException, match=reason) as told:
        pyfunc._load_pyfunc(str(model_dir)).predict(request_table)
    assert told.value.get_http_status_code() == 400


def test_models_of_version_0_1_find_their_loader() -> None:
    """Their MLmodel names pneumo.inference.served."""
    assert served._load_pyfunc is pyfunc._load_pyfunc
    assert pyfunc.serving_spec().loader == "pneumo.inference.pyfunc"


def test_a_row_of_three_classes_has_the_fields_of_its_signature(dir_of_three: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(base64.b64decode(GOOD))
    bundle = model_folder.read(dir_of_three)
    square = images.preprocess(images.read(tmp_path / "x.png"), **bundle.preprocess)
    (chances,) = bundle.calibrated(bundle.probabilities(square[None]))
    (row,) = pyfunc._load_pyfunc(str(dir_of_three)).predict(table(GOOD))
    assert list(row) == list(pyfunc.outputs(THREE)) == list(pyfunc.serving_spec(THREE).outputs)
    assert [row[f"p_{name}"] for name in THREE] == pytest.approx(chances, abs=1e-5)
    assert row["class"] == THREE[chances.argmax()]
    assert {f"threshold_{name}": row[f"threshold_{name}"] for name in THREE} == {
        f"threshold_{name}": threshold for name, threshold in bundle.threshold_of_class.items()
    }
    assert row["reached"] == [name for name in THREE if row[f"p_{name}"] >= row[f"threshold_{name}"]]
    json.dumps(row)


def test_a_row_of_findings_has_the_fields_of_its_signature(dir_of_findings: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(base64.b64decode(GOOD))
    bundle = model_folder.read(dir_of_findings)
    square = images.preprocess(images.read(tmp_path / "x.png"), **bundle.preprocess)
    raw = bundle.probabilities(square[None])
    (row,) = pyfunc._load_pyfunc(str(dir_of_findings)).predict(table(GOOD))
    spec = pyfunc.serving_spec(FINDINGS, multilabel=True)
    assert list(row) == list(spec.outputs) and "class" not in row
    assert [row[f"p_{name}"] for name in FINDINGS] == pytest.approx(bundle.calibrated(raw)[0], abs=1e-5)
    called = [name for name, one in zip(FINDINGS, bundle.call(raw)[0], strict=True) if one]
    assert row["reached"] == called and row["prediction"] == "|".join(called)
    json.dumps(row)
