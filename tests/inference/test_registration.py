"""Registering a run's model: once, unless it is unfit or worse, with what serving needs."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mlflow.models import Model
from support.model_runs import FINDINGS, THREE
from support.model_tracker import ModelTracker

from pneumo import UserError, __version__
from pneumo.inference import model_folder, registration
from pneumo.inference.pyfunc import LATER
from pneumo.names import TRAINING_REFERENCE
from pneumo.tracking.registry import Registry, resolve

WORSE = "is worse than the model that has the alias champion"


def good(labels: np.ndarray, _: np.ndarray) -> np.ndarray:
    row = np.arange(len(labels))
    return 0.1 + 0.7 * labels + 0.01 * row / len(labels) - 0.695 * (row == 1)


def bad(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return 1 - good(labels, probabilities)


def test_mlflow_is_told_what_serving_needs(tracker: ModelTracker, tmp_path: Path) -> None:

    tracker.register(tracker.run())
    folder = resolve("models:/pneumo@champion", tracker.uri, tmp_path).folder
    model = Model.load(str(folder))
    assert model.flavors["python_function"]["loader_module"] == "pneumo.inference.pyfunc"
    assert model.signature.inputs.input_names() == ["image"]
    known = ["probability", "decision", "class", "threshold", "warnings", "version"]
    assert model.signature.outputs.input_names() == [*known, *LATER]
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        lines = [line for line in (folder / name).read_text().splitlines() if not line.startswith("#")]
        assert not any("pneumo" in line for line in lines), "the public index decides what that name is"
    example = json.loads((folder / "input_example.json").read_text())
    assert example["columns"] == ["image"] and len(example["data"]) == 1
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pth", ".pt", ".bin")]


def test_an_environment_installs_pneumo_from_the_wheel_of_the_model(
    tracker: ModelTracker, tmp_path: Path
) -> None:
    wheel = tmp_path / f"pneumo-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("pneumo/inference/pyfunc.py", "")
    tracker.register(tracker.run(), wheel=wheel)
    folder = resolve("models:/pneumo@champion", tracker.uri, tmp_path).folder
    assert (folder / "wheels" / wheel.name).read_bytes() == wheel.read_bytes()
    assert (folder / "requirements.txt").read_text() == f"./wheels/{wheel.name}\n"
    other = tmp_path / f"pneumo-{__version__}-cp311-none-any.whl"
    for file in (tmp_path / "none.whl", tmp_path / "pneumo-0.0-py3-none-any.whl", other):
        with pytest.raises(UserError, match=r"is not a wheel pneumo-.*pip wheel --no-deps"):
            tracker.register("0" * 32, wheel=file)
    with zipfile.ZipFile(other, "w") as content:
        content.writestr("other.py", "")
    with pytest.raises(UserError, match="does not contain pneumo"):
        tracker.register("0" * 32, wheel=other)


def let_another_machine_register(
    run_id: str, tracker: ModelTracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[str]:
    """Before the tracker's machine registers a model, another one registers `run_id`: what that says."""
    other = Registry(tracker.uri, tmp_path / "other")
    register, calls = Registry._register, []

    def other_first(registry: Registry, *arguments: object) -> object:
        if registry is tracker.registry and not calls:
            calls.append(registration.register(other, run_id, name="pneumo", alias="champion", force=False))
        return register(registry, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Registry, "_register", other_first)
    return calls


