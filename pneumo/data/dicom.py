"""DICOM as grey levels: CR and DX, one frame. Every size is checked before anything is decoded.

Messages repeat only sizes and types from a file's header, because other values can identify a patient. Needs
pydicom, and pylibjpeg for compressed images: pip install 'pneumo[dicom]'.
"""

import importlib.util
import logging
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pneumo.data import dicom_kinds, formats
from pneumo.data.levels import between, declared_range, eight_bit
from pneumo.data.limits import BadImage, Grey, NotAnXray, check_file, check_rule, check_scans, check_size

MODALITIES = ("CR", "DX", "RG")
# What a file without a modality is, by its SOP class.
SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",  # for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",  # for processing
}
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
CHEST = ("CHEST", "THORAX", "LUNG", "RIB", "TORSO", "CLAVICLE", "STERNUM", "HEART")
LATERAL = ("LL", "RL", "LATERAL", "LAT", "LLD", "RLD")
FEWEST_LEVELS = 4  # grey levels; fewer show no picture of a chest
FEW_LEVELS = 32  # of 256 that hold nearly all pixels
TAGS = (
    "Modality SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns BitsAllocated BitsStored "
    "HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept "
    "WindowCenter WindowWidth VOILUTFunction SOPClassUID"
).split()
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
RLE = "1.2.840.10008.1.2.5"
COMPRESSED = {
    RLE: "RLE",
    **{f"1.2.840.10008.1.2.4.{number}": "JPEG" for number in (50, 51, 57, 70, 80, 81)},
    **{f"1.2.840.10008.1.2.4.{number}": "JPEG 2000" for number in (90, 91)},
}
ANOTHER = "another"  # modality, whose name is not repeated
UID_TAGS = ("StudyInstanceUID", "SOPInstanceUID")
_UID = re.compile(r"[0-9.]{1,64}")
# Those that are looked at besides, and never repeated.
SEEN_TAGS = "BodyPartExamined ViewPosition PresentationIntentType PatientAge PresentationLUTShape".split()
IMPLICIT, EXPLICIT, BIG_ENDIAN = UNCOMPRESSED
FULL, FILE = "full", "file"
Window = str | tuple[float, float]
MAX_LUT = 65536
BLOCK = 1_000_000  # pixels that are converted at once
Floats = NDArray[np.float64]
T = TypeVar("T")
NEEDS = "needs pydicom: pip install 'pneumo[dicom]'"


def is_readable() -> bool:
    """True where pydicom is installed."""
    return importlib.util.find_spec("pydicom") is not None


def is_dicom(path: str | Path) -> bool:
    """True for a regular file that begins as a DICOM file, with or without the preamble of 128 bytes."""
    try:
        check_file(path)
        return formats.of(formats.start_of(path)) == "DICOM"
    except (BadImage, OSError):
        return False


@dataclass
class Facts:
    """What a header says about the use of its image, without any of its values but the window.

    `reasons` to withhold an answer, `warnings`, and the `window` that is shown: `C,W`, full or table.
    """

    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    window: str = ""
    age: float | None = None  # years


def read(path: str | Path, *, pixels: int = 1, window: Window = FILE) -> Grey:
    """Grey levels, uint8 [H, W], as a viewer shows them: after modality and VOI look-up, with black air.

    If the file has no window, pixel rule 1 scales by the range of its values. Rule 2 scales by the range that
    BitsStored declares, so that two films from one detector get the same scale. Raises BadImage with path and
    reason.

    `window` is file (the file's own, where it has one), full (the whole range), or a centre and a width.
    """
    return _opened(path, lambda header: _shown(path, header, header.pixel_array, pixels, window), pixels)


def facts(path: str | Path, grey: Grey, *, window: Window = FILE) -> Facts:
    """What the header of a file that `read` showed as `grey` says besides."""
    return _opened(path, lambda header: _facts(header, grey, window), header_only=True)


def _opened(path: str | Path, use: Callable[[Any], T], pixels: int = 1, header_only: bool = False) -> T:
    """What `use` returns for the checked file."""
    check_rule(pixels)
    check_file(path)
    try:
        import pydicom
    except ImportError:
        raise BadImage(path, f"a DICOM file, which {NEEDS}") from None
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its messages quote header values
    try:
        _silence()
        _check_syntax(path)
        tags = [*TAGS, *SEEN_TAGS, "VOILUTSequence"] if header_only else [*TAGS]
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
        _check_header(path, header)
        if header_only:
            return use(header)
        whole = pydicom.dcmread(path, force=True)
        _check_header(path, whole)  # again, because a repeated element now has its last value
        _complete(path, whole)
        _check_pixels(path, whole)
        return use(whole)
    except BadImage:
        raise
    except MemoryError:
        raise BadImage(path, "DICOM: it takes too much memory") from None
    except Exception as error:  # its message may quote the header: show only its type
        raise BadImage(path, f"DICOM: damaged, or of an unsupported kind ({type(error).__name__})") from None


