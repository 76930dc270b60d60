"""Folder or CSV -> table of path, label, patient, subtype and split, with checks for leaks and mistakes."""

import csv
import hashlib
import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pneumo import UserError
from pneumo.data import phantom
from pneumo.data.formats import SUFFIXES
from pneumo.data.settings import DataSettings
from pneumo.names import CLASS_NAMES

SPLITS = ("train", "val", "test")
PATH_COLUMNS = ("path", "filepath", "img")
# A table of this size takes about 600 MB to check; the largest public chest sets hold 400,000 images.
MAX_CSV_ROWS = 1_000_000
MAX_CSV_CELLS = 32 * MAX_CSV_ROWS
MAX_CSV_BYTES = 256 * 2**20
MAX_CHARS = 4096  # of a path (the system's limit), and of a value quoted in a message
COLUMNS = ["path", "label", "patient", "subtype", "split"]

# Kaggle: person<N>_<bacteria|virus>_<serial>[_k] and [NORMAL2-]IM-<N>-<k>[-<kkkk>]; Mendeley V3:
# <NORMAL|BACTERIA|VIRUS>-<patient>-<image>. The number is not a key: bacteria and virus count separately.
_GRAMMARS = (
    re.compile(r"(?P<kind>person)(?P<number>\d+)_(?P<subtype>bacteria|virus)_\d+(?:_\d+)?"),
    re.compile(r"(?P<kind>(?:NORMAL2-)?IM)-(?P<number>\d+)-\d+(?:-\d+)?"),
    re.compile(r"(?P<kind>(?P<subtype>NORMAL|BACTERIA|VIRUS))-(?P<number>\d+)-\d+"),
)


@dataclass
class Manifest:
    """Every image of the data set.

    `table` has the columns path (relative to `root`), label (0 NORMAL, 1 PNEUMONIA), patient (str, or None
    where unknown), subtype (normal, bacteria, virus or None) and split.
    """

    root: Path
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and class name."""
        grouped = self.table.groupby(["split", "label"]).size()
        return {
            split: {name: int(grouped.get((split, label), 0)) for label, name in enumerate(CLASS_NAMES)}
            for split in SPLITS
        }

    def patients(self) -> dict[str, int]:
        """Known patients by split."""
        return {
            split: int(self.table.loc[self.table["split"] == split, "patient"].nunique()) for split in SPLITS
        }


def build(settings: DataSettings) -> Manifest:
    """The manifest that `settings` describe, including its validation split.

    Raises UserError if the data cannot be read, a class is missing, or a patient is in two splits.
    """
    manifest = describe(settings)
    if messages := problems(manifest):
        raise UserError("\n".join(messages))
    return manifest


def describe(settings: DataSettings) -> Manifest:
    """The manifest, even if it has `problems`."""
    if settings.name == "phantom":
        manifest = Manifest(Path("phantom"), phantom.table(settings.phantom)[COLUMNS])
    else:
        root = find_root(settings)
        try:
            manifest = _from_folders(root) if settings.name == "chest_xray" else _from_csv(root)
        except OSError as error:
            raise UserError(f"data.root={root} cannot be read: {error}") from None
    table = manifest.table
    if settings.val_protocol == "patient":
        table = _carve_validation(table, settings, _patient_keys(table))
    elif not (table["split"] == "val").any():
        raise UserError(
            "data.val_protocol=official needs a val split, and this set has none. "
            "Use data.val_protocol=patient, which takes one out of train."
        )
    manifest.table = table.sort_values(["split", "path"], kind="stable").reset_index(drop=True)
    return manifest


def find_root(settings: DataSettings) -> Path:
    """The folder that holds the images. It may be nested, as in chest_xray/chest_xray."""
    root = Path(settings.root or "data/chest_xray").expanduser()
    if not root.is_dir():
        raise UserError(
            f"data.root={root} is not a folder. Fetch the images with `pneumo data fetch "
            f"data.root={root}`, name the folder that holds them with data.root=DIR, or try "
            "data=phantom, a synthetic set that needs no images."
        )
    if settings.name == "chest_xray":
        for candidate in (root, root / "chest_xray", root / "chest_xray" / "chest_xray"):
            if (candidate / "train").is_dir():
                return candidate.resolve()
        raise UserError(
            f"data.root={root} has no folder train/: data=chest_xray takes train|val|test/NORMAL|PNEUMONIA/"
            "*.jpeg. Fetch it with `pneumo data fetch`, use data=csv for a set described by CSV "
            "files, or data=phantom, a synthetic set that needs no images."
        )
    return root.resolve()


def is_clutter(name: str) -> bool:
    """True for the extra files that macOS adds to archives."""
    return name.startswith("._") or name in ("__MACOSX", ".DS_Store")


def _from_folders(root: Path) -> Manifest:
    rows: list[tuple[str, int, str]] = []
    others: list[str] = []
    for split in SPLITS:
        if not (root / split).is_dir():
            if split == "val":
                continue
            raise UserError(f"{root} has no folder {split}/; the Kaggle layout has train/, val/ and test/.")
        for label, class_name in enumerate(CLASS_NAMES):
            folder = root / split / class_name
            if not folder.is_dir():
                raise UserError(f"{folder} is missing; each split needs the folders NORMAL and PNEUMONIA.")
            for entry in os.scandir(folder):
                if is_clutter(entry.name):
                    continue
                name = f"{split}/{class_name}/{entry.name}"
                if entry.name.lower().endswith(SUFFIXES):
                    rows.append((name, label, split))
                else:
                    others.append(name)
    if not rows:
        contents = f"it has only {_first(others)}" if others else "none was found"
        raise UserError(
            f"{root} holds no image: files that end with {', '.join(SUFFIXES)} are read, and {contents}."
        )
    paths = [path for path, _, _ in rows]
    table = pd.DataFrame({"path": paths, "label": [label for _, label, _ in rows]})
    table["patient"], table["subtype"] = _parse_names(paths)
    table["split"] = [split for _, _, split in rows]
    manifest = Manifest(root, table[COLUMNS])
    if others:
        manifest.notes.append(
            f"{len(others)} files that do not end with {', '.join(SUFFIXES)} were left out: {_first(others)}"
        )
    return manifest


def parse_name(name: str) -> tuple[str, str] | None:
    """(patient, subtype) from a file name of the Kaggle or Mendeley release; None for other names."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    for grammar in _GRAMMARS:
        if match := grammar.fullmatch(stem):
            parts = match.groupdict()
            subtype = (parts.get("subtype") or "normal").lower()
            kind = f"{parts['kind']}-{subtype}" if parts["kind"] == "person" else parts["kind"]
            return f"{kind}-{int(parts['number'])}", subtype
    return None


