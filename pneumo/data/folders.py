"""A data set as folders: train|val|test/CLASS/ or CLASS/, in any case, with folders below the classes."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pneumo import UserError
from pneumo.data import labels, patients
from pneumo.data.formats import SUFFIXES
from pneumo.data.found import COLUMNS, SPLIT_NAMES, SPLITS, Found, listed
from pneumo.data.listing import Boundary, contents, is_clutter, refuse_links
from pneumo.data.settings import DataSettings
from pneumo.names import CLASS_NAMES

MASKS = ("mask", "masks")  # segmentations beside the images: pictures, but not X-rays
MAX_DEPTH = 20  # of folders below a class


@dataclass
class _Images:
    """What was read so far; `others` are the files and folders of classes that are not images."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)  # path, name of the class folder, split
    others: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def read_splits(root: Path, settings: DataSettings) -> Found:
    """The images of `root`/SPLIT/CLASS/. Raises UserError where a split or a class has no folder."""
    split_folders = _split_folders(root)
    has_test = "test" in split_folders
    if not has_test and settings.split.test_fraction is None:
        raise UserError(
            f"{root} has no folder test/; the Kaggle layout has train/, val/ and test/. {contents(root)} "
            "data.split.test_fraction=0.2 makes a test set from the other images, by patient."
        )
    images, boundary = _Images(), Boundary(root)
    reader = labels.Reader(settings, ())
    for split in SPLITS:
        if split not in split_folders:
            continue
        folder = root / split_folders[split]
        classes = _class_folders(folder, reader, root)
        for name in classes:
            _read_below(root, f"{split_folders[split]}/{name}", name, split, images, boundary)
    return _found(root, settings, images, has_split=has_test)


def read_classes(root: Path, settings: DataSettings) -> Found:
    """The images of `root`/CLASS/, without splits."""
    images, boundary = _Images(), Boundary(root)
    for name in _class_folders(root, labels.Reader(settings, ()), root):
        _read_below(root, name, name, "train", images, boundary)
    return _found(root, settings, images, has_split=False)


def find_splits(root: Path) -> Path | None:
    """The folder that holds train/. It may be nested, as in chest_xray/chest_xray."""
    for candidate in (root, root / "chest_xray", root / "chest_xray" / "chest_xray"):
        if candidate.is_dir() and any(SPLIT_NAMES.get(n.lower()) == "train" for n in _folders(candidate)):
            return candidate
    return None


def find_classes(root: Path, settings: DataSettings) -> Path | None:
    """The folder that holds a folder for each class: `root`, or its only folder."""
    reader = labels.Reader(settings, ())
    for _ in range(3):
        names = _folders(root)
        meanings = {reader.meaning(name) for name in names}
        if {0, 1} <= meanings:
            return root
        if len(names) != 1:
            return None
        root = root / names[0]
    return None


def _folders(folder: Path) -> list[str]:
    entries = [entry for entry in os.scandir(folder) if entry.is_dir() and not is_clutter(entry.name)]
    return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _split_folders(root: Path) -> dict[str, str]:
    """The folder of each split that has one. Raises UserError for two folders that mean the same split."""
    found: dict[str, str] = {}
    for name in _folders(root):
        split = SPLIT_NAMES.get(name.lower())
        if split is None:
            continue
        if split in found:
            raise UserError(
                f"{root} has the folders {found[split]}/ and {name}/, which both mean {split}. Move their "
                "images into one folder, or move one of them out."
            )
        found[split] = name
    if "train" not in found:
        raise UserError(f"{root} has no folder train/. {contents(root)}")
    return found


def _class_folders(folder: Path, reader: labels.Reader, root: Path) -> list[str]:
    """The folders of the two classes. Raises UserError if a class has none."""
    names = [name for name in _folders(folder) if name.lower() not in MASKS]
    meanings = {name: reader.meaning(name) for name in names}
    missing = [CLASS_NAMES[label] for label in (0, 1) if label not in meanings.values()]
    if missing:
        raise UserError(
            f"{folder / missing[0]} is missing; each split needs the folders {CLASS_NAMES[0]} and "
            f"{CLASS_NAMES[1]}. {contents(folder)} For other names give data.positive=[NAME,...] (against "
            "all other folders) or data.classes=[HEALTHY,OTHER]."
        )
    return [name for name in names if meanings[name] in (0, 1)]


