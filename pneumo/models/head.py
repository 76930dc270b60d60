"""What a network's outputs mean: the one place that turns logits into probabilities."""

from torch import Tensor


def probabilities(logits: Tensor, num_classes: int, multilabel: bool = False) -> Tensor:
    """Probabilities from `logits` [B, num_classes]: of two classes those of class 1 [B], of more each [B, K].

    Of an image, the probabilities of all classes have the sum 1. With `multilabel`, each output is a finding:
    its probability [B, K] does not depend on the other findings.
    """
    if multilabel:
        return logits.sigmoid()
    chances = logits.softmax(1)
    return chances[:, 1] if num_classes == 2 else chances
