"""Weights as safetensors + JSON, and the state that an interrupted run continues from.

Every file is written under a temporary name, synced and renamed. So a kill or a full disk keeps the old file.
"""

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pneumo import UserError
from pneumo.files import write_atomically
from pneumo.models.weights import load_plain
from pneumo.text import first_line

KEEP = 2  # resume states: if the newest is damaged, the run continues from the one before it


def save_weights(path: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Save a state dict as `path` (.safetensors) and `facts` beside it as JSON."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_atomically(path, save(tensors))
    write_atomically(path.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())


def load_weights(path: Path, model: nn.Module) -> None:
    """Load weights written by save_weights into `model`; UserError if they do not fit."""
    try:
        model.load_state_dict(load_file(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable .safetensors file: {error}") from None
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the model: {str(error).splitlines()[-1].strip()}") from None


def save_resume(folder: Path, state: dict[str, Any], step: int) -> None:
    """Save `state` (tensors and plain values) as the state at `step`. The state before it is kept."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_atomically(folder / f"step-{step:09d}.pt", hashlib.sha256(payload).digest() + payload)
    older = [path for path in _states(folder) if _step(path) <= step]
    for path in _states(folder):
        if path not in older[:KEEP]:  # those above `step` were skipped as damaged
            path.unlink()


def load_resume(folder: Path) -> dict[str, Any] | None:
    """The newest intact state in `folder`, or None. Damaged states are skipped with a warning."""
    for leftover in folder.glob(".*.tmp"):  # of a killed process
        leftover.unlink(missing_ok=True)
    for path in _states(folder):
        try:
            with path.open("rb") as file:
                if file.read(32) != hashlib.file_digest(file, "sha256").digest():
                    raise ValueError("its checksum is wrong")
            state = load_plain(path, skip=32)
            if not isinstance(state, dict) or "identity" not in state:
                raise ValueError("it is not the state of a run")
            return state
        except Exception as error:  # a file from elsewhere is refused, and its code does not run
            reason = first_line(error)
        warnings.warn(
            f"{path} is damaged ({reason}); continuing from the state before it, or from the start if there "
            "is none.",
            stacklevel=2,
        )
    return None


def _states(folder: Path) -> list[Path]:
    """The saved states, newest first."""
    return sorted(folder.glob("step-*.pt"), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
