"""Keyed pseudonyms: stable with one key, different with another, and the key is nobody else's."""

import stat
from pathlib import Path

import pytest

from pneumo import UserError
from pneumo.data.pseudonyms import KEY_VARIABLE, Pseudonyms


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "keys" / "one.key"
    monkeypatch.setenv(KEY_VARIABLE, str(file))
    return file


def test_a_key_gives_the_same_pseudonyms_again(key: Path) -> None:
    first, again = Pseudonyms(), Pseudonyms()
    assert first.patient("Müller 1") == again.patient("Müller 1") != first.patient("Müller 2")
    assert "ller" not in str(first.patient("Müller 1"))
    path = first.path("train/person1_virus_6.JPEG")
    assert path == again.path("train/person1_virus_6.JPEG")
    assert path.endswith(".jpeg") and "person1" not in path
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_another_key_gives_others(key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Pseudonyms().patient("101")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "other.key"))
    assert Pseudonyms().patient("101") != before


def test_equal_ids_of_two_namespaces_are_two_patients(key: Path) -> None:
    plain, north, south = (Pseudonyms(name).patient("101") for name in (None, "north", "south"))
    assert len({plain, north, south}) == 3 and Pseudonyms("north").patient("101") == north
    assert Pseudonyms("north").path("a.png") == Pseudonyms().path("a.png")


def test_what_has_a_pseudonym_keeps_it_and_the_unknown_stays_unknown(key: Path) -> None:
    names = Pseudonyms()
    patient, path = names.patient("101"), names.path("a/b.png")
    assert names.patient(patient) == patient and names.path(path) == path
    assert names.patient(None) is None


def test_a_path_that_is_not_utf8_has_one(key: Path) -> None:
    assert Pseudonyms().path("a/\udcff.png").startswith("image-")


@pytest.mark.parametrize("content", ["", "abc", "00" * 31, "zz" * 32])
def test_a_damaged_key_is_named(key: Path, content: str) -> None:
    key.parent.mkdir()
    key.write_text(content)
    with pytest.raises(UserError, match=r"one\.key is not a key of data\.pseudonymise.*Restore it"):
        Pseudonyms()


def test_a_place_that_cannot_hold_a_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "file" / "key"))
    with pytest.raises(UserError, match=r"needs the key file .*PNEUMO_PSEUDONYM_KEY=FILE"):
        Pseudonyms()
