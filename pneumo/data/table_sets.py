"""A data set described by tables: one table, or one for each split. No row is lost silently."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pneumo import UserError
from pneumo.data import columns, findings, labels, patients, tables
from pneumo.data.columns import CLEARLY_SPLIT, Columns
from pneumo.data.findings import Findings
from pneumo.data.found import COLUMNS, SPLIT_NAMES, SPLITS, Found, listed
from pneumo.data.labels import LEFT_OUT, MAX_CHARS
from pneumo.data.listing import Boundary, Listing, contents
from pneumo.data.settings import NO_COLUMN, DataSettings
from pneumo.names import many_classes


@dataclass
class _Table:
    """One table that was read: its file, the split that its name gives it, its rows and their columns."""

    file: Path
    split: str | None
    rows: pd.DataFrame
    columns: Columns

    @property
    def places(self) -> list[str]:
        return [f"{self.file}, line {line + 2}" for line in self.rows.index]


def find_table(settings: DataSettings, root: Path) -> Path | None:
    """The file of data.table: below data.root, or as typed; None where it is not set."""
    if settings.table is None:
        return None
    asked = Path(settings.table).expanduser()
    for file in (root / asked, asked):
        if file.is_file():
            return file
    places = dict.fromkeys(str(place.absolute()) for place in (root / asked, asked))
    folder = next((place for place in (root, asked.absolute().parent) if place.is_dir()), Path.cwd())
    there = tables.others(folder)
    raise UserError(
        f"data.table={settings.table} is not a file: looked for {' and '.join(places)}. "
        + (f"The tables of {folder} are {listed(there)}." if there else contents(folder))
    )


def read(root: Path, settings: DataSettings, listing: Listing) -> tuple[Found, list[Path]]:
    """The images of the tables of `root`, and the files of the tables.

    Raises UserError for a table that cannot be read, with the line.
    """
    table = find_table(settings, root)
    if table is None:
        read_tables = [_read(file, split, settings) for split, file in _split_files(root, settings).items()]
    else:
        read_tables = [_read(table, None, settings)]
    found = Found(root, pd.DataFrame())
    found.columns = read_tables[0].columns.shown()
    _fill(found, read_tables, settings, listing)
    return found, [one.file for one in read_tables]


def _split_files(root: Path, settings: DataSettings) -> dict[str, Path]:
    files = tables.find_splits(root)
    there = tables.others(root)
    needed = ["train"] if settings.split.test_fraction is not None else ["train", "test"]
    for split in needed:
        if split not in files:
            found = f"The tables of {root} are {listed(there)}. " if there else f"{contents(root)} "
            example = next((name for name in there if name.lower().endswith(tables.READ_SUFFIXES)), "FILE")
            raise UserError(
                f"{root / split}.csv is missing; data={settings.name} needs train.csv and test.csv (val.csv "
                f"is optional). {found}One table for all images is data.table={example}; "
                "data.split.test_fraction=0.2 makes a test set."
            )
    return {split: files[split] for split in SPLITS if split in files}


def _read(file: Path, split: str | None, settings: DataSettings) -> _Table:
    rows = tables.read(file)
    names = [name for name in rows.columns if name]
    found = columns.find(names, settings, str(file))
    column = found.split
    if column is not None and split is None and settings.columns.split is None:
        values = rows[column].str.strip().str.lower()
        if columns.plain(column) not in CLEARLY_SPLIT and not values.isin(SPLIT_NAMES).all():
            found.split = None  # another meaning of `set` or `phase`
    if column is not None and split is not None and settings.columns.split is None:
        found.split = None  # the file's name says it
    return _Table(file, split, rows, found)


def _fill(found: Found, read_tables: Sequence[_Table], settings: DataSettings, listing: Listing) -> None:
    """Put the rows of all tables into `found`."""
    places = [place for table in read_tables for place in table.places]
    several = _several_findings(read_tables, places, settings) if settings.multilabel else None
    meanings, notes = (several.strata, several.notes) if several else _classes(read_tables, places, settings)
    spelled = [path for table in read_tables for path in table.rows[table.columns.path].str.strip()]
    paths = _Paths(found.root, settings, listing)
    table = pd.DataFrame({"path": paths.checked(spelled, places), "label": meanings})
    parsed = [patients.parse_name(path) for path in table["path"]]
    table["patient"] = _patients(read_tables, table["path"].tolist(), parsed, settings, places)
    kinds = [parts[1] if parts else None for parts in parsed]
    if not many_classes(settings.class_names):
        kinds = [
            "normal" if label == 0 else (None if kind == "normal" else kind)
            for label, kind in zip(meanings, kinds, strict=True)
        ]
    table["subtype"] = kinds
    if several:
        table["findings"] = several.codes
    table["split"] = [split for one in read_tables for split in _splits(one, settings)]
    found.has_split = "test" in set(table["split"])
    table = table.astype({"subtype": object})
    keep = table["label"] != LEFT_OUT
    found.notes += notes
    subgroups = _subgroups(read_tables)
    found.files = paths.located(table["path"].tolist(), places)
    found.passed_over = [found.files.get(path, path) for path in table["path"][~keep]]
    table = _collapse(table[keep], found)
    if not subgroups.empty:
        found.subgroups = subgroups.loc[table.index].set_index(pd.Index(table["path"], name="path"))
    found.table = table[[*COLUMNS, *(["findings"] if several else [])]].reset_index(drop=True)
    known = found.table["patient"].notna()
    if not known.all():
        found.notes.append(
            f"{int((~known).sum())} images have no patient: each counts as a separate patient, so a "
            "patient in two splits is not detected. Add a `patient` column to the CSV files."
        )


def _classes(
    read_tables: Sequence[_Table], places: Sequence[str], settings: DataSettings
) -> tuple[list[int], list[str]]:
    """The class of each row, and a note about those that are left out."""
    texts = [text for table in read_tables for text in _label_texts(table)]
    reads_columns = any(table.columns.findings for table in read_tables)
    reader = labels.Reader(_without_positive(settings) if reads_columns else settings, texts)
    meanings = reader.read(places, texts)
    return meanings, reader.left_out_note(texts, meanings)


def _several_findings(
    read_tables: Sequence[_Table], places: Sequence[str], settings: DataSettings
) -> Findings:
    """The findings of each row, from a column for each finding or from labels that list them."""
    by_column = {bool(table.columns.findings) for table in read_tables}
    if len(by_column) > 1:
        files = ", ".join(str(table.file) for table in read_tables)
        raise UserError(f"of {files}, some have a column for each finding and some a label; make them equal.")
    if by_column == {True}:
        parts = [
            table.rows[table.columns.findings].set_axis(list(settings.class_names), axis=1)
            for table in read_tables
        ]
        return findings.from_columns(pd.concat(parts, ignore_index=True), places, settings)
    texts = [text for table in read_tables for text in _label_texts(table)]
    return findings.from_labels(texts, places, settings)


def _without_positive(settings: DataSettings) -> DataSettings:
    """For a table with a column a finding: its values are numbers, and data.positive names columns."""
    return DataSettings(name=settings.name, labels=settings.labels)


def _label_texts(table: _Table) -> list[str]:
    """The label of each row as text. Of several columns of findings, the first of 1, -1, other, 0, empty."""
    if table.columns.label is not None:
        return table.rows[table.columns.label].tolist()
    parts = [table.rows[name].tolist() for name in table.columns.findings]
    order = {"1": 0, "-1": 1, "0": 3, "": 4}
    return [
        min(values, key=lambda text: order.get(labels.fold(text), 2)) for values in zip(*parts, strict=True)
    ]


def _patients(
    read_tables: Sequence[_Table],
    paths: list[str],
    parsed: list[tuple[str, str] | None],
    settings: DataSettings,
    places: list[str],
) -> pd.Series:
    """The patient of each row: from data.patient_pattern, the table's column, or a name of the public set."""
    by_pattern = settings.patient_pattern and not any(table.columns.patient for table in read_tables)
    if by_pattern:
        return pd.Series(patients.by_pattern(paths, str(settings.patient_pattern))).astype(object)
    found: list[pd.Series] = []
    start = 0
    for table in read_tables:
        rows = slice(start, start := start + len(table.rows))
        values: list[str | None]
        if table.columns.patient is not None:
            values = patients.from_column(table.rows[table.columns.patient], places[rows])
        elif settings.columns.patient == NO_COLUMN:
            values = [None] * len(table.rows)
        else:
            values = [parts[0] if parts else None for parts in parsed[rows]]
        # Table by table: pandas writes an unknown patient as NaN beside known ones and else as None, and the
        # data's digest, which must not change, holds what it wrote.
        found.append(pd.Series(values).astype(object))
    return pd.concat(found, ignore_index=True)


