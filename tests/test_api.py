"""pneumo from Python: the functions, and the notebook that shows them."""

import gc
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import Command, small_run

import pneumo.inference.bundle
from pneumo import UserError, api, models, names
from pneumo.training import trainer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def line(
    tmp_path: Path, store: Path, tiny: object, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """The words of a run of seconds, whose files and record are in the current folder."""
    monkeypatch.setattr(pneumo.inference.bundle, "build_model", models.build_model)
    monkeypatch.setenv("PNEUMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    places = ["output_dir=outputs", f"tracking.uri=sqlite:///{store}"]
    shape: dict[str, int] = {"train_patients": 40, "test_patients": 24, "batch_size": 8, "epochs": 1}
    return lambda *more: [*small_run(**shape, more=[*places, *more])]


def test_a_run_is_trained_once_listed_and_predicted_with(line: Callable[..., list[str]], store: Path) -> None:
    first = api.fit(line())
    assert first.state == "FINISHED" and first.score == first.metrics["best/val_auroc"]
    assert first.folder.parent.name == "outputs" and "test/auroc" in first.metrics
    weights = (first.folder / "artifacts" / names.BEST_WEIGHTS).stat().st_mtime_ns
    assert api.fit(line()) == first
    assert (first.folder / "artifacts" / names.BEST_WEIGHTS).stat().st_mtime_ns == weights
    second = api.fit(line("seed=7"))
    assert second.folder != first.folder
    table = api.runs(tracking_uri=f"sqlite:///{store}")
    assert table["run_id"].tolist() == [first.run_id, second.run_id]
    assert table["seed"].tolist() == ["0", "7"] and (table["status"] == "FINISHED").all()
    assert table["test/auroc"].tolist() == [
        pytest.approx(one.metrics["test/auroc"]) for one in (first, second)
    ]
    with pytest.raises(UserError, match=r"sweep_id=sweep-0 is not in experiment pneumo"):
        api.runs(tracking_uri=f"sqlite:///{store}", sweep_id="sweep-0")

    model = api.load_model(first.folder)
    assert model.classes == ("NORMAL", "PNEUMONIA") and "NORMAL, PNEUMONIA" in repr(model)
    Image.fromarray(np.random.default_rng(0).integers(60, 200, (90, 100), dtype=np.uint8)).save("x.png")
    Path("broken.png").write_bytes(b"no image")
    found = model.predict(["x.png", Path("broken.png")])
    assert found["path"].tolist() == ["x.png", "broken.png"] and found["error"].tolist()[1]
    assert 0 < found["probability"][0] < 1 and np.isnan(found["probability"][1])
    assert found["threshold"].dtype == float


def test_predictions_are_those_of_the_command(
    line: Callable[..., list[str]], command: Command, tmp_path: Path
) -> None:
    outcome = api.fit(line())
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(60, 200, (90, 100), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    ending = command("predict", f"model={outcome.folder}", f"input={folder}", "output=found.csv")
    assert ending.code == 0, ending.err
    mine = api.load_model(outcome.folder).predict(folder).set_index("path")
    theirs = pd.read_csv("found.csv", keep_default_na=False).set_index("path")
    assert list(mine.columns) == list(theirs.columns)
    pd.testing.assert_series_equal(mine["probability"], theirs["probability"], check_dtype=False)
    for column in ("decision", "withheld", "warnings", "answer", "prediction_set"):
        assert mine[column].tolist() == theirs[column].tolist(), column


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trainer.epoch=3", "trainer.epochs"),
        ("model=resnet81", "resnet18"),
        ("trainer.epochs=many", "trainer.epochs"),
        ("trainer.epochs=0", "trainer.epochs=0"),
        ("optim.lr=1e-3,1e-4", "several values"),
        ("--multirun", "is a flag of the command line"),
        ("sweep=dropout_lr", "start a sweep with the command"),
        ("model=null", "model=null"),
        ("data.root=/nowhere", "/nowhere is not a folder"),
    ],
)
def test_a_wrong_word_is_refused_as_by_the_command(
    line: Callable[..., list[str]], word: str, said: str
) -> None:
    words = line(word) if not word.startswith("data.root") else [*line()[-2:], "data=chest_xray", word]
    with pytest.raises(UserError, match=said):
        api.fit(words)


@pytest.mark.parametrize("given", ["model=resnet18", [1], [("seed", 1)]])
def test_what_is_no_list_of_words_is_refused(given: Any) -> None:
    with pytest.raises(UserError, match="is not a list of overrides"):
        api.fit(given)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("threshold", 50, "threshold=50 is a probability"),
        ("prevalence", 5, "prevalence=5 is a share"),
        ("coverage", 5, "coverage=5 is a share"),
        ("device", "gpu", "device=gpu"),
    ],
)
def test_a_wrong_key_of_a_model_is_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        api.load_model("any", **{key: value})


def test_the_objects_of_the_caller_can_still_be_collected(line: Callable[..., list[str]]) -> None:
    class Node:
        pass

    node: Any = Node()
    node.itself, alive = node, weakref.ref(node)
    assert api.fit(line()).state == "FINISHED"
    del node
    gc.collect()
    assert alive() is None


def test_notes_are_those_of_the_command(
    line: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        api.fit(line("optim.momentum=0.8"))
        printed = capsys.readouterr().out
        assert "note: optim.momentum=0.8 has no effect here" in printed and "images of" in printed


def test_a_stopped_run_raises_and_continues(
    line: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = trainer.Trainer.fit

    def interrupted(*given: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        fit(*given)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.fit(line())
    assert api.fit(line()).state == "FINISHED"


def test_it_trains_in_another_thread(line: Callable[..., list[str]]) -> None:
    """Notebook servers and web programs call from threads, where Python allows no signal handlers."""
    ended: list[api.Outcome] = []
    thread = threading.Thread(target=lambda: ended.append(api.fit(line())))
    thread.start()
    thread.join(120)
    assert [one.state for one in ended] == ["FINISHED"]


@pytest.mark.parametrize("name", ["lr=0.001", "models/vit.b16", "resnet.csv.v2"])
def test_a_name_with_a_dot_stays_whole(name: str) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"path": [f"{row}.png" for row in range(40)], "label": [0, 1] * 20, "probability": rng.random(40)}
    )
    other = table.assign(probability=rng.random(40))
    found = api.compare({name: table, "other": other}, draws=50)
    assert {*found.scores["configuration"]} >= {name, "other"}
    assert found.answer in repr(found) and len(repr(found)) < 1000


def test_what_does_not_exist_is_refused(line: Callable[..., list[str]], tmp_path: Path) -> None:
    outcome = api.fit(line())
    with pytest.raises(UserError, match=r"nothing.png does not exist"):
        api.load_model(outcome.folder).predict("nothing.png")
    with pytest.raises(UserError, match="nowhere"):
        api.load_model("nowhere")
    with pytest.raises(UserError, match="does not exist"):
        api.runs(tracking_uri=f"sqlite:///{tmp_path}/none.db")


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PNEUMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = shutil.copy(ROOT / "docs/notebooks/python.ipynb", tmp_path)
    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "FINISHED" in printed and "done already, skipped" in printed
    assert "First on the test images" in printed and "blank" in printed
    assert (tmp_path / "outputs").is_dir()
