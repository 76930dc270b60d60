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
from pneumo.data.settings import CLASSES_IN_NAMES, DataSettings
from pneumo.names import CLASS_NAMES, many_classes

MASKS = ("mask", "masks")  # segmentations beside the images: pictures, but not X-rays
MAX_DEPTH = 20  # of folders below a class


@dataclass
class _Images:
    """What was read so far; `others` are the files and folders of classes that are not images."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)  # path, name of the class folder, split
    others: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # by data.labels


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
    reader = _folder_reader(settings)
    for split in SPLITS:
        if split not in split_folders:
            continue
        folder = root / split_folders[split]
        classes = _class_folders(folder, reader)
        for name in classes:
            _read_below(root, f"{split_folders[split]}/{name}", name, split, images, boundary)
    return _found(root, settings, images, has_split=has_test)


def read_classes(root: Path, settings: DataSettings) -> Found:
    """The images of `root`/CLASS/, without splits."""
    images, boundary = _Images(), Boundary(root)
    for name in _class_folders(root, _folder_reader(settings)):
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
    reader = _folder_reader(settings)
    for _ in range(3):
        names = _folders(root)
        meanings = {reader.meaning(name) for name in names}
        if {*range(len(reader.class_names))} <= meanings:
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


def _folder_reader(settings: DataSettings) -> labels.Reader:
    """Reads the names of class folders."""
    if settings.name in CLASSES_IN_NAMES:
        return labels.Reader(DataSettings(), ())
    return labels.Reader(settings, ())


def _class_folders(folder: Path, reader: labels.Reader) -> list[str]:
    """The folders of the classes. Raises UserError if a class has none.

    Of two classes, other folders are not read. Of more, a folder with images must be one of a class, or left
    out by data.labels: a class that was forgotten would change what the others are told apart from.
    """
    names = [name for name in _folders(folder) if name.lower() not in MASKS]
    meanings = {name: reader.meaning(name) for name in names}
    every = range(len(reader.class_names))
    missing = [reader.class_names[label] for label in every if label not in meanings.values()]
    if missing and not reader.many:
        raise UserError(
            f"{folder / missing[0]} is missing; each split needs the folders {CLASS_NAMES[0]} and "
            f"{CLASS_NAMES[1]}. {contents(folder)} For other names give data.positive=[NAME,...] (against "
            "all other folders) or data.classes=[HEALTHY,OTHER]."
        )
    if missing:
        raise UserError(
            f"{folder} has no folder {' and no folder '.join(missing)}; each split needs a folder for each "
            f"class of data.classes={list(reader.class_names)}. {contents(folder)} data.labels={{FOLDER: "
            "CLASS}} says which class a folder is."
        )
    unknown = [name for name in names if meanings[name] is None and _has_image(folder / name)]
    if reader.many and unknown:
        raise UserError(
            f"{folder / unknown[0]} holds images, and data.classes={list(reader.class_names)} does not name "
            f"{listed(unknown)}. Add the class, give data.labels={{{unknown[0]}: CLASS}}, or leave its "
            f"images out with data.labels={{{unknown[0]}: null}}."
        )
    return [name for name in names if meanings[name] in every]


def _has_image(folder: Path) -> bool:
    return any(
        name.lower().endswith(SUFFIXES) and not is_clutter(name)
        for _, _, names in os.walk(folder)
        for name in names
    )


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
    if settings.name in CLASSES_IN_NAMES:
        left_out = _classes_from_names(images, settings)
        reader, found_notes = labels.Reader(settings, ()), left_out
    else:
        reader, found_notes = labels.Reader(settings, sorted({name for _, name, _ in images.rows})), []
    paths = [path for path, _, _ in images.rows]
    table = pd.DataFrame({"path": paths, "label": [reader.meaning(name) for _, name, _ in images.rows]})
    found = Found(root, table, has_split, found_notes)
    table["patient"], table["subtype"] = _patients(paths, table["label"].tolist(), settings, found.notes)
    table["split"] = [split for _, _, split in images.rows]
    found.table = table[COLUMNS].astype({"patient": object, "subtype": object})
    found.passed_over = images.others + images.left_out
    if images.others:
        found.notes.append(
            f"{len(images.others)} files without an image's suffix were left out: {listed(images.others)}"
        )
    return found


def _classes_from_names(images: _Images, settings: DataSettings) -> list[str]:
    """Replace the class folder of each image by the class in its file name; what was left out, in words.

    Raises UserError for names that tell no class, and for a class that contradicts the folder.
    """
    parsed = [patients.parse_name(path) for path, _, _ in images.rows]
    unknown = [path for (path, _, _), parts in zip(images.rows, parsed, strict=True) if parts is None]
    if unknown:
        raise UserError(
            f"{len(unknown)} file names do not tell the class: {listed(unknown)}. data={settings.name} reads "
            f"{patients.GRAMMAR_WORDS}. For other names use data=csv with a table, or one folder a class."
        )
    kinds = [parts[1] for parts in parsed if parts is not None]
    folders = _folder_reader(settings)
    against = [
        path
        for (path, name, _), kind in zip(images.rows, kinds, strict=True)
        if (folders.meaning(name) == 0) != (kind == "normal")
    ]
    if against:
        raise UserError(
            f"{len(against)} file names tell another class than their folder: {listed(against)}. Move them, "
            "or describe the set by a table (data=csv)."
        )
    reader = labels.Reader(settings, sorted(set(kinds)))
    meanings = reader.read([path for path, _, _ in images.rows], kinds)
    rows = [(path, kind, split) for (path, _, split), kind in zip(images.rows, kinds, strict=True)]
    images.rows = [row for row, meaning in zip(rows, meanings, strict=True) if meaning != labels.LEFT_OUT]
    images.left_out = [
        row[0] for row, meaning in zip(rows, meanings, strict=True) if meaning == labels.LEFT_OUT
    ]
    return reader.left_out_note(kinds, meanings)


def _patients(
    paths: list[str], classes: Iterable[int], settings: DataSettings, notes: list[str]
) -> tuple[list[str | None], list[str | None]]:
    """Patients and subtypes. Raises UserError if only some names have a patient."""
    parsed = [patients.parse_name(path) for path in paths]
    many = many_classes(settings.class_names)  # then class 0 is any
    own = [None if many or label != 0 else "normal" for label in classes]
    if settings.patient_pattern is not None:
        found = patients.by_pattern(paths, settings.patient_pattern)
        if unknown := found.count(None):
            notes.append(
                f"{unknown:,} images have no patient: data.patient_pattern={settings.patient_pattern} does "
                "not match their paths. Each counts as a separate patient."
            )
        return found, [parts[1] if parts else kind for parts, kind in zip(parsed, own, strict=True)]
    unknown_paths = [path for path, parts in zip(paths, parsed, strict=True) if parts is None]
    if len(unknown_paths) == len(paths):
        notes.append(
            f"the patients are not known: no file name contains one, for example {listed(paths[:1])}. Each "
            "image counts as a separate patient, so a patient in two splits is not detected. Give "
            r"data.patient_pattern=REGEX if the paths tell the patient, for example '(patient\d+)'."
        )
        return [None] * len(paths), own
    if unknown_paths:
        raise UserError(
            f"{len(unknown_paths)} file names do not contain a patient: {listed(unknown_paths)}. Known "
            f"patterns are {patients.GRAMMAR_WORDS}. For other names give data.patient_pattern=REGEX, or "
            "describe the set by CSV files with a `patient` column (data=csv)."
        )
    known = [parts for parts in parsed if parts is not None]
    return [patient for patient, _ in known], [subtype for _, subtype in known]