def _splits(table: _Table, settings: DataSettings) -> list[str]:
    """The split of each row. Raises UserError for a value that is not the name of a split."""
    if table.columns.split is None:
        return [table.split or "train"] * len(table.rows)
    column = table.rows[table.columns.split].str.strip().str.lower().map(SPLIT_NAMES)
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        value = table.rows[table.columns.split].iloc[row]
        raise UserError(
            f"{table.places[row]}: {table.columns.split} {value[:MAX_CHARS]!r} is not a split; the names are "
            f"{', '.join(SPLIT_NAMES)}. Give data.columns.split={NO_COLUMN} to make a split from all rows."
        )
    needed = ("train",) if settings.split.test_fraction is not None else ("train", "test")
    if missing := [split for split in needed if split not in set(column)]:
        raise UserError(
            f"{table.file}: no row has {table.columns.split} {' or '.join(missing)}. Give "
            f"data.columns.split={NO_COLUMN} to make a split from all rows."
        )
    return column.tolist()


def _subgroups(read_tables: Sequence[_Table]) -> pd.DataFrame:
    """The subgroup columns that every table has, in the order of the rows.

    Raises UserError for texts that no cell of a predictions file can hold.
    """
    names = [
        name
        for name in read_tables[0].columns.subgroups
        if all(name in table.columns.subgroups for table in read_tables)
    ]
    for table in read_tables:
        for name in names:
            odd = table.rows[name].str.len().gt(MAX_CHARS) | table.rows[name].str.contains(r"[\r\n\0]")
            if odd.any():
                row = int(odd.to_numpy().argmax())
                raise UserError(
                    f"{table.places[row]}: {name} has more than {MAX_CHARS:,} characters or a line break, so "
                    "it is not a subgroup. Name others with data.columns.subgroups=[A,B], or [] for none."
                )
    return pd.concat([table.rows[names] for table in read_tables], ignore_index=True)


