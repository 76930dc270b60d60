"""Keys, defaults and comments as conf/ has them."""

from pathlib import Path

from pneumo.config_files import KeyLine, groups, key_lines, options, shipped_dir, summary
from pneumo.models import MODELS

TEXT = """# @package _global_
# What it is. And more
# over two lines.
defaults:
  - schema

seed: 0
root: "a # b"  # where
# Above the key.
inner:
  deep:
    size: 3  # how many
  other: x
hydra:
  mode: RUN  # not a key of ours
last: null
"""


def test_keys_with_their_comments(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(TEXT)
    assert summary(file) == "What it is."
    assert key_lines(file) == [
        KeyLine(key="seed", value="0", comment=""),
        KeyLine(key="root", value='"a # b"', comment="where"),
        KeyLine(key="inner.deep.size", value="3", comment="how many"),
        KeyLine(key="inner.other", value="x", comment=""),
        KeyLine(key="last", value="null", comment=""),
    ]


def test_groups_and_options_are_those_of_conf() -> None:
    assert groups("train")["model"] == "resnet18" and groups("train")["sweep"] is None
    assert not groups("predict")
    assert [file.stem for file in options("model")] == sorted(MODELS)
    assert summary(shipped_dir("sweeps") / "samplers.yaml").startswith("does evening out the classes help")
