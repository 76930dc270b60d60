"""Applies a trained model to files: one prediction per file, also for files that cannot be read."""

import copy
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pneumo import UserError, one_of
from pneumo.data.images import Placement, largest_undeclared, placement, preprocess, read_with_colour
from pneumo.data.limits import BadImage, Grey
from pneumo.data.loader import evaluation_batch
from pneumo.data.workers import worker_count
from pneumo.evaluation.predictions import BETWEEN_FINDINGS
from pneumo.inference import explain, model_folder, ood
from pneumo.inference.bundle import Bundle, Floats
from pneumo.names import CONFIG, TEST_SELECTED
from pneumo.tracking import registry

DISCLAIMER = "Not a medical device: for research and teaching, not for patient care."
SHOWN_SIDE = 2048  # pixels of the longer side of an overlay at most
BATCHES_AHEAD = 2  # batches that run or wait, per thread


@dataclass
class ClassChance:
    """One of more than two classes or findings: its calibrated probability, and its threshold."""

    name: str
    probability: float
    threshold: float

    @property
    def reached(self) -> bool:
        return self.probability >= self.threshold


@dataclass
class Prediction:
    """The answer for one file: a probability, or the error why there is none.

    `probability` is calibrated, `decision` is the name of the class at `threshold`. Of more than two classes
    `classes` has the probabilities instead, and `decision` is the class with the largest one. Of several
    findings, `decision` lists those that reach their thresholds (`Edema|Mass`), and is empty if none does.
    """

    path: str
    probability: float | None = None
    decision: str = ""
    threshold: float | None = None
    model: str = ""
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    overlay: str = ""
    classes: list[ClassChance] = field(default_factory=list)
    skipped: str = ""  # what a file of a folder is that is not a radiograph: CT, SR, DICOMDIR
    study_uid: str = ""
    sop_uid: str = ""

    @property
    def reached(self) -> list[str]:
        """The classes or findings that reach their thresholds."""
        return [one.name for one in self.classes if one.reached]


@dataclass
class PreparedImage:
    """One image as the model takes it, and what the file shows besides.

    `square` is uint8 [S, S]; `grey` is the image as read where asked for, reduced to at most SHOWN_SIDE
    pixels a side, else the square. `placement` is then where the image is in the square. `largest` is the
    largest value of a 16-bit file that does not declare its range, else None.
    """

    square: Grey
    grey: Grey
    colour_share: float
    largest: int | None = None
    placement: Placement | None = None


