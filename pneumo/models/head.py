"""What a network's outputs mean: the one place in use of a model that turns logits into probabilities."""

from torch import Tensor


def probabilities(logits: Tensor, num_classes: int) -> Tensor:
    """Probabilities from `logits` [B, num_classes]: of two classes those of class 1 [B], of more each [B, K].

    Of an image, the probabilities of all classes have the sum 1.
    """
    chances = logits.softmax(1)
    return chances[:, 1] if num_classes == 2 else chances
