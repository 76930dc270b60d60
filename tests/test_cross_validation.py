"""A sweep over folds, from its command to what its runs hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import Command
from support.sweep_runs import SWEEP, epochs_trained, weights

from pneumo import names
from pneumo.config import compose
from pneumo.evaluation import metrics
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


def test_folds_are_compared_then_scored_once_on_test(command: Command, tmp_path: Path) -> None:
    line = [*FOLDS, "trainer.limit_batches=null", "optim.lr=1e-3,1e-2", "sweep_id=cv"]
    two = [word for word in line if not word.startswith("data.fold=")]
    assert command("train", *two, "data.fold=0,2").code == 0
    refused = command("compare", "sweep_id=cv", "latency=false")
    assert refused.code == 1 and "fold 1 of 3 is missing. Train: pneumo train --multirun" in refused.err
    assert command("train", *line).code == 0
    compared = command("compare", "sweep_id=cv", "latency=false", "output=unread", "draws=100")
    assert compared.code == 0, compared.err
    assert "out-of-fold AUROC" in compared.out and "The test set has not been read." in compared.out
    found = json.loads((tmp_path / "unread/comparison.json").read_text())
    made = {journal.folder.name: journal for journal in journals(tmp_path)}
    assert len(found["configurations"]) == 2 and len(found["unscored"]) == len(made) == 6

    ending = command("evaluate", "sweep_id=cv", "split=test")
    assert ending.code == 0 and ending.out.count("test (scored once") == 6
    again = command("evaluate", "sweep_id=cv")
    assert again.code == 0 and again.out.count("its test set was scored at") == 6
    compared = command("compare", "sweep_id=cv", "latency=false", "output=read", "draws=100")
    assert compared.code == 0, compared.err
    after = json.loads((tmp_path / "read/comparison.json").read_text())
    assert (found["scored_on"], after["scored_on"]) == ("val", "test") and not after["unscored"]
    assert name_of(found, "choice") == name_of(after, "choice")
    for row in after["configurations"]:
        networks = next(each for each in after["cross_validation"]["rows"] if each["id"] == row["id"])
        expected = []
        for network in networks["networks"]:
            (journal,) = (each for each in made.values() if each.name == network["name"])
            val, test = (
                read_predictions((journal.folder / "artifacts" / name).read_text())
                for name in (names.VAL_PREDICTIONS, names.TEST_PREDICTIONS)
            )
            value = metrics.temperature(val.labels, val.probabilities)
            expected.append(metrics.tempered(test.probabilities, value))
        auroc = metrics.scores(test.labels, np.mean(expected, axis=0))["auroc"]
        assert row["scores"]["auroc"]["value"] == pytest.approx(auroc)


def name_of(found: dict[str, Any], key: str) -> str:
    return next(row["name"] for row in found["configurations"] if row["id"] == found[key]["id"])


def test_a_sweep_to_evaluate_must_exist(command: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    unknown = command("evaluate", "sweep_id=none")
    assert unknown.code == 1 and "sweep_id=none is not known" in unknown.err
    both = command("evaluate", "sweep_id=none", "model=some")
    assert both.code == 2 and "give one of them" in both.err


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
