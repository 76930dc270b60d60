"""A table's bytes to its rows: encodings, separators, compression, limits."""

import gzip
from pathlib import Path

import pytest

from pneumo import UserError
from pneumo.data import tables

ROWS = [["path", "label", "note"], ["x/é 1.png", "0", "a, b; c"], ["x/b.png", "1", ""]]


def text(separator: str) -> str:
    return "\r\n".join(separator.join(f'"{cell}"' for cell in row) for row in ROWS) + "\r\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_tables_as_people_have_them(tmp_path: Path, separator: str, encoding: str, suffix: str) -> None:
    content = text(separator).encode(encoding)
    file = tmp_path / f"t{suffix}"
    file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    read = tables.read(file)
    assert [read.columns.tolist(), *read.to_numpy().tolist()] == ROWS
    assert read.index.tolist() == [0, 1]


def test_a_comma_in_a_label_separates_no_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path;label\na.png;Mass, Edema, Hernia\n")
    assert tables.read(tmp_path / "t.csv")["label"].tolist() == ["Mass, Edema, Hernia"]


def test_gzip_counts_by_content(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(gzip.compress(text(",").encode(), mtime=0))
    assert len(tables.read(tmp_path / "t.csv")) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "path,label\né.png,0\n".encode("latin-1"), ["(UTF-8)", "Save it as CSV"]),
        ("t.csv.gz", gzip.compress(text(",").encode(), mtime=0)[:-9], ["cannot be read as CSV"]),
        ("t.csv", b"", ["cannot be read as CSV"]),
        ("t.csv", b"path,label\n", ["has no rows", "path, label"]),
        ("t.zip", b"PK", ["is an archive: unpack it first"]),
        ("t.xlsx", b"PK", ["not a text table", "save it as CSV"]),
        ("t.csv", ",".join(f"c{n}" for n in range(1001)).encode(), ["more columns than the limit of 1,000"]),
    ],
)  # fmt: skip
def test_what_is_not_a_table_is_refused(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        tables.read(tmp_path / name)
    assert all(word in str(error.value) for word in [name, *words]), error.value


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_BYTES", 1000)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"path,label\n" + b"a.png,0\n" * 1000, mtime=0))
    with pytest.raises(UserError, match="limit of 1,000 bytes when unpacked"):
        tables.read(tmp_path / "t.csv.gz")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Valid", "VAL"])
def test_the_tables_of_the_splits(tmp_path: Path, name: str) -> None:
    for file in ("train.csv", f"{name}.tsv", "Test.csv.gz", "other.csv"):
        (tmp_path / file).touch()
    found = {split: file.name for split, file in tables.find_splits(tmp_path).items()}
    assert found == {"train": "train.csv", "val": f"{name}.tsv", "test": "Test.csv.gz"}


def test_two_tables_for_one_split_are_refused(tmp_path: Path) -> None:
    for file in ("val.csv", "valid.csv"):
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=r"val\.csv and valid\.csv, which both mean val"):
        tables.find_splits(tmp_path)
