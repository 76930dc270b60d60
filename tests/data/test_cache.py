"""The image cache: built once, keyed by content, and either complete or absent."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from support.images import make_kaggle, picture, save

from pneumo import UserError
from pneumo.data import cache, images, manifest, workers
from pneumo.data.cache import BadImages, ImageCache
from pneumo.data.settings import DataSettings, PhantomSettings
from pneumo.files import locked

Make = Callable[..., DataSettings]


def prepare(settings: DataSettings) -> ImageCache:
    return cache.prepare(manifest.build(settings), settings)


def whole(folder: Path) -> list[Path]:
    """The caches in a cache folder that count as complete."""
    return [entry for entry in folder.glob("*") if entry.is_dir() and ".tmp" not in entry.name]


def half_made(folder: Path) -> list[Path]:
    return [*folder.glob("*.tmp*")]


def no_reading(*_: object, **__: object) -> None:
    raise AssertionError("an image was decoded")


def test_rows_hold_the_preprocessed_images(kaggle_read_only: Path, settings: Make) -> None:
    data = prepare(settings(root=kaggle_read_only))
    assert data.images.shape == (60, 32, 32) and data.images.dtype == np.uint8
    for path, row in zip(data.manifest.table["path"], data.rows, strict=True):
        expected = images.preprocess(images.read(kaggle_read_only / path), image_size=32)
        assert np.array_equal(data.images[row], expected)
    assert not data.bad and not data.problems and data.copies == 0


def test_processes_give_what_one_gives(kaggle_read_only: Path, settings: Make, tmp_path: Path) -> None:
    alone = prepare(settings(root=kaggle_read_only))
    several = prepare(settings(root=kaggle_read_only, num_workers=2, cache_dir=str(tmp_path / "several")))
    assert np.array_equal(alone.images, several.images) and alone.digest == several.digest


def test_built_once(kaggle: Path, settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(settings(root=kaggle))
    monkeypatch.setattr(workers, "read_image", no_reading)
    monkeypatch.setattr(workers, "preprocess", no_reading)
    again = prepare(settings(root=kaggle))
    assert np.array_equal(first.images, again.images) and first.digest == again.digest
    # The same bytes in another folder with other times give the same cache and the same identity.
    shutil.copytree(kaggle, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    moved = prepare(settings(root=tmp_path / "elsewhere"))
    assert moved.digest == first.digest and len(whole(tmp_path / "cache")) == 1
    # Another split needs no decoding either, but is another data set.
    assert prepare(settings(root=kaggle, split_seed=1)).digest != first.digest
    for other in ({"image_size": 33}, {"equalize": False}, {"crop_black": False}):
        with pytest.raises(AssertionError, match="decoded"):
            prepare(settings(root=kaggle, **other))
    assert len(whole(tmp_path / "cache")) == 1 and not half_made(tmp_path / "cache")


def test_unchanged_files_are_not_hashed_again(
    kaggle: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings(root=kaggle))
    monkeypatch.setattr(cache.hashlib, "file_digest", no_reading)
    prepare(settings(root=kaggle))


def test_one_changed_byte_is_another_data_set(kaggle: Path, settings: Make, tmp_path: Path) -> None:
    first = prepare(settings(root=kaggle))
    victim = sorted((kaggle / "train" / "NORMAL").iterdir())[0]
    info, data = victim.stat(), bytearray(victim.read_bytes())
    data[-20] ^= 1
    victim.write_bytes(data)
    os.utime(victim, ns=(info.st_atime_ns, info.st_mtime_ns))  # like a copy that keeps the times
    second = prepare(settings(root=kaggle))
    assert second.digest != first.digest and len(whole(tmp_path / "cache")) == 2


def films(root: Path, brightest: int) -> Path:
    """A set of 16-bit files: values up to 3,000, and `brightest` in one test image."""
    for number, path in enumerate(sorted(make_kaggle(root, patients=3).rglob("*.jpeg"))):
        values = np.asarray(Image.open(path)).astype(np.uint16) * 11
        if number == 0:
            assert "test" in str(path)
            values[0, 0] = brightest
        Image.fromarray(values).save(path, format="PNG")
    return root


@pytest.mark.parametrize(("brightest", "white"), [(3500, 4095), (5000, 8191)])
def test_the_largest_value_of_the_set_scales_its_films(
    settings: Make, tmp_path: Path, brightest: int, white: int
) -> None:
    root = films(tmp_path / "set", brightest)
    data = prepare(settings(root=root, num_workers=2, equalize=False))
    assert data.white == white
    assert data.preprocess == {"image_size": 32, "crop_black": True, "equalize": False, "pixels": 2}
    for path, row in zip(data.manifest.table["path"], data.rows, strict=True):
        grey = images.read(root / path, pixels=2, white=white)
        assert np.array_equal(data.images[row], images.preprocess(grey, **data.preprocess))
    (folder,) = whole(tmp_path / "cache")
    assert json.loads((folder / "index.json").read_text())["white"] == white
    assert prepare(settings(root=root, equalize=False)).white == white  # also from the cache


def test_rule_1_keeps_its_pixels_its_key_and_its_index(settings: Make, tmp_path: Path) -> None:
    root = films(tmp_path / "set", 3500)
    data = prepare(settings(root=root, pixels=1))
    assert data.white is None
    assert data.preprocess == {"image_size": 32, "crop_black": True, "equalize": True}
    for path, row in zip(data.manifest.table["path"], data.rows, strict=True):
        assert np.array_equal(data.images[row], images.preprocess(images.read(root / path), image_size=32))
    (first,) = whole(tmp_path / "cache")
    contents = sorted({hashlib.sha256(file.read_bytes()).hexdigest() for file in root.rglob("*.jpeg")})
    asked = json.dumps([1, {"image_size": 32, "crop_black": True, "equalize": True}])
    assert first.name == hashlib.sha256("\n".join([asked, *contents]).encode()).hexdigest()[:32]
    assert set(json.loads((first / "index.json").read_text())) == {"version", "pixels", "bad"}
    newest = prepare(settings(root=root))
    assert len(whole(tmp_path / "cache")) == 2 and newest.digest == data.digest
    assert not np.array_equal(newest.images, data.images)


def test_a_damaged_film_is_named_and_does_not_scale_the_others(settings: Make, tmp_path: Path) -> None:
    root = films(tmp_path / "set", 5000)
    brightest = sorted(root.rglob("*.jpeg"))[0]
    brightest.write_bytes(brightest.read_bytes()[:300])
    with pytest.raises(BadImages, match="damaged"):
        prepare(settings(root=root))
    assert prepare(settings(root=root, on_bad_image="skip")).white == 4095


def test_copies_share_a_row(kaggle: Path, settings: Make) -> None:
    folder = kaggle / "train" / "NORMAL"
    shutil.copy(folder / "IM-0001-0001.jpeg", folder / "IM-0001-0009.jpeg")
    shutil.copy(folder / "IM-0001-0001.jpeg", folder / "IM-0002-0009.jpeg")
    for split_seed in range(5):  # with any seed, the two patients stay together
        data = prepare(settings(root=kaggle, split_seed=split_seed))
        assert data.copies == 2 and len(data.rows) == 62 and len(data.images) == 60
        same = data.manifest.table["path"].str.contains("IM-0001-0001|0009.jpeg").to_numpy()
        assert len(set(data.rows[same])) == 1
        assert data.manifest.table.loc[same, "split"].nunique() == 1


def test_copies_that_mix_train_and_test_are_refused(kaggle: Path, settings: Make) -> None:
    shutil.copy(
        kaggle / "train" / "NORMAL" / "IM-0001-0001.jpeg", kaggle / "test" / "NORMAL" / "IM-0701-0009.jpeg"
    )
    with pytest.raises(UserError, match="identical bytes are in two splits"):
        prepare(settings(root=kaggle))
    assert cache.inspect(manifest.describe(settings(root=kaggle)), settings(root=kaggle)).problems


def test_copies_in_a_table_without_patients_are_kept_together(settings: Make, tmp_path: Path) -> None:
    lines = {"train": ["path,label"], "test": ["path,label"]}
    for number in range(24):
        split = "train" if number < 18 else "test"
        for k in range(2):
            save(picture(number % 2, number), tmp_path / "set" / f"{number}_{k}.png")
            lines[split].append(f"{number}_{k}.png,{number % 2}")
    for split, text in lines.items():
        (tmp_path / "set" / f"{split}.csv").write_text("\n".join(text))
    data = prepare(settings(name="csv", root=tmp_path / "set"))
    assert data.copies == 24 and data.manifest.counts()["val"] == {"NORMAL": 4, "PNEUMONIA": 4}
    assert any("kept in one split" in note for note in data.manifest.notes)


# ---- bad files


def spoil(root: Path) -> dict[str, str]:
    """Put one bad file of each kind into a set; path -> what the report must contain."""
    bad = {
        "train/NORMAL/IM-0001-0091.jpeg": (b"", "empty"),
        "train/NORMAL/IM-0001-0092.jpeg": (b"", "empty"),  # the same bytes twice: both are reported
        "train/PNEUMONIA/person1_virus_91.jpeg": (b"no image at all", "not a JPEG, PNG, TIFF"),
        "test/PNEUMONIA/person701_virus_92.jpeg": (b"no image at all", "not a JPEG, PNG, TIFF"),
    }
    good = (root / "train" / "NORMAL" / "IM-0001-0001.jpeg").read_bytes()
    bad["test/NORMAL/IM-0701-0093.jpeg"] = (good[: len(good) // 2], "damaged")
    for path, (content, _) in bad.items():
        (root / path).write_bytes(content)
    (root / "train/NORMAL/IM-0002-0094.jpeg").symlink_to(root / "gone.jpeg")
    (root / "train/NORMAL/IM-0002-0095.jpeg").mkdir()
    os.mkfifo(root / "train/NORMAL/IM-0002-0096.jpeg")
    return {path: reason for path, (_, reason) in bad.items()} | {
        "train/NORMAL/IM-0002-0094.jpeg": "No such file",
        "train/NORMAL/IM-0002-0095.jpeg": "not a regular file",
        "train/NORMAL/IM-0002-0096.jpeg": "not a regular file",
    }


def check_report(error: BadImages, expected: dict[str, str]) -> None:
    assert {bad.path for bad in error.bad} == set(expected)
    for path, reason in expected.items():
        assert any(path in line and reason in line for line in str(error).splitlines()), (path, str(error))
    assert "data.on_bad_image=skip" in str(error)


def test_all_bad_files_are_in_one_report(kaggle: Path, settings: Make, tmp_path: Path) -> None:
    expected = spoil(kaggle)
    with pytest.raises(BadImages) as error:
        prepare(settings(root=kaggle))
    check_report(error.value, expected)
    assert not whole(tmp_path / "cache") and not half_made(tmp_path / "cache")


def test_bad_files_are_left_out_and_listed(kaggle: Path, settings: Make, tmp_path: Path) -> None:
    clean = prepare(settings(root=kaggle))
    expected = spoil(kaggle)
    data = prepare(settings(root=kaggle, on_bad_image="skip"))
    assert {bad.path for bad in data.bad} == set(expected)
    assert sorted(data.manifest.table["path"]) == sorted(clean.manifest.table["path"])
    assert len(data.rows) == 60
    with pytest.raises(BadImages) as error:  # one run left them out; another run still refuses them
        prepare(settings(root=kaggle))
    check_report(error.value, expected)


def test_too_much_left_out_is_refused(kaggle: Path, settings: Make) -> None:
    for file in (kaggle / "test" / "NORMAL").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"the test split .* has no NORMAL"):
        prepare(settings(root=kaggle, on_bad_image="skip"))
    for file in kaggle.rglob("*.jpeg"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="has no NORMAL and no PNEUMONIA"):
        prepare(settings(root=kaggle, on_bad_image="skip"))


# ---- killed builds, parallel builds, a full disk


def phantom(folder: Path, num_workers: int = 2) -> DataSettings:
    sizes = PhantomSettings(train_patients=60, test_patients=20)
    return DataSettings(
        name="phantom", image_size=32, cache_dir=str(folder), num_workers=num_workers, phantom=sizes
    )


BUILD = """
import sys
from pneumo.data import cache, manifest
from pneumo.data.settings import DataSettings, PhantomSettings
sizes = PhantomSettings(train_patients=60, test_patients=20)
settings = DataSettings(name="phantom", image_size=32, cache_dir=sys.argv[1], num_workers=2, phantom=sizes)
data = cache.prepare(manifest.build(settings), settings)
print(data.digest, int(data.images.astype("int64").sum()))
"""


def start_build(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", BUILD, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(happened: Callable[[], object], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_a_killed_build_leaves_nothing_that_counts_as_complete(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    build = start_build(folder)
    wait_for(lambda: [*folder.glob("*.tmp*/images.npy")] and psutil.Process(build.pid).children())
    workers = psutil.Process(build.pid).children(recursive=True)
    build.send_signal(signal.SIGKILL)
    build.wait()
    assert half_made(folder) and not whole(folder)
    (folder / "0123.tmp77").mkdir()  # left by another killed build that will never run again
    data = prepare(phantom(folder))
    assert len(data.rows) == len(data.images) > 150
    assert not half_made(folder) and len(whole(folder)) == 1
    try:  # workers that outlive their parent would wait for tasks for ever
        wait_for(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers))
    finally:
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()


def test_two_builds_at_once_give_one_cache(tmp_path: Path) -> None:
    builds = [start_build(tmp_path / "cache") for _ in range(2)]
    outputs = [build.communicate(timeout=60) for build in builds]
    assert [build.returncode for build in builds] == [0, 0], outputs
    assert outputs[0][0].splitlines()[-1] == outputs[1][0].splitlines()[-1]
    assert len(whole(tmp_path / "cache")) == 1 and not half_made(tmp_path / "cache")


def test_a_build_waits_for_another_one_and_takes_its_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(phantom(tmp_path / "first", num_workers=1))
    (built,) = whole(tmp_path / "first")
    monkeypatch.setattr(cache.phantom, "render", no_reading)
    later = tmp_path / "later"
    printed: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with locked(later / f"{built.name}.lock"):
            second = pool.submit(prepare, phantom(later, num_workers=1))
            wait_for(lambda: printed.append(capsys.readouterr().out) or "waiting for it" in "".join(printed))
            shutil.copytree(built, later / built.name)
            assert not second.done()
        assert np.array_equal(second.result(30).images, first.images)
    assert "".join(printed).count("another run is preparing these images; waiting for it") == 1


def test_what_a_running_build_has_made_so_far_stays(tmp_path: Path) -> None:
    running = tmp_path / "cache" / "0123.tmp77"
    running.mkdir(parents=True)
    with locked(running.with_suffix(".lock")):
        prepare(phantom(tmp_path / "cache", num_workers=1))
        assert running.is_dir()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 160 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_nothing_stays(
    small_disk: Path, kaggle_read_only: Path, settings: Make
) -> None:
    with pytest.raises(UserError, match=r"data\.cache_dir=.* the disk is full") as error:
        prepare(settings(root=kaggle_read_only, image_size=64, cache_dir=str(small_disk)))
    assert "set data.cache_dir" in str(error.value)
    assert not whole(small_disk) and not half_made(small_disk)


def test_a_read_only_cache_serves_but_does_not_grow(
    small_disk: Path, kaggle_read_only: Path, settings: Make, tmp_path: Path
) -> None:
    mine = settings(root=kaggle_read_only, cache_dir=str(small_disk))
    first = prepare(mine)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    shutil.copytree(kaggle_read_only, tmp_path / "copy")
    there = settings(root=tmp_path / "copy", cache_dir=str(small_disk))
    assert np.array_equal(prepare(there).images, first.images)
    with pytest.raises(UserError, match=r"cannot be written .*set data.cache_dir=DIR"):
        prepare(settings(root=kaggle_read_only, cache_dir=str(small_disk), image_size=40))


def test_a_cache_folder_that_is_a_file(kaggle_read_only: Path, settings: Make, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"data\.cache_dir=.* cannot be written"):
        prepare(settings(root=kaggle_read_only))
    with pytest.raises(UserError, match=r"data\.cache_dir=.* cannot be written"):
        prepare(settings(root=kaggle_read_only, cache_dir=str(tmp_path / "cache" / "below")))


@pytest.mark.parametrize("file", ["index.json", "images.npy"])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_damaged_cache_is_named(
    kaggle_read_only: Path, settings: Make, tmp_path: Path, file: str, content: bytes | None
) -> None:
    prepare(settings(root=kaggle_read_only))
    (folder,) = whole(tmp_path / "cache")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged .*Remove the folder") as error:
        prepare(settings(root=kaggle_read_only))
    assert str(folder) in str(error.value)


def test_a_damaged_file_of_hashes_is_ignored(kaggle: Path, settings: Make, tmp_path: Path) -> None:
    first = prepare(settings(root=kaggle))
    (hash_file,) = (tmp_path / "cache").glob("hashes-*.json")
    for text in ("", "[1]", "null", json.dumps({"train/NORMAL/IM-0001-0001.jpeg": 3})):
        hash_file.write_text(text)
        assert prepare(settings(root=kaggle)).digest == first.digest


def test_phantom_goes_through_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pneumo.data import phantom as synthetic

    mine = DataSettings(
        name="phantom", image_size=32, cache_dir=str(tmp_path / "cache"), num_workers=1,
        phantom=PhantomSettings(train_patients=12, test_patients=8),
    )  # fmt: skip
    data = prepare(mine)
    path, row = data.manifest.table["path"][3], data.rows[3]
    drawn = synthetic.render(path, mine.phantom)
    assert np.array_equal(data.images[row], images.preprocess(drawn, image_size=32))
    monkeypatch.setattr(synthetic, "render", no_reading)
    assert prepare(mine).digest == data.digest
    mine.phantom.seed = 1
    monkeypatch.undo()
    assert prepare(mine).digest != data.digest


def test_kaggle_sets_of_the_fixture_are_learnable(tmp_path: Path) -> None:
    """In the generated set that other tests train on, the classes differ and patients have several images."""
    root = make_kaggle(tmp_path / "set", patients=2)
    grey = images.read(root / "train" / "NORMAL" / "IM-0001-0001.jpeg").astype(float)
    assert grey.mean(1).std() > 3 * grey.mean(0).std()
