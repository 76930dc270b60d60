"""The line as typed: flags anywhere, paths as they are, old spellings, lists."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pneumo import UserError
from pneumo.commands import find
from pneumo.config_arguments import as_typed, corrected, prepare, split_flags

NAMES = [
    "a b",
    "a,b",
    "a[1]",
    "x=y",
    "胸部X线",
    "it's",
    'say "a"',
    "back\\slash",
    "{a: b}",
    "a(b)",
    "007",
    "true",
    "~/x",
    "a\\",
    "#1",
]


@pytest.mark.parametrize(
    ("typed", "flags", "words"),
    [
        ("model=a -m seed=1,2", ["-m"], ["model=a", "seed=1,2"]),
        ("a=1 --cfg job b=2", ["--cfg", "job"], ["a=1", "b=2"]),
        ("a=1 --cfg=job b=2", ["--cfg=job"], ["a=1", "b=2"]),
        ("--info a=1", ["--info=all"], ["a=1"]),
        ("a=1 -i defaults b=2", ["--info=defaults"], ["a=1", "b=2"]),
        ("a=1 -cd more b=-1", ["-cd", "more"], ["a=1", "b=-1"]),
        ("--multi a=1", ["--multirun"], ["a=1"]),
        ("-- -m", [], ["-m"]),
    ],
)
def test_flags_may_be_anywhere(typed: str, flags: list[str], words: list[str]) -> None:
    assert split_flags(typed.split()) == (flags, words)


@pytest.mark.parametrize(("typed", "words"), [("--mulitrun", "--multirun?"), ("--cfg", "needs a value")])
def test_a_wrong_flag_is_named(typed: str, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        split_flags([typed])


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_used_as_typed(name: str, tmp_path: Path) -> None:
    for path in (name, f"{tmp_path}/{name}"):
        (argument,) = prepare([f"data.root={path}"], find("train"))
        assert OverridesParser.create().parse_override(argument).value() == path


def test_what_means_more_than_a_path_keeps_its_meaning() -> None:
    for value in ("", "null", "${oc.env:HOME}", "'a b'", "plain/path.png", "../a-b_c.d"):
        assert as_typed("data.root", value) == value
    assert as_typed("data.root", "a,b", several=True) == "a,b"
    assert as_typed("data.root", "a,b") == '"a,b"'
    assert prepare(["-m", "data.root=a,b"], find("train")) == ["-m", "data.root=a,b"]
    assert prepare(["tracking.experiment=a b(c"], find("train")) == ["tracking.experiment=a b(c"]


def test_a_list_of_inputs_and_a_name_that_looks_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (argument,) = prepare(['input=[a.png, 胸部 1.png,"c,d.png"]'], find("predict"))
    assert OverridesParser.create().parse_override(argument).value() == ["a.png", "胸部 1.png", "c,d.png"]
    Path("[a.png,b.png]").touch()
    assert prepare(["input=[a.png,b.png]"], find("predict")) == ['input="[a.png,b.png]"']


def test_old_spellings_work_with_a_note(capsys: pytest.CaptureFixture) -> None:
    made = prepare(["experiment=demo", "sweep=a-1"], find("compare"))
    assert made == ["tracking.experiment=demo", "sweep_id=a-1"]
    out, err = capsys.readouterr()
    assert not out and err.splitlines() == [
        "note: experiment= is the old spelling; write tracking.experiment=",
        "note: sweep= is the old spelling; write sweep_id=",
    ]


def test_a_word_alone_names_the_run(tmp_path: Path) -> None:
    assert prepare(["abc", "run=true"], find("runs reproduce")) == ["which=abc", "run=true"]
    folder = tmp_path / "x=y"
    folder.mkdir()
    (argument,) = prepare([str(folder)], find("runs reproduce"))
    assert OverridesParser.create().parse_override(argument).value() == str(folder)


def test_the_corrected_line_can_be_pasted() -> None:
    line = corrected(["-m", "tracking.experiment=a (b)", "seed=1"], "tracking.experiment=a (b)", "train")
    assert line == "pneumo train -m 'tracking.experiment=\"a (b)\"' seed=1"
    assert corrected(["trainer"], "trainer", "train") is None
