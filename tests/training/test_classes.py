"""Training with more than two classes: the sums, the loss, the samplers; two classes keep their bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import CPU, Recorder, Tiny, make_trainer, recipe, three_splits
from torch.nn.functional import cross_entropy

from pneumo.data.loader import Split, drawn_shares, epoch_order
from pneumo.data.settings import SamplerSettings
from pneumo.evaluation import multiclass
from pneumo.training.loss import summed_loss
from pneumo.training.trainer import VAL_METRICS, Trainer

CLASSES = 4


def split(name: str, count: int) -> Split:
    """`count` images, the classes of unequal frequency; brightness tells the class."""
    rng = np.random.default_rng([len(name), count])
    labels = np.sort(np.minimum(rng.geometric(0.45, count) - 1, CLASSES - 1))
    labels[:CLASSES] = np.arange(CLASSES)
    images = rng.integers(0, 60, (count, 12, 12)) + 60 * labels[:, None, None]
    return Split(
        name=name,
        images=images.astype(np.uint8),
        rows=torch.arange(count),
        labels=torch.from_numpy(labels.astype(np.int64)),
        paths=[f"{name}/{row}.png" for row in range(count)],
        patients=[f"p{row}" for row in range(count)],
        device=CPU,
    )


def splits() -> dict[str, Split]:
    return {"train": split("train", 60), "val": split("val", 24), "test": split("test", 30)}


def trainer(folder: Path, **keys: object) -> Trainer:
    made = recipe(num_classes=CLASSES, **{"epochs": 3, "batch_size": 16, **keys})  # type: ignore[arg-type]
    return make_trainer(folder, made, Tiny(classes=CLASSES, dropout=0.1), splits())


def test_the_sums_of_two_classes_are_those_of_four_counts(tmp_path: Path) -> None:
    """What was added before there were more classes, bit for bit, ties included."""
    made = make_trainer(tmp_path, recipe())
    rng = torch.Generator().manual_seed(0)
    expected = torch.zeros(6)
    for count in (4, 4, 3):
        logits = torch.randn(count, 2, generator=rng) * 3
        logits[0] = 0.25  # equal: probability 0.5 calls class 1
        labels = torch.randint(0, 2, (count,), generator=rng)
        made._add(torch.tensor(1.0), logits, labels, torch.tensor(0))
        called, actual = logits[:, 1] >= logits[:, 0], labels == 1
        counts = [(~called & ~actual), (called & ~actual), (~called & actual), (called & actual)]
        loss = cross_entropy(logits, labels, reduction="sum")
        expected += torch.stack([loss, torch.ones_like(labels).sum(), *(one.sum() for one in counts)])
    assert made.sums.tolist() == expected.tolist()


def test_the_sums_count_each_true_and_called_class(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    rng = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(50, CLASSES, generator=rng), torch.randint(0, CLASSES, (50,), generator=rng)
    for part in torch.arange(50).split(16):
        made._add(torch.tensor(1.0), logits[part], labels[part], torch.tensor(0))
    matrix = multiclass.confusion(labels.numpy(), logits.argmax(1).numpy(), CLASSES)
    assert made.sums[2:].int().tolist() == matrix.ravel().tolist() and made.sums[1] == 50
    assert made.sums[0].item() == pytest.approx(
        cross_entropy(logits, labels, reduction="sum").item(), rel=1e-6
    )


@pytest.mark.parametrize("extra", [{}, {"class_weights": True, "label_smoothing": 0.1}, {"ema_decay": 0.9}])
def test_a_trainer_learns_four_classes(tmp_path: Path, extra: dict) -> None:
    made = trainer(tmp_path, epochs=25, sampler="imbalanced", optim={"lr": 0.05}, **extra)
    progress = made.fit()
    best = progress.history[progress.best_epoch - 1]
    assert best["val/auroc"] > 0.85, "brightness tells the classes"
    evaluation = made.evaluate("val")
    assert evaluation.probabilities.shape == (24, CLASSES)
    scores = evaluation.scores()
    assert {name: progress.history[-1][f"val/{name}"] for name in VAL_METRICS} == {
        name: scores[name] for name in VAL_METRICS
    }
    assert scores["auroc"] == multiclass.scores(evaluation.labels, evaluation.probabilities)["auroc"]
    assert 0 < best["train/f1"] <= 1 and 0 < best["train/accuracy"] <= 1


def test_a_stopped_run_of_four_classes_goes_on_with_the_same_figures(tmp_path: Path) -> None:
    from pneumo.training.signals import Stopped

    whole, record = trainer(tmp_path / "a"), Recorder()
    whole.fit()
    asked = iter([None] * 5 + ["stop"])
    made = recipe(num_classes=CLASSES, epochs=3, batch_size=16)
    stopped = make_trainer(
        tmp_path / "b", made, Tiny(classes=CLASSES, dropout=0.1), splits(), should_stop=lambda: next(asked)
    )
    with pytest.raises(Stopped):
        stopped.fit()
    assert stopped.sums[1] > 0, "it stopped inside an epoch"
    again = make_trainer(tmp_path / "b", made, Tiny(classes=CLASSES, dropout=0.1), splits(), record=record)
    again.fit()
    assert again.progress.repeatable == whole.progress.repeatable


def test_samplers_even_out_any_number_of_classes() -> None:
    labels = np.repeat(np.arange(CLASSES), (400, 200, 100, 20)).astype(np.int64)
    counts = torch.tensor([400, 200, 100, 20])
    for name in ("imbalanced", "weighted"):
        settings = SamplerSettings(name=name)
        order = torch.cat([epoch_order(settings, labels, seed=0, epoch=epoch) for epoch in range(10)])
        shares = np.bincount(labels[order.numpy()], minlength=CLASSES) / len(order)
        assert shares == pytest.approx([0.25] * CLASSES, abs=0.02)
        assert drawn_shares(settings, counts).tolist() == pytest.approx([0.25] * CLASSES)
    smooth = SamplerSettings(name="imbalanced", smoothing=100.0)
    expected = counts / (counts + 100)
    assert drawn_shares(smooth, counts).tolist() == pytest.approx((expected / expected.sum()).tolist())


def test_class_weights_have_the_mean_one_over_the_draws(tmp_path: Path) -> None:
    made = trainer(tmp_path, class_weights=True, sampler="shuffle")
    assert made.class_weights is not None and len(made.class_weights) == CLASSES
    weights = made.class_weights[torch.from_numpy(made.strata)]
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    of_class = np.bincount(made.strata, weights=weights.numpy())
    assert of_class == pytest.approx([15.0] * CLASSES, rel=1e-5)


def test_the_smoothed_optimum_is_the_same_for_every_class() -> None:
    """smoothing / K for each other class, whatever the weights."""
    weights, labels = torch.tensor([1.0, 3.0, 0.5, 1.0]), torch.arange(CLASSES)
    logits = torch.zeros(CLASSES, CLASSES, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = summed_loss(logits, labels, weights, 0.1)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    expected = torch.full((CLASSES, CLASSES), 0.025) + 0.9 * torch.eye(CLASSES)
    assert logits.softmax(1).detach().numpy() == pytest.approx(expected.numpy(), abs=2e-3)


def test_a_class_without_images_in_validation_leaves_macro_scores_undefined(tmp_path: Path) -> None:
    """As with trainer.limit_batches: the run goes on, and the epoch is chosen by the loss."""
    made = trainer(tmp_path)
    val = made.splits["val"]
    keep = (val.labels != 3).nonzero()[:, 0]
    val.rows, val.labels = val.rows[keep], val.labels[keep]
    val.paths, val.patients = val.paths[: len(keep)], val.patients[: len(keep)]
    progress = made.fit()
    assert all(np.isnan(row["val/auroc"]) and np.isfinite(row["val/loss"]) for row in progress.history)
    assert progress.best_epoch == 1 + int(np.argmin([row["val/loss"] for row in progress.history]))
    recorded = made.record.points  # type: ignore[attr-defined]
    assert ("val/accuracy", 1) in recorded and ("val/auroc", 1) not in recorded


def test_two_classes_have_the_figures_of_before(tmp_path: Path) -> None:
    progress = make_trainer(tmp_path, recipe(), splits=three_splits()).fit()
    assert {
        "train/loss",
        "train/accuracy",
        "train/f1",
        *(f"val/{name}" for name in ("loss", *VAL_METRICS)),
    } <= {*progress.history[0]}
    assert not any("class" in key for key in progress.history[0])
