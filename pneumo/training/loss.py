"""The losses that training minimises."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy


def summed_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None, smoothing: float) -> Tensor:
    """The sum over a batch of w[y] times the label-smoothed cross-entropy, for logits [B, K] and labels [B].

    The weight of an image's class multiplies its whole loss. So the smoothed optimum is the same as without
    weights: smoothing / K for each other class, which of two classes is smoothing / 2 and 1 - smoothing / 2.
    torch's `weight` multiplies each smoothed term by the weight of that term's class. With weights 3:1 and
    smoothing .1, this moves the optimum from .05 and .95 to .017 and .864.
    """
    if class_weights is None:
        return cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    losses = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return (class_weights[labels] * losses).sum()


def summed_finding_loss(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None, smoothing: float
) -> Tensor:
    """The sum over a batch of the mean over findings of w[y] times the binary cross-entropy.

    Logits are [B, K], labels int64 [B, K] with -1 where it is not known whether the image has the finding;
    such a label adds nothing. `class_weights` [2, K] are those of a finding's absence and presence. The
    smoothed targets are smoothing / 2 and 1 - smoothing / 2.
    """
    known, present = labels >= 0, labels.clamp(min=0)
    targets = present.to(logits) * (1 - smoothing) + smoothing / 2
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if class_weights is not None:
        losses = losses * torch.where(present == 1, class_weights[1], class_weights[0])
    return torch.where(known, losses, 0).sum() / labels.shape[1]
