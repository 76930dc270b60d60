"""The callback that starts a sweep."""

from pathlib import Path

import pytest
from support.commands import Command
from support.sweep_runs import SWEEP

from pneumo import config
from pneumo.sweep import callback


@pytest.mark.parametrize(
    ("override", "words"),
    [("sweep_id=../x", "sweep_id=../x names a folder"), ("on_failure=go", "continue, stop")],
)
def test_wrong_settings_of_a_sweep(command: Command, tmp_path: Path, override: str, words: str) -> None:
    ending = command("train", "--multirun", "seed=1,2", override, *SWEEP)
    assert ending.code == 2 and words in ending.err and "Traceback" not in ending.err
    assert not list(tmp_path.glob("outputs/**/*.json*"))


def test_a_sweep_files_first_comment_is_the_question(tmp_path: Path) -> None:
    file = config.shipped_dir("sweeps") / "dropout_lr.yaml"
    question = callback._question(file)
    assert question is not None and question.endswith("?") and not question.startswith("Question")
    (tmp_path / "plain.yaml").write_text("hydra: {}\n")
    assert callback._question(tmp_path / "plain.yaml") is None
    assert callback._question(tmp_path / "missing.yaml") is None
