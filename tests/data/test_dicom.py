"""DICOM: the levels that a viewer shows, sizes checked before decoding, messages without patient data."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import odd_files

from pneumo.data import dicom, levels
from pneumo.data.images import BadImage

GREY = np.asarray(odd_files.phantoms(1)[0])
DEEP = GREY.astype(np.uint16) * 16


def written(folder: Path, content: bytes) -> Path:
    (folder / "x.dcm").write_bytes(content)
    return folder / "x.dcm"


def test_without_pydicom_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    file = written(tmp_path, odd_files.dicom(GREY))
    assert dicom.is_dicom(file)
    with pytest.raises(BadImage, match=r"pip install 'pneumo\[dicom\]'"):
        dicom.read(file)


def test_sizes_of_streams_are_read_from_their_own_headers() -> None:
    jpeg = odd_files.encoded(odd_files.phantoms(1)[0], "JPEG")
    assert dicom._stream_size(jpeg, "JPEG") == (*GREY.shape, 1)
    assert dicom._stream_size(b"x" * 99, "JPEG") is None
    j2k = odd_files.encoded(odd_files.phantoms(1)[0], "JPEG2000", no_jp2=True)
    assert dicom._stream_size(j2k, "JPEG 2000") == (*GREY.shape, 1)
    assert dicom._stream_size(jpeg, "JPEG 2000") is None


def test_the_size_of_an_rle_frame_is_known_before_it_is_expanded() -> None:
    head = np.array([1, 64, *[0] * 14], "<u4").tobytes()
    assert dicom._rle_bytes(head + b"\x02abc" + b"\xffx" + b"\x80") == 3 + 2
    assert dicom._rle_bytes(head + b"\x81\0" * 1000) == 128 * 1000
    for broken in (b"\0" * 64, np.array([99, *[64] * 15], "<u4").tobytes()):
        with pytest.raises(ValueError):
            dicom._rle_bytes(broken)


@pytest.fixture
def read(tmp_path: Path):
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    return lambda content: dicom.read(written(tmp_path, content))


def test_levels_are_those_of_a_viewer(read) -> None:
    assert np.array_equal(
        read(odd_files.dicom(DEEP, stored=12, window=(2048, 4096))), np.round(DEEP / 4095 * 255)
    )
    assert np.array_equal(read(odd_files.dicom(255 - GREY, colours="MONOCHROME1", window=(128, 256))), GREY)
    whole = read(odd_files.dicom(DEEP))
    low, high = DEEP.min(), DEEP.max()
    assert np.array_equal(whole, np.round((DEEP - low) / (high - low) * 255))
    rescaled = read(odd_files.dicom(DEEP, stored=12, slope=0.5, intercept=-100, window=(924, 2048)))
    assert np.abs(rescaled.astype(int) - GREY).max() <= 1
    padded = read(odd_files.dicom(np.pad(DEEP + 1, 9), stored=13, padding=0))
    assert not padded[:9].any() and np.array_equal(padded[9:-9, 9:-9], whole)


def test_rule_2_shows_the_declared_range_where_there_is_no_window(read, tmp_path: Path) -> None:
    """Two films from one detector get the same scale, and so does a PNG with the same values."""
    dark, bright = (DEEP // 4).astype(np.uint16), DEEP
    for values in (dark, bright):
        file = written(tmp_path, odd_files.dicom(values, stored=12))
        assert np.array_equal(dicom.read(file, pixels=2), np.round(values / 4095 * 255))
        assert dicom.read(file).max() == 255  # rule 1: each film fills the range by itself
        assert np.array_equal(dicom.read(file, pixels=2), levels.table(4095)[values])
    negative = written(tmp_path, odd_files.dicom(bright, stored=12, colours="MONOCHROME1"))
    assert np.array_equal(dicom.read(negative, pixels=2), np.round(255 - bright / 4095 * 255))
    rescaled = written(tmp_path, odd_files.dicom(bright, stored=12, slope=0.5, intercept=-100))
    assert np.array_equal(dicom.read(rescaled, pixels=2), np.round(bright / 4095 * 255))
    windowed = written(tmp_path, odd_files.dicom(bright, stored=12, window=(1000, 1500)))
    assert np.array_equal(dicom.read(windowed, pixels=2), dicom.read(windowed))


def test_windowing_equals_pydicom(read, tmp_path: Path) -> None:
    import pydicom
    from pydicom.pixels import apply_windowing

    for window in ((2048, 4096), (1000, 1500), (3000, 10), (10, 1)):
        content = odd_files.dicom(DEEP, stored=12, window=window)
        header = pydicom.dcmread(written(tmp_path, content))
        theirs = np.round(apply_windowing(DEEP.astype(float), header) / 4095 * 255)
        assert np.abs(read(content) - theirs).max() <= 1, window


def test_compressed_images_are_read(read) -> None:
    pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
    picture = odd_files.phantoms(1)[0]
    jpeg = odd_files.encoded(picture, "JPEG", quality=95)
    baseline = read(odd_files.dicom(GREY, syntax="1.2.840.10008.1.2.4.50", frame=jpeg, window=(128, 256)))
    assert np.abs(baseline.astype(int) - GREY).mean() < 3
    pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed")
    j2k = odd_files.encoded(picture, "JPEG2000", no_jp2=True)
    exact = read(odd_files.dicom(GREY, syntax="1.2.840.10008.1.2.4.90", frame=j2k, window=(128, 256)))
    assert np.array_equal(exact, GREY)


def test_a_refusal_does_not_show_the_patient(read, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = {
        "ct.dcm": "modality CT", "frames.dcm": "100 frames", "colour.dcm": "not grey levels",
        "sized.dcm": "more than the limit", "deflated.dcm": "transfer syntax",
        "other_size.dcm": "another size",
        "rle_bomb.dcm": "another size", "no_pixels.dcm": "holds no image", "mark_and_noise.dcm": "DICOM",
    }  # fmt: skip
    count = 0
    for kind, name, content in odd_files.files(tmp_path):
        if kind != "DICOM, of another kind or damaged":
            continue
        with pytest.raises(BadImage) as refused:
            read(content)
        assert words.get(name, "DICOM") in refused.value.reason, (name, refused.value.reason)
        assert "SECRET" not in str(refused.value)
        count += 1
    assert count == 19 and "SECRET" not in caplog.text


def test_a_jpeg_with_thousands_of_scans_is_refused_before_it_is_decoded(read, tmp_path: Path) -> None:
    big = Image.fromarray(np.zeros((4000, 4000), np.uint8))
    jpeg = odd_files.encoded(big, "JPEG", progressive=True)
    scan = jpeg.rindex(b"\xff\xda")
    bomb = jpeg[:-2] + jpeg[scan:-2] * 5000 + b"\xff\xd9"
    content = odd_files.dicom(
        np.zeros((4000, 4000), np.uint8), syntax="1.2.840.10008.1.2.4.50", frame=bomb, window=(128, 256)
    )
    assert len(content) < 2_000_000
    began = time.process_time()
    with pytest.raises(BadImage, match="scans of 4000 x 4000 pixels would take too long"):
        read(content)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize(
    "keys", [{}, {"window": (2048, 4096)}, {"padding": 0}, {"padding": 0, "slope": 2, "intercept": -5}]
)
def test_levels_do_not_depend_on_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int, keys: dict
) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    stored = DEEP.copy()
    stored[:50] = 0
    file = written(tmp_path, odd_files.dicom(stored, stored=12, **keys))
    whole = dicom.read(file, pixels=pixels)
    monkeypatch.setattr(dicom, "BLOCK", 1)
    assert np.array_equal(dicom.read(file, pixels=pixels), whole) and len(np.unique(whole)) > 50


def test_a_large_image_takes_few_bytes_for_each_pixel(tmp_path: Path) -> None:
    """The file, the stored values and the grey levels; float64 for all pixels would take 30 bytes more."""
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    side = 4000
    dicom.read(written(tmp_path, odd_files.dicom(DEEP)))  # imports
    file = written(
        tmp_path, odd_files.dicom((np.indices((side, side)).sum(0) % 4096).astype(np.uint16), stored=12)
    )
    tracemalloc.start()
    try:
        dicom.read(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / side**2 < 12
