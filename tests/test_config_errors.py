"""Hydra's errors in our words, for the schema of the command that was typed."""

import pytest
from support.commands import Command

from pneumo.config import Config
from pneumo.config_errors import unknown_key
from pneumo.runs import StatusConfig


def test_an_unknown_key_is_answered_with_those_of_its_command() -> None:
    words = unknown_key("wacth", StatusConfig, "runs status")
    assert words == (
        "the key wacth is not known; runs status has which, sweep_id, watch, output_dir, tracking. "
        "Did you mean watch?"
    )
    assert "the top level has model" in unknown_key("foo", Config, "train")
    assert "experiment, sweep" in unknown_key("foo", Config, "train")


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        (
            "tracking.experiment=my exp (1)",
            """pneumo train 'tracking.experiment="my exp (1)"' data=phantom""",
        ),
        ("tracking.experiment=胸部", """pneumo train 'tracking.experiment="胸部"' data=phantom"""),
    ],
)
def test_a_refused_text_is_shown_quoted_for_the_shell(command: Command, argument: str, line: str) -> None:
    ending = command("train", argument, "data=phantom")
    assert ending.code == 2 and line in ending.err and "Traceback" not in ending.err


def test_a_number_is_not_told_to_be_quoted(command: Command) -> None:
    ending = command("train", "trainer.epochs=[1", "data=phantom")
    assert ending.code == 2 and "trainer.epochs takes a whole number" in ending.err
    assert "pneumo train" not in ending.err


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (
            "data.positive=pneumonia",
            "data.positive=pneumonia is not a list or null: give data.positive=[A,B]",
        ),
        ("data.columns.subgroups=sex", "is not a list or null: give data.columns.subgroups=[A,B]"),
        ("data.labels=null", "data.labels=null is not a mapping: give data.labels={A: NORMAL}"),
    ],
)
def test_a_value_that_is_no_list_is_answered_with_one(command: Command, argument: str, words: str) -> None:
    ending = command("data", "check", argument)
    assert ending.code == 2 and words in ending.err and ending.err.count("\n") == 1
