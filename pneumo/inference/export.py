"""A model as ONNX, for machines without torch: preprocessed images in, probabilities out."""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

from pneumo import UserError
from pneumo.files import write_atomically
from pneumo.inference.bundle import Bundle

OPSET = 17
CLOSE = 1e-4  # of probabilities, between torch and onnxruntime


def onnx(bundle: Bundle, file: Path) -> str:
    """Write `bundle` as `file` after checking it against the model; what was written, in words.

    Input `images`: uint8 [B, S, S] as preprocessed; output `probability`: float32 [B], uncalibrated. The
    model's JSON (threshold, temperature, ...) lies in the file's metadata under `pneumo`.
    UserError where the packages miss, the place cannot be written, or the two differ by more than 1e-4.
    """
    try:
        import onnx as onnx_package
        import onnxruntime
    except ImportError:
        raise UserError("export needs onnx and onnxruntime: pip install pneumo[onnx]") from None
    if file.suffix != ".onnx":
        raise UserError(f"output={file} is not named as ONNX: give output=FILE.onnx.")
    with tempfile.TemporaryDirectory(prefix="pneumo-") as scratch:
        aside = Path(scratch, "model.onnx")
        _trace(bundle, aside)
        model = onnx_package.load(aside)
        entry = model.metadata_props.add()
        entry.key, entry.value = "pneumo", json.dumps(_facts(bundle))
        onnx_package.checker.check_model(model)
        content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = max(_difference(bundle, session, count) for count in (1, 5))
    if not difference <= CLOSE:
        raise UserError(
            f"the ONNX model differs by {difference:.2g} from {bundle.version}: it is not written."
        )
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"output={file} cannot be written: {error.strerror}.") from None
    return (
        f"{file}: {bundle.model['name']} ({bundle.version}), {len(content) / 1e6:.1f} MB; its probabilities "
        f"differ from the model's by at most {difference:.1e}"
    )


def _trace(bundle: Bundle, file: Path) -> None:
    import torch
    from torch import Tensor, nn

    from pneumo.data.augment import normalise

    class Whole(nn.Module):
        """From preprocessed images to probabilities, so that a user cannot normalise another way."""

        def __init__(self) -> None:
            super().__init__()
            self.network = bundle.network()

        def forward(self, images: Tensor) -> Tensor:
            return self.network(normalise(images, bundle.model["in_channels"])).softmax(1)[:, 1]

    size = bundle.image_size
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # normalise's constants are meant as such
        torch.onnx.export(
            Whole().eval(),
            (torch.zeros(2, size, size, dtype=torch.uint8),),
            str(file),
            input_names=["images"],
            output_names=["probability"],
            dynamic_axes={"images": {0: "batch"}, "probability": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,  # the other exporter needs onnxscript, and gives the same graph of such networks
        )


def _difference(bundle: Bundle, session: "object", count: int) -> float:
    """The largest difference of probabilities on `count` made-up images."""
    size = bundle.image_size
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, size, size)).astype(np.uint8)
    images[count // 2] = np.arange(size, dtype=np.uint8)[None] * (256 // size or 1)
    found = session.run(["probability"], {"images": images})[0]  # type: ignore[attr-defined]
    return float(np.abs(found - bundle.probabilities(images)).max())


def _facts(bundle: Bundle) -> dict[str, object]:
    keys = (
        "preprocess class_names temperature thresholds threshold_rule fingerprint data_digest run_id".split()
    )
    return {key: getattr(bundle, key) for key in keys} | {"version": bundle.version}