def _check_syntax(path: str | Path) -> None:
    """Check this before the data set is read: a deflated one could expand to any size."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    with open(path, "rb") as file:  # noqa: PTH123
        read_preamble(file, force=True)
        meta = _read_file_meta_info(file)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if not syntax:
        return  # pydicom finds out how the elements are written; pixels must then be uncompressed
    if syntax not in UNCOMPRESSED and syntax not in COMPRESSED:
        if kind := dicom_kinds.of_class(str(meta.get("MediaStorageSOPClassUID", ""))):
            raise _not_an_xray(path, kind)
        kinds = ", ".join(dict.fromkeys(COMPRESSED.values()))
        raise BadImage(path, f"DICOM: its transfer syntax is not one of: uncompressed, {kinds}")


def _not_an_xray(path: str | Path, kind: str) -> NotAnXray:
    word = f"modality {kind}" if len(kind) == 2 or kind == ANOTHER else kind
    reason = f"DICOM: {word}; only {', '.join(MODALITIES)} can be chest X-rays"
    return NotAnXray(path, reason, "another modality" if kind == ANOTHER else kind)


def uids(path: str | Path) -> tuple[str, str]:
    """The study and the SOP instance UID of a DICOM file; empty where it has none, and for other files."""
    if not (is_dicom(path) and is_readable()):
        return "", ""
    import pydicom

    try:
        _silence()
        meta = pydicom.filereader.read_file_meta_info(path)
        found: Any = {"SOPInstanceUID": meta.get("MediaStorageSOPInstanceUID", "")}
        if str(meta.get("TransferSyntaxUID", "")) in (*UNCOMPRESSED, *COMPRESSED):
            found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*UID_TAGS])
    except Exception:  # a damaged file can raise nearly anything; its row has the reason
        return "", ""
    values = [str(found.get(tag, "")) for tag in UID_TAGS]
    study, instance = (value if _UID.fullmatch(value) else "" for value in values)
    return study, instance


def _complete(path: str | Path, whole: Any) -> None:
    """Name the transfer syntax of a file that does not, which is one of those without compression."""
    if whole.file_meta.get("TransferSyntaxUID"):
        return
    if "PixelData" in whole and whole["PixelData"].is_undefined_length:
        raise BadImage(path, "DICOM: it does not name its transfer syntax, and its pixels are compressed")
    implicit, little = whole.original_encoding
    whole.file_meta.TransferSyntaxUID = IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN


def _silence() -> None:
    """Keep pydicom's warnings quiet, which quote header values. catch_warnings is not for threads."""
    warnings.filterwarnings("ignore", module=r"pydicom|pneumo\.data\.dicom")


_silence()  # before any thread remembers the filters


def _check_header(path: str | Path, header: Any) -> None:
    known = SOP_CLASSES.get(str(header.get("SOPClassUID", "")), "none")
    if (kind := str(header.get("Modality") or known)) not in MODALITIES:
        word = kind if len(kind) == 2 and kind.isalnum() else ANOTHER
        of_file = getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID", "")
        of_class = dicom_kinds.of_class(str(of_file)) or dicom_kinds.of_class(
            str(header.get("SOPClassUID", ""))
        )
        if kind == "none" and of_class is None:
            raise BadImage(path, f"DICOM: no modality; only {', '.join(MODALITIES)} can be chest X-rays")
        raise _not_an_xray(path, word if word not in (ANOTHER, "OT") else of_class or word)
    if (frames := int(header.get("NumberOfFrames") or 1)) != 1:
        raise BadImage(path, f"DICOM: {frames} frames; only single images are read")
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if rows < 1 or columns < 1:
        raise BadImage(path, "DICOM: it holds no image")
    check_size(path, columns, rows)
    colours = header.get("PhotometricInterpretation")
    if int(header.get("SamplesPerPixel") or 1) != 1 or colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadImage(path, "DICOM: not grey levels (MONOCHROME1 or MONOCHROME2)")
    if header.get("BitsAllocated") not in (8, 16):
        raise BadImage(path, "DICOM: neither 8 nor 16 bits per pixel")


