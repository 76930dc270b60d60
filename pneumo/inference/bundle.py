"""A trained model and what its use needs: preprocessing, thresholds, calibration, test figures."""

import hashlib
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import safetensors
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load
from torch import Tensor, nn

from pneumo import UserError
from pneumo.data.augment import normalise
from pneumo.evaluation import calibrators, multiclass, multilabel, statistics
from pneumo.files import MAX_MODEL_BYTES, read_bounded
from pneumo.inference.schema import Figure, ModelArguments, PastCases, PreprocessArguments, Site
from pneumo.models import build_model, head
from pneumo.models.precision import allow_tf32, autocast_dtype, cpu_has_bf16
from pneumo.names import MULTILABEL, many_classes
from pneumo.text import first_line

SIMILAR_CASES = 50  # validation images with the nearest probabilities, for the interval of past cases

Floats = NDArray[np.float64]


class SimilarCases(TypedDict):
    """The share of ill among validation images with a similar probability, and its 95 % interval.

    Of more than two classes or several findings, `ill` are the images with the class or finding that was
    asked about.
    """

    images: int
    ill: int
    share: float
    low: float
    high: float


@dataclass(kw_only=True)
class Bundle:
    """A model and the facts that are stored with it.

    `thresholds` apply to the uncalibrated probability. They and `temperature` were chosen on the validation
    images; `past` holds the labels and calibrated probabilities of those images. `figures` are scores on the
    test images with 95 % intervals (patients resampled): brier and ece of calibrated probabilities, counts at
    `threshold_rule`. They are empty, like `test_digest`, if the model was never given its test images.

    Of more than two classes, the called class is the one with the largest probability. Beside it, each class
    has a threshold against the rest. These `class_thresholds` apply to calibrated probabilities, because one
    temperature of all classes changes the order of the images in a class. `figures` are macro scores of the
    called classes, and `class_figures` those of each class.

    Of several findings an image (`task` is multilabel), each finding is called on its own, where its
    calibrated probability reaches its threshold. Each has a temperature, a threshold and figures in the
    `class_` fields, and `temperature` is None. `figures` are means over the findings.

    Where another kind of calibration than a temperature fits validation better, `calibration` has it
    (pneumo.evaluation.calibrators), of several findings by finding. The temperature is then not used.

    A model that was recalibrated has a `site` (pneumo.inference.recalibration). Its labelled images are then
    in the place of validation, and `figures` are cross-fitted scores on them.
    """

    model: ModelArguments
    preprocess: PreprocessArguments
    class_names: list[str]
    data_digest: str
    protocol: str
    synthetic: bool
    fingerprint: str
    thresholds: dict[str, float]
    temperature: float | None  # None: see class_temperatures
    threshold_rule: str
    figures: dict[str, Figure]
    class_thresholds: dict[str, dict[str, float]] | None = None  # by class and rule; None: two classes
    class_figures: dict[str, dict[str, Figure]] | None = None  # by class and score; None: two classes
    class_temperatures: dict[str, float] | None = None  # by finding; None: one class an image
    task: str | None = None  # multilabel; None: one class an image
    past: PastCases
    test_digest: str
    monitor: str
    epoch: int
    precision: str = "float32"
    white: int | None = None  # the 16-bit value that training showed as white where a file declares none
    counts: dict[str, Any] = field(default_factory=dict)  # images and patients of each split
    ood_reference: dict[str, Any] | None = None  # what the training images look like
    run_id: str | None = None
    weights_sha256: str | None = None
    calibration: dict[str, Any] | None = None  # None: the temperature
    ages: list[float] | None = None  # the lowest and the highest of the images of `past`, years
    past_patients: list[int] | None = None  # a number for the patient of each image of `past`
    site: Site | None = None  # None: chosen on validation, scored on the test images
    weights: Path
    version: str

    # ---- decisions

    @property
    def image_size(self) -> int:
        return int(self.preprocess["image_size"])

    @property
    def pixel_rule(self) -> int:
        return self.preprocess.get("pixels", 1)

    @property
    def many(self) -> bool:
        """More than two classes, or several findings?"""
        return many_classes(self.class_names)

    @property
    def multilabel(self) -> bool:
        """Several findings an image?"""
        return self.task == MULTILABEL

    @property
    def chosen_on(self) -> str:
        """The images that chose calibration and thresholds: those of `past`."""
        return "images of the site" if self.site else "validation images"

    @property
    def scored_on(self) -> str:
        """The images of `figures`, in words."""
        return f"{self.site_images} (cross-fitted)" if self.site else "the test images"

    @property
    def site_images(self) -> str:
        """The site's images, in words."""
        assert self.site is not None
        people = f" of {self.site['patients']:,} patients" if self.site["patients_known"] else ""
        return f"{self.site['images']:,} images{people} of the site"

    @property
    def site_words(self) -> str:
        """What a recalibrated model is and stems from, in words."""
        assert self.site is not None
        return f"{self.site['parent']}, recalibrated on {self.site_images}"

    @property
    def threshold(self) -> float:
        """The threshold of `threshold_rule`, for calibrated probabilities."""
        return float(self.calibrated([self.raw_threshold])[0])

    @property
    def raw_threshold(self) -> float:
        """The threshold of `threshold_rule`, for uncalibrated probabilities."""
        return self.thresholds[self.threshold_rule]

    @property
    def threshold_of_class(self) -> dict[str, float]:
        """The threshold of each of more than two classes or findings, for calibrated probabilities."""
        assert self.class_thresholds is not None
        return {name: of_rule(points, self.threshold_rule) for name, points in self.class_thresholds.items()}

    @property
    def not_chosen(self) -> list[str]:
        """The findings whose threshold is 0.5 because validation has only one value of them."""
        if not self.multilabel or self.class_thresholds is None:
            return []
        return [name for name, points in self.class_thresholds.items() if [*points] == ["half"]]

    def calibrated(self, probabilities: ArrayLike) -> Floats:
        """Calibrated probabilities of uncalibrated ones, [N] or [N, K].

        Each is the expected share of ill, or of the class, among images with such a probability.
        """
        if self.class_temperatures is not None:
            chances = multilabel.tempered(probabilities, [*self.class_temperatures.values()])
            for name, record in (self.calibration or {}).items():
                k = self.class_names.index(name)
                chances[:, k] = calibrators.applied(record, np.asarray(probabilities)[:, k])
            return chances
        if self.calibration is not None:
            return calibrators.applied(self.calibration, probabilities)
        assert self.temperature is not None
        return multiclass.tempered_of(probabilities, self.temperature)

    def call(self, probabilities: ArrayLike) -> NDArray[np.int64]:
        """The called class [N] of probabilities [N] of two classes, uncalibrated, or [N, K] of more.

        Of several findings, 1 [N, K] for those that are called.
        """
        chances = np.asarray(probabilities, dtype=np.float64)
        if self.multilabel:
            return (self.calibrated(chances) >= [*self.threshold_of_class.values()]).astype(np.int64)
        return (self.calibrated(chances).argmax(1) if self.many else self.decide(chances)).astype(np.int64)

    def decide(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """True [N] where an uncalibrated probability [N] reaches the threshold."""
        return np.asarray(probabilities, dtype=np.float64) >= self.raw_threshold

    def similar_cases(self, probability: float, label: int = 1) -> SimilarCases | None:
        """The share of class `label` among the images of `past` with the nearest calibrated probabilities.

        Of several findings, `label` is the number of one, and the images are those whose label of it is
        known. The interval is Wilson's. None if the model keeps no such images.
        """
        chances, labels = np.asarray(self.past["probabilities"]), np.asarray(self.past["labels"])
        if not len(chances):
            return None
        if self.many:
            chances = chances[:, label]
        if self.multilabel:
            known = labels[:, label] != multilabel.UNKNOWN
            chances, labels = chances[known], np.where(labels[known, label] == 1, label, -1)
            if not len(chances):
                return None
        nearest = np.argsort(np.abs(chances - probability), kind="stable")[:SIMILAR_CASES]
        images, ill = len(nearest), int((labels[nearest] == label).sum())
        low, high = _wilson(ill, images)
        return {"images": images, "ill": ill, "share": ill / images, "low": low, "high": high}

    # ---- probabilities

    def network(self, device: torch.device | str = "cpu") -> nn.Module:
        """The network in eval mode; UserError if the weights are damaged or belong to another network."""
        if not self.weights.exists():
            raise UserError(
                f"{self.weights} is missing: a sweep keeps the weights of its best runs only (keep_best). "
                f"`pneumo runs reproduce {self.run_id or self.fingerprint}` prints the run's command; "
                "add force=true to that command to train the run again."
            )
        content = read_bounded(self.weights, MAX_MODEL_BYTES)
        if self.weights_sha256 and hashlib.sha256(content).hexdigest() != self.weights_sha256:
            raise UserError(f"{self.weights} is damaged or was exchanged: its checksum is not the model's.")
        try:
            state = load(content)
        except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
            reason = first_line(error)[:200]
            raise UserError(f"{self.weights} is not a complete .safetensors file: {reason}") from None
        with torch.device("meta"):  # draws no weights; an absurd size takes no memory
            model = build_model(**self.model)
        self._check_fit(model.state_dict(), state)
        model.load_state_dict(state, assign=True)
        return model.eval().to(device).to(memory_format=torch.channels_last)

    def _check_fit(self, expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        name = self.model["name"]
        for key in sorted({*expected, *state}):
            if key not in state or key not in expected:
                problem = "does not have" if key not in state else "has the unknown weight"
                raise UserError(f"{self.weights} does not fit {name}: it {problem} {key[:100]}.")
            found, wanted = (
                f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
                for value in (state[key], expected[key])
            )
            if found != wanted:
                raise UserError(f"{self.weights} does not fit {name}: {key} is {found}, not {wanted}.")
            if not bool(state[key].isfinite().all()):
                raise UserError(f"{self.weights}: {key} has numbers that are not finite.")

    def probabilities(self, batch: NDArray[np.uint8] | Tensor, network: nn.Module | None = None) -> Floats:
        """Uncalibrated probabilities of preprocessed images uint8 [B, S, S].

        Of two classes they are those of PNEUMONIA [B], of more or of findings those of each [B, K]. They are
        computed as in the evaluation of the training run: in the run's precision if the device has it, on
        the device of `network` (default: a network on the CPU, loaded once).
        """
        size = self.image_size
        if str(batch.dtype).removeprefix("torch.") != "uint8" or tuple(batch.shape[1:]) != (size, size):
            raise ValueError(
                f"the images are {batch.dtype} {list(batch.shape)}, not uint8 [B, {size}, {size}]"
            )
        model = network if network is not None else self._cpu_network
        device = next(model.parameters()).device
        images = torch.as_tensor(batch).to(device)
        with torch.inference_mode():
            with self.autocast(device):
                logits = model(normalise(images, self.model["in_channels"]))
            chances = head.probabilities(logits.double(), self.model["num_classes"], self.multilabel)
            return np.asarray(chances.cpu().numpy())

    def precision_on(self, device: torch.device) -> str:
        """The run's precision; float32 on a CPU without it, which may change the third decimal."""
        lacks_it = device.type == "cpu" and not (self.precision == "bf16" and cpu_has_bf16())
        return "float32" if lacks_it else self.precision

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context in which torch computes in `precision_on` the device."""
        if device.type == "cuda":
            allow_tf32(self.precision == "tf32")
        dtype = autocast_dtype(self.precision_on(device), device)
        return torch.autocast(device.type, dtype) if dtype else nullcontext()

    @cached_property
    def _cpu_network(self) -> nn.Module:
        return self.network()


def of_rule(points: dict[str, float], rule: str) -> float:
    """The threshold of `rule`, or 0.5 where validation could not give one: it lacked the class."""
    return points.get(rule, points["half"])


def _wilson(part: int, whole: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z2 = statistics.Z**2
    centre = (part + z2 / 2) / (whole + z2)
    half = statistics.Z * math.sqrt(part * (whole - part) / whole + z2 / 4) / (whole + z2)
    return max(0.0, centre - half), min(1.0, centre + half)