class Predictor:
    """Applies `bundle` on `device`. `threshold`, for calibrated probabilities, replaces those stored.

    `explain_class` is the class whose regions an overlay shows, None: PNEUMONIA of two classes, of more the
    called class, and of several findings the most probable one.

    `predict` works in `num_workers` threads (default: one per core). Each thread reads, prepares and computes
    whole batches. On a CPU each thread computes alone, which is faster than sharing every operation: where
    OpenMP has more threads than cores, they wait without spinning, and that doubles the time.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threshold: float | None = None,
        num_workers: int | None = None,
        explain_class: str | None = None,
    ) -> None:
        if explain_class is not None:
            one_of("explain_class", explain_class, bundle.class_names)
        self.explain_class = explain_class
        self.bundle = bundle
        self.network = bundle.network(device)
        self.device = torch.device(device)
        self.given_threshold = threshold
        self.workers = worker_count(num_workers)
        self.pool = ThreadPoolExecutor(self.workers, initializer=self._start_worker)
        self._explaining = threading.Lock()
        self._explained_network: nn.Module | None = None
        self.detector = ood.OodDetector(bundle.ood_reference) if bundle.ood_reference else None

    def _start_worker(self) -> None:
        if self.device.type == "cpu" and self.workers > 1:
            torch.set_num_threads(1)

    @property
    def threshold(self) -> float:
        return self.bundle.threshold if self.given_threshold is None else self.given_threshold

    def prepare(self, path: str | Path, keep_grey: bool = False) -> PreparedImage:
        """Read `path` and prepare it exactly as for training. Raises BadImage."""
        rule, white = self.bundle.pixel_rule, self.bundle.white
        grey, colour_share = read_with_colour(path, pixels=rule, white=white)
        largest = largest_undeclared(path) if rule > 1 and white is not None else None
        square = preprocess(grey, **self.bundle.preprocess)
        if not keep_grey:
            return PreparedImage(square, square, colour_share, largest)
        known = self.bundle.preprocess
        at = placement(
            grey,
            image_size=known["image_size"],
            crop_black=known["crop_black"],
            pixels=self.bundle.pixel_rule,
        )
        grey.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        return PreparedImage(square, np.asarray(grey), colour_share, largest, at)

    def predictions(self, paths: Sequence[str], images: Sequence[PreparedImage]) -> list[Prediction]:
        """The model's answers for prepared `images`; `paths` are their names in the answers."""
        if not images:
            return []
        squares = np.stack([image.square for image in images])
        raw = self.bundle.probabilities(squares, self.network)
        calibrated = self.bundle.calibrated(raw)
        if self.bundle.multilabel:
            return [
                Prediction(
                    path=str(path),
                    decision=BETWEEN_FINDINGS.join(one.name for one in classes if one.reached),
                    model=self.bundle.version,
                    warnings=self.warnings(image),
                    classes=classes,
                )
                for path, image, classes in zip(paths, images, map(self._classes, calibrated), strict=True)
            ]
        if self.bundle.many:
            return [
                Prediction(
                    path=str(path),
                    decision=self.bundle.class_names[called],
                    model=self.bundle.version,
                    warnings=self.warnings(image),
                    classes=self._classes(chances),
                )
                for path, image, chances, called in zip(
                    paths, images, calibrated, self.bundle.call(raw), strict=True
                )
            ]
        if self.given_threshold is None:
            positive = self.bundle.decide(raw)
        else:
            positive = calibrated >= self.given_threshold
        return [
            Prediction(
                path=str(path),
                probability=float(probability),
                decision=self.bundle.class_names[int(is_positive)],
                threshold=self.threshold,
                model=self.bundle.version,
                warnings=self.warnings(image),
            )
            for path, image, probability, is_positive in zip(paths, images, calibrated, positive, strict=True)
        ]

    def _classes(self, calibrated: Floats) -> list[ClassChance]:
        """The classes or findings [K] of one image."""
        thresholds = self.bundle.threshold_of_class
        if self.given_threshold is not None:
            thresholds = dict.fromkeys(thresholds, self.given_threshold)
        return [
            ClassChance(name, float(chance), thresholds[name])
            for name, chance in zip(self.bundle.class_names, calibrated, strict=True)
        ]

    def explained(self, prediction: Prediction) -> str:
        """The class whose regions an overlay of this prediction shows."""
        if self.explain_class is not None:
            return self.explain_class
        if self.bundle.multilabel:
            return max(prediction.classes, key=lambda one: one.probability).name
        return prediction.decision if self.bundle.many else self.bundle.class_names[1]

    def overlays(self, predictions: Sequence[Prediction], squares: NDArray[np.uint8]) -> explain.Maps:
        """Grad-CAM maps [B, S, S] of prepared squares [B, S, S], each of the class that `explained` names."""
        labels = [self.bundle.class_names.index(self.explained(one)) for one in predictions]
        # captum hooks the network that it explains, and other threads compute with self.network meanwhile.
        with self._explaining:
            if self._explained_network is None:
                self._explained_network = copy.deepcopy(self.network)
            return explain.overlay(self.bundle, squares, self._explained_network, labels)

    def overlay_on(self, prediction: Prediction, image: PreparedImage, heat: explain.Maps) -> Image.Image:
        """The map [S, S] of a prediction laid on its image, which was prepared with keep_grey."""
        assert image.placement is not None
        laid = explain.on_image(heat, image.grey, image.placement)
        return explain.picture(image.grey, laid, self.explained(prediction))

    def warnings(self, image: PreparedImage) -> list[str]:
        """Why the probability of `image` may mean nothing."""
        white, found = self.bundle.white, []
        if image.largest is not None and white is not None and image.largest > white:
            found = [f"brighter than any training film: values up to {image.largest}, white is {white}"]
        if self.detector is None:
            return found + ood.colour_warnings(image.colour_share)
        return found + self.detector.warnings(image.square, image.colour_share)

    def notes(self) -> list[str]:
        """What the reader must know about every prediction of this model."""
        notes = []
        if self.bundle.synthetic:
            notes.append("This model was trained on synthetic images: it has never seen a real patient.")
        if self.bundle.protocol == TEST_SELECTED:
            notes.append("This model was chosen on the test images: its figures are optimistic.")
        if names := self.bundle.not_chosen:
            notes.append(
                f"Validation has no image with, or none without, {', '.join(names)}: the threshold is 0.5, "
                "and the probability is not calibrated."
            )
        if self.detector is None:
            notes.append(
                "Only coloured images get a warning: this model has no reference of its training data."
            )
        return notes

    def files_per_batch(self, batch_size: int) -> int:
        """How many files `predict` computes together."""
        return evaluation_batch(batch_size, self.bundle.image_size, self.device)

    def refused(self, path: str | Path, reason: str, kind: str = "") -> Prediction:
        """The answer for a file that cannot be predicted; `kind` is what it is if it is not a radiograph."""
        return Prediction(path=str(path), model=self.bundle.version, error=reason, skipped=kind)

    def predict(
        self, paths: Iterable[str], *, batch_size: int = 64, keep_grey: bool = False
    ) -> Iterator[list[tuple[Prediction, PreparedImage | None]]]:
        """Predictions in the order of `paths`, one batch at a time.

        A file that cannot be read affects only its own prediction. A batch has at most `batch_size` files, on
        a CPU fewer.
        """
        remaining = iter(paths)
        images_per_batch = self.files_per_batch(batch_size)
        waiting: deque[Future[list[tuple[Prediction, PreparedImage | None]]]] = deque()
        try:
            while True:
                while len(waiting) < BATCHES_AHEAD * self.workers and (
                    batch := list(islice(remaining, images_per_batch))
                ):
                    waiting.append(self.pool.submit(self._batch, batch, keep_grey))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _batch(self, paths: Sequence[str], keep_grey: bool) -> list[tuple[Prediction, PreparedImage | None]]:
        prepared: list[tuple[str, PreparedImage | BadImage]] = []
        for path in paths:
            try:
                prepared.append((path, self.prepare(path, keep_grey)))
            except BadImage as error:
                prepared.append((path, error))
        good = [(path, image) for path, image in prepared if isinstance(image, PreparedImage)]
        answers = iter(self.predictions([path for path, _ in good], [image for _, image in good]))
        return [
            (next(answers), image)
            if isinstance(image, PreparedImage)
            else (self.refused(path, image.reason, getattr(image, "kind", "")), None)
            for path, image in prepared
        ]


def load(
    model: str,
    tracking_uri: str,
    cache_dir: Path,
    *,
    device: str = "auto",
    threshold: float | None = None,
    num_workers: int | None = None,
    explain_class: str | None = None,
) -> tuple[Predictor, list[str]]:
    """The predictor of `model` (see registry.FORMS), and notes on it for the user.

    A model without a reference of its training data gets one, if the data set is there.
    """
    resolved = registry.resolve(model, tracking_uri, cache_dir)
    bundle = model_folder.read(resolved.folder, version=resolved.version)
    notes = []
    if bundle.ood_reference is None:
        missing = "the model has no reference of its training data"
        try:
            config = bundle.weights.parent.parent / CONFIG
            bundle.ood_reference = ood.fit_again(config, bundle.data_digest, str(cache_dir))
            notes.append(f"{missing}; it was created again from the data set.")
        except UserError as error:
            notes.append(f"{missing}: {error}")
    predictor = Predictor(
        bundle,
        device=_device(device),
        threshold=threshold,
        num_workers=num_workers,
        explain_class=explain_class,
    )
    return predictor, notes + predictor.notes()


def _device(name: str) -> str:
    if name != "auto":
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device={name}, but this machine has no CUDA device: give device=cpu or auto.")
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