def test_two_machines_that_register_one_run_make_one_version(
    tracker: ModelTracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other machine has another lock. It registers after we looked for versions, before we register."""
    run_id = tracker.run()
    calls = let_another_machine_register(run_id, tracker, monkeypatch, tmp_path)
    line = tracker.register(run_id)
    assert calls[0].startswith("pneumo 1: registered") and line.startswith("pneumo 1: ")
    assert [version.version for version in tracker.versions()] == [1]
    assert tracker.client.get_model_version_by_alias("pneumo", "champion").version == 1
    models = tracker.client.search_logged_models([tracker.experiment])
    assert len(models) == 1, "no model without a version is left"


def test_a_model_that_another_machine_registers_meanwhile_is_compared(
    tracker: ModelTracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    better, worse = tracker.run(good), tracker.run(bad)
    let_another_machine_register(better, tracker, monkeypatch, tmp_path)
    with pytest.raises(
        UserError, match=rf"pneumo 2 is registered, but without the alias champion: .*{WORSE}"
    ):
        tracker.register(worse)
    assert tracker.client.get_model_version_by_alias("pneumo", "champion").version == 1


def test_a_run_without_a_reference_gets_one_where_its_images_are(phantom_run: Path, tmp_path: Path) -> None:
    tracker = ModelTracker(tmp_path, phantom_run)
    run_id = tracker.run()
    (tmp_path / "mlartifacts" / run_id / "artifacts" / TRAINING_REFERENCE).unlink()
    tracker.register(run_id)
    kept = model_folder.read(resolve("models:/pneumo@champion", tracker.uri, tmp_path / "cache").folder)
    assert kept.ood_reference == model_folder.from_run(phantom_run).ood_reference is not None


def test_registering_twice_gives_one_version(tracker: ModelTracker) -> None:
    run_id = tracker.run()
    tracker.register(run_id)
    assert "nothing to do" in tracker.register(run_id)
    assert tracker.register(run_id, alias="second").startswith("pneumo 1: already registered")
    assert [version.version for version in tracker.versions()] == [1]
    assert dict(tracker.client.get_registered_model("pneumo").aliases) == {"champion": 1, "second": 1}


def test_a_worse_run_is_refused_unless_forced(tracker: ModelTracker) -> None:
    tracker.register(tracker.run(good))
    worse = tracker.run(bad)
    with pytest.raises(UserError, match=rf"{WORSE}.*paired.*force=true"):
        tracker.register(worse)
    assert len(tracker.versions()) == 1
    assert "forced" in tracker.register(worse, force=True)
    assert tracker.client.get_model_version_by_alias("pneumo", "champion").version == 2
    better = tracker.register(tracker.run(good))
    assert "paired on 24 test images +" in better


def test_without_the_champions_predictions_the_intervals_decide(tracker: ModelTracker) -> None:
    first = tracker.run(good)
    tracker.register(first)
    tracker.client.delete_run(first)
    with pytest.raises(UserError, match=rf"{WORSE}: AUROC .* against"):
        tracker.register(tracker.run(bad))
    assert "paired" not in tracker.register(tracker.run(good))


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ({"status": "FAILED"}, "is FAILED: only a finished run"),
        ({"status": "KILLED"}, "is KILLED: only a finished run"),
        ({"protocol": "test_selected"}, "tagged test_selected"),
        ({"path": "other/"}, "was not tested on the images of pneumo 1"),
    ],
)
def test_unfit_runs_are_refused_unless_forced(
    tracker: ModelTracker, way: dict[str, str], reason: str
) -> None:
    tracker.register(tracker.run())
    run_id = tracker.run(**way)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=reason) as told:
        tracker.register(run_id)
    assert "force=true" in str(told.value)
    assert len(tracker.versions()) == 1
    tracker.register(run_id, force=True)
    assert len(tracker.versions()) == 2


def test_a_run_without_a_model_is_refused(tracker: ModelTracker) -> None:
    run_id = tracker.run()
    shutil.rmtree(tracker.folder / "mlartifacts" / run_id / "artifacts" / "checkpoints")
    with pytest.raises(UserError, match=r"best\.json"):
        tracker.register(run_id)
    assert not tracker.client.search_registered_models()


@pytest.mark.parametrize("alias", ["not/this", "latest", "v3", "", "a'b", "a" * 200])
def test_an_alias_that_mlflow_refuses_is_named(alias: str, tracker: ModelTracker) -> None:
    with pytest.raises(UserError, match="alias="):
        tracker.register(tracker.run(), alias=alias)
    assert not tracker.client.search_registered_models()


def test_three_classes_are_registered_compared_and_kept_apart_from_two(
    tracker: ModelTracker, made_of_three: Path, empty_store: Path, tmp_path: Path
) -> None:
    two = tracker.run()
    (tmp_path / "three").mkdir()
    shutil.copy(empty_store, tmp_path / "three" / "mlflow.db")
    of_three = ModelTracker(tmp_path / "three", made_of_three)
    of_three.register(of_three.run(good_of_three))
    (version,) = of_three.versions()
    folder = resolve("models:/pneumo@champion", of_three.uri, tmp_path).folder
    kept = model_folder.read(folder)
    assert json.loads(version.tags["pneumo.classes"]) == kept.class_names == [*THREE]
    assert version.tags["pneumo.test_auroc"].startswith(f"{kept.figures['auroc']['value']:.4f} (")
    outputs = Model.load(str(folder)).signature.outputs.input_names()
    assert {"class", *(f"p_{name}" for name in THREE)} <= {*outputs} and "probability" not in outputs
    with pytest.raises(UserError, match=rf"{WORSE}: macro AUROC .* paired on 24 test images -"):
        of_three.register(of_three.run(lambda labels, chances: good_of_three((labels + 1) % 3, chances)))
    assert "macro AUROC" in of_three.register(of_three.run(good_of_three))
    # A model of two classes does not take the alias of one with three, nor the other way round.
    tracker.register(two)
    for here, made in ((tracker, made_of_three), (of_three, tracker.made)):
        here.made = made
        with pytest.raises(UserError, match=r"tells .* apart, and pneumo \d, which has the alias champion"):
            here.register(here.run())


def good_of_three(labels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Right but for one image in seven."""
    called = np.where(np.arange(len(labels)) % 7 == 0, (labels + 1) % 3, labels)
    return 0.6 * np.eye(3)[called] + 0.4 / 3


def test_findings_are_registered_compared_and_kept_apart_from_classes(
    made_of_findings: Path, made_of_three: Path, empty_store: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    tracker = ModelTracker(tmp_path, made_of_findings)
    tracker.register(tracker.run(good_of_findings))
    (version,) = tracker.versions()
    folder = resolve("models:/pneumo@champion", tracker.uri, tmp_path).folder
    kept = model_folder.read(folder)
    assert version.tags["pneumo.task"] == "multilabel" and kept.multilabel
    assert json.loads(version.tags["pneumo.classes"]) == kept.class_names == [*FINDINGS]
    assert version.tags["pneumo.test_auroc"].startswith(f"{kept.figures['auroc']['value']:.4f} (")
    outputs = Model.load(str(folder)).signature.outputs.input_names()
    assert {"prediction", *(f"p_{name}" for name in FINDINGS)} <= {*outputs} and "class" not in outputs
    with pytest.raises(UserError, match=rf"{WORSE}: mean AUROC .* paired on 24 test images -"):
        tracker.register(tracker.run(lambda labels, chances: 1 - good_of_findings(labels, chances)))
    assert "mean AUROC" in tracker.register(tracker.run(good_of_findings))
    tracker.made = made_of_three
    with pytest.raises(UserError) as refused:
        tracker.register(tracker.run())
    words = str(refused.value)
    assert "is a model of one class an image, and pneumo 2" in words and "\n" not in words
    assert "one of several findings an image: they cannot be compared" in words and "force=true" in words


def good_of_findings(labels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Right but for one image in seven."""
    wrong = np.arange(len(labels))[:, None] % 7 == 0
    return 0.1 + 0.7 * ((labels == 1) ^ wrong) + 0.01 * np.arange(len(labels))[:, None] / len(labels)
