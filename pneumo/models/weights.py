"""Initial weights: torchvision's ImageNet ones or a local state dict, read without running code."""

import hashlib
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torchvision
from torch import Tensor, nn

from pneumo import UserError
from pneumo.files import MAX_MODEL_BYTES
from pneumo.text import first_line

HEADS = ("fc.", "classifier.")
# The names that torch.save writes for tensors and plain values. torch's list for weights_only is longer. With
# it, 30 bytes can request any amount of memory (a bytearray, or converting a tensor that repeats one number).
_NAMES = re.compile(
    r"collections OrderedDict|torch._utils _rebuild_(tensor_v2|parameter)|torch\.nn\.parameter Parameter"
    r"|torch (\w+Storage|Size|device|bool|(bfloat|float|u?int|complex)\d+)"
)
# DenseNet's published files use old layer names: norm.1 is now norm1.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def load_backbone(model: nn.Module, name: str, path: str | None) -> None:
    """Load the backbone of `model` from `path`, or from torchvision's ImageNet weights if it is None.

    If the state dict also holds a head that fits this model, that is loaded too. Any other head is left out.
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
        fits = key in state and key in own and state[key].ndim == 4
        if fits and state[key].shape[2:] == own[key].shape[2:] and len(state[key]) == len(own[key]):
            state[key] = fit_channels(state[key], own[key].shape[1])
    wanted = own if with_head else {key: value for key, value in own.items() if key not in heads}
    # Old files lack BatchNorm's count of batches.
    wanted = {key: value for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    _check(source, name, state, wanted, set(own))
    model.load_state_dict(state, strict=False)


def fit_channels(weight: Tensor, in_channels: int) -> Tensor:
    """The weight [O, C, k, k] of a first convolution, converted to another number of input channels.

    It is summed over C and shared out evenly, so a grey image repeated on every channel gives the same sums.
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
        state = load_plain(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"model.weights={path} is not a state dict written by torch.save, or it holds more than that. "
            f"Such a file could run code or fill the memory, so it is refused ({first_line(error)}). "
            "Save only model.state_dict(), best as .safetensors."
        ) from None
    except Exception as error:  # a damaged file can raise nearly anything from the readers
        raise UserError(f"model.weights={path} cannot be read: {first_line(error)}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(f"model.weights={path} is not a state dict (names -> tensors).")
    return state


def load_plain(path: Path, skip: int = 0) -> Any:
    """Tensors and plain values that torch.save wrote to `path`, after its first `skip` bytes.

    No code in the file is run, and loading takes at most a few times the file's size in memory. Raises
    UnpicklingError for a file that holds anything else, and nearly any error for a damaged file.
    """
    if (size := path.stat().st_size) > MAX_MODEL_BYTES:
        raise pickle.UnpicklingError(f"{size:,} bytes, more than the limit of {MAX_MODEL_BYTES:,}")
    with path.open("rb") as file:
        file.seek(skip)
        content = io.BytesIO(file.read())
    for pickled in _pickles(content):
        for operation, value, _ in pickletools.genops(pickled):
            is_global = operation.name in ("GLOBAL", "INST", "STACK_GLOBAL")
            if is_global and not _NAMES.fullmatch(str(value)):
                raise pickle.UnpicklingError(f"it names {value or 'a function'}")
    content.seek(0)
    value = torch.load(content, map_location="cpu", weights_only=True)
    for tensor in _tensors(value, set()):
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise pickle.UnpicklingError("a tensor claims more numbers than the file holds")
    return value


def _pickles(content: io.BytesIO) -> Iterator[io.BytesIO]:
    """The pickles that torch.load would read: one in a zip file, or five in a row in the older format."""
    if not content.getvalue().startswith(b"PK"):
        for _ in range(5):
            yield content
        return
    with zipfile.ZipFile(content) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
            sum(entry.file_size for entry in entries) > len(content.getvalue())
        ):
            raise pickle.UnpicklingError("it unpacks to more than its size")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                yield io.BytesIO(archive.read(entry))


def _tensors(value: object, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen:  # a list of lists may hold the same object many times
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, seen)


def _download(name: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of `name`, from its cache or its server.

    torchvision checks a file only after a download, and unpickles what it finds in its cache. Here the
    file's hash is checked in both cases, and no code in it is run.
    """
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    digest = file.stem.rpartition("-")[2]  # the beginning of the file's SHA-256
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digest, progress=True)
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the checksum is wrong
        raise UserError(
            f"model.pretrained=true: the ImageNet weights of {name} could not be downloaded ({error}). "
            "Download them elsewhere and give the file with model.weights=PATH."
        ) from None
    if not found.startswith(digest):
        raise UserError(
            f"model.pretrained=true: {file} is damaged or was exchanged: its SHA-256 begins with "
            f"{found[: len(digest)]}, not {digest}. Delete it, and the same command downloads it again."
        )
    try:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file can raise nearly anything
        raise UserError(f"model.pretrained=true: {file} cannot be read: {first_line(error)}") from None
    return state


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