def _check_pixels(path: str | Path, whole: Any) -> None:
    """Compare the sizes inside a compressed image with the header: the decoder trusts those inside."""
    if "PixelData" not in whole:
        raise BadImage(path, "DICOM: it holds no image")
    kind = COMPRESSED.get(str(whole.file_meta.TransferSyntaxUID))
    if kind is None:
        return
    if not _has_decoder(str(whole.file_meta.TransferSyntaxUID)):
        raise BadImage(path, f"DICOM: {kind} data need another package: pip install 'pneumo[dicom]'")
    from pydicom.encaps import generate_frames

    frame = next(generate_frames(whole.PixelData, number_of_frames=1))
    if kind == "RLE":
        fits = _rle_bytes(frame) <= whole.Rows * whole.Columns * whole.BitsAllocated // 8 + 2 * 15
    else:
        fits = _stream_size(frame, kind) == (whole.Rows, whole.Columns, 1)
    if not fits:
        raise BadImage(path, f"DICOM: its {kind} data have another size than its header says")
    if kind == "JPEG":
        check_scans(path, frame, whole.Columns, whole.Rows)


def _has_decoder(syntax: str) -> bool:
    from pydicom.pixels import get_decoder

    return bool(get_decoder(syntax).is_available)


def _stream_size(stream: bytes, kind: str) -> tuple[int, int, int] | None:
    """Rows, columns and components of a JPEG, JPEG-LS or JPEG 2000 stream, from its own header."""
    if kind == "JPEG 2000":
        at = stream.find(b"\xff\x4f\xff\x51")
        if at < 0:
            return None
        width, height, left, top = struct.unpack_from(">4I", stream, at + 8)
        (parts,) = struct.unpack_from(">H", stream, at + 40)
        return height - top, width - left, parts
    at = 2
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        mark = stream[at + 1]
        if (0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC)) or mark == 0xF7:
            rows, columns, parts = struct.unpack_from(">HHB", stream, at + 5)
            return rows, columns, parts
        at += 1 if mark == 0xFF else 2 + struct.unpack_from(">H", stream, at + 2)[0]
    return None


def _rle_bytes(frame: bytes) -> int:
    """How many bytes the segments of an RLE frame expand to (PS3.5, annex G); nothing is expanded."""
    count, *starts = struct.unpack_from("<16I", frame)
    if not 1 <= count <= 15:
        raise ValueError
    total = 0
    for start, end in zip(starts[:count], [*starts[1:count], len(frame)], strict=True):
        at, end = start, min(end, len(frame))
        if start < 64:
            raise ValueError
        while at < end:
            control = frame[at]
            if control < 128:
                total, at = total + control + 1, at + control + 2
            else:
                total, at = total + (257 - control if control > 128 else 0), at + 2
    return total


def _facts(header: Any, grey: Grey, window: Window) -> Facts:
    """What is checked is compared with fixed words; the values themselves go nowhere."""
    found = Facts(window=_window_name(header, window), age=_years(header.get("PatientAge")))
    part = str(header.get("BodyPartExamined") or "").upper()
    if part and not any(word in part for word in CHEST):
        found.reasons.append("the header says that it shows another part of the body than the chest")
    if str(header.get("ViewPosition") or "").strip().upper() in LATERAL:
        found.reasons.append("the header says that it is a lateral view")
    intent = str(header.get("PresentationIntentType") or "").upper()
    if intent == "FOR PROCESSING" or str(header.get("SOPClassUID", "")) == FOR_PROCESSING:
        found.warnings.append("the header says that it is raw (for processing), not made to be looked at")
    shape = str(header.get("PresentationLUTShape") or "").upper()
    if (shape, header.get("PhotometricInterpretation")) in (
        ("INVERSE", "MONOCHROME2"),
        ("IDENTITY", "MONOCHROME1"),
    ):
        found.warnings.append("the header contradicts itself on what is black and what is white")
    if window == FILE and _has_window(header) and _file_window(header) is None:
        found.warnings.append("its window has no width, so the whole range of values is shown")
    counts = np.sort(np.bincount(grey.ravel(), minlength=256))[::-1]
    levels = int(np.searchsorted(np.cumsum(counts), 0.995 * grey.size) + 1)
    if levels < FEWEST_LEVELS:
        found.reasons.append(f"too few grey levels are left ({levels}): its window or extreme values hide it")
    elif levels < FEW_LEVELS:
        found.warnings.append(
            f"few grey levels are left ({levels}), as a window or a few extreme values do; try window=C,W"
        )
    return found


def _window_name(header: Any, window: Window) -> str:
    if isinstance(window, tuple):
        return ",".join(f"{value:g}" for value in window)
    if window == FILE and header.get("VOILUTSequence"):
        return "table"
    own = _file_window(header) if window == FILE else None
    return FULL if own is None else ",".join(f"{value:g}" for value in own)


