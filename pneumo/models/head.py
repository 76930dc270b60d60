"""What a network's outputs mean: the one place that turns logits into probabilities."""

import threading

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


def probabilities(logits: Tensor, num_classes: int, multilabel: bool = False) -> Tensor:
    """Probabilities from `logits` [B, num_classes]: of two classes those of class 1 [B], of more each [B, K].

    Of an image, the probabilities of all classes have the sum 1. With `multilabel`, each output is a finding:
    its probability [B, K] does not depend on the other findings.
    """
    if multilabel:
        return logits.sigmoid()
    chances = logits.softmax(1)
    return chances[:, 1] if num_classes == 2 else chances


_BETWEEN_LINEAR = (nn.Dropout, nn.ReLU, nn.GELU, nn.SiLU, nn.BatchNorm1d, nn.Identity)


class Penultimate:
    """Keeps the features [B, D] that go into the linear layers that end a network, by thread."""

    def __init__(self, layer: nn.Linear) -> None:
        self._kept = threading.local()
        self._handle = layer.register_forward_pre_hook(self._keep)

    @classmethod
    def of(cls, network: nn.Module) -> "Penultimate | None":
        """None if the network does not end with a linear layer."""
        first = None
        for module in reversed([one for one in network.modules() if not any(one.children())]):
            if isinstance(module, nn.Linear):
                first = module
            elif not isinstance(module, _BETWEEN_LINEAR):
                break
        return cls(first) if first is not None else None

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._kept.features = inputs[0].detach()

    def last(self) -> NDArray[np.float64]:
        """The features of this thread's last pass."""
        return np.asarray(self._kept.features.double().cpu().numpy())

    def remove(self) -> None:
        self._handle.remove()

    def __deepcopy__(self, memo: dict[int, object]) -> "Penultimate":
        return self  # a copy of the network can keep its features here too