def _read_below(
    root: Path, folder: str, class_name: str, split: str, images: _Images, boundary: Boundary
) -> None:
    """Add the images in and below `folder`. Links are followed while they stay below the root."""
    if not boundary.holds(folder):
        images.outside.append(folder)
        return
    pending = [folder]
    entered: set[str] = set()  # a link may lead to a folder above it
    while pending:
        above = pending.pop()
        resolved = os.path.realpath(root / above)
        if resolved in entered or above.count("/") > MAX_DEPTH:
            continue
        entered.add(resolved)
        for entry in os.scandir(root / above):
            path = f"{above}/{entry.name}"
            if is_clutter(entry.name):
                continue
            if entry.is_symlink() and not boundary.holds(path):
                images.outside.append(path)
            elif entry.name.lower().endswith(SUFFIXES):
                images.rows.append((path, class_name, split))
            elif not entry.is_dir():
                images.others.append(path)
            elif not entry.name.startswith(".") and entry.name.lower() not in MASKS:
                pending.append(path)


def _found(root: Path, settings: DataSettings, images: _Images, *, has_split: bool) -> Found:
    refuse_links(sorted(images.outside), root)
    if not images.rows:
        held = f"it has only {listed(images.others)}" if images.others else "none was found"
        raise UserError(
            f"{root} holds no image: files that end with {', '.join(SUFFIXES)} are read, and {held}."
        )
    reader = labels.Reader(settings, sorted({name for _, name, _ in images.rows}))
    paths = [path for path, _, _ in images.rows]
    table = pd.DataFrame({"path": paths, "label": [reader.meaning(name) for _, name, _ in images.rows]})
    found = Found(root, table, has_split)
    table["patient"], table["subtype"] = _patients(paths, table["label"].tolist(), settings, found.notes)
    table["split"] = [split for _, _, split in images.rows]
    found.table = table[COLUMNS].astype({"patient": object, "subtype": object})
    found.passed_over = images.others
    if images.others:
        found.notes.append(
            f"{len(images.others)} files without an image's suffix were left out: {listed(images.others)}"
        )
    return found


def _patients(
    paths: list[str], classes: Iterable[int], settings: DataSettings, notes: list[str]
) -> tuple[list[str | None], list[str | None]]:
    """Patients and subtypes. Raises UserError if only some names have a patient."""
    parsed = [patients.parse_name(path) for path in paths]
    if settings.patient_pattern is not None:
        found = patients.by_pattern(paths, settings.patient_pattern)
        if unknown := found.count(None):
            notes.append(
                f"{unknown:,} images have no patient: data.patient_pattern={settings.patient_pattern} does "
                "not match their paths. Each counts as a separate patient."
            )
        subtypes = ["normal" if label == 0 else None for label in classes]
        return found, [parts[1] if parts else own for parts, own in zip(parsed, subtypes, strict=True)]
    unknown_paths = [path for path, parts in zip(paths, parsed, strict=True) if parts is None]
    if len(unknown_paths) == len(paths):
        notes.append(
            f"the patients are not known: no file name contains one, for example {listed(paths[:1])}. Each "
            "image counts as a separate patient, so a patient in two splits is not detected. Give "
            r"data.patient_pattern=REGEX if the paths tell the patient, for example '(patient\d+)'."
        )
        return [None] * len(paths), ["normal" if label == 0 else None for label in classes]
    if unknown_paths:
        raise UserError(
            f"{len(unknown_paths)} file names do not contain a patient: {listed(unknown_paths)}. Known "
            f"patterns are {patients.GRAMMAR_WORDS}. For other names give data.patient_pattern=REGEX, or "
            "describe the set by CSV files with a `patient` column (data=csv)."
        )
    known = [parts for parts in parsed if parts is not None]
    return [patient for patient, _ in known], [subtype for _, subtype in known]
