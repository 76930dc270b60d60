"""Folders or tables -> table of path, label, patient, subtype, split, checked for leaks and mistakes."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pneumo import UserError
from pneumo.data import findings, folders, listing, patients, phantom, splits, table_sets
from pneumo.data.found import COLUMNS, SPLITS, Found, listed
from pneumo.data.settings import CLASSES_IN_NAMES, DataSettings
from pneumo.names import CLASS_NAMES, many_classes

MAX_SHOWN = 10


@dataclass
class Manifest:
    """Every image of the data set.

    `table` has the columns path (as the set spells it, relative to `root`), label (index of `class_names`),
    patient (str, or None where unknown), subtype (normal, bacteria, virus or None) and split. `files` gives
    the file, relative to `root`, of each path that is not a file itself. `made_test` is True where the set
    has no test images. `columns` gives the table's column for each role; `subgroups` has the
    columns of subgroups as text, by path. With several findings an image, `findings` has their names, `table`
    the column findings (a code for each image), and label is the rarest finding of an image.
    """

    root: Path
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    made_test: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    subgroups: pd.DataFrame = field(default_factory=pd.DataFrame)
    class_names: tuple[str, ...] = CLASS_NAMES
    findings: tuple[str, ...] = ()

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of `table` that say what an image shows."""
        return ("label", "findings") if self.findings else ("label",)

    def file_of(self, path: str) -> str:
        """The file of an image, relative to `root`."""
        return self.files.get(path, path)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and class name; of several findings, the images that have each."""
        if self.findings:
            return findings.counts(self.table, self.findings)
        grouped = self.table.groupby(["split", "label"]).size()
        return {
            split: {name: int(grouped.get((split, label), 0)) for label, name in enumerate(self.class_names)}
            for split in SPLITS
        }

    def images(self) -> dict[str, int]:
        """Images by split."""
        sizes = self.table["split"].value_counts()
        return {split: int(sizes.get(split, 0)) for split in SPLITS}

    def patients(self) -> dict[str, int]:
        """Known patients by split."""
        known = self.table.dropna(subset=["patient"])
        keys = patients.keys(known)
        return {split: int(keys[known["split"] == split].nunique()) for split in SPLITS}


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
    found = _found(settings)
    made_test = not found.has_split
    table = found.table
    if settings.val_protocol == "official" and not (table["split"] == "val").any():
        raise UserError(
            "data.val_protocol=official needs a val split, and this set has none. "
            "Use data.val_protocol=patient, which takes one out of train."
        )
    if found.has_split and settings.split.test_fraction is not None:
        raise UserError(
            f"data.split.test_fraction={settings.split.test_fraction} makes a test set, but this set has one "
            f"({int((table['split'] == 'test').sum()):,} images). Leave the key out"
            + (
                ", or give data.columns.split=none to make a split from all rows."
                if "split" in found.columns
                else "."
            )
        )
    groups = patients.keys(table)
    table = splits.split(table, settings, groups, make_test=made_test)
    notes = found.notes + patients.spelling_note(table)
    if settings.multilabel:
        notes += findings.undefined_notes(table, settings.class_names)
    if made_test:
        notes += _made_test_notes(table, settings)
    table = table.sort_values(["split", "path"], kind="stable").reset_index(drop=True)
    manifest = _manifest(found, table, settings, made_test)
    manifest.notes = notes
    return manifest


def labelled(settings: DataSettings, split: str | None = None) -> Manifest:
    """Every image with a label, or those of one `split` of the set, all as the split test.

    So a set is described that models are only scored on: nothing is split. Raises UserError if the data
    cannot be read, if the set has no such split, or if an image is listed twice.
    """
    found = _found(settings)
    table = found.table
    if split is not None:
        if not found.has_split:
            raise UserError(f"split={split}: {found.root} says of no image which split it is in.")
        table = table[table["split"] == split]
        if table.empty:
            raise UserError(f"split={split}: {found.root} has no images of this split.")
    table = table.assign(split="test").sort_values("path", kind="stable").reset_index(drop=True)
    manifest = _manifest(found, table, settings, made_test=False)
    manifest.notes = found.notes + patients.spelling_note(table)
    if messages := _contradictions(manifest):
        raise UserError("\n".join(messages))
    return manifest


def _found(settings: DataSettings) -> Found:
    """What the folders or tables of the set hold."""
    if settings.layout == "drawn":
        return Found(Path("phantom"), phantom.table(settings.phantom)[COLUMNS])
    root = find_root(settings)
    try:
        return _read(root, settings)
    except OSError as error:
        raise UserError(f"data.root={root} cannot be read: {error}") from None


def _manifest(found: Found, table: pd.DataFrame, settings: DataSettings, made_test: bool) -> Manifest:
    return Manifest(
        root=found.root,
        table=table,
        files=found.files,
        made_test=made_test,
        columns=found.columns,
        subgroups=found.subgroups,
        class_names=settings.stratum_names,
        findings=settings.class_names if settings.multilabel else (),
    )


def find_root(settings: DataSettings) -> Path:
    """The folder that holds the images. It may be nested, as in chest_xray/chest_xray."""
    root = Path(settings.root or "data/chest_xray").expanduser()
    if not root.is_dir():
        if settings.table is not None:
            table_sets.find_table(settings, root)  # raises if there is no such table, the likely mistake
        archive = root.is_file() and listing.suffix_of(root.name) in listing.ARCHIVE_SUFFIXES
        kind = "is an archive: unpack it first" if archive else "is not a folder"
        raise UserError(
            f"data.root={root} {kind}. Fetch the images with `pneumo data fetch "
            f"data.root={root}`, name the folder that holds them with data.root=DIR, or try "
            "data=phantom, a synthetic set that needs no images."
        )
    if settings.layout == "splits":
        if (found := folders.find_splits(root)) is not None:
            return found.resolve()
        if _may_lack_splits(settings) and (found := folders.find_classes(root, settings)) is not None:
            return found.resolve()
        if _may_lack_splits(settings):
            raise UserError(
                f"data.root={root} has no folder train/, and not a folder for each class of data.classes="
                f"{list(settings.class_names)}. {listing.contents(root)} data=csv reads a set described by "
                "tables."
            )
        raise UserError(
            f"data.root={root} has no folder train/: data=chest_xray takes train|val|test/NORMAL|PNEUMONIA/"
            f"*.jpeg. {listing.contents(root)} Fetch it with `pneumo data fetch`, use data=csv for a set "
            "described by CSV files, or data=phantom, a synthetic set that needs no images."
        )
    if settings.layout == "classes":
        if (found := folders.find_classes(root, settings)) is not None:
            return found.resolve()
        raise UserError(
            f"data.root={root} has no folder for each class: data={settings.name} takes CLASS/*.png or "
            f"CLASS/images/*.png. {listing.contents(root)} data.positive=[NAME,...] names the folders of the "
            "positive class."
        )
    return root.resolve()


def _may_lack_splits(settings: DataSettings) -> bool:
    """Whether data=chest_xray also takes CLASS/ without train/: where data.classes names the folders."""
    return many_classes(settings.class_names) and settings.name not in CLASSES_IN_NAMES


def _read(root: Path, settings: DataSettings) -> Found:
    """What the folders or tables of `root` hold, and a note about what is below data.root and not used."""
    above = Path(settings.root or "data/chest_xray").expanduser().resolve()
    skip = [Path(settings.cache_dir).expanduser().resolve()] if settings.cache_dir else []
    below = listing.scan(above, skip)
    tables: list[Path] = []
    if settings.layout == "table":
        found, tables = table_sets.read(root, settings, below)
    elif settings.layout == "splits" and folders.find_splits(root) == root:
        found = folders.read_splits(root, settings)
    else:
        found = folders.read_classes(root, settings)
    _note_unused(found, below, tables)
    return found


def _note_unused(found: Found, below: listing.Listing, tables: list[Path]) -> None:
    base = "" if found.root == below.root else found.root.relative_to(below.root).as_posix() + "/"
    used = [base + found.files.get(path, path) for path in found.table["path"]]
    used = listing.with_targets(below, used)
    used += [
        path.resolve().relative_to(below.root).as_posix()
        for path in tables
        if path.resolve().is_relative_to(below.root)
    ]
    used += [base + path for path in found.passed_over]
    if unused := listing.unused(below, used):
        found.notes.append(f"not used: {listed(unused)}")
    if below.closed:
        found.notes.append(f"not readable: {listed(below.closed)}")


def _made_test_notes(table: pd.DataFrame, settings: DataSettings) -> list[str]:
    """What was split, and the patients with images of both classes."""
    share = 100 * splits.test_fraction(settings)
    notes = [
        f"the set has no test images: {share:g} % of the images of each class, by patient, are "
        "the test set (data.split.test_fraction, data.split.seed)"
    ]
    known = table.dropna(subset=["patient"])
    both = (
        0 if settings.multilabel else int((known["label"].groupby(patients.keys(known)).nunique() > 1).sum())
    )
    if both:
        which = "several classes" if many_classes(settings.class_names) else "both classes"
        notes.append(f"{both:,} patients have images of {which}; all images of a patient are in one split")
    return notes


def keep_copies_together(manifest: Manifest, hashes: dict[str, str], settings: DataSettings) -> None:
    """Split again, and treat patients who share identical bytes as one patient.

    So our split does not separate copies. `hashes` gives the content's hash by path. If no two patients share
    bytes, the manifest does not change.
    """
    if settings.val_protocol == "official" and not manifest.made_test:
        return  # the folders define the split; content_problems checks it
    table = manifest.table
    pool = pd.Series(True, index=table.index) if manifest.made_test else table["split"] != "test"
    joined = splits.joined_by_copies(table, hashes, pool)
    if joined is None:
        return
    groups, shared = joined
    table = splits.split(table, settings, groups, make_test=manifest.made_test)
    manifest.table = table.sort_values(["split", "path"], kind="stable").reset_index(drop=True)
    where = "" if manifest.made_test else " outside test"
    manifest.notes.append(
        f"{shared} images{where} have the same bytes as an image of another (or an unknown) "
        "patient; such patients were kept in one split."
    )


def digests(manifest: Manifest, hashes: dict[str, str]) -> dict[str, str]:
    """What identifies parts of the data, by name; `hashes` gives the content's hash by path.

    `test_set`: the test images, their labels and patients. `pool`: those of all other images, however they
    are split. `split`: which of the other images train and which validate.
    """
    table = manifest.table
    test = table["split"] == "test"
    labelled = ("path", *manifest.label_columns, "patient")
    parts = {
        "test_set": (table[test], labelled),
        "pool": (table[~test], labelled),
        "split": (table[~test], ("path", "split")),
    }
    found = {}
    for name, (rows, columns) in parts.items():
        values = zip(*(rows[column].tolist() for column in columns), strict=True)
        lines = sorted("\t".join(map(str, (*row, hashes[row[0]]))) for row in values)
        classes = class_line(manifest.class_names) if "label" in columns else []
        text = "\n".join([name, *classes, *lines]).encode(errors="surrogateescape")
        found[name] = hashlib.sha256(text).hexdigest()
    return found


def class_line(class_names: tuple[str, ...]) -> list[str]:
    """The line of a digest that names the classes, where there are more than two."""
    return ["\t".join(["classes", *class_names])] if many_classes(class_names) else []


def problems(manifest: Manifest) -> list[str]:
    """Why the manifest cannot be used: an empty class, a patient in two splits, a path listed twice."""
    messages = []
    many = many_classes(manifest.class_names)
    if manifest.findings:
        messages += findings.problems(manifest.table, manifest.findings)
    for split, classes in manifest.counts().items() if not many else ():
        empty = [name for name, count in classes.items() if count == 0]
        if empty:
            messages.append(
                f"the {split} split of {manifest.root} has no {' and no '.join(empty)} image "
                f"(it has {', '.join(f'{count} {name}' for name, count in classes.items())}); every split "
                "needs both classes, so each class needs two patients outside test (one for validation)."
            )
    if many and not manifest.findings:
        messages += _empty_classes(manifest)
    known = manifest.table.dropna(subset=["patient"])
    keys = patients.keys(known)
    in_splits = known["split"].groupby(keys).nunique()
    if shared := in_splits[in_splits > 1].index.tolist():
        messages.append(
            f"{len(shared)} patients are in more than one split: {listed(shared)}. The test would reward "
            "memorised patients; move each patient's images into one split."
        )
    return messages + _contradictions(manifest)


def _empty_classes(manifest: Manifest) -> list[str]:
    """One message for all classes without an image in some split, with their patients."""
    counts, table = manifest.counts(), manifest.table
    people = patients.keys(table).groupby(table["label"]).nunique()
    parts = []
    for label, name in enumerate(manifest.class_names):
        empty = [split for split, classes in counts.items() if classes[name] == 0]
        if empty:
            images, held = sum(classes[name] for classes in counts.values()), int(people.get(label, 0))
            whose = f"{images:,} image{'s' * (images != 1)} of {held:,} patient{'s' * (held != 1)}"
            parts.append(f"{name} ({whose}) has none in {' and '.join(empty)}")
    if not parts:
        return []
    return [
        f"every split of {manifest.root} needs images of every class: {'; '.join(parts)}. A class needs a "
        "patient in train, one in validation and one in test. Leave a class out of data.classes (and its "
        "images by data.labels={VALUE: null}), or join it to another by data.labels={VALUE: CLASS}."
    ]


def _contradictions(manifest: Manifest) -> list[str]:
    """Images that are listed under two labels, in two splits or for two patients, each message with both."""
    table = manifest.table
    files = table["path"].map(manifest.file_of)
    repeated = table[files.duplicated(keep=False)].sort_values("path", kind="stable")
    messages = []
    for _, rows in list(repeated.groupby(files, sort=True))[:MAX_SHOWN]:
        path, names = rows["path"].iloc[0], [manifest.class_names[label] for label in rows["label"]]
        known = rows["patient"].dropna().tolist()
        values = {"label": names, "split": rows["split"].tolist(), "patient": known}
        differing = [
            f"{role} {' and '.join(dict.fromkeys(found))}"
            for role, found in values.items()
            if len(set(found)) > 1
        ]
        messages.append(f"{path} ({'; '.join(differing)})" if differing else path)
    if not messages:
        return []
    count = files[repeated.index].nunique()
    return [
        f"{count} paths are listed more than once, with different values: {'; '.join(messages)}"
        + (f" and {count - MAX_SHOWN} more" if count > MAX_SHOWN else "")
        + ". Keep one row for each image."
    ]


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
                f"{len(paths)} files with identical bytes are {trouble}: {listed(paths)}. "
                "Remove the copies, or put them into one split under one label."
            )
    return messages
