"""The architectures by name, and the function that builds one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pneumo import one_of

if TYPE_CHECKING:
    from torch import nn

# name -> the module whose `build(name, ...)` builds it. Imported on first use, because torch takes seconds.
MODELS = {
    "resnet18": "pneumo.models.resnet",
    "resnet50": "pneumo.models.resnet",
    "densenet121": "pneumo.models.densenet",
}


def build_model(
    name: str,
    num_classes: int = 2,
    in_channels: int = 3,
    dropout: float = 0.09,
    pretrained: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """A model mapping float images [B, in_channels, S, S] to logits [B, num_classes].

    `pretrained` starts the backbone from torchvision's ImageNet weights, which are downloaded. `weights`
    starts from a local state dict (.safetensors, or .pth read without running code): a torchvision backbone
    or a whole model of this project. With `in_channels` other than 3, the weights of the first convolution
    are summed over the input channels and shared out evenly. So a grey image gives the same features as the
    repeated image.
    Raises UserError for an unknown name or weights that do not fit.
    """
    one_of("model.name", name, MODELS)
    build = import_module(MODELS[name]).build
    model: nn.Module = build(name, num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    if pretrained or weights:
        from pneumo.models.weights import load_backbone

        load_backbone(model, name, weights)
    return model
