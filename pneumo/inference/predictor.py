"""A trained model at work: files in, one row a file out, whatever is in the files."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pneumo import UserError
from pneumo.data import dicom
from pneumo.data.images import BadImage, Grey, preprocess, read_with_colour
from pneumo.data.loader import evaluation_batch
from pneumo.data.manifest import is_clutter
from pneumo.data.workers import worker_count
from pneumo.inference.bundle import Bundle
from pneumo.inference.ood import Familiarity, colour_warnings

# What a folder is searched for. Images of other formats get a row that says why they are refused.
SUFFIXES = (
    *(".jpeg", ".jpg", ".png", ".dcm", ".dicom"),
    *(".jpe", ".jfif", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".heic"),
)
NO_DEVICE = "No medical device: for research and teaching, not for the care of anyone."
AHEAD = 2  # batches begun or waiting, for each thread


@dataclass
class Row:
    """What is said of one file: a probability, or the error that stood in its way.

    `probability` is calibrated, `decision` the name of the class at `threshold`.
    """

    path: str
    probability: float | None = None
    decision: str = ""
    threshold: float | None = None
    model: str = ""
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    overlay: str = ""


@dataclass
class Prepared:
    """One image as the model takes it: `square` uint8 [S, S], and what the file told besides."""

    square: Grey
    grey: Grey
    colour_share: float


class Predictor:
    """Applies `bundle` on `device`; `threshold`, of calibrated probabilities, replaces the stored one.

    `predict` works in `num_workers` threads (default: one a core), each of which reads, prepares and computes
    whole batches. On a CPU each computes alone: that is faster than sharing every operation, and OpenMP's
    threads wait without spinning, which doubles the time, where they are more than the cores.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threshold: float | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.network = bundle.network(device)
        self.device = torch.device(device)
        self.given_threshold = threshold
        self.workers = worker_count(num_workers)
        self.pool = ThreadPoolExecutor(self.workers, initializer=self._begin_worker)
        self.familiarity = Familiarity(bundle.familiarity) if bundle.familiarity else None

    def _begin_worker(self) -> None:
        if self.device.type == "cpu" and self.workers > 1:
            torch.set_num_threads(1)

    @property
    def threshold(self) -> float:
        return self.bundle.threshold if self.given_threshold is None else self.given_threshold

    def prepare(self, path: str | Path, keep_grey: bool = False) -> Prepared:
        """Read `path` and prepare it exactly as for training. Raises BadImage."""
        grey, colour_share = (dicom.read(path), 0.0) if dicom.is_dicom(path) else read_with_colour(path)
        square = preprocess(grey, **self.bundle.preprocess)
        return Prepared(square, np.asarray(grey) if keep_grey else square, colour_share)

    def rows(self, paths: Sequence[str], images: Sequence[Prepared]) -> list[Row]:
        """What the model says of prepared `images`."""
        if not images:
            return []
        squares = np.stack([image.square for image in images])
        raw = self.bundle.probabilities(squares, self.network)
        calibrated = self.bundle.calibrated(raw)
        if self.given_threshold is None:
            called = self.bundle.decide(raw)
        else:
            called = calibrated >= self.given_threshold
        return [
            Row(
                path=str(path),
                probability=float(probability),
                decision=self.bundle.class_names[int(ill)],
                threshold=self.threshold,
                model=self.bundle.version,
                warnings=self.warnings(image),
            )
            for path, image, probability, ill in zip(paths, images, calibrated, called, strict=True)
        ]

    def warnings(self, image: Prepared) -> list[str]:
        """Why the probability of `image` may mean nothing."""
        if self.familiarity is None:
            return colour_warnings(image.colour_share)
        return self.familiarity.warnings(image.square, image.colour_share)

    def notes(self) -> list[str]:
        """What holds for every image: on what the model was trained, how it was chosen, what is not told."""
        said = []
        if self.bundle.synthetic:
            said.append("This model was trained on synthetic images: of real ones it knows nothing.")
        if self.bundle.protocol == "test_selected":
            said.append("This model was chosen on the test images: its figures are optimistic.")
        if self.familiarity is None:
            said.append("Images unlike the training set cannot be told, only coloured ones.")
        return said

    def refused(self, path: str | Path, reason: str) -> Row:
        return Row(path=str(path), model=self.bundle.version, error=reason)

    def predict(
        self, paths: Iterable[str], *, batch_size: int = 64, keep_grey: bool = False
    ) -> Iterator[list[tuple[Row, Prepared | None]]]:
        """Rows in the order of `paths`, a batch at a time; a file that cannot be read takes only its own row.

        A batch has `batch_size` files at most, on a CPU fewer.
        """
        wanted = iter(paths)
        together = evaluation_batch(batch_size, self.bundle.image_size, self.device)
        waiting: deque[Future[list[tuple[Row, Prepared | None]]]] = deque()
        try:
            while True:
                while len(waiting) < AHEAD * self.workers and (batch := list(islice(wanted, together))):
                    waiting.append(self.pool.submit(self._batch, batch, keep_grey))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _batch(self, paths: Sequence[str], keep_grey: bool) -> list[tuple[Row, Prepared | None]]:
        found: list[tuple[str, Prepared | BadImage]] = []
        for path in paths:
            try:
                found.append((path, self.prepare(path, keep_grey)))
            except BadImage as error:
                found.append((path, error))
        good = [(path, image) for path, image in found if isinstance(image, Prepared)]
        said = iter(self.rows([path for path, _ in good], [image for _, image in good]))
        return [
            (next(said), image) if isinstance(image, Prepared) else (self.refused(path, image.reason), None)
            for path, image in found
        ]


@dataclass
class Inputs:
    """The files of a folder, in sorted order, the links that lead out of it, and what was left out."""

    files: list[str]
    outside: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def inputs(given: str | Path) -> Inputs:
    """The file `given`, or all images in and below the folder `given`.

    No link is followed out of the folder, and no linked folder is entered. UserError where there is nothing.
    """
    root = Path(given).expanduser()
    if not root.is_dir():
        return Inputs([str(root)])
    found = Inputs([])
    real = os.path.realpath(root)

    def complain(error: OSError) -> None:
        found.left_out.append(f"{error.filename} ({error.strerror})")

    for folder, folders, files in os.walk(root, onerror=complain):
        found.left_out += [f"{folder}/{name} (a link)" for name in folders if _is_link(folder, name)]
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        for name in sorted(files):
            path = os.path.join(folder, name)  # noqa: PTH118 - strings: 100,000 Path objects cost a second
            if is_clutter(name):
                continue
            if not name.lower().endswith(SUFFIXES) and not dicom.is_dicom(path):
                found.left_out.append(path)
            elif _is_link(folder, name) and not _below(os.path.realpath(path), real):
                found.outside.append(path)
            else:
                found.files.append(path)
    if not found.files and not found.outside:
        raise UserError(f"input={given} holds no image; {', '.join(SUFFIXES[:5])} are looked for.")
    return found


def _is_link(folder: str, name: str) -> bool:
    return os.path.islink(os.path.join(folder, name))  # noqa: PTH118, PTH114


def _below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
