"""Applies a trained model to files: one prediction per file, also for files that cannot be read."""

import copy
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pneumo import UserError, one_of
from pneumo.data import dicom
from pneumo.data.images import (
    Placement,
    format_of,
    largest_undeclared,
    placement,
    preprocess,
    read_with_colour,
)
from pneumo.data.limits import BadImage, Grey
from pneumo.data.loader import evaluation_batch
from pneumo.data.workers import worker_count
from pneumo.evaluation.predictions import BETWEEN_FINDINGS
from pneumo.inference import answers, explain, model_folder, ood
from pneumo.inference.bundle import Bundle, Floats, SimilarCases
from pneumo.inference.conformal import PredictionSets
from pneumo.inference.neighbours import NeighbourDetector
from pneumo.inference.prevalence import PriorShift
from pneumo.inference.time_limit import TimeLimit
from pneumo.models.head import Penultimate
from pneumo.names import CONFIG, TEST_SELECTED
from pneumo.tracking import registry

DISCLAIMER = "Not a medical device: for research and teaching, not for patient care."
SHOWN_SIDE = 2048  # pixels of the longer side of an overlay at most
COVERAGE = 0.9  # of prediction sets
BATCHES_AHEAD = 2  # batches that run or wait, per thread
FILE_TIMEOUT_S = 60.0  # to read and prepare a file; the largest X-rays take two


@dataclass
class ClassChance:
    """One of more than two classes or findings: its calibrated probability, and its threshold."""

    name: str
    probability: float
    threshold: float
    moved: bool | None = None  # whether it was reached before both were moved: rounding changes no decision

    @property
    def reached(self) -> bool:
        return self.probability >= self.threshold if self.moved is None else self.moved


