"""One table as people have it: its rows as text, whatever its encoding, separator and compression."""

import codecs
import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any

import pandas as pd

from pneumo import UserError
from pneumo.data.found import SPLIT_NAMES, listed
from pneumo.data.listing import ARCHIVE_SUFFIXES, TABLE_SUFFIXES, suffix_of

# A table of this size takes about 600 MB to check; the largest public chest sets hold 400,000 images.
MAX_ROWS = 1_000_000
MAX_CELLS = 32 * MAX_ROWS
MAX_BYTES = 256 * 2**20  # also after decompression
MAX_COLUMNS = 1000
SEPARATORS = (",", ";", "\t")
READ_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_GZIP = b"\x1f\x8b"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def find_splits(root: Path) -> dict[str, Path]:
    """The table of each split in a folder: train.csv, valid.tsv, Test.csv.gz; those that are there.

    Raises UserError for two tables that mean the same split.
    """
    found: dict[str, Path] = {}
    for file in sorted(root.iterdir()):
        suffix = next((one for one in READ_SUFFIXES if file.name.lower().endswith(one)), None)
        split = SPLIT_NAMES.get(file.name[: -len(suffix)].lower()) if suffix else None
        if split is None or not file.is_file():
            continue
        if split in found:
            raise UserError(
                f"{root} has {found[split].name} and {file.name}, which both mean {split}; remove one."
            )
        found[split] = file
    return found


def others(root: Path) -> list[str]:
    """The tables in a folder, for a message."""
    return sorted(file.name for file in root.iterdir() if file.name.lower().endswith(TABLE_SUFFIXES))


def read(file: Path) -> pd.DataFrame:
    """The rows of a table as text, limited in size. The index is the line number minus two.

    CSV and TSV, also compressed by gzip; separated by commas, semicolons or tabs, which the header tells;
    UTF-8, or UTF-16 with its mark. Raises UserError for anything else.
    """
    if file.suffix.lower() in (".xlsx", ".xls", ".ods", ".parquet"):
        raise UserError(f"{file} is not a text table; save it as CSV (UTF-8).")
    if suffix_of(file.name) in ARCHIVE_SUFFIXES:
        raise UserError(f"{file} is an archive: unpack it first.")
    try:
        compressed = _check_size(file)
        encoding = _encoding(file, compressed)
        columns, separator = _header(file, compressed, encoding)
        rows = min(MAX_ROWS, MAX_CELLS // max(len(columns), 1))
        # As text, so that pandas guesses no types. Blank lines are dropped later, so line numbers are right.
        with _open(file, compressed) as stream:
            raw = pd.read_csv(
                stream,
                sep=separator,
                dtype=str,
                header=None,
                keep_default_na=False,
                skip_blank_lines=False,
                encoding=encoding,
                skipinitialspace=True,
                nrows=rows + 2,
            )
    except UserError:
        raise
    except (OSError, ValueError, csv.Error, EOFError, zlib.error) as error:
        raise UserError(
            f"{file} cannot be read as CSV (UTF-8): {str(error).splitlines()[0]}. Save it as CSV (UTF-8)."
        ) from None
    raw = raw.fillna("")
    columns = [str(column).strip() for column in raw.iloc[0]]
    if len(raw) > rows + 1:
        raise UserError(f"{file} has more rows than the limit of {rows:,}; split the data set.")
    if twice := {column for column in columns if column and columns.count(column) > 1}:
        raise UserError(f"{file} has the column {', '.join(sorted(twice))} more than once.")
    raw.columns = pd.Index(columns)
    raw = raw.iloc[1:].reset_index(drop=True)
    raw = raw[(raw != "").any(axis=1)]
    if raw.empty:
        raise UserError(f"{file} has no rows; its columns are {listed(columns, 30)}.")
    return raw


def _check_size(file: Path) -> bool:
    """True for a file compressed by gzip. Raises UserError if the table is larger than MAX_BYTES."""
    size = file.stat().st_size
    with file.open("rb") as start:
        compressed = start.read(2) == _GZIP
    if compressed and size <= MAX_BYTES:
        size = 0
        with _open(file, compressed) as stream:
            while size <= MAX_BYTES and (part := stream.read(2**20)):
                size += len(part)
        if size > MAX_BYTES:
            raise UserError(
                f"{file} has more than the limit of {MAX_BYTES:,} bytes when unpacked; split the data set."
            )
    if size > MAX_BYTES:
        raise UserError(
            f"{file} has {size:,} bytes, more than the limit of {MAX_BYTES:,}; split the data set."
        )
    return compressed


def _open(file: Path, compressed: bool) -> IO[bytes]:
    stream: Any = gzip.open if compressed else open
    return stream(file, "rb")


def _encoding(file: Path, compressed: bool) -> str:
    """UTF-16 where the file begins with its mark or every second byte is 0; else UTF-8."""
    with _open(file, compressed) as stream:
        start = stream.read(64)
    if start.startswith(_UTF_16):
        return "utf-16"
    if len(start) > 3 and not any(start[1:20:2]):
        return "utf-16-le"
    if len(start) > 3 and not any(start[0:20:2]):
        return "utf-16-be"
    return "utf-8-sig"


def _header(file: Path, compressed: bool, encoding: str) -> tuple[list[str], str]:
    """The first row and the separator; at most a thousand columns: reading more could fill the memory."""
    with _open(file, compressed) as stream, io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
        start = text.read(2**20)
    best: tuple[list[str], str] = ([], ",")
    for separator in SEPARATORS:
        try:
            columns = next(csv.reader(io.StringIO(start, newline=""), delimiter=separator), [])
        except csv.Error:  # a field longer than any header's: another separator, or pandas names the fault
            continue
        if len(columns) > len(best[0]):
            best = columns, separator
    if len(best[0]) > MAX_COLUMNS:
        raise UserError(
            f"{file} has more columns than the limit of {MAX_COLUMNS:,}; keep path, label and patient."
        )
    return best
