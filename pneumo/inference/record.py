"""What predictions follow from: model, files and settings. A stopped one goes on only if they match."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pneumo import __version__
from pneumo.inference.inputs import InputFiles
from pneumo.inference.predictor import DISCLAIMER, Predictor
from pneumo.text import utc_now


def of(predictor: Predictor, found: InputFiles, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a prediction of `found`; `settings` are those that can change a row."""
    return {
        "model": predictor.bundle.version,
        "weights": weights_digest(predictor),
        "pneumo": __version__,
        "files": f"{len(found.files) + len(found.outside):,} (digest {_digest(found)})",
        **settings,
        **backend(predictor),
    }


def provenance(
    predictor: Predictor,
    record: Mapping[str, Any],
    *,
    output: Path,
    output_sha256: str,
    command: str,
    started: str,
    inputs: Sequence[str],
    outcomes: Mapping[str, int],
) -> dict[str, Any]:
    """What made an output, for the file beside it: model, weights, command, settings, backend and counts."""
    own = ("model", "weights", "pneumo", "files", "columns", *backend(predictor))
    return {
        "output": output.name,
        "output_sha256": output_sha256,
        "pneumo": __version__,
        "command": command,
        "started": started,
        "finished": utc_now(),
        "model": {
            "version": predictor.bundle.version,
            "name": predictor.bundle.model["name"],
            "weights_sha256": record["weights"],
            "fingerprint": predictor.bundle.fingerprint,
            "run_id": predictor.bundle.run_id,
        },
        "backend": backend(predictor) | {"threads": predictor.workers},
        "settings": {key: value for key, value in record.items() if key not in own},
        "input": [*inputs],
        "files": record["files"],
        "outcomes": dict(outcomes),
        "note": DISCLAIMER,
    }


def backend(predictor: Predictor) -> dict[str, str]:
    """What computes: torch's version, the device and the precision."""
    device = predictor.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "torch": torch.__version__,
        "device": name,
        "precision": predictor.bundle.precision_on(device),
    }


def weights_digest(predictor: Predictor) -> str:
    """The SHA-256 of the weights' file."""
    with predictor.bundle.weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(found: InputFiles) -> str:
    """Identifies the list of files, with their sizes and times of change."""
    digest = hashlib.sha256()
    for path in [*found.outside, *found.files]:
        try:
            info = os.stat(path)  # noqa: PTH116 - strings: 100,000 Path objects cost a second
            state = f"{info.st_size} {info.st_mtime_ns}"
        except (OSError, ValueError):
            state = "-"
        digest.update(os.fsencode(path) + f"\0{state}\0".encode())
    return digest.hexdigest()[:16]
