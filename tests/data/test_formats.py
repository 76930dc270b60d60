"""TIFF, BMP, WebP and DICOM through the one reader: by content, with the right levels, within the limits."""

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import odd_files
from support.images import GREY, encoded, grey_tiff, make_kaggle, tiff

from pneumo.data import cache, folders, formats, images, manifest
from pneumo.data.images import BadImage, read
from pneumo.data.settings import DataSettings

LEVELS = np.asarray(GREY)
Make = Callable[..., DataSettings]


def written(folder: Path, content: bytes) -> Path:
    (folder / "x.png").write_bytes(content)  # the name does not matter
    return folder / "x.png"


def reason(file: Path) -> str:
    with pytest.raises(BadImage) as refused:
        read(file)
    return refused.value.reason


# ---- what must be read


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
def test_tiff(tmp_path: Path, mode: str, compression: str | None) -> None:
    source = GREY.convert("RGB").quantize(256) if mode == "P" else GREY.convert(mode)
    grey = read(written(tmp_path, encoded(source, "TIFF", compression=compression)))
    expected = np.asarray(GREY.convert("1").convert("L") if mode == "1" else GREY).astype(int)
    assert np.abs(grey - expected).max() <= (2 if mode == "P" else 1 if mode == "CMYK" else 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_bmp(tmp_path: Path, mode: str) -> None:
    assert np.array_equal(read(written(tmp_path, encoded(GREY.convert(mode), "BMP"))), LEVELS)


def test_webp(tmp_path: Path) -> None:
    assert np.array_equal(read(written(tmp_path, encoded(GREY, "WEBP", lossless=True))), LEVELS)
    lossy = read(written(tmp_path, encoded(GREY, "WEBP", quality=95)))
    assert np.abs(lossy.astype(int) - LEVELS).mean() < 4


def test_transparent_pixels_of_a_webp_get_a_black_background(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (200, 200, 200, 0))
    image.paste((200, 200, 200, 255), (0, 0, 4, 8))
    grey = read(written(tmp_path, encoded(image, "WEBP", lossless=True, exact=True)))
    assert np.array_equal(grey, np.repeat([[200] * 4 + [0] * 4], 8, axis=0))


@pytest.mark.parametrize("white", [None, 4095])
@pytest.mark.parametrize("pixels", [1, 2])
def test_a_16_bit_tiff_has_the_levels_of_a_16_bit_png(tmp_path: Path, pixels: int, white: int | None) -> None:
    values = np.linspace(0, 4000, 64 * 128).round().astype(np.uint16).reshape(64, 128)
    (tmp_path / "x.png").write_bytes(encoded(Image.fromarray(values), "PNG"))
    (tmp_path / "x.tif").write_bytes(grey_tiff(values))
    (tmp_path / "negative.tif").write_bytes(grey_tiff(values, photometric=0))
    expected = read(tmp_path / "x.png", pixels=pixels, white=white)
    assert np.array_equal(read(tmp_path / "x.tif", pixels=pixels, white=white), expected)
    assert np.array_equal(read(tmp_path / "negative.tif", pixels=pixels, white=white), 255 - expected)
    assert images.is_undeclared(tmp_path / "x.tif")
    assert images.largest_undeclared(tmp_path / "x.tif") == 4000


def test_a_negative_8_bit_tiff_is_shown_as_a_positive(tmp_path: Path) -> None:
    assert np.array_equal(read(written(tmp_path, grey_tiff(255 - LEVELS, photometric=0))), LEVELS)
    assert images.largest_undeclared(tmp_path / "x.png") is None


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_of_a_tiff_is_applied_once(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x.png").write_bytes(encoded(GREY, "PNG", exif=exif))
    expected = read(tmp_path / "x.png")
    stored = grey_tiff(LEVELS, t274=(3, 1, orientation))
    assert np.array_equal(read(written(tmp_path, stored)), expected)


def test_dicom_is_read_by_the_same_function(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    values = LEVELS.astype(np.uint16) * 16
    file = written(tmp_path, odd_files.dicom(values, stored=12))
    assert np.array_equal(read(file, pixels=2), np.round(values / 4095 * 255))
    assert not images.is_undeclared(file)


# ---- what must be refused


def test_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    two = encoded(GREY, "TIFF", save_all=True, append_images=[GREY])
    moving = encoded(GREY, "WEBP", save_all=True, append_images=[GREY.rotate(5)])
    run_length = bytearray(encoded(GREY, "BMP"))
    run_length[30:34] = struct.pack("<I", 1)
    for content, words in (
        (two, "several pages"),
        (moving, "an animation"),
        (bytes(run_length), "BMP: compressed"),
        (encoded(GREY.convert("1"), "TIFF", compression="group4"), "compression 4 is not read"),
        (encoded(GREY, "TIFF", compression="jpeg"), "compression 7 is not read"),
        (encoded(Image.fromarray(LEVELS.astype(np.float32)), "TIFF"), "not whole numbers"),
        (encoded(Image.fromarray(LEVELS.astype(np.int32)), "TIFF"), "not whole numbers"),
        (b"II+\0" + bytes(40), images.UNKNOWN),  # BigTIFF
    ):
        assert words in reason(written(tmp_path, content)), words


def test_sizes_are_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    wide = (4, 1, 30_000)
    webp = (
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0" * 2
    )
    bmp = bytearray(encoded(GREY, "BMP"))
    bmp[18:26] = struct.pack("<II", 30_000, 30_000)
    one = np.zeros((1, 1), np.uint8)
    for name, content, words in (
        ("tiff", grey_tiff(one, t256=wide, t257=wide), "30000 x 30000 pixels"),
        ("tile", grey_tiff(one, t322=wide, t323=wide, t324=(4, 1, 8), t325=(4, 1, 8)), "a tile of more"),
        ("webp", webp, "16384 x 16384 pixels"),
        ("bmp", bytes(bmp), "limit of 50,000,000"),
        ("no width", grey_tiff(one, t256=(4, 1, 0)), "no width"),
        ("no tags", tiff({}), "no width"),
        ("tags", odd_files.tag_bomb(), "bytes of them"),
        ("cut", grey_tiff(LEVELS)[:60], "damaged"),
        ("far", b"II*\0\xff\xff\xff\x7f", "damaged"),
    ):
        assert words in reason(written(tmp_path, content)), name


def test_an_inner_directory_counts_too(tmp_path: Path) -> None:
    """Pillow loads the EXIF directory of a TIFF. Its tags can name the same bytes many times."""
    inner = tiff({1000 + number: (1, 2**20, 0) for number in range(500)})[8:]
    content = grey_tiff(LEVELS, t34665=(4, 1, 100_000)).ljust(100_000, b"\0") + inner
    assert "bytes of them" in reason(written(tmp_path, content))
    itself = grey_tiff(LEVELS, t34665=(4, 1, 8))
    assert "1,000 tags" in reason(written(tmp_path, itself))


def test_the_largest_allowed_files_stay_below_2_gb(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pneumo.data.images import read\n"
        "print(read(sys.argv[1]).shape)\n"
        "line = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(line.split()[1]) // 1024)\n"
    )
    big = Image.new("RGBA", (7000, 7000), (90, 90, 90, 200))
    for kind, options in (
        ("TIFF", {"compression": "tiff_deflate"}),
        ("WEBP", {"lossless": True, "method": 0}),
    ):
        file = written(tmp_path, encoded(big, kind, **options))
        done = subprocess.run(
            [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True
        )
        assert "(7000, 7000)" in done.stdout, done.stdout
        assert int(done.stdout.split()[-1]) < 2000, (kind, done.stdout)


def test_flipped_bytes_never_raise_anything_but_bad_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = GREY.resize((20, 16))
    wholes = [encoded(small, kind) for kind in ("TIFF", "BMP", "WEBP")]
    wholes += [encoded(small, "TIFF", compression="tiff_lzw"), encoded(small, "WEBP", lossless=True)]
    for whole in wholes:
        for _ in range(100):
            data = np.frombuffer(whole, np.uint8).copy()
            data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            try:
                assert read(written(tmp_path, data.tobytes())).ndim == 2
            except BadImage as error:
                assert error.reason and "\n" not in error.reason


# ---- in training


def test_a_set_in_all_formats_is_prepared_like_one_of_jpegs(tmp_path: Path, settings: Make) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    odd_files.in_every_format(tmp_path / "all")
    make_kaggle(tmp_path / "jpeg")
    prepared = {}
    for name in ("all", "jpeg"):
        chosen = settings(root=tmp_path / name)
        described = manifest.build(chosen)
        assert not described.notes
        data = cache.prepare(described, chosen)
        stems = [path.rsplit(".", 1)[0] for path in data.manifest.table["path"]]
        prepared[name] = dict(zip(stems, data.images[data.rows], strict=True))
    assert prepared["all"].keys() == prepared["jpeg"].keys() and len(prepared["all"]) == 60
    differences = [
        np.abs(image.astype(int) - prepared["jpeg"][stem]).max() for stem, image in prepared["all"].items()
    ]
    assert max(differences) <= 4  # rounding of the 12-bit values, then equalisation


def test_without_pydicom_each_dicom_is_refused_and_read_once_it_is_there(
    tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that left files out for want of a package is built again when the package is there."""
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    odd_files.in_every_format(tmp_path / "set")
    chosen = settings(root=tmp_path / "set", on_bad_image="skip")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pydicom", None)
        without = cache.prepare(manifest.build(chosen), chosen)
        again = cache.prepare(manifest.build(chosen), chosen)
    reasons = {bad.path.rsplit(".", 1)[1]: bad.reason for bad in without.bad}
    assert list(reasons) == ["dcm"] and "pip install 'pneumo[dicom]'" in reasons["dcm"]
    assert len(again.bad) == len(without.bad)
    whole = cache.prepare(manifest.build(chosen), chosen)
    assert not whole.bad and len(whole.rows) == 60


def test_the_suffixes_of_a_folder_and_of_prediction_are_the_same() -> None:
    from pneumo.inference import inputs

    assert folders.SUFFIXES is formats.SUFFIXES is inputs.SUFFIXES
