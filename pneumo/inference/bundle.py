"""A trained model with all that its use needs, as a folder: model.safetensors, model.json, model_card.md.

Read as data only: no pickle, and every figure of the JSON is bounded and checked before it is used.
"""

import hashlib
import json
import math
import reprlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumo import UserError, one_of
from pneumo.evaluation import metrics, statistics
from pneumo.evaluation.predictions import SplitResult, read_predictions
from pneumo.files import write_atomically
from pneumo.models import MODELS
from pneumo.names import PROTOCOLS, THRESHOLD_RULES
from pneumo.text import finite

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WEIGHTS, FACTS, CARD = "model.safetensors", "model.json", "model_card.md"
RUN_WEIGHTS, RUN_FACTS = "checkpoints/best.safetensors", "checkpoints/best.json"
FAMILIARITY = "checkpoints/familiarity.json"
FORMAT = 1
MAX_WEIGHTS_BYTES = 2**30  # a ResNet-50 has 0.1 GB
MAX_JSON_BYTES = 2**24
MAX_PAST = 200_000
PAST_LIKE = 50  # validation images of like score that an interval of past errors rests on
PRECISIONS = ("float32", "bf16", "fp16")
FIGURES = ("auroc", "auprc", "accuracy", "recall", "specificity", "precision", "f1", "brier", "ece")

Floats = NDArray[np.float64]


