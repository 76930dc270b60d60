"""Predictions of any program: tables as people have them, what is refused, the same figures as of runs."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recompute import recompute
from support.class_runs import candidate as candidate_of_three
from support.comparison_runs import candidate
from support.images import picture, save

from pneumo import UserError, api
from pneumo.comparison import prediction_tables
from pneumo.evaluation.predictions import SplitResult, predictions_csv
from pneumo.files import write_atomically
from pneumo.text import finite


def table_of(result: SplitResult, **columns: object) -> pd.DataFrame:
    if result.many:
        chances = {f"p_{name}": result.probabilities[:, k] for k, name in enumerate(result.class_names)}
    else:
        chances = {"probability": result.probabilities}
    frame = {"path": result.paths, "label": result.labels, **chances, "patient": result.patients}
    return pd.DataFrame(frame).assign(**columns)


def tables() -> dict[str, pd.DataFrame]:
    """Two models with two seeds each, in a table for each model."""
    found = {}
    for model, quality in (("first", 2.0), ("second", 1.5)):
        parts = [
            table_of(split, seed=seed, split=name)
            for seed in range(2)
            for run in [candidate("resnet18", seed, quality)]
            for name, split in (("test", run.test), ("Valid", run.val))
        ]
        found[model] = pd.concat(parts)
    return found


def test_the_figures_are_those_of_runs_and_are_recomputed(tmp_path: Path) -> None:
    """The rows of the second table are in another order."""
    given = tables()
    given["second"] = given["second"].sample(frac=1, random_state=0)
    runs = prediction_tables.candidates(given)
    assert {(run.name, run.seed) for run in runs} == {(m, s) for m in ("first", "second") for s in (0, 1)}
    own = candidate("resnet18", 1, 2.0).test
    order = np.argsort(own.paths, kind="stable")
    assert np.array_equal(runs[1].test.probabilities, own.probabilities[order])
    for run in runs:
        folder = tmp_path / "store" / run.run_id / "artifacts" / "predictions"
        for name, split in (("test", run.test), ("val", run.val)):
            write_atomically(folder / f"{name}.csv", predictions_csv(split))
    found = prediction_tables.compare(runs, draws=60)
    assert found["choice"] is not None and found["configurations"][0]["points"]["youden"]["thresholds"]
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps(finite(dict(found)), allow_nan=False))
    done = recompute(file, tmp_path / "store")
    assert done.count > 500 and done.largest < 1e-9, done.where


def test_without_validation_there_is_no_threshold_and_the_page_says_so(tmp_path: Path) -> None:
    given = {model: frame[frame["split"] == "test"] for model, frame in tables().items()}
    found = api.compare(given, draws=60)
    assert found.content["choice"] is None
    for row in found.content["configurations"]:
        assert list(row["points"]) == ["half"] and row["temperature"] is None
    assert found.answer.startswith("First on the test images: first, test AUROC ")
    text = found.write(tmp_path).read_text()
    assert "no threshold but 0.5" in text and "val. AUROC" not in text and "finished run" not in text
    assert "Validation, at the chosen epoch" not in text
    scores = found.scores[found.scores["score"] == "AUROC"]
    assert list(scores["configuration"]) == ["first", "second"] and (scores["low"] < scores["value"]).all()
    (verdict,) = found.pairs[found.pairs["score"] == "AUROC"]["verdict"]
    assert "first" in verdict and found.pairs["over"].unique().tolist() == ["seeds and patients"]
    assert "<table" in found._repr_html_()


def test_validation_of_one_model_alone_is_not_used() -> None:
    given = tables()
    given["second"] = given["second"][given["second"]["split"] == "test"]
    assert all(not run.val.paths for run in prediction_tables.candidates(given))


def test_three_classes_with_rounded_probabilities_and_names_as_labels() -> None:
    given = {}
    for model, quality in (("a", 2.0), ("b", 1.0)):
        split = candidate_of_three("resnet18", 0, quality).test
        frame = table_of(split).round(3)
        frame["label"] = [split.class_names[label] for label in split.labels]
        given[model] = frame
    found = api.compare(given, draws=60, rank_by="kappa")
    assert found.content["class_names"] == ["NORMAL", "BACTERIA", "VIRUS"]
    assert found.content["configurations"][0]["name"] == "a"


def test_columns_are_known_by_other_names_and_labels_by_words() -> None:
    split = candidate("resnet18", 0, 2.0).test
    frame = table_of(split).rename(
        columns={"path": "Image ID", "label": "Target", "probability": "Score", "patient": "Patient ID"}
    )
    frame["Target"] = ["Positive" if label else "NORMAL" for label in split.labels]
    (run,) = prediction_tables.candidates({"x.csv": frame})
    assert run.name == "x" and run.test.patients[0] is not None
    assert run.test.labels.sum() == split.labels.sum()
    two = table_of(split).rename(columns={"probability": "p_ill"})
    two.insert(2, "p_well", 1 - two["p_ill"])
    (run,) = prediction_tables.candidates({"x.csv": two})
    assert run.test.probabilities.ndim == 1 and sorted(run.test.probabilities) == pytest.approx(
        sorted(split.probabilities)
    )


BAD = {
    "no label": (lambda t: t.drop(columns="label"), "has no column label"),
    "one class": (lambda t: t.rename(columns={"probability": "p_ill"}), "is the only column of a class"),
    "nan": (lambda t: t.assign(probability=np.nan), "row 1 has the probability '', and"),
    "above one": (lambda t: t.assign(probability=t["probability"] + 1), "Give probabilities, not logits"),
    "a word": (lambda t: t.assign(probability="high"), "row 1 has the probability 'high'"),
    "a label": (lambda t: t.assign(label="sick"), "row 1 has the label 'sick'; known are NORMAL, PNEUMONIA"),
    "a split": (lambda t: t.assign(split="holdout"), "row 1 has the split 'holdout'"),
    "only training": (lambda t: t.assign(split="train"), "no row is of the test images"),
    "a seed": (lambda t: t.assign(seed="x"), "has the seed 'x'"),
    "twice": (lambda t: pd.concat([t, t[:1]]), "has two rows"),
    "an empty path": (lambda t: t.assign(path=""), "row 1 names no image"),
    "missing rows": (lambda t: t[3:], "3 only in good, seed 0"),
    "other images": (lambda t: t.assign(path="x" + t["path"]), "scored on different images"),
    "other labels": (lambda t: t.assign(label=1 - t["label"]), "have other labels for"),
    "other patients": (lambda t: t.drop(columns="patient"), "name other patients for"),
    "no rows": (lambda t: t[:0], "has no rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_gets_one_clear_message(name: str) -> None:
    change, message = BAD[name]
    good = table_of(candidate("resnet18", 0, 2.0).test)
    with pytest.raises(UserError, match=message) as caught:
        prediction_tables.candidates({"good": good, "bad": change(good.copy())})
    assert "bad" in str(caught.value)


def test_a_sum_that_is_not_one_and_other_classes_are_refused() -> None:
    split = candidate_of_three().test
    frame = table_of(split)
    with pytest.raises(UserError, match="have the sum"):
        prediction_tables.candidates({"a": frame.assign(p_VIRUS=0.9)})
    renamed = frame.rename(columns={"p_VIRUS": "p_FUNGUS"})
    with pytest.raises(UserError, match="Compare models with the same classes"):
        prediction_tables.candidates({"a": frame, "b": renamed})
    with pytest.raises(UserError, match="is in another table too"):
        prediction_tables.candidates({"a": frame.assign(model="m"), "b": frame.assign(model="m")})


def examples() -> list[str]:
    """The Python blocks of the documents that write a table."""
    text = (Path(__file__).parents[2] / "docs/how-to/compare-predictions.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5 and all("to_csv(" in block for block in blocks)
    return blocks


def test_the_examples_in_the_documents_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of two classes: the documents' scikit-learn lines, and their torch lines."""
    blocks = examples()[:2]
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    features = rng.normal(0, 1, (160, 4)) + 0.6 * labels[:, None]
    paths = [f"{number}.png" for number in range(100, 160)]
    known = {
        "train_features": features[:100],
        "train_labels": labels[:100],
        "test_features": features[100:],
        "test_labels": labels[100:],
        "test_paths": paths,
        "test_patients": [f"p{number // 2}" for number in range(60)],
        "network": torch.nn.Linear(4, 2),
        "loader": [(torch.tensor(features[100:], dtype=torch.float32), torch.tensor(labels[100:]), paths)],
    }
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block, dict(known))
    names = ("logistic.csv", "torch.csv")
    given = {name: pd.read_csv(name).drop(columns="patient", errors="ignore") for name in names}
    found = api.compare(given, draws=60)
    assert found.content["test"]["images"] == 60
    assert {row["name"] for row in found.content["configurations"]} == {"logistic", "torch"}