def _parse_names(paths: list[str]) -> tuple[list[str], list[str]]:
    parsed = [parse_name(path) for path in paths]
    unknown = [path for path, parts in zip(paths, parsed, strict=True) if parts is None]
    if unknown:
        raise UserError(
            f"{len(unknown)} file names do not contain a patient: {_first(unknown)}. Known patterns are "
            "person<N>_<bacteria|virus>_<n>, [NORMAL2-]IM-<N>-<n> and <NORMAL|BACTERIA|VIRUS>-<N>-<n>. "
            "For other names describe the set by CSV files with a `patient` column (data=csv)."
        )
    known = [parts for parts in parsed if parts is not None]
    return [patient for patient, _ in known], [subtype for _, subtype in known]


def _from_csv(root: Path) -> Manifest:
    tables = []
    for split in SPLITS:
        file = root / f"{split}.csv"
        if file.is_file():
            tables.append(_read_csv(file, root).assign(split=split))
        elif split != "val":
            raise UserError(
                f"{file} is missing; data=csv needs train.csv and test.csv (val.csv is optional)."
            )
    manifest = Manifest(root, pd.concat(tables, ignore_index=True))
    known = manifest.table["patient"].notna()
    if not known.all():
        manifest.notes.append(
            f"{int((~known).sum())} images have no patient: each counts as a separate patient, so a "
            "patient in two splits is not detected. Add a `patient` column to the CSV files."
        )
    return manifest


def _read_csv(file: Path, root: Path) -> pd.DataFrame:
    raw = _read_text(file)
    path_column = next((column for column in PATH_COLUMNS if column in raw.columns), None)
    if path_column is None or "label" not in raw.columns:
        missing = "path (or filepath, or img)" if path_column is None else "label"
        raise UserError(
            f"{file} has no column {missing}; its columns are {', '.join(raw.columns)}. It needs "
            "path|filepath|img and label, separated by commas; patient is optional."
        )
    if raw.empty:
        raise UserError(f"{file} has no rows.")
    table = pd.DataFrame({"path": raw[path_column].str.strip().str.replace("\\", "/")})
    table["label"] = _parse_labels(raw["label"], file)
    _check_paths(table["path"], root, file)
    table["path"] = [os.path.normpath(path).replace(os.sep, "/") for path in table["path"]]
    parsed = [parse_name(path) for path in table["path"]]
    if "patient" in raw.columns:
        table["patient"] = [value or None for value in raw["patient"].str.strip()]
    else:
        table["patient"] = [parts[0] if parts else None for parts in parsed]
    table["subtype"] = [
        "normal" if label == 0 else (parts[1] if parts and parts[1] != "normal" else None)
        for label, parts in zip(table["label"], parsed, strict=True)
    ]
    return table[COLUMNS[:-1]].astype({"patient": object, "subtype": object})