def _years(age: Any) -> float | None:
    """The age of `032Y`, `008M`, `010W` or `003D` (PS3.5, 6.2)."""
    text = str(age or "").strip().upper()
    units = {"Y": 1, "M": 12, "W": 52, "D": 365}
    return int(text[:3]) / units[text[3]] if re.fullmatch(r"\d{3}[YMWD]", text, re.ASCII) else None


def _has_window(header: Any) -> bool:
    return header.get("WindowWidth") is not None and header.get("WindowCenter") is not None


def _file_window(header: Any) -> tuple[float, float] | None:
    """Centre and width of the first window; None without one, or if its width is 0."""
    if not _has_window(header):
        return None
    window = _first(header.WindowCenter), _first(header.WindowWidth)
    return window if window[1] != 0 else None


def _shown(path: str | Path, header: Any, stored: NDArray[Any], pixels: int, window: Window = FILE) -> Grey:
    """The grey levels of the `stored` values, block by block: float64 takes eight bytes for each pixel."""
    if stored.ndim != 2:
        raise BadImage(path, "DICOM: not one grey image")
    share = _shares(path, header, stored, pixels, window)
    grey = np.empty(stored.shape, dtype=np.uint8)
    for rows in _blocks(stored):
        shares = share(stored[rows])
        if not np.isfinite(shares).all():
            raise BadImage(path, "DICOM: its look-up gives no finite levels")
        shares = shares.clip(0, 1)
        if header.PhotometricInterpretation == "MONOCHROME1":
            shares = 1 - shares
        shares[_padding(header, stored[rows])] = 0
        grey[rows] = eight_bit(shares)
    return grey


def _shares(
    path: str | Path, header: Any, stored: NDArray[Any], pixels: int, window: Window
) -> Callable[[NDArray[Any]], Floats]:
    """What turns stored values [H, W] into levels, 0 to 1 for those that a viewer shows; not clipped."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    def values(part: NDArray[Any]) -> Floats:
        return np.asarray(apply_modality_lut(part, header), dtype=np.float64)

    if isinstance(window, tuple):
        return lambda part: _windowed(values(part), *window, "LINEAR_EXACT")
    if window == FILE and header.get("VOILUTSequence"):
        entries, _, bits = (int(number) for number in header.VOILUTSequence[0].LUTDescriptor)
        if not 1 <= bits <= 16 or entries > MAX_LUT:
            raise BadImage(path, "DICOM: its VOI look-up table is damaged")
        low, high = declared_range(bits)
        return lambda part: between(apply_voi(apply_modality_lut(part, header), header), low, high)
    if window == FILE and (own := _file_window(header)) is not None:
        centre, width = own
        function = str(header.get("VOILUTFunction") or "LINEAR")
        return lambda part: _windowed(values(part), centre, width, function)
    if pixels > 1:
        declared = declared_range(_stored_bits(header), header.get("PixelRepresentation") == 1)
        ends = values(np.array([declared], dtype=stored.dtype))
        darkest, brightest = float(ends.min()), float(ends.max())
    else:
        darkest, brightest = _range(header, stored, values)
    return lambda part: between(values(part), darkest, brightest)


def _range(
    header: Any, stored: NDArray[Any], values: Callable[[NDArray[Any]], Floats]
) -> tuple[float, float]:
    """The least and the largest value that is not padding; of an image of padding alone, of all values."""
    known, every = [], []
    for rows in _blocks(stored):
        part = values(stored[rows])
        every += [part.min(), part.max()]
        if len(kept := part[~_padding(header, stored[rows])]):
            known += [kept.min(), kept.max()]
    ends = known or every
    return float(min(ends)), float(max(ends))


def _blocks(stored: NDArray[Any]) -> list[slice]:
    """Slices of rows with about BLOCK pixels each."""
    rows = max(1, BLOCK // stored.shape[1])
    return [slice(start, start + rows) for start in range(0, stored.shape[0], rows)]


def _stored_bits(header: Any) -> int:
    allocated = int(header.BitsAllocated)
    bits = int(header.get("BitsStored") or allocated)
    if not 1 <= bits <= allocated:
        raise ValueError
    return bits


def _padding(header: Any, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """True where the stored values are padding, which is not part of the picture."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = header.get("PixelPaddingRangeLimit")
    bounds = sorted((int(first), int(first if last is None else last)))
    return np.asarray((stored >= bounds[0]) & (stored <= bounds[1]))


def _windowed(values: Floats, centre: float, width: float, function: str) -> Floats:
    """Levels 0..1 of the window (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if not (np.isfinite([centre, width]).all() and width > 0):
        raise ValueError
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp((-4 * (values - centre) / width).clip(-700, 700))))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5


def _first(value: Any) -> float:
    """The first value: a file can have several windows, and a viewer opens with the first."""
    return float(value if isinstance(value, int | float | str) else value[0])