@pytest.mark.parametrize("library", ["lightning", "timm", "monai"])
def test_the_example_of_a_library_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """Its lines, run on small images, write a table with the probabilities of the network that it names."""
    pytest.importorskip(library, reason=f"{library} is not installed: pip install {library}")
    (block,) = [one for one in examples() if f"{library}.csv" in one]
    monkeypatch.chdir(tmp_path)
    labels = [number % 2 for number in range(16)]
    paths = [f"{number}.png" for number in range(16)]
    for number, path in enumerate(paths):
        save(picture(labels[number], number), Path(path))
    torch.manual_seed(0)
    known = {"test_paths": paths, "test_labels": labels}
    if library == "lightning":
        images = torch.randn(16, 4)
        rows = list(zip(images, labels, paths, strict=True))
        loader = torch.utils.data.DataLoader(rows, batch_size=6)  # type: ignore[arg-type]
        known |= {"network": torch.nn.Linear(4, 2), "loader": loader}
    elif library == "timm":
        import timm

        torch.save(timm.create_model("resnet18", num_classes=2).state_dict(), "resnet18.pth")
    else:
        from monai.networks.nets import DenseNet121

        torch.save(DenseNet121(spatial_dims=2, in_channels=1, out_channels=2).state_dict(), "densenet121.pt")
    exec(block, known)
    table = pd.read_csv(f"{library}.csv")
    assert (list(table["path"]), list(table["label"])) == (paths, labels)
    assert table["probability"].nunique() == 16
    if library == "lightning":
        expected = known["network"](images).softmax(dim=1)[:, 1].tolist()
        assert table["probability"].tolist() == pytest.approx(expected)
    other = table.assign(probability=1 - table["probability"])
    found = api.compare({library: table, "other": other}, draws=60)
    assert {row["name"] for row in found.content["configurations"]} == {library, "other"}
