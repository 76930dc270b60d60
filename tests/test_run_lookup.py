"""A run is found by each name that people have for it, and by nothing that means two runs."""

import json
from pathlib import Path

import pytest

from pneumo import UserError
from pneumo.run_lookup import find_run, model_of, run_folders, run_id_of
from pneumo.tracking.courier import note_path
from pneumo.tracking.journal import Journal

URI = "sqlite:///somewhere.db"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for fingerprint, name in (("aa11", "resnet18 strong"), ("aa22", "resnet50 strong"), ("bb33", "twice")):
        journal = Journal(tmp_path / "outputs" / fingerprint)
        journal.start(name, "pneumo", {"pneumo.fingerprint": fingerprint})
        journal.close()
    note = {"uri": URI, "run_id": "c" * 32, "sequence": 1}
    note_path(tmp_path / "outputs" / "aa11", URI).write_text(json.dumps(note))
    return tmp_path / "outputs"


@pytest.mark.parametrize("name", ["aa11", "aa1", "c" * 32, "ccc", "resnet18 strong", "{outputs}/aa11"])
def test_every_name_of_a_run_finds_it(outputs: Path, name: str) -> None:
    assert find_run(str(outputs), name.format(outputs=outputs)) == outputs / "aa11"


@pytest.mark.parametrize(("name", "words"), [("aa", "2 runs .aa11, aa22"), ("zz", "not a run there")])
def test_none_or_several_are_named(outputs: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_run(str(outputs), name)


def test_the_beginning_of_an_id_is_looked_for_in_the_given_tracker_first(outputs: Path) -> None:
    other = "sqlite:///other.db"
    note = {"uri": other, "run_id": f"c1{'d' * 30}", "sequence": 1}
    note_path(outputs / "bb33", other).write_text(json.dumps(note))
    assert find_run(str(outputs), "c", URI) == outputs / "aa11"
    assert find_run(str(outputs), "c", other) == outputs / "bb33"
    assert find_run(str(outputs), "c1", URI) == outputs / "bb33"  # only the other tracker has it
    for uri in (None, "sqlite:///third.db"):
        with pytest.raises(UserError, match=r"2 runs \(aa11, bb33\)"):
            find_run(str(outputs), "c", uri)


def test_a_fingerprint_and_an_id_with_the_same_beginning_are_named(outputs: Path) -> None:
    note = {"uri": URI, "run_id": f"bb{'d' * 30}", "sequence": 1}
    note_path(outputs / "aa22", URI).write_text(json.dumps(note))
    with pytest.raises(UserError, match=r"2 runs \(aa22, bb33\)"):
        find_run(str(outputs), "bb", URI)


def test_the_id_in_a_tracker(outputs: Path) -> None:
    assert run_id_of(str(outputs), "resnet18 strong", URI) == "c" * 32
    with pytest.raises(UserError, match=r"bb33 is not in sqlite:///.* yet: `pneumo runs sync`"):
        run_id_of(str(outputs), "twice", URI)


def test_a_missing_folder_is_named(outputs: Path) -> None:
    assert len(run_folders(str(outputs))) == 3
    with pytest.raises(UserError, match=f"output_dir={outputs}/none is not a folder"):
        run_folders(f"{outputs}/none")


@pytest.mark.parametrize("name", ["aa11", "aa1", "ccc", "resnet18 strong", "{outputs}/aa11"])
def test_a_model_is_named_as_its_run(outputs: Path, name: str) -> None:
    assert model_of(name.format(outputs=outputs), str(outputs), URI) == str(outputs / "aa11" / "artifacts")


def test_what_is_not_a_run_here_stays_as_it_is(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for model in ("models:/pneumo@champion", "runs:/" + "f" * 32, "f" * 32, str(tmp_path / "model"), "zz"):
        assert model_of(model, str(outputs), URI) == model
        assert model_of(model, str(tmp_path / "none"), URI) == model
    with pytest.raises(UserError, match=r"2 runs \(aa11, aa22"):
        model_of("aa", str(outputs), URI)
