"""What the cache folder holds, what nothing new uses, and that only this is removed."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pneumo.data import cache, cache_contents, manifest
from pneumo.data.cache_contents import IMAGES, LEFTOVER, MODEL, RECORD, CacheEntry, entries, removable, remove
from pneumo.data.settings import DataSettings
from pneumo.files import locked
from pneumo.names import FETCHED_MODELS

Make = Callable[..., DataSettings]
DAY_S = cache_contents.DAY_S


def filled(root: Path, settings: Make, folder: Path) -> dict[str, Path]:
    """A cache folder with everything that can be in it, by name."""
    made = {}
    for name, rule in (("new", None), ("old", 1)):
        chosen = settings(root=root, pixels=rule)
        before = {*folder.glob("*")} if folder.is_dir() else set()
        cache.prepare(manifest.build(chosen), chosen)
        (made[name],) = {path for path in {*folder.glob("*")} - before if path.is_dir()}
    made["model"] = folder / FETCHED_MODELS / ("a" * 32)
    (made["model"] / "checkpoints").mkdir(parents=True)
    (made["model"] / "checkpoints" / "best.safetensors").write_bytes(bytes(50_000))
    made["fetch"] = folder / FETCHED_MODELS / ".fetch-xyz"
    made["fetch"].mkdir()
    made["leftover"] = folder / f"{'b' * 32}.tmp123"
    made["leftover"].mkdir()
    made["foreign"] = folder / "notes.txt"
    made["foreign"].write_text("mine")
    return made


def by_path(folder: Path) -> dict[Path, CacheEntry]:
    return {entry.path: entry for entry in entries(folder)}


def test_everything_is_listed_with_its_kind(kaggle: Path, settings: Make, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    made = filled(kaggle, settings, folder)
    found = by_path(folder)
    assert {name: found[made[name]].kind for name in ("new", "old", "model", "fetch", "leftover")} == {
        "new": IMAGES, "old": IMAGES, "model": MODEL, "fetch": LEFTOVER, "leftover": LEFTOVER,
    }  # fmt: skip
    assert [entry.kind for entry in found.values() if entry.path.suffix == ".json"] == [RECORD]
    assert made["foreign"] not in found
    assert found[made["new"]].orphaned == "" and "pixel rule 1" in found[made["old"]].orphaned
    assert "32 px, pixel rule 2" in found[made["new"]].detail
    assert found[made["new"]].size_bytes >= 60 * 32 * 32
    assert found[made["leftover"]].orphaned and not found[made["fetch"]].orphaned
    sizes = [entry.size_bytes for entry in entries(folder)]
    assert sizes == sorted(sizes, reverse=True)
    assert entries(tmp_path / "nowhere") == []


def test_what_nothing_new_uses_is_removable_and_age_adds_to_it(
    kaggle: Path, settings: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    made = filled(kaggle, settings, folder)
    month_ago = time.time() - 31 * DAY_S
    os.utime(made["model"], (month_ago, month_ago))
    os.utime(made["fetch"], (month_ago, month_ago))
    chosen = {entry.path for entry in removable(entries(folder), None)}
    assert chosen == {made["old"], made["leftover"], made["fetch"]}
    chosen = {entry.path for entry in removable(entries(folder), 30)}
    assert chosen == {made["old"], made["leftover"], made["fetch"], made["model"]}
    assert all(remove(entry) for entry in removable(entries(folder), 30))
    assert made["new"].is_dir() and made["foreign"].is_file()
    assert not any(made[name].exists() for name in ("old", "leftover", "fetch", "model"))


def test_a_use_is_noted(kaggle: Path, settings: Make, tmp_path: Path) -> None:
    chosen = settings(root=kaggle)
    cache.prepare(manifest.build(chosen), chosen)
    (entry,) = [entry for entry in entries(tmp_path / "cache") if entry.kind == IMAGES]
    year_ago = time.time() - 365 * DAY_S
    os.utime(entry.path, (year_ago, year_ago))
    assert 364 < by_path(tmp_path / "cache")[entry.path].age_days < 366
    cache.prepare(manifest.build(chosen), chosen)
    assert by_path(tmp_path / "cache")[entry.path].age_days < 1


def test_a_cache_that_is_being_built_stays(kaggle: Path, settings: Make, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    made = filled(kaggle, settings, folder)
    with locked(made["old"].with_suffix(".lock")), locked(made["leftover"].with_suffix(".lock")):
        found = by_path(folder)
        assert not found[made["leftover"]].orphaned
        assert not remove(found[made["old"]]) and made["old"].is_dir()
    assert remove(found[made["old"]])


def test_open_images_stay_readable_and_the_next_run_builds_them_again(
    kaggle: Path, settings: Make, tmp_path: Path
) -> None:
    chosen = settings(root=kaggle)
    data = cache.prepare(manifest.build(chosen), chosen)
    copy = np.array(data.images)
    for entry in removable(entries(tmp_path / "cache"), 0):
        assert remove(entry)
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []
    assert np.array_equal(data.images, copy)
    again = cache.prepare(manifest.build(chosen), chosen)
    assert np.array_equal(again.images, copy) and again.digest == data.digest


def test_a_damaged_index_is_named(kaggle: Path, settings: Make, tmp_path: Path) -> None:
    made = filled(kaggle, settings, tmp_path / "cache")
    for content in ("{", "[]", json.dumps({"pixels": 3})):
        (made["new"] / "index.json").write_text(content)
        assert by_path(tmp_path / "cache")[made["new"]].orphaned == "damaged"