@dataclass
class Prediction:
    """The answer for one file: a probability, or the error why there is none.

    `probability` is calibrated, `decision` is the name of the class at `threshold`. Of more than two classes
    `classes` has the probabilities instead, and `decision` is the class with the largest one. Of several
    findings, `decision` lists those that reach their thresholds (`Edema|Mass`), and is empty if none does.
    Where it is `withheld`, for the reason there, `decision` is empty too: the probability means nothing.
    `answer` says in words what was found. `prediction_set` has the classes that cannot be ruled out
    (pneumo.inference.conformal), None: not asked for. `differences` from the training images can be the same
    for all files, so they are not `warnings`.
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
    withheld: str = ""
    answer: str = ""
    prediction_set: list[str] | None = None
    window: str = ""
    differences: list[str] = field(default_factory=list)
    skipped: str = ""  # what a file of a folder is that is not a radiograph: CT, SR, DICOMDIR
    study_uid: str = ""
    sop_uid: str = ""

    @property
    def reached(self) -> list[str]:
        """The classes or findings that reach their thresholds; none where the decision is withheld."""
        return [one.name for one in self.classes if one.reached and not self.withheld]

    def doubt(self, doubts: ood.Doubts, abstain: bool) -> None:
        """Note `doubts`; with `abstain`, withhold the decision if there is a reason to."""
        self.warnings, self.differences = doubts.warnings, doubts.differences
        if abstain and doubts.reasons:
            self.withheld, self.decision = "; ".join(doubts.reasons), ""
            self.prediction_set = None
            self.answer = f"No decision: the image is unlike the training images ({self.withheld})."


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
    facts: dicom.Facts = field(default_factory=dicom.Facts)  # what a DICOM header says


class Predictor:
    """Applies `bundle` on `device`. `threshold`, for calibrated probabilities, replaces those stored.

    `explain_class` is the class whose regions an overlay shows, None: PNEUMONIA of two classes, of more the
    called class, and of several findings the most probable one. With `abstain`, the decision is withheld for
    an image that is unlike the training images. `prevalence` asks for the probabilities of another clinic
    (pneumo.inference.prevalence), `coverage` for prediction sets. `window` is that of `dicom.read`.

    `predict` works in `num_workers` threads (default: one per core). Each thread reads, prepares and computes
    whole batches. On a CPU each thread computes alone, which is faster than sharing every operation: where
    OpenMP has more threads than cores, they wait without spinning, and that doubles the time.

    A file that takes longer than `file_timeout_s` (None: no limit) gets an error. What becomes of its read is
    in pneumo.inference.time_limit.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threshold: float | None = None,
        num_workers: int | None = None,
        explain_class: str | None = None,
        abstain: bool = True,
        prevalence: Any = None,
        coverage: float | None = COVERAGE,
        window: dicom.Window = dicom.FILE,
        file_timeout_s: float | None = FILE_TIMEOUT_S,
    ) -> None:
        if explain_class is not None:
            one_of("explain_class", explain_class, bundle.class_names)
        self.explain_class = explain_class
        self.bundle = bundle
        self.network = bundle.network(device)
        self.device = torch.device(device)
        self.given_threshold = threshold
        self.abstain = abstain
        self.shift = None if prevalence is None else PriorShift(bundle, prevalence)
        self.coverage = coverage
        self.window = window
        self.sets = None if coverage is None else PredictionSets(bundle, coverage)
        self.alarms = self._alarms()
        self.workers = worker_count(num_workers)
        self.time_limit = TimeLimit(file_timeout_s, 2 * self.workers)
        self.pool = ThreadPoolExecutor(self.workers, initializer=self._start_worker)
        self._explaining = threading.Lock()
        self._explained_network: nn.Module | None = None
        self.detector = ood.OodDetector(bundle.ood_reference) if bundle.ood_reference else None
        # Models of older versions have no reference of their features.
        reference = (bundle.ood_reference or {}).get("features")
        self.neighbours = NeighbourDetector(reference) if reference else None
        self.penultimate = Penultimate.of(self.network) if reference else None

    def _start_worker(self) -> None:
        if self.device.type == "cpu" and self.workers > 1:
            torch.set_num_threads(1)

    @property
    def threshold(self) -> float:
        if self.given_threshold is not None:
            return self.given_threshold
        own = self.bundle.threshold
        return float(self.shift.thresholds([own], [own])[0]) if self.shift else own

    def _alarms(self) -> list[answers.Alarm]:
        """The threshold of PNEUMONIA, or of each class or finding."""
        labels = range(len(self.bundle.class_names)) if self.bundle.many else [1]
        given = self.given_threshold
        if given is None or self.shift is None:
            return [answers.alarm(self.bundle, label, given) for label in labels]
        if self.shift.many:  # on validation, the same threshold is another one for every image
            return [answers.alarm(self.bundle, label, given, known=False) for label in labels]
        back = self.shift.probabilities([given] * len(labels), back=True)
        return [
            answers.alarm(self.bundle, label, float(one)) for label, one in zip(labels, back, strict=True)
        ]

    def prepare(self, path: str | Path, keep_grey: bool = False) -> PreparedImage:
        """Read `path` and prepare it exactly as for training. Raises BadImage."""
        rule, white = self.bundle.pixel_rule, self.bundle.white
        grey, colour_share = read_with_colour(path, pixels=rule, white=white, window=self.window)
        facts = dicom.Facts()
        if format_of(path) == "DICOM":
            facts = dicom.facts(path, np.asarray(grey), window=self.window)
        largest = largest_undeclared(path) if rule > 1 and white is not None else None
        square = preprocess(grey, **self.bundle.preprocess)
        if not keep_grey:
            return PreparedImage(square, square, colour_share, largest, facts=facts)
        known = self.bundle.preprocess
        at = placement(
            grey,
            image_size=known["image_size"],
            crop_black=known["crop_black"],
            pixels=self.bundle.pixel_rule,
        )
        grey.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        return PreparedImage(square, np.asarray(grey), colour_share, largest, at, facts)

    def predictions(self, paths: Sequence[str], images: Sequence[PreparedImage]) -> list[Prediction]:
        """The model's answers for prepared `images`; `paths` are their names in the answers."""
        if not images:
            return []
        raw, doubts = self.raw(images)
        found = list(map(self._of_classes if self.bundle.many else self._of_two, raw))
        for path, image, one, doubt in zip(paths, images, found, doubts, strict=True):
            one.path, one.model, one.window = str(path), self.bundle.version, image.facts.window
            one.doubt(doubt, self.abstain)
        return found

    def raw(self, images: Sequence[PreparedImage]) -> tuple[Floats, list[ood.Doubts]]:
        """Uncalibrated probabilities [B] or [B, K] of prepared `images`, and what speaks against each."""
        squares = np.stack([image.square for image in images])
        raw = self.bundle.probabilities(squares, self.network)
        reasons: list[list[str]] = [[] for _ in images]
        if self.neighbours and self.penultimate:
            reasons = self.neighbours.reasons(self.penultimate.last())
        doubts = [
            self.doubts(image) + ood.Doubts([*unlike], [*unlike])
            for image, unlike in zip(images, reasons, strict=True)
        ]
        return raw, doubts

    def _of_two(self, raw: float) -> Prediction:
        """The answer for the uncalibrated probability of one image."""
        calibrated = self.bundle.calibrated([raw])
        probability = float((self.shift.probabilities(calibrated) if self.shift else calibrated)[0])
        positive = bool(self.bundle.decide([raw])[0])
        if self.given_threshold is not None:
            positive = probability >= self.given_threshold
        name = self.bundle.class_names[positive]
        found = Prediction("", probability, name, self.threshold)
        found.answer = f"{self.alarms[0].words(positive)}."
        if self.sets:
            found.prediction_set = self.sets.of(calibrated[0])
        return found

    def _of_classes(self, raw: Floats) -> Prediction:
        """The answer for the uncalibrated probabilities [K] of one image, of classes or findings."""
        calibrated = self.bundle.calibrated(raw[None])[0]
        classes = self._classes(calibrated)
        words = [alarm.words(True) for alarm, one in zip(self.alarms, classes, strict=True) if one.reached]
        if self.bundle.multilabel:
            decision = BETWEEN_FINDINGS.join(one.name for one in classes if one.reached)
            words = words or ["No finding reaches its alarm threshold"]
        else:
            decision = max(classes, key=lambda one: one.probability).name
            words = [f"{decision} is the most probable class", *(words or ["No class reaches its threshold"])]
        found = Prediction("", decision=decision, classes=classes, answer=f"{'. '.join(words)}.")
        if self.sets:
            found.prediction_set = self.sets.of(calibrated)
        return found

    def _classes(self, calibrated: Floats) -> list[ClassChance]:
        """The classes or findings [K] of one image."""
        names = self.bundle.class_names
        own = np.array([self.bundle.threshold_of_class[name] for name in names])
        chances, thresholds = calibrated, own
        if self.shift:
            chances = self.shift.probabilities(calibrated)
            thresholds = self.shift.thresholds(own, calibrated)
        if self.given_threshold is not None:
            thresholds = np.full(len(names), self.given_threshold)
        found = [
            ClassChance(name, float(chance), float(threshold))
            for name, chance, threshold in zip(names, chances, thresholds, strict=True)
        ]
        if self.shift and self.given_threshold is None:
            for one, chance, threshold in zip(found, calibrated, own, strict=True):
                one.moved = bool(chance >= threshold)
        return found

    def explained(self, prediction: Prediction) -> str:
        """The class whose regions an overlay of this prediction shows."""
        if self.explain_class is not None:
            return self.explain_class
        if self.bundle.many:
            return max(prediction.classes, key=lambda one: one.probability).name
        return self.bundle.class_names[1]

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

    def doubts(self, image: PreparedImage) -> ood.Doubts:
        """Why the probability of `image` may mean nothing."""
        white, facts = self.bundle.white, image.facts
        found = ood.Doubts([*facts.reasons, *facts.warnings], [*facts.reasons])
        if facts.age is not None and self.bundle.ages is not None:
            low, high = self.bundle.ages
            if not low <= facts.age <= high:
                found.warnings.append(
                    f"another age than the {self.bundle.chosen_on} ({low:g} to {high:g} years)"
                )
        if image.largest is not None and white is not None and image.largest > white:
            text = f"brighter than any training film: values up to {image.largest}, white is {white}"
            found.warnings.append(text)
        if self.detector is None:
            return found + ood.colour_doubts(image.colour_share)
        return found + self.detector.doubts(image.square, image.colour_share)

    def similar_cases(self, prediction: Prediction, label: int = 1) -> SimilarCases | None:
        """Validation or site images like this one; None where the probability is for another share of ill."""
        if self.shift:
            return None
        chance = prediction.classes[label].probability if self.bundle.many else prediction.probability
        assert chance is not None
        return self.bundle.similar_cases(chance, label)

    def notes(self) -> list[str]:
        """What the reader must know about every prediction of this model."""
        notes = []
        if self.shift:
            names = self.bundle.class_names if self.bundle.many else self.bundle.class_names[1:]
            shares = [
                f"{after:.1%} {name} ({'site' if self.bundle.site else 'validation'}: {before:.1%})"
                for name, before, after in zip(names, self.shift.before, self.shift.after, strict=True)
            ]
            notes.append(f"The probabilities are for a clinic with {', '.join(shares)}.")
        if self.bundle.site:
            notes.append(f"This model is {self.bundle.site_words}.")
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

        A file that cannot be read affects only its own prediction. One that is slow to read delays the others
        of its batch by the time limit at most. A batch has at most `batch_size` files, on a CPU fewer.
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
                image = self.time_limit.run(path, partial(self.prepare, path, keep_grey))
                prepared.append((path, image))
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
    abstain: bool = True,
    prevalence: Any = None,
    coverage: float | None = COVERAGE,
    window: dicom.Window = dicom.FILE,
    file_timeout_s: float | None = FILE_TIMEOUT_S,
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
            bundle.ood_reference = ood.fit_again(config, bundle, str(cache_dir))
            notes.append(f"{missing}; it was created again from the data set.")
        except UserError as error:
            notes.append(f"{missing}: {error}")
    predictor = Predictor(
        bundle,
        device=device_of(device),
        threshold=threshold,
        num_workers=num_workers,
        explain_class=explain_class,
        abstain=abstain,
        prevalence=prevalence,
        coverage=coverage,
        window=window,
        file_timeout_s=file_timeout_s,
    )
    return predictor, notes + predictor.notes()


def device_of(name: str) -> str:
    """The torch device that `name` means; UserError for CUDA where there is none."""
    if name != "auto":
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device={name}, but this machine has no CUDA device: give device=cpu or auto.")
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
