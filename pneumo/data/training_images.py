"""Which images a model knows: a record that stays with its run, and what another set has in common with it.

A model knows the images that trained it and those that chose its epoch. The record holds hashes and no names:
of the bytes of each such image, and of its patient together with the namespace of the patient's id. With
data.pseudonymise the hashes are keyed, so that nobody can test whether a patient or an image is among them
without the key of the machine that made them. A model that began with the weights of another knows that one's
images too: its record holds the other's.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pneumo import UserError
from pneumo.data import copies
from pneumo.data.cache import ImageCache
from pneumo.data.images import Grey
from pneumo.data.pseudonyms import Pseudonyms
from pneumo.data.settings import DataSettings
from pneumo.files import read_bounded, write_atomically
from pneumo.names import TRAINING_IMAGES
from pneumo.patient_ids import canonical

FORMAT = 1
MAX_BYTES = 2**26  # of the record; 112,120 images take 4 MB
_LATER_HASHES = ("validated", "validated_patients")
_DIGITS = 16  # of a hash: among 100,000 and 100,000 images a chance hit has probability 1e-9


@dataclass(frozen=True, kw_only=True)
class KnownImages:
    """The images that a model knows, as hashes."""

    images: frozenset[str]
    patients: frozenset[str]
    namespace: str | None
    keyed: bool
    # Of these, the ones that only chose the epoch. Older records do not tell them apart.
    validated: frozenset[str] = frozenset()
    validated_patients: frozenset[str] = frozenset()
    before: "KnownImages | None" = None  # what the weights knew that the training began with
    before_left_out: bool = False  # not kept: its hashes have no key, and those of this record do

    @classmethod
    def of(cls, data: ImageCache, naming: DataSettings, before: "KnownImages | None" = None) -> "KnownImages":
        """Those of a run on `data`; `naming` says who gave the patients' ids, and if hashes are keyed.

        `before` is what the weights knew that it began with.
        """
        table = data.manifest.table
        known, chose = table[table["split"] != "test"], table[table["split"] == "val"]
        mark = _marks(naming.patient_namespace, naming.pseudonymise)

        def images(part: pd.DataFrame) -> frozenset[str]:
            return frozenset(mark("image", data.hashes[path]) for path in part["path"].tolist())

        def patients(part: pd.DataFrame) -> frozenset[str]:
            named = part["patient"].dropna().unique().tolist()
            return frozenset(mark("patient", canonical(name)) for name in named)

        left_out = before is not None and naming.pseudonymise and not all(one.keyed for one in before.chain)
        return cls(
            images=images(known),
            patients=patients(known),
            namespace=naming.patient_namespace,
            keyed=naming.pseudonymise,
            validated=images(chose),
            validated_patients=patients(chose),
            before=None if left_out else before,
            before_left_out=left_out,
        )

    @property
    def chain(self) -> "list[KnownImages]":
        """This record, and those of the weights before it."""
        return [self, *(self.before.chain if self.before else [])]

    @classmethod
    def beside(cls, weights: str | None) -> "KnownImages | None":
        """The record beside a file of weights, as a run keeps it; None without one."""
        file = Path(weights or "").expanduser().parent / Path(TRAINING_IMAGES).name
        return cls.read(file) if weights and file.is_file() else None

    @classmethod
    def read(cls, file: Path) -> "KnownImages":
        """The record in `file`; UserError if it is missing or damaged."""
        try:
            content = json.loads(read_bounded(file, MAX_BYTES))
            if content["format"] != FORMAT:
                raise ValueError("another format")
            return cls._of_json(content)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{file} is not a record of training images: {error}") from None

    @classmethod
    def _of_json(cls, content: dict[str, Any]) -> "KnownImages":
        namespace, keyed = content["namespace"], content["keyed"]
        before, left_out = content.get("before"), content.get("before_left_out", False)
        if not (namespace is None or isinstance(namespace, str)) or not isinstance(keyed, bool):
            raise TypeError("wrong values")
        return cls(
            **{name: frozenset(map(str, content.get(name, []))) for name in _LATER_HASHES},
            **{name: frozenset(map(str, content[name])) for name in ("images", "patients")},
            namespace=namespace,
            keyed=keyed,
            before=None if before is None else cls._of_json(before),
            before_left_out=left_out is True,
        )

    def as_json(self) -> str:
        """The record, always the same text for the same images."""
        return json.dumps({"format": FORMAT, **self._content()}, indent=0) + "\n"

    def _content(self) -> dict[str, Any]:
        return {
            "namespace": self.namespace,
            "keyed": self.keyed,
            **{name: sorted(getattr(self, name)) for name in ("images", "patients", *_LATER_HASHES)},
            **({"before": self.before._content()} if self.before else {}),
            **({"before_left_out": True} if self.before_left_out else {}),
        }


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
    return _joined(_part(one, data, namespace, table) for one in known.chain)


def leaks(known: KnownImages, data: ImageCache, namespace: str | None) -> Overlap:
    """What of a run's `data` tells it too much, if it begins with weights that know the `known` images.

    That are test images which trained those weights or chose their epoch, and validation images which trained
    them.
    """
    table = data.manifest.table
    test, val = table[table["split"] == "test"], table[table["split"] == "val"]
    trained = [
        replace(one, images=one.images - one.validated, patients=one.patients - one.validated_patients)
        for one in known.chain
        if one.validated  # an older record does not tell what only chose the epoch
    ]
    parts = [(one, test) for one in known.chain] + [(one, val) for one in trained]
    return _joined(_part(one, data, namespace, part) for one, part in parts)


def _joined(parts: Iterable[Overlap]) -> Overlap:
    found = Overlap()
    for part in parts:
        found.images = list(dict.fromkeys([*found.images, *part.images]))
        found.patients |= part.patients
        found.unchecked = list(dict.fromkeys([*found.unchecked, *part.unchecked]))
    return found


def _part(known: KnownImages, data: ImageCache, namespace: str | None, table: pd.DataFrame) -> Overlap:
    """The overlap of one record with the images of `data` in `table`."""
    paths = table["path"].tolist()
    mark = _marks(namespace, known.keyed)
    found = Overlap(images=[path for path in paths if mark("image", data.hashes[path]) in known.images])
    if known.before_left_out:
        found.unchecked.append("the images of the weights that the training began with")
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