@dataclass(kw_only=True)
class Bundle:
    """A model and what was stored with it.

    `thresholds` are for the uncalibrated probability; they and `temperature` were chosen on validation
    images, whose labels and calibrated probabilities `past` holds. `figures` are of the test images: name ->
    value, low, high (95 %, patients resampled); counts at `threshold_rule`, brier and ece calibrated.
    """

    model: dict[str, Any]  # arguments of build_model
    preprocess: dict[str, Any]  # of data.images.preprocess
    class_names: list[str]
    data_digest: str
    protocol: str
    synthetic: bool
    fingerprint: str
    thresholds: dict[str, float]
    temperature: float
    threshold_rule: str
    figures: dict[str, dict[str, float | None]]
    past: dict[str, list[Any]]
    test_digest: str
    monitor: str
    epoch: int
    precision: str = "float32"
    counts: dict[str, Any] = field(default_factory=dict)  # images and patients of each split
    familiarity: dict[str, Any] | None = None
    run_id: str | None = None
    weights_sha256: str | None = None
    weights: Path
    version: str

    # ---- what it says

    @property
    def image_size(self) -> int:
        return int(self.preprocess["image_size"])

    @property
    def threshold(self) -> float:
        """Of `threshold_rule`, for calibrated probabilities."""
        return float(self.calibrated([self.raw_threshold])[0])

    @property
    def raw_threshold(self) -> float:
        """Of `threshold_rule`, for uncalibrated probabilities."""
        return self.thresholds[self.threshold_rule]

    def calibrated(self, probabilities: ArrayLike) -> Floats:
        """Uncalibrated probabilities [N] as the share of ill one may expect among like images."""
        return metrics.tempered(probabilities, self.temperature)

    def decide(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """True [N] where an uncalibrated probability [N] reaches the threshold."""
        return np.asarray(probabilities, dtype=np.float64) >= self.raw_threshold

    def past_at(self, probability: float) -> dict[str, float] | None:
        """The share of ill among the validation images of the nearest calibrated probabilities.

        `images`, `ill`, `share`, and Wilson's 95 % interval `low`, `high`; None where there are no images.
        """
        chances, labels = np.asarray(self.past["probabilities"]), np.asarray(self.past["labels"])
        if not len(chances):
            return None
        nearest = np.argsort(np.abs(chances - probability), kind="stable")[:PAST_LIKE]
        images, ill = len(nearest), int(labels[nearest].sum())
        return {"images": images, "ill": ill, "share": ill / images, **_wilson(ill, images)}

    # ---- what it computes

    def network(self, device: "torch.device | str" = "cpu") -> "nn.Module":
        """The network in eval mode; UserError where the weights are damaged or of another shape."""
        import safetensors
        import torch
        from safetensors.torch import load

        from pneumo.models import build_model

        content = _content(self.weights, MAX_WEIGHTS_BYTES)
        if self.weights_sha256 and hashlib.sha256(content).hexdigest() != self.weights_sha256:
            raise UserError(f"{self.weights} is damaged or was exchanged: its checksum is not the model's.")
        try:
            state = load(content)
        except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{self.weights} is no whole .safetensors file: {_line(error)}") from None
        with torch.device("meta"):  # nothing is drawn, and an absurd size takes no memory
            model = build_model(**self.model)
        self._fits(model.state_dict(), state)
        model.load_state_dict(state, assign=True)
        return model.eval().to(device).to(memory_format=torch.channels_last)

    def _fits(self, own: dict[str, "Tensor"], state: dict[str, "Tensor"]) -> None:
        name = self.model["name"]
        for key in sorted({*own, *state}):
            if key not in state or key not in own:
                word = "lacks" if key not in state else "holds the unknown"
                raise UserError(f"{self.weights} does not fit {name}: it {word} {key[:100]}.")
            there, here = (
                f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
                for value in (state[key], own[key])
            )
            if there != here:
                raise UserError(f"{self.weights} does not fit {name}: {key} is {there}, not {here}.")
            if not bool(state[key].isfinite().all()):
                raise UserError(f"{self.weights}: {key} holds numbers that are not finite.")

    def probabilities(
        self, batch: "NDArray[np.uint8] | Tensor", network: "nn.Module | None" = None
    ) -> Floats:
        """Uncalibrated PNEUMONIA probabilities [B] of preprocessed images uint8 [B, S, S].

        As the training's evaluation computed them, in the run's precision where the device has it, on the
        device of `network` (by default one on the CPU, made once).
        """
        import torch

        from pneumo.data.augment import normalise

        size = self.image_size
        if str(batch.dtype).removeprefix("torch.") != "uint8" or tuple(batch.shape[1:]) != (size, size):
            raise ValueError(
                f"the images are {batch.dtype} {list(batch.shape)}, not uint8 [B, {size}, {size}]"
            )
        model = network if network is not None else self._network
        device = next(model.parameters()).device
        images = torch.as_tensor(batch).to(device)
        with torch.inference_mode():
            with self.autocast(device):
                logits = model(normalise(images, self.model["in_channels"]))
            return np.asarray(logits.double().softmax(1)[:, 1].cpu().numpy())

    def autocast(self, device: "torch.device") -> AbstractContextManager[Any]:
        """The run's precision; float32 on a CPU without it, which may change the third decimal."""
        import torch

        from pneumo.models.precision import autocast_dtype, cpu_has_bf16

        if device.type == "cpu" and not (self.precision == "bf16" and cpu_has_bf16()):
            return nullcontext()
        dtype = autocast_dtype(self.precision, device)
        return torch.autocast(device.type, dtype) if dtype else nullcontext()

    @cached_property
    def _network(self) -> "nn.Module":
        return self.network()

    # ---- as a folder

    def write(self, folder: Path) -> None:
        """Write the model folder; UserError where the weights cannot be used."""
        from pneumo.inference import card

        self.network()  # no model is passed on that does not load
        content = _content(self.weights, MAX_WEIGHTS_BYTES)
        facts = {key: value for key, value in asdict(self).items() if key not in ("weights", "version")}
        facts |= {"format": FORMAT, "weights_sha256": hashlib.sha256(content).hexdigest()}
        write_atomically(folder / WEIGHTS, content)
        text = json.dumps(finite(facts), indent=1, allow_nan=False, ensure_ascii=False)
        write_atomically(folder / FACTS, (text + "\n").encode())
        write_atomically(folder / CARD, card.text(self).encode())


def read(folder: str | Path, version: str | None = None) -> Bundle:
    """The model in a model folder, a run's artifacts folder or a run's output folder; UserError if none."""
    root = Path(folder).expanduser()
    if (root / FACTS).is_file():
        facts = _json(root / FACTS)
        if facts.pop("format", None) != FORMAT:
            raise UserError(f"{root / FACTS} is of another format than {FORMAT}: another version wrote it.")
        return _bundle(facts, root / FACTS, root / WEIGHTS, version or str(root))
    for artifacts in (root, root / "artifacts"):
        if (artifacts / RUN_FACTS).is_file():
            return from_run(artifacts, version=version)
    raise UserError(
        f"{root} holds no model: a model folder has {FACTS} and {WEIGHTS}, a run's artifacts "
        f"{RUN_FACTS} and {RUN_WEIGHTS}."
    )


def from_run(
    artifacts: Path,
    *,
    run_id: str | None = None,
    version: str | None = None,
    threshold_rule: str = "sensitivity_95",
) -> Bundle:
    """The model that a run left in `artifacts`: its best weights, and what its predictions say of them."""
    one_of("threshold_rule", threshold_rule, THRESHOLD_RULES)
    best = _json(artifacts / RUN_FACTS)
    val, test = (_predictions(artifacts / "predictions" / f"{name}.csv") for name in ("val", "test"))
    thresholds = metrics.operating_points(val.labels, val.probabilities)
    temperature = metrics.temperature(val.labels, val.probabilities)
    rule = threshold_rule if threshold_rule in thresholds else "half"
    keys = ("preprocess", "class_names", "data_digest", "protocol", "synthetic", "fingerprint", "monitor")
    saved = best.get("model")
    model: dict[str, Any] = saved if isinstance(saved, dict) else {}
    familiarity = artifacts / FAMILIARITY
    facts = {
        **{key: best.get(key) for key in (*keys, "epoch")},
        "model": {key: model.get(key) for key in ("name", "in_channels", "dropout")} | {"num_classes": 2},
        "precision": best.get("precision", "float32"),
        "counts": {
            "images": best.get("images") or {},
            "patients": best.get("patients") or {},
            "test": len(test.paths),
            "val": len(val.paths),
        },
        "thresholds": thresholds,
        "temperature": temperature,
        "threshold_rule": rule,
        "figures": _figures(test, temperature, thresholds[rule]),
        "past": {
            "labels": val.labels.tolist(),
            "probabilities": metrics.tempered(val.probabilities, temperature).tolist(),
        },
        "test_digest": test_digest(test),
        "familiarity": _json(familiarity) if familiarity.is_file() else None,
        "run_id": run_id,
    }
    return _bundle(facts, artifacts / RUN_FACTS, artifacts / RUN_WEIGHTS, version or run_id or str(artifacts))


def test_digest(test: SplitResult) -> str:
    """Which images a model was tested on: models can be compared where it is the same."""
    rows = zip(test.paths, test.patients, test.labels.tolist(), strict=True)
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()


def _figures(test: SplitResult, temperature: float, threshold: float) -> dict[str, dict[str, float | None]]:
    calibrated = metrics.tempered(test.probabilities, temperature)
    raw = metrics.all_scores(test.labels, test.probabilities, threshold)
    observed = raw | _of(metrics.all_scores(test.labels, calibrated), "brier ece")
    weights = statistics.resample(test.labels, test.patients)
    draws = statistics.resampled_scores(test.labels, test.probabilities, weights, threshold)
    draws |= statistics.resampled_scores(test.labels, calibrated, weights, parts=("losses",))
    figures = {}
    for name in FIGURES:
        low, high = statistics.interval(name, observed[name], draws[name])
        figures[name] = finite({"value": observed[name], "low": low, "high": high})
    return figures


def _of(scores: dict[str, float], names: str) -> dict[str, float]:
    return {name: scores[name] for name in names.split()}


def _wilson(part: int, whole: int) -> dict[str, float]:
    """95 % interval of a share (Wilson 1927)."""
    z2 = statistics.Z**2
    centre = (part + z2 / 2) / (whole + z2)
    half = statistics.Z * math.sqrt(part * (whole - part) / whole + z2 / 4) / (whole + z2)
    return {"low": max(0.0, centre - half), "high": min(1.0, centre + half)}


# ---- reading, with suspicion


def _content(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():  # a pipe would wait for ever
            raise UserError(f"{path} is missing, or no file.")
        if (size := path.stat().st_size) > limit:
            raise UserError(f"{path} has {size:,} bytes, more than the limit of {limit:,}.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _json(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no number of JSON")

    try:
        found = json.loads(_content(path, MAX_JSON_BYTES), parse_constant=refuse)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no whole JSON file: {_line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object.")
    return found


def _predictions(path: Path) -> SplitResult:
    try:
        result = read_predictions(_content(path, MAX_JSON_BYTES).decode(errors="surrogateescape"))
        metrics.checked(result.labels, result.probabilities)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path} ')}") from None
    return result


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200 and value.isprintable()


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and type(value) is not bool and low <= value <= high


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _share(value: Any) -> bool:
    return _number(0, 1)(value)


def _mapping(**rules: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() == rules.keys()
            and all(rule(value[key]) for key, rule in rules.items())
        )

    return fits


def _every(keys: Callable[[Any], bool], values: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict)
        and len(value) <= 40
        and all(keys(key) and values(item) for key, item in value.items())
    )


def _maybe(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


def _listed(rule: Callable[[Any], bool], at_most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= at_most and all(map(rule, value))


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _count(value: Any) -> bool:
    number = _whole(0, 10**9)
    return number(value) or _every(_text, number)(value)


def _figure(value: Any) -> bool:
    part = _maybe(_number(-1, 1e6))
    return _mapping(value=part, low=part, high=part)(value)


# What a Bundle may hold: the sizes are the training's own limits, the others keep absurd values out.
_RULES: dict[str, Callable[[Any], bool]] = {
    "model": _mapping(
        name=lambda value: value in list(MODELS),
        in_channels=_whole(1, 64),
        dropout=_number(0, 0.999),
        num_classes=_whole(2, 2),
    ),
    "preprocess": _mapping(image_size=_whole(16, 2048), crop_black=_flag, equalize=_flag),
    "class_names": lambda value: _listed(_text, 2)(value) and len(value) == 2,
    "data_digest": _text,
    "test_digest": _text,
    "protocol": lambda value: value in list(PROTOCOLS),
    "synthetic": _flag,
    "fingerprint": _text,
    "thresholds": lambda value: _every(lambda key: key in THRESHOLD_RULES, _share)(value) and "half" in value,
    "temperature": _number(0.01, 100),
    "threshold_rule": lambda value: value in list(THRESHOLD_RULES),
    "figures": _every(_text, _figure),
    "past": _mapping(labels=_listed(_whole(0, 1), MAX_PAST), probabilities=_listed(_share, MAX_PAST)),
    "monitor": _text,
    "epoch": _whole(0, 10**7),
    "precision": lambda value: value in list(PRECISIONS),
    "counts": _every(_text, lambda value: _count(value) or _every(_text, _count)(value)),
    "familiarity": _maybe(lambda value: isinstance(value, dict)),
    "run_id": _maybe(_text),
    "weights_sha256": _maybe(_text),
}


def _bundle(facts: dict[str, Any], source: Path, weights: Path, version: str) -> Bundle:
    facts = {"weights_sha256": None, **facts}
    for key in sorted({*facts, *_RULES}):
        if key not in _RULES or key not in facts:
            raise UserError(f"{source} {'holds the unknown' if key in facts else 'lacks'} {key[:100]!r}.")
        if not _RULES[key](facts[key]):
            raise UserError(
                f"{source}: {key} is {reprlib.repr(facts[key])[:100]}, which no trained model has."
            )
    if facts["threshold_rule"] not in facts["thresholds"]:
        raise UserError(f"{source}: there is no threshold for {facts['threshold_rule']}.")
    if len(facts["past"]["labels"]) != len(facts["past"]["probabilities"]):
        raise UserError(f"{source}: past has not one probability for each label.")
    return Bundle(**facts, weights=weights, version=version)
