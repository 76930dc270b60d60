"""What a DICOM header says about the use of its image, and files that other readers gave up on."""

import io
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import odd_files

from pneumo.data import dicom, formats
from pneumo.data.images import BadImage, format_of, read

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")

GREY = np.asarray(odd_files.phantoms(1)[0])
DEEP = GREY.astype(np.uint16) * 16
EXPLICIT = "1.2.840.10008.1.2.1"
Change = Callable[[Any], None]


def changed(folder: Path, change: Change, **keys: object) -> Path:
    """A DX of a phantom, with its header changed."""
    whole = pydicom.dcmread(io.BytesIO(odd_files.dicom(DEEP, **{"stored": 12, **keys})))
    change(whole)
    whole.save_as(folder / "x.dcm", enforce_file_format=False)
    return folder / "x.dcm"


def setting(**values: object) -> Change:
    return lambda whole: [setattr(whole, key, value) for key, value in values.items()]  # type: ignore[return-value]


def facts(file: Path, window: dicom.Window = dicom.FILE) -> dicom.Facts:
    return dicom.facts(file, dicom.read(file, pixels=2, window=window), window=window)


@pytest.mark.parametrize(
    ("values", "reason", "warning"),
    [
        ({}, "", ""),
        ({"BodyPartExamined": "CHEST"}, "", ""),
        ({"BodyPartExamined": "Thorax PA"}, "", ""),
        ({"BodyPartExamined": "LEG"}, "another part of the body", ""),
        ({"BodyPartExamined": "SECRET^PART"}, "another part of the body", ""),
        ({"ViewPosition": "PA"}, "", ""),
        ({"ViewPosition": "LL"}, "lateral", ""),
        ({"ViewPosition": "RL"}, "lateral", ""),
        ({"ViewPosition": "LATERAL"}, "lateral", ""),
        ({"PresentationIntentType": "FOR PROCESSING"}, "", "raw"),
        ({"SOPClassUID": dicom.FOR_PROCESSING}, "", "raw"),
        ({"PresentationLUTShape": "INVERSE"}, "", "contradicts itself"),
        ({"PresentationLUTShape": "IDENTITY"}, "", ""),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, "", ""),
    ],
)
def test_a_header_withholds_or_warns(
    values: dict[str, object], reason: str, warning: str, tmp_path: Path
) -> None:
    found = facts(changed(tmp_path, setting(**values)))
    for texts, expected in ((found.reasons, reason), (found.warnings, warning)):
        assert len(texts) == bool(expected) and expected in "".join(texts)
        assert "SECRET" not in "".join(texts)


def test_what_is_missing_is_found_otherwise(tmp_path: Path) -> None:
    expected = dicom.read(changed(tmp_path, lambda whole: None), pixels=2)

    def without(name: str) -> Change:
        return lambda whole: delattr(whole, name)

    assert np.array_equal(dicom.read(changed(tmp_path, without("Modality")), pixels=2), expected)
    assert np.array_equal(dicom.read(changed(tmp_path, setting(Modality="RG")), pixels=2), expected)
    secondary = setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    file = changed(tmp_path, lambda whole: (secondary(whole), delattr(whole, "Modality")))
    with pytest.raises(BadImage, match="secondary capture"):
        dicom.read(file)


def test_a_file_without_preamble_or_transfer_syntax_is_read(tmp_path: Path) -> None:
    whole = pydicom.dcmread(io.BytesIO(odd_files.dicom(DEEP, stored=12)))
    expected = dicom.read(changed(tmp_path, lambda whole: None), pixels=2)
    content = (tmp_path / "x.dcm").read_bytes()
    assert content[128:132] == b"DICM"
    (tmp_path / "no_preamble.dcm").write_bytes(content[132:])
    whole.preamble = None
    for name, implicit in (("explicit.dcm", False), ("implicit.dcm", True)):
        whole.file_meta = pydicom.dataset.FileMetaDataset()
        pydicom.dcmwrite(tmp_path / name, whole, implicit_vr=implicit, little_endian=True)
        assert (tmp_path / name).read_bytes()[:2] == b"\x08\0"
    meta = content[132:].replace(b"\x02\0\x10\0", b"\x02\0\x99\0", 1)  # a meta header with no transfer syntax
    (tmp_path / "no_syntax.dcm").write_bytes(content[:132] + meta)
    for name in ("no_preamble", "explicit", "implicit", "no_syntax"):
        file = tmp_path / f"{name}.dcm"
        assert format_of(file) == "DICOM" and dicom.is_dicom(file), name
        assert np.array_equal(read(file, pixels=2), expected), name


