"""How prediction takes each DICOM file in pydicom's wheel: read, skipped or refused, with the reason.

    python tools/dicom_files_table.py            # the table, as Markdown
    python tools/dicom_files_table.py --write    # into docs/reference/dicom-files.md

The files are those that pydicom ships for its own tests. It needs pneumo[dicom] and takes a few seconds.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import UID

from pneumo.data import dicom, images
from pneumo.data.limits import BadImage, NotAnXray

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "dicom-files.md"
FOLDER = Path(pydicom.__file__).parent / "data"
NO_DICOM = (".py", ".pyc", ".json", ".md", ".txt", ".zip")
READ, SKIPPED, REFUSED, LEFT_OUT = "read", "skipped", "refused", "left out"


@dataclass
class Outcome:
    """What becomes of one file of a folder."""

    file: str
    kind: str  # the SOP class
    outcome: str
    reason: str


def outcomes(folder: Path = FOLDER) -> list[Outcome]:
    """The outcome of every DICOM file below `folder`, sorted by name."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in NO_DICOM]
    return [_outcome(path, folder) for path in files]


def _outcome(path: Path, folder: Path) -> Outcome:
    def found(outcome: str, reason: str = "") -> Outcome:
        return Outcome(path.relative_to(folder).as_posix(), _sop_class(path), outcome, reason)

    if path.suffix.lower() not in (".dcm", ".dicom") and not dicom.is_dicom(path):
        return found(LEFT_OUT, "neither the mark of a DICOM file nor its suffix")
    try:
        rows, columns = images.read(path, pixels=2).shape
    except NotAnXray as error:
        return found(SKIPPED, error.kind)
    except BadImage as error:
        return found(REFUSED, error.reason.removeprefix("DICOM: "))
    return found(READ, f"{columns} x {rows} pixels")


def _sop_class(path: Path) -> str:
    try:
        uid = UID(str(pydicom.filereader.read_file_meta_info(path).get("MediaStorageSOPClassUID", "")))
    except Exception:  # a damaged file can raise nearly anything
        return "-"
    return uid.name.removesuffix(" Storage") or "-"


def page(rows: list[Outcome]) -> str:
    """The page with the table."""
    counts = Counter(row.outcome for row in rows)
    numbers = ", ".join(f"{counts[name]} {name}" for name in (READ, SKIPPED, REFUSED, LEFT_OUT))
    lines = [
        "# DICOM files and what becomes of them",
        "",
        f"Every DICOM file in the wheel of pydicom {pydicom.__version__}, as `pneumo predict input=DIR`",
        f"takes it: {len(rows)} files, {numbers}. `python tools/dicom_files_table.py --write` writes it.",
        "",
        "- **read**: the file gets a probability, whatever it shows; unlike images get a warning.",
        "- **skipped**: it is not a radiograph; it is counted by kind and has no row. A file that `input`",
        "  names itself is refused instead.",
        "- **refused**: it gets a row with this reason, and the command ends with 1.",
        "- **left out**: it is not taken for an image.",
        "",
        "| file | SOP class | outcome | reason |",
        "|---|---|---|---|",
        *(f"| `{row.file}` | {row.kind} | {row.outcome} | {row.reason} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    text = page(outcomes())
    if args.write:
        PAGE.write_text(text)
        print(f"wrote {PAGE}")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
