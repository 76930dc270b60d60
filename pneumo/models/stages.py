"""The stages of a network, from the input (0) to the head: which of them learn slower, or not at all."""

import re

from torch import nn

from pneumo import UserError
from pneumo.models.weights import HEADS

HEAD = 5
_STAGE = re.compile(r"(?:layer|features\.(?:denseblock|transition|norm))([1-5])\.")


def stage_of(name: str) -> int:
    """The stage of a parameter or module by its `name`: 0 the stem, 1 to 4 the stages, HEAD the head."""
    if name.startswith(HEADS):
        return HEAD
    match = _STAGE.match(name)
    return min(int(match[1]), HEAD - 1) if match else 0  # DenseNet's norm5 ends its stage 4


def freeze_backbone(network: nn.Module) -> None:
    """Let only the head of `network` learn. Its trainer keeps the statistics of frozen norms as they are.

    Raises UserError if no layer has the name of a head.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(stage_of(name) == HEAD)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(
            "model.freeze=backbone: the network has no head to train: its last layer must be called fc or "
            "classifier."
        )


def frozen_norms(network: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers whose parameters do not learn."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.affine
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]