class _Paths:
    """The paths of a table and their files: checked, and looked for below the root."""

    def __init__(self, root: Path, settings: DataSettings, listing: Listing) -> None:
        self.root = root
        self.prefix = (settings.path_prefix or "").strip("/")
        self.listing = listing
        self.boundary = Boundary(root)
        # A root may be typed through a link; an absolute path in the table may name either.
        typed = os.path.abspath(Path(settings.root).expanduser()) if settings.root else str(root)  # noqa: PTH100
        self.roots = dict.fromkeys((typed, str(root), self.boundary.base))

    def checked(self, spelled: Sequence[str], places: Sequence[str]) -> list[str]:
        """The paths relative to the root, normalised. Raises UserError for one that leaves the root."""
        found = []
        for text, place in zip(spelled, places, strict=True):
            path = self._below(text.replace("\\", "/"))
            if not path or len(path) > MAX_CHARS or "\0" in path or os.path.isabs(path):  # noqa: PTH117
                raise UserError(
                    f"{place}: path {text[:MAX_CHARS]!r} leaves data.root={self.root} or is not a path. "
                    "Paths are relative to data.root; copy the images there or set data.root higher."
                )
            if not self.boundary.holds(path):
                link = ": it is a link, or below a link" if self.boundary.is_link(path) else ""
                raise UserError(
                    f"{place}: path {text[:MAX_CHARS]!r} leaves data.root={self.root}{link}. Paths and links "
                    "lead to places below data.root; copy the images there or set data.root higher."
                )
            found.append(os.path.normpath(path).replace(os.sep, "/"))
        return found

    def _below(self, path: str) -> str:
        """An absolute path inside the root as a relative one; any other path unchanged."""
        if path.startswith("/"):
            for root in self.roots:
                if path.startswith(f"{root.rstrip('/')}/"):
                    return path[len(root.rstrip("/")) + 1 :].lstrip("/")
        return path

    def located(self, paths: Sequence[str], places: Sequence[str]) -> dict[str, str]:
        """The file of each path that is not where the path says: below data.path_prefix, or somewhere else.

        A bare name is looked for in all folders below the root, also without its suffix. Raises UserError if
        it is there more than once. A path whose file is missing is left out.
        """
        found: dict[str, str] = {}
        for path, place in zip(paths, places, strict=True):
            if path in self.listing.known or path in found:
                continue
            full = os.path.join(self.boundary.base, path)  # noqa: PTH118
            if os.path.lexists(full):
                continue
            short = path.removeprefix(f"{self.prefix}/") if self.prefix else path
            if short != path and os.path.lexists(os.path.join(self.boundary.base, short)):  # noqa: PTH118
                found[path] = short
                continue
            if "/" in short:
                continue
            files = self.listing.names.get(short) or self.listing.stems.get(short) or []
            if len(files) > 1:
                raise UserError(
                    f"{place}: {path!r} is there {len(files)} times below data.root={self.root}: "
                    f"{listed(files)}. Write the folder into the table, or name one folder by data.root."
                )
            if files:
                found[path] = files[0]
        outside = [path for path, file in found.items() if not self.boundary.holds(file)]
        if outside:
            raise UserError(
                f"{listed(outside)}: a link that leaves data.root={self.root}. Copy the images there or set "
                "data.root higher."
            )
        return found


def _collapse(table: pd.DataFrame, found: Found) -> pd.DataFrame:
    """One row for each image that is listed in equal rows. Contradictions stay, for manifest.problems.

    Rows are equal if they name the same file, label, patient and split; an unknown patient contradicts none.
    """
    files = table["path"].map(lambda path: found.files.get(path, path))
    repeated = files.duplicated(keep=False)
    if not repeated.any():
        return table
    part = table[repeated].assign(file=files[repeated])
    first = part.dropna(subset=["patient"]).groupby("file")["patient"].first()
    unknown = part["patient"].isna() & part["file"].isin(first.index)
    part.loc[unknown, "patient"] = part.loc[unknown, "file"].map(first)
    table = table.copy()
    table.loc[part.index[unknown], "patient"] = part.loc[unknown, "patient"]
    part["patient"] = patients.keys(part).where(part["patient"].notna(), "")
    values = ["findings"] if "findings" in part else []
    equal = part.duplicated(["file", "patient", "label", "split", *values])
    drop = equal.reindex(table.index, fill_value=False)
    if drop.any():
        found.notes.append(
            f"{int(drop.sum()):,} rows repeat an image that is listed above them, with the same label: each "
            "image counts once."
        )
    return table[~drop]
