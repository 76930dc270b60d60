"""Which images a model knows: a record that stays with its run, and what another set has in common with it.

A model knows the images that trained it and those that chose its epoch. The record holds hashes and no names:
of the bytes of each such image, and of its patient together with the namespace of the patient's id. With
data.pseudonymise the hashes are keyed, so that nobody can test whether a patient or an image is among them
without the key of the machine that made them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pneumo import UserError
from pneumo.data import copies
from pneumo.data.cache import ImageCache
from pneumo.data.images import Grey
from pneumo.data.pseudonyms import Pseudonyms
from pneumo.data.settings import DataSettings
from pneumo.files import read_bounded, write_atomically
from pneumo.patient_ids import canonical

FORMAT = 1
MAX_BYTES = 2**26  # of the record; 112,120 images take 4 MB
_DIGITS = 16  # of a hash: among 100,000 and 100,000 images a chance hit has probability 1e-9


@dataclass(frozen=True, kw_only=True)
class KnownImages:
    """The images that a model knows, as hashes."""

    images: frozenset[str]
    patients: frozenset[str]
    namespace: str | None
    keyed: bool

    @classmethod
    def of(cls, data: ImageCache, naming: DataSettings) -> "KnownImages":
        """Those of a run on `data`; `naming` says who gave the patients' ids, and if hashes are keyed."""
        table = data.manifest.table
        known = table[table["split"] != "test"]
        mark = _marks(naming.patient_namespace, naming.pseudonymise)
        named = known["patient"].dropna().unique().tolist()
        return cls(
            images=frozenset(mark("image", data.hashes[path]) for path in known["path"].tolist()),
            patients=frozenset(mark("patient", canonical(name)) for name in named),
            namespace=naming.patient_namespace,
            keyed=naming.pseudonymise,
        )

    @classmethod
    def read(cls, file: Path) -> "KnownImages":
        """The record in `file`; UserError if it is missing or damaged."""
        try:
            content = json.loads(read_bounded(file, MAX_BYTES))
            if content["format"] != FORMAT:
                raise ValueError("another format")
            namespace, keyed = content["namespace"], content["keyed"]
            if not (namespace is None or isinstance(namespace, str)) or not isinstance(keyed, bool):
                raise TypeError("wrong values")
            return cls(
                images=frozenset(map(str, content["images"])),
                patients=frozenset(map(str, content["patients"])),
                namespace=namespace,
                keyed=keyed,
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{file} is not a record of training images: {error}") from None

    def as_json(self) -> str:
        """The record, always the same text for the same images."""
        content = {
            "format": FORMAT,
            "namespace": self.namespace,
            "keyed": self.keyed,
            "images": sorted(self.images),
            "patients": sorted(self.patients),
        }
        return json.dumps(content, indent=0) + "\n"


@dataclass(kw_only=True)
class Overlap:
    """Images of another set that a model knows, or whose patient it knows, by path.

    `pictures` are saved again: the same picture in other bytes. `unchecked` says what could not be compared.
    """

    images: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    patients: dict[str, str] = field(default_factory=dict)  # the patient of each image
    unchecked: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """Every image that the model knows in one of these ways."""
        return sorted({*self.images, *self.pictures, *self.patients})


def overlap(known: KnownImages, data: ImageCache, namespace: str | None) -> Overlap:
    """What of `data` is `known` by its bytes or its patient.

    Patients are compared if the namespace of their ids was declared in training and is `namespace` too: the
    patient 101 of one hospital is not that of another.
    """
    table = data.manifest.table
    paths = table["path"].tolist()
    mark = _marks(namespace, known.keyed)
    found = Overlap(images=[path for path in paths if mark("image", data.hashes[path]) in known.images])
    if known.namespace is None or namespace is None:
        found.unchecked.append(
            "patients: their ids count only within a declared namespace (data.patient_namespace), and "
            + ("the model's training declared none" if known.namespace is None else "this set declares none")
        )
    elif known.namespace == namespace:
        of_image = dict(zip(paths, table["patient"].tolist(), strict=True))
        found.patients = {
            path: patient
            for path, patient in of_image.items()
            if isinstance(patient, str) and mark("patient", canonical(patient)) in known.patients
        }
    return found


class _Both:
    """The prepared images of two caches, one after the other."""

    def __init__(self, first: ImageCache, second: ImageCache) -> None:
        self._first, self._second = first.images, second.images
        self.start = len(first.images)  # the row of the second's first image

    def __getitem__(self, row: int) -> Grey:
        return self._first[row] if row < self.start else self._second[row - self.start]


def known_pictures(trained: ImageCache, data: ImageCache) -> list[str]:
    """The paths of `data` that show the picture of an image that trained or chose a model, saved again.

    Both are prepared in the same way. Only certain copies count (pneumo.data.copies).
    """
    table = trained.manifest.table
    mine = trained.rows[(table["split"] != "test").to_numpy()]
    both = _Both(trained, data)
    rows = np.concatenate([data.rows + both.start, mine])
    groups = np.repeat([0, 1], [len(data.rows), len(mine)])
    pairs = copies.find(both, rows, groups)
    paths = data.manifest.table["path"].tolist()
    certain = {first for first, _, correlation in pairs if correlation >= copies.CERTAIN}
    return sorted(paths[row] for row in certain if row < len(paths))


def shown(found: Overlap, count: int = 10) -> str:
    """The images of an overlap by name, in words."""
    parts = []
    for paths, what in ((found.images, "with the same bytes"), (found.pictures, "saved again")):
        if paths:
            parts.append(f"{len(paths):,} images {what} ({_first(paths, count)})")
    if found.patients:
        people = patients_of(found)
        parts.append(
            f"{len(found.patients):,} images of {len(people):,} patients of the training set "
            f"({_first(people, count)})"
        )
    return "; ".join(parts)


def write(found: Overlap, file: Path) -> None:
    """A row for each image of an overlap and each way in which the model knows it, with its patient."""
    ways = (
        (found.images, "the same bytes"),
        (found.pictures, "saved again"),
        (found.patients, "its patient"),
    )
    rows = [(path, way, found.patients.get(path, "")) for paths, way in ways for path in paths]
    table = pd.DataFrame(rows, columns=["path", "known_by", "patient"]).sort_values("path", kind="stable")
    write_atomically(file, table.to_csv(index=False).encode(errors="surrogateescape"))


def patients_of(found: Overlap) -> list[str]:
    """The patients of an overlap, each once."""
    return list(dict.fromkeys(found.patients.values()))


def _first(names: Iterable[str], count: int) -> str:
    every = [name.encode(errors="backslashreplace").decode() for name in names]
    return ", ".join(every[:count]) + (f" and {len(every) - count:,} more" if len(every) > count else "")


def _marks(namespace: str | None, keyed: bool) -> Callable[[str, str], str]:
    """What makes the hash of an image's content or of a patient's id."""
    if keyed:
        secret = Pseudonyms(namespace)
        return lambda kind, name: str(secret.patient(name) if kind == "patient" else secret.path(name))

    def plain(kind: str, name: str) -> str:
        text = f"{kind}\0{namespace or ''}\0{name}" if kind == "patient" else f"{kind}\0{name}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]

    return plain
