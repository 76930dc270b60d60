"""A sweep over folds, from its command to what its runs hold."""

from pathlib import Path

import pytest
from support.commands import Command
from support.sweep_runs import SWEEP, epochs_trained, weights

from pneumo import names
from pneumo.config import compose
from pneumo.evaluation.predictions import read_predictions
from pneumo.tracking.journal import Journal

pytestmark = pytest.mark.usefixtures("tiny", "store")
FOLDS = ["sweep=cross_validation", "data.folds=3", "data.fold=0,1,2", *SWEEP]


def journals(folder: Path) -> list[Journal]:
    return [Journal(file.parent) for file in sorted(folder.glob("outputs/*/journal.jsonl"))]


def test_a_sweep_trains_each_fold_once_and_leaves_test_unread(command: Command, tmp_path: Path) -> None:
    ending = command("train", *FOLDS, "trainer.limit_batches=null")
    assert ending.code == 0, ending.err
    made = journals(tmp_path)
    assert len(made) == 3 and len(weights(tmp_path)) == 3
    tags = [journal.tags_logged for journal in made]
    assert len({each[names.SPLIT_TAG] for each in tags}) == 3
    assert len({each[names.POOL_TAG] for each in tags}) == 1
    assert {journal.params_logged["data.fold"] for journal in made} == {"0", "1", "2"}
    validated = []
    for journal in made:
        artifacts = journal.folder / "artifacts"
        assert not list(artifacts.rglob("*test*"))
        validated += read_predictions((artifacts / names.VAL_PREDICTIONS).read_text()).paths
    assert len(validated) == len({*validated})


def test_a_second_command_skips_the_folds_and_adds_one(command: Command, tmp_path: Path) -> None:
    two = [word for word in FOLDS if not word.startswith("data.fold=")]
    assert command("train", *two, "data.fold=0,1", "sweep_id=cv").code == 0
    trained = epochs_trained(tmp_path)
    ending = command("train", *FOLDS, "sweep_id=cv")
    assert ending.code == 0 and ending.out.count("done already, skipped") == 2
    assert epochs_trained(tmp_path) == trained * 3 // 2


@pytest.mark.parametrize(
    ("typed", "scores"),
    [
        ([], True),
        (["data.val_protocol=fold", "data.fold=1"], False),
        (["data.val_protocol=fold", "data.fold=1", "trainer.score_test=true"], True),
        (["trainer.score_test=false"], False),
    ],
)
def test_test_is_scored_unless_folds_are_trained(typed: list[str], scores: bool) -> None:
    assert compose(typed).trainer.score_test is scores


def test_choosing_the_epoch_on_test_is_refused_under_folds(command: Command) -> None:
    ending = command("train", "experiment=seed_report", "data.val_protocol=fold", "data.fold=0")
    assert ending.code == 2 and "trainer.select_on=test" in ending.err and "Traceback" not in ending.err
