"""A model as a folder: it reads back as it was written, and nothing damaged or hostile is used."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.model_runs import SIZE, images, phantom

from pneumo import UserError
from pneumo.data import cache, manifest
from pneumo.evaluation import metrics
from pneumo.evaluation.predictions import read_predictions
from pneumo.inference import model_folder
from pneumo.names import MODEL_CARD, MODEL_FACTS


def test_a_run_gives_the_probabilities_of_its_predictions(phantom_run: Path, tmp_path: Path) -> None:
    artifacts = phantom_run
    settings = phantom(artifacts.parents[2]).data
    data = cache.prepare(manifest.build(settings), settings)
    table = data.manifest.table.set_index("path")
    model = model_folder.read(artifacts.parent)
    network = model.network()
    for split in ("val", "test"):
        written = read_predictions((artifacts / "predictions" / f"{split}.csv").read_text())
        rows = [int(data.rows[table.index.get_loc(path)]) for path in written.paths]
        assert set(table.loc[written.paths, "split"]) == {split}
        found = model.probabilities(np.asarray(data.images[rows]), network)
        np.testing.assert_allclose(found, written.probabilities, atol=1e-5)
    assert model.synthetic and model.image_size == SIZE and model.precision == "float32"
    assert model.counts["images"]["test"] == data.manifest.counts()["test"]
    points = read_predictions((artifacts / "predictions" / "val.csv").read_text())
    assert model.thresholds == metrics.operating_points(points.labels, points.probabilities)
    model_folder.write(model, tmp_path / "model")
    card = (tmp_path / "model" / MODEL_CARD).read_text()
    assert "Not a medical device" in card and "synthetic images" in card and model.fingerprint in card
    assert f"| {model.figures['auroc']['value']:.4f} |" in card


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_a_written_model_reads_back_the_same(name: str, made_models: dict[str, Path], tmp_path: Path) -> None:
    artifacts = made_models[name]
    first = model_folder.read(artifacts)
    model_folder.write(first, tmp_path / "model")
    second = model_folder.read(tmp_path / "model")
    written = read_predictions((artifacts / "predictions" / "test.csv").read_text())
    np.testing.assert_allclose(second.probabilities(images(24, 1)), written.probabilities, atol=1e-5)
    assert second.thresholds == first.thresholds and second.past == first.past
    assert second.figures == first.figures and second.temperature == first.temperature
    assert not second.network().training
    assert "pickle" not in {path.suffix for path in (tmp_path / "model").iterdir()}


def test_half_is_the_threshold_where_validation_has_one_class(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "val.csv"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0], *(row for row in rows[1:] if row.split(",")[2] == "1")]) + "\n")
    model = model_folder.read(tmp_path / "run")
    assert (model.threshold_rule, model.thresholds) == ("half", {"half": 0.5})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"epoch": NaN}', "\x00" * 50, '{"epoch": ' + "9" * 9999 + "}"],
    ids=["empty", "list", "cut", "deep", "nan", "zeros", "long number"],
)
def test_facts_that_are_no_json_object_are_refused(text: str, model_dir: Path) -> None:
    (model_dir / MODEL_FACTS).write_text(text)
    with pytest.raises(UserError, match=MODEL_FACTS):
        model_folder.read(model_dir)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not contain a model"):
        model_folder.read(tmp_path)
    with pytest.raises(UserError, match="does not contain a model"):
        model_folder.read(tmp_path / "nowhere")


def test_damaged_predictions_are_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "val.csv"
    for text in ("", "path,label\na,1\n", "path,patient,label,probability\na,p,1,7\n"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"val\.csv"):
            model_folder.read(tmp_path / "run")
