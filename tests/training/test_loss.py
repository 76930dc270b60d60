"""The loss: the labels decide its optimum; without smoothing it equals torch's loss to the last bit."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from pneumo.training.loss import summed_loss

WEIGHTS = torch.tensor([3.0, 1.0])


@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS.flip(0)])
def test_class_weights_leave_the_smoothed_optimum_alone(weights: torch.Tensor | None) -> None:
    """For two images that a model can separate, smoothing .1 gives each .05 for the wrong class."""
    labels = torch.tensor([0, 1])
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = summed_loss(logits, labels, None if weights is None else weights.double(), 0.1)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits.detach().softmax(1)[:, 1].tolist() == pytest.approx([0.05, 0.95], abs=1e-5)


@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), (None, 0.1), (WEIGHTS, 0.0)])
def test_the_gradients_of_other_recipes_are_torchs_to_the_last_bit(
    weights: torch.Tensor | None, smoothing: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (63,), generator=generator)
    ours = torch.randn(63, 2, generator=generator, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    (summed_loss(ours, labels, weights, smoothing) * (1 / 63)).backward()
    loss = cross_entropy(theirs, labels, weights, reduction="sum", label_smoothing=smoothing)
    (loss * (1 / 63)).backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
