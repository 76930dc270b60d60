"""Initial weights: torchvision's ImageNet ones or a local state dict, read without running code."""

import pickle
import re
from http.client import HTTPException
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from pneumo import UserError

HEADS = ("fc.", "classifier.")
# DenseNet's published files name layers in a way that predates Python modules: norm.1 is now norm1.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def load_backbone(model: nn.Module, name: str, path: str | None) -> None:
    """Load the backbone of `model` from `path`, or from torchvision's ImageNet weights where it is None.

    A state dict that also holds this model's head loads whole; another head is left out.
    """
    source = path or f"torchvision's ImageNet weights of {name}"
    state = _read(Path(path).expanduser()) if path else _download(name)
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    own = model.state_dict()
    heads = {key for key in own if key.startswith(HEADS)}
    with_head = all(key in state and state[key].shape == own[key].shape for key in heads)
    if not with_head:
        state = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    for key in ("conv1.weight", "features.conv0.weight"):
        if key in state and key in own and state[key].ndim == 4:
            state[key] = fit_channels(state[key], own[key].shape[1])
    wanted = own if with_head else {key: value for key, value in own.items() if key not in heads}
    # Old files do without BatchNorm's count of batches.
    wanted = {key: value for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    _check(source, name, state, wanted, set(own))
    model.load_state_dict(state, strict=False)


def fit_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution's weight [O, C, k, k] for another number of input channels.

    Summed over C and shared out evenly, so that a grey image repeated on every channel gives the same sums.
    """
    if weight.shape[1] == in_channels:
        return weight
    return weight.sum(1, keepdim=True).repeat(1, in_channels, 1, 1) / in_channels


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"model.weights={path} is not a file; give a .safetensors or .pth state dict.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"model.weights={path} is no state dict written by torch.save, or holds more than that and could "
            "run code, so it is refused; save model.state_dict() alone, best as .safetensors."
        ) from None
    except Exception as error:  # whatever a damaged file makes of the readers
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"model.weights={path} cannot be read: {reason}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(f"model.weights={path} is no state dict (names -> tensors).")
    return state


def _download(name: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the checksum is wrong
        raise UserError(
            f"model.pretrained=true: the ImageNet weights of {name} could not be downloaded ({error}). "
            "Download them elsewhere and give the file with model.weights=PATH."
        ) from None


def _check(
    source: str, name: str, state: dict[str, Tensor], wanted: dict[str, Tensor], known: set[str]
) -> None:
    missing = sorted(set(wanted) - set(state))
    strange = sorted(set(state) - known)
    misshapen = sorted(key for key in wanted if key in state and state[key].shape != wanted[key].shape)
    troubles = {"lacks": missing, "has the unknown": strange, "has other shapes for": misshapen}
    for trouble, keys in troubles.items():
        if keys:
            raise UserError(
                f"{source} does not fit model.name={name}: it {trouble} {', '.join(keys[:5])}"
                f"{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}."
            )
