"""Export a model as ONNX, for machines without torch: preprocessed images in, probabilities out."""

import json
import math
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from pneumo import UserError
from pneumo.data import images, manifest, phantom
from pneumo.data.augment import normalise
from pneumo.data.settings import DataSettings
from pneumo.files import write_atomically
from pneumo.inference.bundle import Bundle
from pneumo.inference.schema import OF_FINDINGS
from pneumo.models import head

OPSET = 17
MAX_DIFFERENCE = 1e-4  # of probabilities, between torch and onnxruntime
FACTS = (
    *("preprocess", "class_names", "temperature", "thresholds", "threshold_rule"),
    *("fingerprint", "data_digest", "run_id", "version"),
)


def onnx(bundle: Bundle, file: Path, real: NDArray[np.uint8] | None = None) -> str:
    """Write `bundle` as `file` after checking it against the model; returns a line that describes the file.

    Both are compared in float32, whatever the run's precision was, on generated images and on the prepared
    `real` ones [B, S, S].

    Input `images`: uint8 [B, S, S], preprocessed. Output `probability`: float32 [B], uncalibrated; of more
    than two classes or of findings `probabilities`: float32 [B, K]. The file's metadata hold the model's
    facts (thresholds, temperature, ...) as JSON under `pneumo`. UserError if the packages are missing, the
    file cannot be written, or the two models differ by more than 1e-4.
    """
    try:
        import onnx as onnx_package
        import onnxruntime
    except ImportError:
        raise UserError("export needs onnx and onnxruntime: pip install pneumo[onnx]") from None
    if file.suffix != ".onnx":
        raise UserError(f"output={file} does not end with .onnx: give output=FILE.onnx.")
    with tempfile.TemporaryDirectory(prefix="pneumo-") as scratch:
        traced = Path(scratch, "model.onnx")
        _trace(bundle, traced)
        model = onnx_package.load(traced)
        metadata = model.metadata_props.add()
        metadata.key = "pneumo"
        facts = (*FACTS, "class_thresholds") if bundle.many else FACTS
        facts = (*facts, *OF_FINDINGS) if bundle.multilabel else facts
        facts = (*facts, "calibration") if bundle.calibration is not None else facts
        metadata.value = json.dumps({key: getattr(bundle, key) for key in facts})
        onnx_package.checker.check_model(model)
        content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    exact = replace(bundle, precision="float32")  # bf16 alone differs by more than the limit
    batches = [_generated(bundle.image_size, count) for count in (1, 5)]
    batches += [] if real is None or not len(real) else [real]
    difference = max(_difference(exact, session, batch) for batch in batches)
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"the ONNX model differs by {difference:.2g} from {bundle.version}: it was not written."
        )
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"output={file} cannot be written: {error.strerror}.") from None
    compared = "6 generated images"
    compared += "" if real is None or not len(real) else f" and {len(real)} validation images"
    return (
        f"{file}: {bundle.model['name']} ({bundle.version}), {len(content) / 1e6:.1f} MB; its probabilities "
        f"differ from the model's in float32 by at most {difference:.1e} on {compared}"
    )


def validation_images(bundle: Bundle, config: Path, most: int = 16) -> NDArray[np.uint8]:
    """Some validation images [B, S, S] of the data set that a run's config.yaml names, prepared.

    There are none if the data set is not on this machine.
    """
    size = bundle.image_size
    none = np.zeros((0, size, size), np.uint8)
    try:
        settings = DataSettings.from_saved(yaml.safe_load(config.read_text())["data"])
        data = manifest.build(settings)
        paths = data.table["path"][data.table["split"] == "val"].tolist()
        squares = []
        for path in paths[:: math.ceil(len(paths) / most) or 1]:
            if settings.name == "phantom":
                grey = phantom.render(path, settings.phantom)
            else:
                file = Path(str(data.root), data.file_of(path))
                grey = images.read(file, pixels=bundle.pixel_rule, white=bundle.white)
            squares.append(images.preprocess(grey, **bundle.preprocess))
    except (UserError, OSError, yaml.YAMLError, TypeError, KeyError, ValueError, RecursionError):
        return none  # the comparison on generated images must do
    return np.stack(squares) if squares else none


def _output(bundle: Bundle) -> str:
    return "probabilities" if bundle.many else "probability"


def _trace(bundle: Bundle, file: Path) -> None:
    class FromPreprocessed(nn.Module):
        """From preprocessed images to probabilities: normalising is part of it, so users cannot differ."""

        def __init__(self) -> None:
            super().__init__()
            self.network = bundle.network()

        def forward(self, images: Tensor) -> Tensor:
            logits = self.network(normalise(images, bundle.model["in_channels"]))
            return head.probabilities(logits, bundle.model["num_classes"], bundle.multilabel)

    size = bundle.image_size
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of normalise's constants
        torch.onnx.export(
            FromPreprocessed().eval(),
            (torch.zeros(2, size, size, dtype=torch.uint8),),
            str(file),
            input_names=["images"],
            output_names=[_output(bundle)],
            dynamic_axes={"images": {0: "batch"}, _output(bundle): {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,  # the newer exporter needs onnxscript and gives the same graph for these networks
        )


def _generated(size: int, count: int) -> NDArray[np.uint8]:
    """`count` images of noise [count, size, size], one of which has a gradient instead."""
    rng = np.random.default_rng(count)
    made = rng.integers(0, 256, (count, size, size)).astype(np.uint8)
    made[count // 2] = np.arange(size, dtype=np.uint8)[None] * (256 // size or 1)
    return made


def _difference(bundle: Bundle, session: "object", batch: NDArray[np.uint8]) -> float:
    """The largest difference of probabilities on prepared images."""
    found = session.run([_output(bundle)], {"images": batch})[0]  # type: ignore[attr-defined]
    return float(np.abs(found - bundle.probabilities(batch)).max())
