"""What a model knows: the record of a run, of the weights that it began with, and what they give away."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from pneumo import UserError
from pneumo.data import training_images
from pneumo.data.settings import DataSettings
from pneumo.data.training_images import KnownImages


def data(**splits: str) -> Any:
    """Images by split, each a letter, whose patient is p and the letter."""
    rows = [(f"{name}.png", split, f"p{name}") for split, names in splits.items() for name in names]
    table = pd.DataFrame(rows, columns=["path", "split", "patient"])
    hashes = {path: f"bytes of {path}" for path in table["path"]}
    return SimpleNamespace(manifest=SimpleNamespace(table=table), hashes=hashes)


def record(before: KnownImages | None = None, namespace: str | None = None, **splits: str) -> KnownImages:
    return KnownImages.of(data(**splits), DataSettings(patient_namespace=namespace), before)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = record(record(train="ab", val="c"), "north", train="xy", val="z", test="t")
    file = tmp_path / "training_images.json"
    file.write_text(made.as_json())
    assert KnownImages.read(file) == made and len(made.chain) == 2
    assert KnownImages.beside(str(tmp_path / "best.safetensors")) == made
    assert KnownImages.beside(None) is None and KnownImages.beside(str(tmp_path / "no" / "x.pth")) is None
    for damage in ({"before": 3}, {"before": [1]}, {"validated": 3}, {"before": {"images": []}}):
        file.write_text(json.dumps(json.loads(made.as_json()) | damage))
        with pytest.raises(UserError, match="is not a record of training images"):
            KnownImages.read(file)


def test_an_older_record_has_no_later_hashes(tmp_path: Path) -> None:
    file = tmp_path / "training_images.json"
    file.write_text('{"format": 1, "namespace": null, "keyed": false, "images": ["a"], "patients": []}')
    read = KnownImages.read(file)
    assert read.images == {"a"} and not read.validated and read.chain == [read]


def test_a_model_knows_the_images_of_the_weights_before() -> None:
    made = record(record(train="ab", val="c", test="t"), train="xy")
    found = training_images.overlap(made, data(train="", test="acxqt"), None)
    assert sorted(found.images) == ["a.png", "c.png", "x.png"]


@pytest.mark.parametrize(
    ("now", "leaking"),
    [
        ({"train": "abc", "val": "d", "test": "t"}, []),
        ({"train": "ab", "val": "c", "test": "t"}, []),  # the same split: c chose the epoch, and does again
        ({"train": "x", "val": "a", "test": "t"}, ["a.png"]),
        ({"train": "x", "val": "y", "test": "bc"}, ["b.png", "c.png"]),
    ],
)
def test_images_that_trained_the_weights_may_not_choose_or_test(
    now: dict[str, str], leaking: list[str]
) -> None:
    before = record(train="ab", val="c", test="t")
    assert training_images.leaks(before, data(**now), None).paths == leaking
    older = record(before, train="kl")  # trained in between on others
    assert training_images.leaks(older, data(**now), None).paths == leaking


def test_an_older_record_leaks_its_test_images_alone() -> None:
    old = replace(record(train="ab", val="c"), validated=frozenset(), validated_patients=frozenset())
    assert training_images.leaks(old, data(train="b", val="c", test="a"), None).paths == ["a.png"]


def test_patients_leak_within_one_namespace() -> None:
    before = record(None, "north", train="ab", val="c")
    now = data(train="x", val="", test="a")
    now.hashes["a.png"] = "another film"
    assert training_images.leaks(before, now, "north").patients == {"a.png": "pa"}
    assert training_images.leaks(before, now, "south").paths == []
    assert training_images.leaks(before, now, None).unchecked


def test_a_keyed_record_keeps_no_hash_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    made = KnownImages.of(data(train="x"), DataSettings(pseudonymise=True), record(train="ab"))
    assert made.keyed and made.before is None and made.before_left_out
    found = training_images.overlap(made, data(test="a"), None)
    assert any("weights that the training began with" in what for what in found.unchecked)
