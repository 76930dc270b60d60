"""Near-copies: planted ones are found, and pairs of different pictures are not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from measure_copies import CROPS, contents, planted, prepared, saved_again
from PIL import Image
from support.images import make_kaggle, save, textured

from pneumo.data import cache, copies, manifest
from pneumo.data.images import preprocess
from pneumo.data.settings import DataSettings

Make = Callable[..., DataSettings]


def square(picture: np.ndarray | Image.Image) -> np.ndarray:
    return preprocess(picture, image_size=128, pixels=2)


def found(
    images: list[np.ndarray], groups: list[int], rows: list[int] | None = None
) -> list[tuple[int, int]]:
    place = np.arange(len(images)) if rows is None else np.array(rows)
    return [(a, b) for a, b, _ in copies.find(np.stack(images), place, np.array(groups))]


# ---- on real images


def test_planted_copies_of_real_images_are_found(real_root: Path, shared: Path, native: list[Path]) -> None:
    """At least 95 % of each kind. `python tools/measure_copies.py` measures 200 of each."""
    sets = (
        sorted((real_root / "train").rglob("*.jpeg"))[::40],
        sorted((shared / "data/nih_adult/images").iterdir())[::8],
        native,
    )
    shares = []
    for files in sets:
        squares = prepared(files)
        for crop in CROPS.values():
            shares.append(planted(files, squares, 20, crop).certain)
    assert len(shares) == 9 and np.mean(shares) >= 0.95 and min(shares) >= 0.9, shares


def test_there_is_no_copy_between_train_and_test_of_the_public_set(real_root: Path) -> None:
    test = sorted((real_root / "test").rglob("*.jpeg"))[::2]
    train = sorted((real_root / "train").rglob("*.jpeg"))[::3]
    squares = prepared([*test, *train])
    pairs = copies.find(squares, np.arange(len(squares)), np.repeat([0, 1], [len(test), len(train)]))
    assert pairs == []


def test_two_films_of_one_adult_are_no_copies(shared: Path) -> None:
    files = sorted((shared / "data" / "nih_adult" / "images").iterdir())
    rows = contents(files)
    assert len({*rows}) == len(files) - 1  # one picture is there twice, with the same bytes
    assert copies.find(prepared(files), rows, np.arange(len(files))) == []


# ---- what is compared


def test_only_pairs_of_two_groups_with_different_bytes_count() -> None:
    one, other = square(textured(1)), square(textured(2))
    again = square(
        saved_again(Image.fromarray(textured(1)), np.random.default_rng(0), CROPS["2-5 % of a side"])
    )
    assert found([one, again, other], [0, 1, 1]) == [(0, 1)]
    assert found([one, again, other], [0, 0, 1]) == []
    assert found([one, again, other], [1, 0, 1]) == [(1, 0)]  # looked for from the smaller group
    assert found([one, other], [0, 1], rows=[0, 0]) == []  # the same bytes, reported by other means


@pytest.mark.parametrize("shape", [(160, 160), (90, 160), (200, 120)])
def test_the_form_of_an_image_does_not_matter(shape: tuple[int, int]) -> None:
    squashed = Image.fromarray(textured(3)).resize(shape, Image.Resampling.BILINEAR)
    assert found([square(textured(3)), square(squashed), square(textured(4))], [0, 1, 1]) == [(0, 1)]


def test_images_without_fine_structure_are_copies_of_none() -> None:
    blank, black = np.full((128, 128), 90, np.uint8), np.zeros((128, 128), np.uint8)
    ramp = np.tile(np.linspace(20, 250, 128).astype(np.uint8), (128, 1))
    smooth = np.asarray(Image.fromarray(textured(5, 8)).resize((128, 128), Image.Resampling.BICUBIC))
    assert found([blank, blank + 1, black, ramp, ramp[::-1], smooth], [0, 1, 2, 3, 4, 5]) == []


def test_alignment_finds_the_change_that_was_made() -> None:
    picture = Image.fromarray(textured(6, 192))
    whole = np.asarray(picture.resize((96, 96), Image.Resampling.BILINEAR))
    part = np.asarray(picture.crop((8, 2, 186, 180)).resize((96, 96), Image.Resampling.BILINEAR))
    assert copies.correlations(whole[None], part[None])[0] > 0.9
    assert copies.correlations(whole[None], textured(7, 96)[None])[0] < 0.5
    turned = np.rot90(whole).copy()
    assert copies.correlations(whole[None], turned[None])[0] < 0.5


# ---- on a data set


def a_set(root: Path) -> Path:
    """The Kaggle layout with textured pictures. One test image is a train image, saved again."""
    make_kaggle(root, patients=4, images=1, test_patients=2)
    for number, file in enumerate(sorted(root.rglob("*.jpeg"))):
        save(textured(number), file)
    source = root / "train" / "NORMAL" / "IM-0001-0001.jpeg"
    with Image.open(source) as image:
        again = saved_again(image, np.random.default_rng(1), CROPS["2-5 % at each edge"])
    save(again, root / "test" / "PNEUMONIA" / "person701_virus_1000.jpeg")
    return root


def test_a_pair_names_its_images_splits_and_labels(tmp_path: Path, settings: Make) -> None:
    chosen = settings(root=a_set(tmp_path / "set"), image_size=96, val_fraction=0.3)
    data = cache.prepare(manifest.build(chosen), chosen)
    (pair,) = copies.near_copies(data, tmp_path / "cache")
    assert {pair.first, pair.second} == {
        "train/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person701_virus_1000.jpeg",
    }  # fmt: skip
    assert pair.is_certain and "test" in pair.splits and {*pair.labels} == {0, 1}
    assert next(copies.described([pair])).endswith(f"(correlation {pair.correlation:.2f})")


def test_what_was_found_is_recorded_for_the_same_data(
    tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(root=a_set(tmp_path / "set"), image_size=96, val_fraction=0.3)
    data = cache.prepare(manifest.build(chosen), chosen)
    first = copies.near_copies(data, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(copies, "find", lambda *_: pytest.fail("searched again"))
        assert copies.near_copies(data, tmp_path / "cache") == first
    (record,) = (tmp_path / "cache").glob("copies-*.json")
    record.write_text(json.dumps({"pairs": [{"nonsense": 1}]}))
    assert copies.near_copies(data, tmp_path / "cache") == first
    shutil.copy(
        tmp_path / "set/train/NORMAL/IM-0002-0001.jpeg", tmp_path / "set/train/NORMAL/IM-0002-0002.jpeg"
    )
    changed = cache.prepare(manifest.build(chosen), chosen)
    copies.near_copies(changed, tmp_path / "cache")
    assert len([*(tmp_path / "cache").glob("copies-*.json")]) == 2


def test_small_images_are_not_compared(tmp_path: Path, settings: Make) -> None:
    chosen = settings(root=a_set(tmp_path / "set"), image_size=32, val_fraction=0.3)
    assert copies.near_copies(cache.prepare(manifest.build(chosen), chosen), tmp_path / "cache") == []
