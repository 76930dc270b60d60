"""What a start records, and which differences stop a resume."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from pneumo import provenance
from pneumo.provenance import StartRecord, changes, checkout, code_hash


def record(**other: object) -> StartRecord:
    made = provenance.start_record(
        pixels=2, precision="float32", world_size=1, device="cpu", torch="2.14.1", command="train seed=1"
    )
    return dataclasses.replace(made, **other)


def test_a_record_reads_back() -> None:
    first = record()
    assert StartRecord.from_dict(first.as_dict()) == first


def test_a_record_of_another_release_reads_back() -> None:
    values = record().as_dict() | {"a_later_field": 1}
    del values["processor"], values["dirty"]
    read = StartRecord.from_dict(values)
    assert (read.processor, read.dirty, read.core) == ("", [], record().core)


@pytest.mark.parametrize(
    "edited",
    [
        "def f(x):\n    '''Another docstring.'''\n    return x + 1\n",
        "def f(x):\n    return x + 1  # a comment\n",
        "def f(x):\n\n    return (x\n            + 1)\n",
    ],
)
def test_docstrings_comments_and_layout_do_not_change_the_code_hash(edited: str) -> None:
    plain = "def f(x):\n    '''A docstring.'''\n    return x + 1\n"
    assert code_hash([("a.py", edited)]) == code_hash([("a.py", plain)])


@pytest.mark.parametrize("edited", ["def f(x):\n    return x + 2\n", "def g(x):\n    return x + 1\n"])
def test_code_changes_the_code_hash(edited: str) -> None:
    assert code_hash([("a.py", edited)]) != code_hash([("a.py", "def f(x):\n    return x + 1\n")])


def test_the_name_of_a_module_counts() -> None:
    assert code_hash([("a.py", "x = 1")]) != code_hash([("b.py", "x = 1")])


def test_the_code_hash_is_the_same_under_every_python() -> None:
    # Computed once under 3.11, 3.12 and 3.13: their syntax trees have different empty fields.
    source = "class A[T]:\n    x: int = 1\n" if sys.version_info >= (3, 12) else None
    assert source is None or code_hash([("a.py", source)])
    plain = "class A:\n    x: int = 1\n\n\ndef f(a, *, b=2):\n    return f'{a} {b!r}'\n"
    assert code_hash([("a.py", plain)]) == "96e1720eedd33407"


def test_edited_code_within_a_release_stops() -> None:
    (change,) = changes(record(code="aaaa"), record(code="bbbb"))
    assert change.stops and (change.before, change.now) == ("aaaa", "bbbb")


def test_another_release_does_not_stop() -> None:
    (change,) = changes(record(code="aaaa", version="0.2.0"), record(code="bbbb"))
    assert not change.stops and change.before == "0.2.0"


@pytest.mark.parametrize(("field", "value"), [("precision", "bf16"), ("world_size", 2)])
def test_another_precision_or_world_size_stops(field: str, value: object) -> None:
    (change,) = changes(record(), record(**{field: value}))
    assert change.stops and change.now == str(value)


@pytest.mark.parametrize("field", ["host", "processor", "torch"])
def test_another_machine_or_torch_does_not_stop(field: str) -> None:
    (change,) = changes(record(), record(**{field: "another"}))
    assert not change.stops and "another now" in str(change)


def test_what_stops_comes_first() -> None:
    found = changes(record(), record(host="another", precision="bf16"))
    assert [change.stops for change in found] == [True, False]


def test_the_same_start_again_has_no_changes() -> None:
    assert changes(record(), record(command="train seed=1 force=true", commit="0" * 40)) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git checkout with a deciding and another file."""
    package = tmp_path / "pneumo"
    (package / "data").mkdir(parents=True)
    (package / "data" / "a.py").write_text("x = 1\n")
    (package / "page.py").write_text("x = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    return tmp_path


def test_only_files_below_the_given_paths_count_as_dirty(repository: Path) -> None:
    commit, dirty = checkout(repository, ["pneumo/data"])
    assert commit is not None and len(commit) == 40 and dirty == []
    (repository / "pneumo" / "page.py").write_text("x = 2\n")
    assert checkout(repository, ["pneumo/data"])[1] == []
    (repository / "pneumo" / "data" / "a.py").write_text("x = 2\n")
    assert checkout(repository, ["pneumo/data"]) == (commit, ["pneumo/data/a.py"])
    assert checkout(repository)[1] == ["pneumo/data/a.py", "pneumo/page.py"]


def test_new_files_count_where_they_are_asked_for(repository: Path) -> None:
    (repository / "pneumo" / "data" / "new.py").write_text("x = 1\n")
    assert checkout(repository)[1] == ["pneumo/data/new.py"]
    assert checkout(repository, untracked=False)[1] == []


def test_a_start_records_the_deciding_files_that_are_dirty(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "PACKAGE", repository / "pneumo")
    for part in ("page.py", "data/a.py", "data/new.py"):
        (repository / "pneumo" / part).write_text("x = 2\n")
    assert record().dirty == ["pneumo/data/a.py", "pneumo/data/new.py"]


def test_no_checkout_gives_no_commit(tmp_path: Path, repository: Path) -> None:
    assert checkout(repository / "pneumo") == (None, [])