def _read_text(file: Path) -> pd.DataFrame:
    """The rows of a CSV file as text, limited in size. The index is the line number minus two."""
    try:
        size = file.stat().st_size
        if size > MAX_CSV_BYTES:
            raise UserError(
                f"{file} has {size:,} bytes, more than the limit of {MAX_CSV_BYTES:,}; split the data set."
            )
        columns = _header(file)
        rows = min(MAX_CSV_ROWS, MAX_CSV_CELLS // max(len(columns), 1))
        # As text, so that pandas guesses no types. Blank lines are dropped later, so line numbers are right.
        raw = pd.read_csv(
            file,
            dtype=str,
            header=None,
            keep_default_na=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            nrows=rows + 2,
        )
    except UserError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as CSV (UTF-8): {str(error).splitlines()[0]}") from None
    raw = raw.fillna("")
    columns = [str(column).strip() for column in raw.iloc[0]]
    if len(raw) > rows + 1:
        raise UserError(f"{file} has more rows than the limit of {rows:,}; split the data set.")
    if twice := {column for column in columns if column and columns.count(column) > 1}:
        raise UserError(f"{file} has the column {', '.join(sorted(twice))} more than once.")
    raw.columns = pd.Index(columns)
    raw = raw.iloc[1:].reset_index(drop=True)
    return raw[(raw != "").any(axis=1)]


def _header(file: Path) -> list[str]:
    """The first row, with at most a thousand columns: reading more could fill the memory."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        columns = next(csv.reader(io.StringIO(stream.read(2**20), newline="")), [])
    if len(columns) > 1000:
        raise UserError(f"{file} has more columns than the limit of 1,000; keep path, label and patient.")
    return columns


def _parse_labels(labels: pd.Series, file: Path) -> pd.Series:
    names = {str(label): label for label in range(len(CLASS_NAMES))}
    names |= {name: label for label, name in enumerate(CLASS_NAMES)}
    numbers = labels.str.strip().str.upper().map(names)
    if numbers.isna().any():
        row = int(np.flatnonzero(numbers.isna())[0])
        raise UserError(
            f"{file}, line {labels.index[row] + 2}: label {labels.iloc[row][:MAX_CHARS]!r} is not known; "
            f"give 0 or {CLASS_NAMES[0]}, 1 or {CLASS_NAMES[1]}."
        )
    return numbers.astype(int)


def _check_paths(paths: pd.Series, root: Path, file: Path) -> None:
    """Refuse a path that leaves the root: with .., as an absolute path, or through a symbolic link."""
    base = os.path.realpath(root)
    folders: dict[str, bool] = {}  # resolves each folder once, not once per image

    def inside(path: str) -> bool:
        if not path or len(path) > MAX_CHARS or "\0" in path or os.path.isabs(path):  # noqa: PTH117
            return False
        full = os.path.join(base, path)  # noqa: PTH118 - strings: this runs for every image
        parent = os.path.dirname(full)  # noqa: PTH120
        if parent not in folders:
            folders[parent] = (os.path.realpath(parent) + os.sep).startswith(base + os.sep)
        if ".." in path.split("/") or os.path.islink(full):  # noqa: PTH114
            return (os.path.realpath(full) + os.sep).startswith(base + os.sep)
        return folders[parent]

    for row, path in zip(paths.index.tolist(), paths, strict=True):
        if not inside(path):
            raise UserError(
                f"{file}, line {row + 2}: path {path[:MAX_CHARS]!r} leaves data.root={root} or is not a path."
                " Paths are relative to data.root; copy the images there or set data.root higher."
            )


def _carve_validation(table: pd.DataFrame, settings: DataSettings, groups: pd.Series) -> pd.DataFrame:
    """Take a class-stratified validation split out of train. The official val split joins train first.

    All images of a group (a patient) stay in one split. A group with images of both classes counts as
    PNEUMONIA. The result depends only on the groups, their labels and `split_seed`, not on the file order.
    """
    table = table.copy()
    pool = table["split"] != "test"
    table.loc[pool, "split"] = "train"
    labels = table.loc[pool, "label"].groupby(groups).transform("max")
    for label in range(len(CLASS_NAMES)):
        sizes = groups[pool][labels == label].value_counts().sort_index()
        order = np.random.default_rng([settings.split_seed, label]).permutation(len(sizes))
        taken = sizes.iloc[order]
        wanted = settings.val_fraction * int(sizes.sum())
        # Take patients while that brings the number of images closer to the wanted number.
        before = taken.cumsum() - taken
        count = int(((before + taken / 2) <= wanted).sum())
        count = max(min(max(count, 1), len(taken) - 1), 0)  # with two patients or more, each split gets one
        table.loc[pool & groups.isin(taken.index[:count]), "split"] = "val"
    return table


def keep_copies_together(manifest: Manifest, hashes: dict[str, str], settings: DataSettings) -> None:
    """Take the validation split again, and treat patients who share identical bytes as one patient.

    So our split does not separate copies. `hashes` gives the content's hash by path. If no two patients share
    bytes, the manifest does not change.
    """
    if settings.val_protocol != "patient":
        return  # the folders define the split; content_problems checks it
    if len(set(hashes.values())) == len(hashes):
        return
    table = manifest.table
    groups = _patient_keys(table)
    pool = table["split"] != "test"
    contents = table["path"].map(hashes)
    shared = groups[pool].groupby(contents).transform("nunique") > 1
    if not shared.any():
        return
    leaders: dict[str, str] = {}

    def leader(key: str) -> str:
        while (above := leaders.get(key, key)) != key:
            leaders[key] = leaders.get(above, above)  # path halving, for the next lookup
            key = above
        return key

    first: dict[str, str] = {}
    for key, content in zip(groups[pool][shared], contents[pool][shared], strict=True):
        one, other = leader(key), leader(first.setdefault(content, key))
        leaders[max(one, other)] = min(one, other)  # the smallest key leads, so the order does not matter
    joined = groups.map({key: leader(key) for key in groups[pool][shared]}).fillna(groups)
    table = _carve_validation(table, settings, joined)
    manifest.table = table.sort_values(["split", "path"], kind="stable").reset_index(drop=True)
    manifest.notes.append(
        f"{int(shared.sum())} images outside test have the same bytes as an image of another (or an unknown) "
        "patient; such patients were kept in one split."
    )


def digests(table: pd.DataFrame, hashes: dict[str, str]) -> dict[str, str]:
    """What identifies parts of the data, by name; `hashes` gives the content's hash by path.

    `test_set`: the test images, their labels and patients. `pool`: those of all other images, however they
    are split. `split`: which of the other images train and which validate.
    """
    test = table["split"] == "test"
    parts = {
        "test_set": (table[test], ("path", "label", "patient")),
        "pool": (table[~test], ("path", "label", "patient")),
        "split": (table[~test], ("path", "split")),
    }
    found = {}
    for name, (rows, columns) in parts.items():
        values = zip(*(rows[column].tolist() for column in columns), strict=True)
        lines = sorted("\t".join(map(str, (*row, hashes[row[0]]))) for row in values)
        text = "\n".join([name, *lines]).encode(errors="surrogateescape")
        found[name] = hashlib.sha256(text).hexdigest()
    return found


def _patient_keys(table: pd.DataFrame) -> pd.Series:
    """The patient, or the path if the patient is unknown (each such image counts as a separate patient)."""
    return table["patient"].where(table["patient"].notna(), "path:" + table["path"])


def problems(manifest: Manifest) -> list[str]:
    """Why the manifest cannot be used: an empty class, a patient in two splits, a path listed twice."""
    messages = []
    for split, classes in manifest.counts().items():
        empty = [name for name, count in classes.items() if count == 0]
        if empty:
            messages.append(
                f"the {split} split of {manifest.root} has no {' and no '.join(empty)} image "
                f"(it has {', '.join(f'{count} {name}' for name, count in classes.items())}); every split "
                "needs both classes, so each class needs two patients outside test (one for validation)."
            )
    known = manifest.table.dropna(subset=["patient"])
    splits = known.groupby("patient")["split"].nunique()
    if shared := splits[splits > 1].index.tolist():
        messages.append(
            f"{len(shared)} patients are in more than one split: {_first(shared)}. The test would reward "
            "memorised patients; move each patient's images into one split."
        )
    if repeated := manifest.table["path"][manifest.table["path"].duplicated()].tolist():
        messages.append(f"{len(repeated)} paths are listed more than once: {_first(repeated)}.")
    return messages


def content_problems(manifest: Manifest, hashes: dict[str, str]) -> list[str]:
    """Identical bytes in two splits or under two labels; `hashes` gives the content's hash by path."""
    table = manifest.table.assign(content=manifest.table["path"].map(hashes)).dropna(subset=["content"])
    table = table[table["content"].duplicated(keep=False)]
    messages = []
    for column, trouble in (("split", "in two splits"), ("label", "under two labels")):
        varied = table.groupby("content")[column].transform("nunique") > 1
        if varied.any():
            paths = table.loc[varied].sort_values(["content", "path"])["path"].tolist()
            messages.append(
                f"{len(paths)} files with identical bytes are {trouble}: {_first(paths)}. "
                "Remove the copies, or put them into one split under one label."
            )
    return messages


def _first(names: list[str], count: int = 10) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    # A file name may not be valid UTF-8; printing it without escaping would end the program.
    return ", ".join(name.encode(errors="backslashreplace").decode() for name in names[:count]) + rest
