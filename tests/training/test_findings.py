"""Training for several findings an image: the loss, masked labels, weights, samplers, and the figures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import CPU, Tiny, make_trainer, recipe
from torch.nn.functional import binary_cross_entropy_with_logits

from pneumo.data.loader import Split
from pneumo.evaluation import multilabel
from pneumo.training.loss import summed_finding_loss
from pneumo.training.objective import Findings
from pneumo.training.signals import Stopped
from pneumo.training.trainer import VAL_METRICS, Trainer

K = 3


def split(name: str, count: int) -> Split:
    """Brightness of a third of the image tells each finding; a tenth of the labels is not known."""
    rng = np.random.default_rng([len(name), count])
    labels = (rng.random((count, K)) < (0.5, 0.3, 0.2)).astype(np.int64)
    labels[0], labels[1] = 1, 0
    images = rng.integers(0, 60, (count, 12, 12)) + 150 * np.repeat(labels, 4, axis=1)[:, :, None]
    rarest = np.where(labels[:, 2] == 1, 3, np.where(labels[:, 1] == 1, 2, labels[:, 0]))
    labels[2:][rng.random((count - 2, K)) < 0.1] = -1
    return Split(
        name=name,
        images=images.astype(np.uint8),
        rows=torch.arange(count),
        labels=torch.from_numpy(labels),
        paths=[f"{name}/{row}.png" for row in range(count)],
        patients=[f"p{row}" for row in range(count)],
        device=CPU,
        rarest=torch.from_numpy(rarest),
    )


def trainer(folder: Path, **keys: object) -> Trainer:
    options = {"num_classes": K, "multilabel": True, "epochs": 3, "batch_size": 16, **keys}
    splits = {name: split(name, count) for name, count in (("train", 60), ("val", 30), ("test", 30))}
    return make_trainer(folder, recipe(**options), Tiny(classes=K, dropout=0.1), splits)  # type: ignore[arg-type]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(40, K, generator=rng) * 2, torch.randint(-1, 2, (40, K), generator=rng)


def test_the_loss_is_that_of_torch_on_known_labels() -> None:
    logits, labels = batch()
    known = labels >= 0
    plain = binary_cross_entropy_with_logits(logits[known], labels[known].float(), reduction="sum") / K
    torch.testing.assert_close(summed_finding_loss(logits, labels, None, 0.0), plain)
    torch.testing.assert_close(Findings(K).plain_loss(logits, labels), plain)
    weights = torch.tensor([[1.0, 0.5, 2.0], [3.0, 1.5, 0.5]])
    each = binary_cross_entropy_with_logits(
        logits, labels.clamp(min=0) * 0.9 + 0.05, weights.gather(0, labels.clamp(min=0)), reduction="none"
    )
    torch.testing.assert_close(summed_finding_loss(logits, labels, weights, 0.1), each[known].sum() / K)


def test_a_label_that_is_not_known_gives_no_gradient() -> None:
    logits, labels = batch()
    logits.requires_grad_()
    summed_finding_loss(logits, labels, torch.ones(2, K), 0.1).backward()
    assert logits.grad is not None and ((logits.grad == 0) == (labels < 0)).all()


def test_the_counts_are_those_of_the_scores() -> None:
    logits, labels = batch()
    counts = Findings(K).counts(logits, labels)
    expected = multilabel.confusion(labels.numpy(), (logits >= 0).int().numpy())
    assert counts.tolist() == expected.ravel().tolist()


@pytest.mark.parametrize("sampler", ["shuffle", "imbalanced", "weighted"])
def test_class_weights_have_the_mean_one_over_the_draws(tmp_path: Path, sampler: str) -> None:
    made = trainer(tmp_path, class_weights=True, sampler=sampler)
    assert made.class_weights is not None and made.class_weights.shape == (2, K)
    labels, strata = made.splits["train"].labels, made.strata
    drawn = np.ones(60) / 60
    if sampler != "shuffle":
        sizes = np.bincount(strata)
        drawn = 1 / sizes[strata] / len(sizes)
    for k in range(K):
        known = (labels[:, k] >= 0).numpy()
        weights = made.class_weights[labels[known, k], k].numpy()
        assert (weights * drawn[known]).sum() / drawn[known].sum() == pytest.approx(1, rel=1e-5)
        assert made.class_weights[1, k] > made.class_weights[0, k] or k == 0  # the rarer value weighs more


@pytest.mark.parametrize("extra", [{}, {"class_weights": True, "label_smoothing": 0.1}, {"ema_decay": 0.9}])
def test_it_learns_and_its_figures_are_those_of_the_scores(tmp_path: Path, extra: dict) -> None:
    made = trainer(tmp_path, **{"epochs": 40, "ema_decay": None, **extra})
    progress = made.fit()
    last = progress.history[-1]
    evaluation = made.evaluate("val")
    scores = multilabel.scores(made.splits["val"].labels.numpy(), evaluation.probabilities)
    for name in VAL_METRICS:
        assert last[f"val/{name}"] == pytest.approx(scores[name], abs=1e-12)
    assert evaluation.probabilities.shape == (30, K) and last["val/auroc"] > 0.8
    assert last["train/loss"] < progress.history[0]["train/loss"]


def test_a_stopped_run_continues_with_the_same_figures(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole").fit().repeatable
    first = trainer(tmp_path / "parts")
    calls = iter(range(100))
    first.should_stop = lambda: "enough" if next(calls) == 6 else None
    with pytest.raises(Stopped):
        first.fit()
    assert trainer(tmp_path / "parts").fit().repeatable == whole
