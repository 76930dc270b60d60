"""Which files to predict: single files, and all images in and below folders."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pneumo import UserError
from pneumo.data import dicom
from pneumo.data.formats import SUFFIXES, UNREAD
from pneumo.data.listing import is_clutter

OVERLAYS_MARK = ".pneumo-overlays"  # a file in each folder of overlays, so that they are not taken for images


@dataclass
class InputFiles:
    """The images of a folder in sorted order, the links that lead out of it, and what was left out.

    `named` are the files that were given by their own names.
    """

    files: list[str]
    named: set[str] = field(default_factory=set)
    outside: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find(given: str | Path, own: Sequence[Path] = ()) -> InputFiles:
    """The file `given`, or all images in and below the folder `given`.

    Links that lead out of the folder are not followed, and linked folders are not entered. Neither are the
    files and folders in `own`, nor a folder of overlays. UserError if no image is there.
    """
    root = Path(given).expanduser()
    if not root.is_dir():
        return InputFiles([str(root)], {str(root)})
    skip = {os.path.realpath(path) for path in own}
    found = InputFiles([])
    real_root = os.path.realpath(root)

    def note_unreadable(error: OSError) -> None:
        found.left_out.append(f"{error.filename} ({error.strerror})")

    for folder, folders, files in os.walk(root, onerror=note_unreadable):
        found.left_out += [f"{folder}/{name} (a link)" for name in folders if _is_link(folder, name)]
        here = os.path.realpath(folder).rstrip(os.sep)
        ours = {name for name in (*folders, *files) if skip and f"{here}/{name}" in skip}
        ours.update(name for name in folders if _holds_overlays(folder, name))
        folders[:] = sorted(name for name in folders if not is_clutter(name) and name not in ours)
        for name in sorted(files):
            path = os.path.join(folder, name)  # noqa: PTH118 - strings: 100,000 Path objects cost a second
            if is_clutter(name) or name in ours:
                continue
            if not name.lower().endswith((*SUFFIXES, *UNREAD)) and not dicom.is_dicom(path):
                found.left_out.append(path)
            elif _is_link(folder, name) and not _is_below(os.path.realpath(path), real_root):
                found.outside.append(path)
            else:
                found.files.append(path)
    if not found.files and not found.outside:
        raise UserError(f"input={given} contains no image; images end with {', '.join(SUFFIXES)}.")
    return found


def find_all(paths: Sequence[str], own: Sequence[Path] = ()) -> InputFiles:
    """The images of several files and folders, in the order given, each file once."""
    parts = [find(path, own) for path in paths]
    return InputFiles(
        files=list(dict.fromkeys(file for part in parts for file in part.files)),
        named={file for part in parts for file in part.named},
        outside=list(dict.fromkeys(file for part in parts for file in part.outside)),
        left_out=[file for part in parts for file in part.left_out],
    )


def common_root(paths: Sequence[str]) -> Path:
    """The folder that overlays are named relative to: the one input, or what several inputs share."""
    if len(paths) == 1:
        return Path(paths[0]).expanduser()
    return Path(os.path.commonpath([_absolute(path) for path in paths]))


def relative_name(path: Path, root: Path) -> Path:
    """The name of `path` relative to `root`, which may be the file itself."""
    if path.is_relative_to(root):
        return path.relative_to(root) if path != root else Path(path.name)
    whole = Path(_absolute(path))
    return whole.relative_to(root) if whole != root else Path(whole.name)


def _absolute(path: str | Path) -> str:
    """The absolute path without `..`, which would lead out of the folder of overlays."""
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100


def _holds_overlays(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name, OVERLAYS_MARK))  # noqa: PTH110, PTH118


def _is_link(folder: str, name: str) -> bool:
    return os.path.islink(os.path.join(folder, name))  # noqa: PTH118, PTH114


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
