"""Models trained with trainer.score_test=false, whose test set is scored once, later."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from support.commands import Command, small_run

from pneumo import models, names
from pneumo.data.loader import Split
from pneumo.inference import bundle
from pneumo.tracking.journal import Journal

LINE = small_run(
    train_patients=24, test_patients=12, batch_size=8, more=["trainer.precision=float32", "seed=7"]
)
UNSCORED = "trainer.score_test=false"

pytestmark = pytest.mark.usefixtures("tiny", "store")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The splits whose images were given to a model."""
    splits: set[str] = set()
    take = Split.take

    def take_and_note(split: Split, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        splits.add(split.name)
        return take(split, indices)

    monkeypatch.setattr(Split, "take", take_and_note)
    return splits


def only_run(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "outputs").glob("*/journal.jsonl")
    return file.parent


def tracked(tmp_path: Path, folder: Path) -> Any:
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("pneumo")
    query = f"tags.`{names.FINGERPRINT_TAG}` = '{folder.name}'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    return run


def test_figures(journal: Journal) -> dict[str, float]:
    rows = journal.metric_rows()
    return {key: value for key, value, _, _ in rows if key.startswith("test/")}


test_figures.__test__ = False  # type: ignore[attr-defined]  # its name, not its purpose


def test_an_unscored_run_never_sees_its_test_images(
    command: Command, tmp_path: Path, taken: set[str]
) -> None:
    ending = command("train", *LINE, UNSCORED)
    assert ending.code == 0, ending.err
    assert taken == {"train", "val"}
    folder = only_run(tmp_path)
    journal = Journal(folder)
    assert journal.status == "FINISHED" and not test_figures(journal)
    assert not [file.name for file in (folder / "artifacts").rglob("*test*")]
    assert "pneumo evaluate model=" in ending.out


def test_it_is_scored_later_with_the_figures_of_a_run_scored_at_its_end(
    command: Command, tmp_path: Path, taken: set[str]
) -> None:
    assert command("train", *LINE).code == 0
    at_the_end = only_run(tmp_path).rename(tmp_path / "at_the_end")
    assert command("train", *LINE, UNSCORED, "tracking.experiment=later").code == 0
    folder = only_run(tmp_path)
    assert folder.name == Journal(at_the_end).tags_logged[names.FINGERPRINT_TAG]  # not part of the identity
    taken.clear()
    ending = command("evaluate", f"model={folder.name}", "split=test")
    assert ending.code == 0, ending.err
    assert taken == {"test"}
    figures = test_figures(Journal(folder))
    assert figures == test_figures(Journal(at_the_end)) and "test/auroc" in figures
    for name in ("predictions/test.csv", "figures/roc_test.png", "reports/classification_test.json"):
        assert (folder / "artifacts" / name).read_bytes() == (at_the_end / "artifacts" / name).read_bytes()


def test_scoring_reaches_the_tracker_and_the_run_stays_finished(command: Command, tmp_path: Path) -> None:
    assert command("train", *LINE, UNSCORED).code == 0
    folder = only_run(tmp_path)
    assert command("evaluate", f"model={folder}").code == 0
    run = tracked(tmp_path, folder)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/auroc"] == test_figures(Journal(folder))["test/auroc"]
    assert run.data.tags[names.SCORED_TAG].endswith("Z")
    files = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").list_artifacts(run.info.run_id, "predictions")
    assert {file.path for file in files} == {"predictions/val.csv", "predictions/test.csv"}


def test_a_second_call_prints_the_record(command: Command, tmp_path: Path, taken: set[str]) -> None:
    assert command("train", *LINE, UNSCORED).code == 0
    folder = only_run(tmp_path)
    assert command("evaluate", f"model={folder}").code == 0
    before = (folder / "journal.jsonl").read_bytes()
    taken.clear()
    ending = command("evaluate", f"model={folder}")
    journal = Journal(folder)
    assert ending.code == 0 and not taken
    assert (folder / "journal.jsonl").read_bytes() == before
    assert journal.tags_logged[names.SCORED_TAG] in ending.out
    assert f"auroc {test_figures(journal)['test/auroc']:.4f}" in ending.out


def test_the_training_command_scores_it_without_training(
    command: Command, tmp_path: Path, taken: set[str]
) -> None:
    assert command("train", *LINE, UNSCORED).code == 0
    taken.clear()
    ending = command("train", *LINE)
    assert ending.code == 0 and "its test set is scored now" in ending.out
    assert taken == {"test"} and "test/auroc" in test_figures(Journal(only_run(tmp_path)))
    assert "done already, skipped" in command("train", *LINE).out


def test_a_sweep_is_scored_by_the_same_command(command: Command, tmp_path: Path) -> None:
    line = ["--multirun", *LINE[:-1], "seed=0,1", "keep_best=0"]
    assert command("train", *line, UNSCORED).code == 0
    folders = [file.parent for file in (tmp_path / "outputs").glob("*/journal.jsonl")]
    assert all((folder / "artifacts" / names.BEST_WEIGHTS).is_file() for folder in folders)
    ending = command("train", *line)
    assert ending.code == 0 and "FINISHED" in ending.out, ending.err
    assert all("test/auroc" in test_figures(Journal(folder)) for folder in folders)
    assert len(list((tmp_path / "outputs" / "sweeps").iterdir())) == 1  # the same sweep
    assert not [f for f in folders if (f / "artifacts" / names.BEST_WEIGHTS).exists()]  # keep_best=0 again


def test_missing_weights_name_the_command_that_trains_again(command: Command, tmp_path: Path) -> None:
    assert command("train", *LINE, UNSCORED).code == 0
    folder = only_run(tmp_path)
    (folder / "artifacts" / names.BEST_WEIGHTS).unlink()
    ending = command("evaluate", f"model={folder}")
    assert ending.code == 1 and "Traceback" not in ending.err
    assert "pneumo train model=resnet18" in ending.err and "seed=7" in ending.err
    assert "trainer.score_test=false force=true" in ending.err


def test_other_images_are_refused(command: Command, tmp_path: Path, kaggle: Path) -> None:
    line = ["data=chest_xray", f"data.root={kaggle}", "data.image_size=32", "trainer.epochs=1", "seed=7"]
    assert command("train", *line, UNSCORED).code == 0
    folder = only_run(tmp_path)
    next((kaggle / "test" / "NORMAL").iterdir()).unlink()
    ending = command("evaluate", f"model={folder}")
    assert ending.code == 1 and "does not hold the images and labels" in ending.err
    assert not test_figures(Journal(folder))


def test_a_run_that_has_not_ended_is_refused(command: Command, tmp_path: Path) -> None:
    assert command("train", *LINE, UNSCORED).code == 0
    folder = only_run(tmp_path)
    journal = Journal(folder)
    journal.resume()
    journal.close()
    ending = command("evaluate", f"model={folder}")
    assert ending.code == 1 and "only a finished run" in ending.err


def test_selecting_on_test_needs_the_test_set(command: Command) -> None:
    ending = command("train", *LINE, UNSCORED, "trainer.select_on=test")
    assert ending.code == 2 and "trainer.select_on=val" in ending.err


def test_an_unscored_model_is_registered_only_by_force(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "build_model", models.build_model)  # the tiny one
    assert command("train", *LINE, UNSCORED).code == 0
    folder = only_run(tmp_path)
    refused = command("runs", "register", str(folder), "alias=champion")
    assert refused.code == 1 and "pneumo evaluate model=" in refused.err and "force=true" in refused.err
    forced = command("runs", "register", str(folder), "alias=champion", "force=true")
    assert forced.code == 0, forced.err
