"""The command of a run, from its saved configuration."""

import shlex
from pathlib import Path

import pytest
from support.commands import Command

from pneumo import UserError, reproduce
from pneumo.config import Config, compose
from pneumo.fingerprint import fingerprint
from pneumo.tracking.journal import Journal


def saved(outputs: Path, settings: Config, digest: str = "d" * 64) -> Path:
    """A finished run of `settings`, without artifacts but its configuration."""
    mark = fingerprint(settings.as_dict(), digest)
    journal = Journal(outputs / mark)
    journal.start("a run", "pneumo", {"pneumo.fingerprint": mark, "pneumo.data_digest": digest})
    journal.metrics({"val/auroc": 0.5}, 1)
    journal.end("FINISHED")
    journal.close()
    (outputs / mark / "artifacts").mkdir()
    (outputs / mark / "artifacts" / "config.yaml").write_text(settings.as_yaml())
    return outputs / mark


@pytest.mark.parametrize(
    "overrides",
    [
        ["data=phantom", "model=resnet50", "optim=sgd", "schedule=cosine", "augment=light", "seed=3"],
        ["data=phantom", "data.phantom.train_patients=24", "trainer.monitor=val/f1", "model.dropout=0.2"],
        ["experiment=seed_report", 'data.root="/an odd, place"'],
        ["data=csv", "data.table=/a/t.csv", "data.positive=[Viral Pneumonia,Edema]", "data.split.seed=3"],
        ["data=csv", "data.labels={No Finding: 0, a\\,b|c: null, -1.0: PNEUMONIA}", "data.columns.path=A B"],
        ["data=chexpert", "data.labels={-1.0: 1}", "data.columns.subgroups=[Sex]", "data.root=/x"],
    ],
)
def test_the_command_composes_to_the_same_configuration(
    command: Command, tmp_path: Path, overrides: list[str]
) -> None:
    folder = saved(tmp_path / "outputs", compose(overrides))
    ending = command("runs", "reproduce", folder.name[:6], "run=false")
    assert ending.code == 0, ending.err
    (line,) = ending.out.splitlines()
    assert line.startswith("pneumo train model=")
    made = compose(shlex.split(line)[2:])
    assert fingerprint(made.as_dict(), "d" * 64) == folder.name
    assert made.data == compose(overrides).data


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, compose(["data=phantom"]))
    file = folder / "artifacts" / "config.yaml"
    file.write_text(file.read_text().replace("dropout: 0.09", "dropout: 0.08"))
    with pytest.raises(UserError, match="made by another version"):
        reproduce.reproduce(folder, str(tmp_path), run=False)


def test_a_run_without_its_configuration_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, compose(["data=phantom"]))
    (folder / "artifacts" / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config.yaml is missing"):
        reproduce.reproduce(folder, str(tmp_path), run=False)
