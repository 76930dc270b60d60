"""Export a model as ONNX, for machines without torch: preprocessed images in, probabilities out."""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pneumo import UserError
from pneumo.data.augment import normalise
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


def onnx(bundle: Bundle, file: Path) -> str:
    """Write `bundle` as `file` after checking it against the model; returns a line that describes the file.

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
    difference = max(_difference(bundle, session, count) for count in (1, 5))
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"the ONNX model differs by {difference:.2g} from {bundle.version}: it was not written."
        )
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"output={file} cannot be written: {error.strerror}.") from None
    return (
        f"{file}: {bundle.model['name']} ({bundle.version}), {len(content) / 1e6:.1f} MB; its probabilities "
        f"differ from the model's by at most {difference:.1e}"
    )


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


def _difference(bundle: Bundle, session: "object", count: int) -> float:
    """The largest difference of probabilities on `count` generated images."""
    size = bundle.image_size
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, size, size)).astype(np.uint8)
    images[count // 2] = np.arange(size, dtype=np.uint8)[None] * (256 // size or 1)
    found = session.run([_output(bundle)], {"images": images})[0]  # type: ignore[attr-defined]
    return float(np.abs(found - bundle.probabilities(images)).max())
