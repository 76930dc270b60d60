"""What a reader of folders or tables found on disk, before it is split and checked."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

COLUMNS = ["path", "label", "patient", "subtype", "split"]
SPLITS = ("train", "val", "test")
# The names that people give to splits, of folders, files and in columns; compared without case.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass
class Found:
    """The images of a data set.

    `table` has the columns COLUMNS. `has_split` is False where the set does not say which images train and
    which test: all images are in train then. `files` gives the file of an image, relative to `root`, where it
    is not the image's own path. `columns` gives the table's column for each role. `subgroups` has the columns
    of subgroups as text, by path.
    """

    root: Path
    table: pd.DataFrame
    has_split: bool = True
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    subgroups: pd.DataFrame = field(default_factory=pd.DataFrame)


def listed(names: list[str], count: int = 10) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - count:,} more" if len(names) > count else ""
    # A file name may not be valid UTF-8; printing it without escaping would end the program.
    return ", ".join(name.encode(errors="backslashreplace").decode() for name in names[:count]) + rest
