"""`pneumo` and `python -m pneumo`: which command gets the rest of the line."""

import subprocess
import sys
import types

import pytest
from support.commands import PROJECT

import pneumo
from pneumo import __main__ as entry
from pneumo.commands import COMMANDS


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["pneumo", *arguments])
    with pytest.raises(SystemExit) as end:
        entry.main()
    return int(end.value.code or 0)


def test_help_names_every_command_and_three_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert ended(monkeypatch, "--help") == 0
    out, err = capsys.readouterr()
    assert not err and "Hydra" in out.splitlines()[0]
    for name, command in COMMANDS.items():
        assert f"  {name} " in out and command.purpose.split(":")[0] in " ".join(out.split())
    assert out.count("\n  pneumo ") == 3


def test_version_is_this_projects(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert ended(monkeypatch, "--version") == 0
    assert ended(monkeypatch, "train", "--version") == 0
    assert capsys.readouterr().out == f"pneumo {pneumo.__version__}\n" * 2


@pytest.mark.parametrize(("arguments", "words"), [((), "Commands"), (("trian",), "Did you mean train?")])
def test_wrong_usage_ends_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], words: str
) -> None:
    assert ended(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert words in err and not out


def test_the_rest_of_the_line_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    module = types.SimpleNamespace(main=lambda: seen.append(sys.argv[1:]))
    monkeypatch.setitem(sys.modules, "pneumo.train", module)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["pneumo", "train", "-m", "seed=1,2"])
    entry.main()
    assert seen == [["-m", "seed=1,2"]]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['pneumo', '--help']\n"
        "from pneumo.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'mlflow', 'hydra', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
