"""What a network is trained for: one class an image, or several findings an image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pneumo.evaluation import metrics, multiclass, multilabel
from pneumo.models import head
from pneumo.training.loss import summed_finding_loss, summed_loss

Figures = dict[str, float]
DrawnShares = Callable[[Tensor], Tensor]


class Objective(Protocol):
    """How logits [B, K] and labels become a loss, counts and probabilities. Nothing waits for the device."""

    @property
    def cells(self) -> int:
        """How many counts `counts` gives."""
        ...

    @property
    def columns(self) -> int:
        """How many probabilities an image has."""
        ...

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """The sum over the batch that training minimises, with the weights of `class_weights`."""
        ...

    def plain_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image [B], without class weights and label smoothing."""
        ...

    def plain_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum of `plain_losses` over the batch."""
        ...

    def counts(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Images by true and called class, int64 [cells]."""
        ...

    def figures(self, counts: list[float]) -> Figures:
        """Accuracy, F1, precision and recall from the counts of an epoch."""
        ...

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities [B, columns], as predictions have them."""
        ...

    def class_weights(self, labels: Tensor, strata: Tensor, shares: DrawnShares) -> Tensor:
        """Inverse frequencies of the training `labels`, scaled so that the mean weight of what is drawn is 1.

        `strata` [N] are the classes that the sampler balances. `shares` gives the share of an epoch's draws
        that each of them has, from their numbers of images.
        """
        ...


@dataclass(frozen=True)
class OneClass:
    """Each image has one of `classes` classes, labels int64 [B] from 0 on: softmax and cross-entropy."""

    classes: int = 2

    @property
    def cells(self) -> int:
        return self.classes**2

    @property
    def columns(self) -> int:
        return 1 if self.classes == 2 else self.classes

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        return summed_loss(logits, labels, weights, smoothing)

    def plain_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, reduction="none")

    def plain_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, reduction="sum")  # other last digits than a sum of the losses

    def counts(self, logits: Tensor, labels: Tensor) -> Tensor:
        # Two equal logits of two classes are probability 0.5, which calls class 1.
        called = (logits[:, 1] >= logits[:, 0]).long() if self.classes == 2 else logits.argmax(1)
        cells = torch.arange(self.cells, device=logits.device)
        return ((labels * self.classes + called)[:, None] == cells).sum(0)  # bincount waits for the device

    def figures(self, counts: list[float]) -> Figures:
        if self.classes == 2:
            return metrics.from_counts(*(int(count) for count in counts))
        return multiclass.from_matrix(np.array(counts).reshape(self.classes, self.classes))

    def probabilities(self, logits: Tensor) -> Tensor:
        chances = head.probabilities(logits, self.classes)
        return chances[:, None] if self.classes == 2 else chances

    def class_weights(self, labels: Tensor, strata: Tensor, shares: DrawnShares) -> Tensor:
        counts = torch.bincount(labels, minlength=self.classes).double()
        weights = counts.sum() / counts
        return (weights / (weights * shares(counts)).sum()).float()


@dataclass(frozen=True)
class Findings:
    """Each image has any number of `findings` findings: a sigmoid and binary cross-entropy for each.

    Labels are int64 [B, K]: 1, 0, or -1 where it is not known. What is not known adds nothing.
    """

    findings: int

    @property
    def cells(self) -> int:
        return 4 * self.findings

    @property
    def columns(self) -> int:
        return self.findings

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        return summed_finding_loss(logits, labels, weights, smoothing)

    def plain_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = binary_cross_entropy_with_logits(logits, labels.to(logits).clamp(min=0), reduction="none")
        return torch.where(labels >= 0, losses, 0).mean(1)

    def plain_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.plain_losses(logits, labels).sum()

    def counts(self, logits: Tensor, labels: Tensor) -> Tensor:
        cell = torch.where(labels >= 0, 2 * labels + (logits >= 0), -1)  # of tn, fp, fn, tp
        cells = torch.arange(4, device=logits.device)
        return (cell[:, :, None] == cells).sum(0).flatten()

    def figures(self, counts: list[float]) -> Figures:
        return multilabel.from_counts(np.array(counts).reshape(self.findings, 4))

    def probabilities(self, logits: Tensor) -> Tensor:
        return head.probabilities(logits, self.findings, multilabel=True)

    def class_weights(self, labels: Tensor, strata: Tensor, shares: DrawnShares) -> Tensor:
        """Of a finding's absence and presence, [2, K]."""
        numbers, images = strata.unique(return_inverse=True)  # some findings are no image's rarest
        sizes = torch.bincount(images, minlength=len(numbers))
        drawn = (shares(sizes) / sizes)[images]
        present, known = (labels == 1).double(), (labels >= 0).double()
        counts = torch.stack([(known - present).sum(0), present.sum(0)])
        weights = counts.sum(0) / counts.clamp(min=1)
        seen = torch.stack([((known - present) * drawn[:, None]).sum(0), (present * drawn[:, None]).sum(0)])
        return (weights * seen.sum(0) / (weights * seen).sum(0)).float()


def objective_of(classes: int, multilabel: bool) -> Objective:
    """The objective for `classes` classes, or with `multilabel` for as many findings."""
    return Findings(classes) if multilabel else OneClass(classes)