def test_other_files_are_not_taken_for_dicom(tmp_path: Path) -> None:
    for start in (
        b"",
        b"\x02\0",
        b"\x08\0\x08\0\xff\xff\xff\xff",
        b"\x08\0\x77\0CS\x04\0",
        b"plain text of some length",
    ):
        assert formats.of(start) is None, start
    (tmp_path / "x.dcm").write_bytes(b"\x08\0\x05\0CS\x04\0" + b"noise" * 100)
    with pytest.raises(BadImage):
        read(tmp_path / "x.dcm")


def test_compressed_pixels_without_a_transfer_syntax_are_named(tmp_path: Path) -> None:
    jpeg = odd_files.encoded(odd_files.phantoms(1)[0], "JPEG")
    content = odd_files.dicom(GREY, syntax="1.2.840.10008.1.2.4.50", frame=jpeg, window=(128, 256))
    (tmp_path / "x.dcm").write_bytes(content.replace(b"\x02\0\x10\0", b"\x02\0\x99\0", 1))
    with pytest.raises(BadImage, match="does not name its transfer syntax, and its pixels are compressed"):
        dicom.read(tmp_path / "x.dcm")


def test_windows_that_hide_the_picture_are_named(tmp_path: Path) -> None:
    whole = dicom.read(changed(tmp_path, lambda whole: None), pixels=2)
    no_width = changed(tmp_path, setting(WindowCenter=10, WindowWidth=0))
    assert np.array_equal(dicom.read(no_width, pixels=2), whole)
    assert "no width" in facts(no_width).warnings[0] and facts(no_width).window == "full"
    # Fractions 0 to 1 with a window of width 1.
    fractions = {"RescaleSlope": 1 / 4096, "RescaleIntercept": 0, "WindowCenter": 0.5, "WindowWidth": 1}
    linear = facts(changed(tmp_path, setting(**fractions)))
    assert "too few grey levels" in linear.reasons[0]
    exact = changed(tmp_path, setting(**fractions, VOILUTFunction="LINEAR_EXACT"))
    assert np.abs(dicom.read(exact, pixels=2).astype(int) - whole).max() <= 1 and not facts(exact).reasons
    extreme = DEEP.copy()
    extreme[5, 5] = 65535
    pixel = changed(tmp_path, setting(PixelData=extreme.tobytes(), BitsStored=16, HighBit=15))
    for rule in (1, 2):
        found = dicom.facts(pixel, dicom.read(pixel, pixels=rule))
        assert "grey levels are left" in found.warnings[0] and "try window=C,W" in found.warnings[0]
    shown = facts(pixel, (2048.0, 4096.0))
    assert not shown.warnings and shown.window == "2048,4096"


def test_the_window_is_chosen_and_named(tmp_path: Path) -> None:
    file = changed(tmp_path, lambda whole: None, window=(1000, 1500))
    own, full, given = (dicom.read(file, pixels=2, window=w) for w in ("file", "full", (2048.0, 4096.0)))
    assert np.array_equal(own, dicom.read(file, pixels=2)) and not np.array_equal(own, full)
    assert np.array_equal(full, dicom.read(changed(tmp_path, lambda whole: None), pixels=2))
    assert np.array_equal(given, np.round(DEEP / 4096 * 255))
    file = changed(tmp_path, lambda whole: None, window=(1000, 1500))
    assert [facts(file, w).window for w in ("file", "full", (2048.0, 4096.0))] == [
        "1000,1500",
        "full",
        "2048,4096",
    ]


@pytest.mark.parametrize(("age", "years"), [("032Y", 32), ("006M", 0.5), ("", None), ("SECRET", None)])
def test_the_age_is_in_years(age: str, years: float | None, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = changed(tmp_path, setting(PatientAge=age))
    assert facts(file).age == years


def test_no_thread_shows_a_header_value_in_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """pydicom warns of an invalid UID and quotes it. catch_warnings in one thread undoes another's."""
    content = odd_files.dicom(DEEP, stored=12)
    secret = content.replace(b"1.2.840.10008.5.1.4.1.1.1.1\0", b"SECRET.4.PATIENT.NAME.12345\0")
    assert secret != content
    (tmp_path / "x.dcm").write_bytes(secret)
    seen: list[str] = []

    def work() -> None:
        for _ in range(10):
            try:
                grey = read(tmp_path / "x.dcm", pixels=2)
                seen.extend(dicom.facts(tmp_path / "x.dcm", grey).warnings)
            except BadImage as error:
                seen.append(error.reason)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "SECRET" not in " ".join([*seen, *(str(one.message) for one in recwarn.list), caplog.text])
