"""The training loop against written-out updates, scikit-learn, and a device that refuses to be waited for."""

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn import metrics as sk
from support.commands import HOOKS, PROJECT, import_path
from support.training import AUGMENT, CPU, Recorder, Tiny, make_trainer, recipe, split, three_splits
from torch import Tensor, nn

from pneumo import UserError
from pneumo.models import MODELS, build_model
from pneumo.models.weights import load_plain
from pneumo.training import trainer as core
from pneumo.training.checkpoint import load_weights
from pneumo.training.runtime import Runtime, forget_peak_memory, open_runtime, peak_memory_mib
from pneumo.training.settings import MONITORS, TrainerSettings
from pneumo.training.trainer import NonFiniteLoss, Trainer

PLAIN_SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
META = torch.device("meta")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- nothing waits for the device inside a step


def meta_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: nn.Module, **settings: object
) -> Trainer:
    # Fused optimisers refuse the meta device, so this uses the optimiser's plain step.
    monkeypatch.setattr(
        core, "build_optimizer", lambda _, parameters, depths: torch.optim.SGD(parameters, 0.1, momentum=0.9)
    )
    made = recipe(augment=AUGMENT, **settings)
    return make_trainer(tmp_path, made, model, runtime=Runtime(META, None))


def micro(count: int, size: int = 32, batch: int = 4) -> list[tuple[Tensor, Tensor]]:
    one = (
        torch.zeros(batch, size, size, dtype=torch.uint8, device=META),
        torch.zeros(batch, dtype=torch.int64, device=META),
    )
    return [one] * count


OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "class weights": {"class_weights": True},
    "smoothing": {"label_smoothing": 0.1},
    "clipping": {"grad_clip_norm": 1.0},
    "average": {"ema_decay": 0.9},
    "accumulation": {"grad_accum_steps": 3},
    "all": {
        "class_weights": True,
        "label_smoothing": 0.1,
        "grad_clip_norm": 1.0,
        "ema_decay": 0.9,
        "grad_accum_steps": 2,
    },
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_step_never_waits_for_the_device(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = meta_trainer(tmp_path, monkeypatch, Tiny(), **OPTIONS[option])
    count = trainer.settings.grad_accum_steps
    for number in range(2):
        trainer._step(micro(count), None, 4 * count, number)
        if trainer.average is not None:
            trainer.average.update(number)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_a_real_model_never_waits_for_the_device(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with META:
        model = build_model(name)
    trainer = meta_trainer(tmp_path, monkeypatch, model.train(), **OPTIONS["all"])
    trainer._step(micro(2), None, 8, 0)
    assert trainer.average is not None
    trainer.average.update(0)


@pytest.mark.parametrize("place", ["augment", "_add", "model"])
def test_the_meta_device_finds_a_planted_item(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = meta_trainer(tmp_path, monkeypatch, Tiny())
    original: Callable[..., object] = getattr(trainer, place)

    def waits(*args: Tensor) -> object:
        args[0].sum().item()
        return original(*args)

    monkeypatch.setattr(trainer, place, waits) if place != "model" else trainer.__dict__.update(model=waits)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)meta"):
        trainer._step(micro(1), None, 4, 0)


# ---- the update


def weights_after(tmp_path: Path, made: core.Recipe, **kwargs: object) -> dict[str, Tensor]:
    trainer = make_trainer(tmp_path, made, Tiny(norm=False, dropout=0.0), **kwargs)
    trainer.fit()
    return trainer.network.state_dict()


def test_a_smaller_last_batch_takes_no_compiled_network_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[list] = []  # for each compilation, the shapes of the images
    ran: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        compiled.append(
            [list(x.shape) for x in inputs if isinstance(x, Tensor) and x.shape[1:] == (3, 12, 12)]
        )
        number = len(compiled)

        def run(*arguments: object) -> object:
            ran.append(number)
            return graph.forward(*arguments)

        return run

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    made = recipe(epochs=3, batch_size=8)
    trainer = make_trainer(tmp_path, made, splits=three_splits(22), runtime=Runtime(CPU, None, compile=True))
    trainer.fit()
    torch.compiler.reset()
    assert compiled == [[[8, 3, 12, 12]], [[6, 3, 12, 12]]]
    assert ran == [1, 1, 2] * 3


@pytest.mark.parametrize(
    "options", [{}, {"class_weights": True, "label_smoothing": 0.1, "grad_clip_norm": 0.05}]
)
def test_accumulating_micro_batches_equals_one_big_batch(options: dict[str, object], tmp_path: Path) -> None:
    # 22 images: steps of 12 and 10; in micro-batches 4, 4, 4 and 4, 4, 2.
    big = weights_after(tmp_path / "big", recipe(batch_size=12, optim=PLAIN_SGD, **options))
    small = weights_after(
        tmp_path / "small", recipe(batch_size=4, grad_accum_steps=3, optim=PLAIN_SGD, **options)
    )
    start = Tiny(norm=False, dropout=0.0).state_dict()
    for key, value in big.items():
        assert not torch.equal(value, start[key])
        torch.testing.assert_close(small[key], value, rtol=1e-5, atol=1e-6)


def written_out(weights: list[float], smoothing: float, clip: float | None) -> dict[str, Tensor]:
    """One step of plain gradient descent on all 22 images, with the loss spelt out."""
    model, data = Tiny(norm=False, dropout=0.0), split("train", 22)
    x = torch.from_numpy(np.asarray(data.images)).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    log_p = torch.log_softmax(model((x[:, None] - mean[:, None, None]) / std[:, None, None]), 1)
    w = torch.tensor(weights)
    own = -log_p[torch.arange(22), data.labels]
    spread = -log_p.sum(1) / 2
    loss = (w[data.labels] * ((1 - smoothing) * own + smoothing * spread)).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    factor = 1.0 if clip is None else min(1.0, clip / float(norm))
    return {k: v - 0.1 * factor * g for (k, v), g in zip(model.named_parameters(), gradients, strict=True)}


@pytest.mark.parametrize(
    ("options", "sampler", "expected"),
    [
        ({}, "shuffle", ([1.0, 1.0], 0.0, None)),
        # 8 NORMAL and 14 PNEUMONIA: weights 22/8 and 22/14, scaled to mean 1 over the draws.
        ({"class_weights": True}, "shuffle", ([22 / 16, 22 / 28], 0.0, None)),
        ({"label_smoothing": 0.2}, "shuffle", ([1.0, 1.0], 0.2, None)),
        ({"class_weights": True, "label_smoothing": 0.1}, "shuffle", ([22 / 16, 22 / 28], 0.1, None)),
        ({"grad_clip_norm": 0.01}, "shuffle", ([1.0, 1.0], 0.0, 0.01)),
        ({"grad_clip_norm": 1e6}, "shuffle", ([1.0, 1.0], 0.0, 1e6)),
    ],
)
def test_one_step_equals_the_written_out_one(
    options: dict[str, object], sampler: str, expected: tuple, tmp_path: Path
) -> None:
    made = recipe(batch_size=22, epochs=1, optim=PLAIN_SGD, sampler=sampler, **options)
    ours = weights_after(tmp_path, made)
    for key, value in written_out(*expected).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)


def test_class_weights_have_mean_one_over_what_a_balancing_sampler_draws(tmp_path: Path) -> None:
    for sampler in ("imbalanced", "weighted"):
        trainer = make_trainer(tmp_path, recipe(class_weights=True, sampler=sampler))
        assert trainer.class_weights is not None
        torch.testing.assert_close(trainer.class_weights.mean(), torch.tensor(1.0))
        torch.testing.assert_close(trainer.class_weights[0] / trainer.class_weights[1], torch.tensor(14 / 8))


@pytest.mark.parametrize("smoothing", [0.0, 10.0, 10_000.0])
def test_class_weights_have_mean_one_over_what_a_smoothed_sampler_draws(
    smoothing: float, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, recipe(class_weights=True, sampler="imbalanced", smoothing=smoothing))
    assert trainer.class_weights is not None
    counts = np.array([8, 14])
    drawn = counts / (counts + smoothing)
    mean = float(np.average(trainer.class_weights.numpy(), weights=drawn))
    assert mean == pytest.approx(1, rel=1e-6)


def test_the_schedule_is_followed_and_written_down(tmp_path: Path) -> None:
    made = recipe(schedule={"name": "cosine", "warmup_fraction": 0.2}, epochs=3)
    trainer = make_trainer(tmp_path, made)
    trainer.fit()
    steps = 6  # 22 images by 4, the last 2 alone
    expected = [core.learning_rate(made.schedule, 0.01, epoch * steps - 1, 3 * steps) for epoch in (1, 2, 3)]
    assert [row["optim/lr"] for row in trainer.progress.history] == expected


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    def run(name: str, **settings: object) -> dict[str, Tensor]:
        trainer = make_trainer(tmp_path / name, recipe(augment=AUGMENT, **settings))
        trainer.fit()
        return trainer.network.state_dict()

    one, again, other = run("one"), run("again"), run("other", seed=1)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


# ---- figures


@pytest.mark.parametrize(
    "options", [{}, {"class_weights": True, "label_smoothing": 0.1, "grad_accum_steps": 2}]
)
def test_train_figures_equal_scikit_learns(options: dict[str, object], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, recipe(epochs=1, optim={"lr": 0.1}, **options))
    seen: list[tuple[Tensor, Tensor]] = []
    add = trainer._add
    trainer._add = lambda loss, logits, labels, n: (
        seen.append((logits, labels)),
        add(loss, logits, labels, n),
    )  # type: ignore
    trainer.fit()
    chances = torch.cat([logits for logits, _ in seen]).double().softmax(1).numpy()
    labels = torch.cat([labels for _, labels in seen]).numpy()
    called = chances[:, 1] >= 0.5
    row = trainer.progress.history[0]
    assert len(labels) == 22
    assert row["train/accuracy"] == pytest.approx(sk.accuracy_score(labels, called))
    assert row["train/f1"] == pytest.approx(sk.f1_score(labels, called))
    assert row["train/loss"] == pytest.approx(sk.log_loss(labels, chances), rel=1e-5)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_best_file_gives_the_recorded_figures_exactly(ema: float | None, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, recipe(epochs=4, ema_decay=ema, optim={"lr": 0.05}, select_on="test"))
    progress = trainer.fit()
    row = progress.history[progress.best_epoch - 1]
    assert trainer.best_path.name == f"best-{progress.best_epoch:05d}.safetensors"
    assert json.loads(trainer.best_path.with_suffix(".json").read_text()) == row
    model = Tiny(seed=9)
    load_weights(trainer.best_path, model)
    for name, part in (("val", trainer.splits["val"]), ("test", trainer.splits["test"])):
        for key, value in trainer.score(model, part).scores().items():
            if f"{name}/{key}" in row:
                assert row[f"{name}/{key}"] == value, key


def test_the_averaged_weights_are_evaluated_and_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, recipe(epochs=1, ema_decay=0.99, optim={"lr": 0.1}))
    trainer.fit()
    assert trainer.average is not None
    best, average = load_file(trainer.best_path), trainer.average.model
    assert all(torch.equal(best[key], value) for key, value in average.state_dict().items())
    assert not torch.equal(best["fc.weight"], trainer.network.state_dict()["fc.weight"])
    row = trainer.progress.history[0]
    assert row["val/loss"] == trainer.score(average, trainer.splits["val"]).loss
    assert row["val/loss"] != trainer.score(trainer.network, trainer.splits["val"]).loss


def test_limited_batches_still_meet_both_classes(tmp_path: Path) -> None:
    splits = three_splits(train=40, val=30)
    trainer = make_trainer(tmp_path, recipe(limit_batches=2, epochs=1), splits=splits)
    scored = trainer.evaluate("val")
    assert set(scored.labels) == {0, 1}
    assert len(scored.indices) == 8 == len(set(scored.indices))
    assert (scored.indices == sorted(scored.indices)).all()
    np.testing.assert_array_equal(scored.labels, splits["val"].labels.numpy()[scored.indices])
    assert len(trainer._groups(1)) == 2


def test_evaluation_is_of_every_image_in_order_and_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    small, large = (make_trainer(tmp_path, recipe(batch_size=size)) for size in (3, 64))
    one, other = small.evaluate("val"), large.evaluate("val")
    assert one.indices.tolist() == list(range(10)) == other.indices.tolist()
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-6)
    assert one.loss == pytest.approx(sk.log_loss(one.labels, one.probabilities))


# ---- which epoch is kept


class Scripted(Trainer):
    """A trainer whose splits get the scores in the script: one dict per epoch."""

    script: list[dict[str, float]]

    def evaluate(self, split_name: str) -> object:  # type: ignore[override]
        row = self.script[self.progress.epoch - 1]
        values = {"loss": 1.0, "accuracy": 0.5, "f1": 0.5, "precision": 0.5, "recall": 0.5, "auroc": 0.5}
        values |= {
            key.removeprefix(f"{split_name}/"): v for key, v in row.items() if key.startswith(split_name)
        }

        class Scores:
            def scores(self) -> dict[str, float]:
                return values

        return Scores()


def chosen(tmp_path: Path, script: list[dict[str, float]], **settings: object) -> core.Progress:
    made = recipe(epochs=len(script), batch_size=22, **settings)
    trainer = Scripted(
        made, Tiny(), three_splits(), Runtime(CPU, None), folder=tmp_path, record=Recorder(), quiet=True
    )
    trainer.script = script
    return trainer.fit()


def rows(key: str, values: list[float], loss: list[float] | None = None) -> list[dict[str, float]]:
    return [{key: v, "val/loss": x} for v, x in zip(values, loss or [1.0] * len(values), strict=True)]


@pytest.mark.parametrize("monitor", [name for name in MONITORS if name != "val/loss"])
def test_the_highest_monitor_wins_and_the_first_of_equals(monitor: str, tmp_path: Path) -> None:
    assert chosen(tmp_path, rows(monitor, [0.1, 0.7, 0.3, 0.7, 0.6]), monitor=monitor).best_epoch == 2


def test_ties_go_to_the_lower_loss(tmp_path: Path) -> None:
    script = rows("val/auroc", [0.7, 0.7, 0.7, 0.7], loss=[0.5, 0.4, 0.4, 0.6])
    assert chosen(tmp_path, script).best_epoch == 2


def test_a_loss_is_better_lower(tmp_path: Path) -> None:
    script = [{"val/loss": loss, "val/auroc": loss} for loss in (0.9, 0.3, 0.5, 0.31)]
    progress = chosen(tmp_path, script, monitor="val/loss")
    assert (progress.best_epoch, progress.best_score) == (2, -0.3)


def test_an_auroc_of_one_class_never_beats_a_number(tmp_path: Path) -> None:
    nan = float("nan")
    assert chosen(tmp_path / "a", rows("val/auroc", [0.6, nan, nan])).best_epoch == 1
    assert chosen(tmp_path / "b", rows("val/auroc", [nan, 0.2, nan])).best_epoch == 2
    script = rows("val/auroc", [nan, nan, nan], loss=[0.5, 0.4, 0.6])
    assert chosen(tmp_path / "c", script).best_epoch == 2


def test_selecting_on_test_takes_the_first_best_test_accuracy(tmp_path: Path) -> None:
    script = [
        {"test/accuracy": a, "val/auroc": v} for a, v in ((0.5, 0.9), (0.8, 0.1), (0.8, 0.95), (0.7, 1.0))
    ]
    progress = chosen(tmp_path, script, select_on="test")
    assert progress.best_epoch == 2
    assert [row["test/accuracy"] for row in progress.history] == [0.5, 0.8, 0.8, 0.7]


def test_the_test_split_is_not_looked_at_otherwise(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, recipe(), splits={**three_splits(), "test": None})  # type: ignore[dict-item]
    assert not any(key.startswith("test/") for key in trainer.fit().history[0])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (3, 8), (None, 8)])
def test_early_stopping(patience: int | None, epochs: int, tmp_path: Path) -> None:
    script = rows("val/auroc", [0.5, 0.6, 0.6, 0.55, 0.61, 0.6, 0.6, 0.6])
    assert len(chosen(tmp_path, script, early_stop_epochs=patience).history) == epochs


@pytest.mark.usefixtures("quick_disk")
def test_only_the_files_that_a_kept_state_may_name_stay(tmp_path: Path) -> None:
    chosen(tmp_path, rows("val/auroc", [0.1, 0.2, 0.3, 0.4, 0.35, 0.3]))
    states = [load_plain(path, skip=32) for path in tmp_path.glob("step-*.pt")]
    assert len(states) == 2
    named = sorted({state["progress"]["best_epoch"] for state in states})  # type: ignore[index]
    assert named[-1] == 4
    assert sorted(p.name for p in tmp_path.glob("best-*")) == [
        f"best-{epoch:05d}.{kind}" for epoch in named for kind in ("json", "safetensors")
    ]


# ---- trouble


class Breaks(Tiny):
    """Returns NaN from its n-th training batch on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.seen = at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        return super().forward(x) * (float("nan") if self.training and self.seen >= self.at else 1.0)


def test_a_loss_that_is_not_finite_says_where(tmp_path: Path) -> None:
    made = recipe(schedule={"name": "cosine"}, epochs=3, grad_accum_steps=2)
    rate = core.learning_rate(made.schedule, 0.01, 3 + 1, 9)  # second epoch, second of three steps
    with pytest.raises(NonFiniteLoss, match=rf"epoch 2, step 2 of 3, at learning rate {rate:.3g}"):
        make_trainer(tmp_path, made, Breaks(at=6 + 4)).fit()


def test_no_state_is_saved_after_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match="epoch 1, step 3 of 6"):
        make_trainer(tmp_path, recipe(checkpoint_every_s=1e-9), Breaks(at=3)).fit()
    assert len(list(tmp_path.glob("step-*.pt"))) == 2
    progress = make_trainer(tmp_path, recipe()).fit()  # from the step before
    assert len(progress.history) == 2


def test_a_validation_loss_that_is_not_finite_says_so(tmp_path: Path) -> None:
    class Overflows(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1.0 if self.training else float("inf"))

    with pytest.raises(NonFiniteLoss, match=r"the val loss is not finite in epoch 1.*optim.lr=0.01"):
        make_trainer(tmp_path, recipe(), Overflows()).fit()


# ---- device and precision


@pytest.mark.parametrize(("wanted", "world_size", "expected"), [(True, 2, 1), (True, 1, 0), (False, 2, 0)])
def test_batch_norm_is_synchronised_where_asked_for(
    wanted: bool, world_size: int, expected: int, tmp_path: Path
) -> None:
    runtime = Runtime(CPU, None, world_size=world_size)
    trainer = make_trainer(tmp_path, recipe(sync_batchnorm=wanted, ema_decay=0.9), runtime=runtime)
    assert trainer.average is not None
    for network in (trainer.network, trainer.average.model):
        assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == expected
        assert network.state_dict().keys() == Tiny().state_dict().keys()
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in trainer.network.parameters()}


def test_batch_norm_cannot_be_synchronised_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"trainer.sync_batchnorm=true needs CUDA devices"):
        open_runtime(TrainerSettings(device="cpu", sync_batchnorm=True))


def test_bf16_autocast_trains_on_a_cpu(tmp_path: Path) -> None:
    runtime = open_runtime(TrainerSettings(precision="bf16", device="cpu"))
    assert runtime.precision == "bf16" and runtime.autocast_dtype is torch.bfloat16
    trainer = make_trainer(tmp_path, recipe(augment=AUGMENT), runtime=runtime)
    row = trainer.fit().history[-1]
    assert all(np.isfinite(value) for value in row.values())
    plain = make_trainer(tmp_path / "plain", recipe(augment=AUGMENT)).fit().history[-1]
    assert row["val/loss"] != plain["val/loss"]
    assert row["val/loss"] == pytest.approx(plain["val/loss"], abs=0.05)
    assert {value.dtype for value in load_file(trainer.best_path).values()} == {torch.float32, torch.int64}


def test_precision_auto_is_bf16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr("pneumo.models.precision.cpu_has_bf16", lambda has=has: has)
        assert open_runtime(TrainerSettings(device="cpu")).precision == expected


@pytest.mark.parametrize(("switch", "expected"), [("on", "torch.bfloat16"), ("off", "None")])
def test_a_test_run_can_force_what_auto_gives_in_its_child_processes(switch: str, expected: str) -> None:
    code = "import torch, pneumo.models.precision as p; print(p.autocast_dtype('auto', torch.device('cpu')))"
    own = {**os.environ, "PYTHONPATH": import_path(PROJECT, HOOKS), "PNEUMO_TEST_BF16": switch}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=100)
    assert done.stdout == f"{expected}\n", done.stderr


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.precision=fp16 needs a CUDA device.*bf16, float32 or auto"):
        open_runtime(TrainerSettings(precision="fp16", device="cpu"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", r"trainer.device=gpu is not known; the options are auto, cpu"),
        ("mps", r"trainer.device=mps is not known"),
        ("meta", r"trainer.device=meta is not known"),
        ("cuda:99", r"trainer.device=cuda:99: this machine has \d+ CUDA devices"),
    ],
)
def test_a_bad_device_is_named(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_runtime(TrainerSettings(device=name))


def test_more_processes_than_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match=r"needs device 1\..*fewer processes"):
        open_runtime(TrainerSettings())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "trainer.epochs=0 must be at least 1"),
        ({"batch_size": 1}, "trainer.batch_size=1"),
        ({"precision": "half"}, "trainer.precision=half"),
        ({"monitor": "val/acuracy"}, "Did you mean val/accuracy"),
        ({"grad_clip_norm": 0.0}, "trainer.grad_clip_norm=0.0"),
        ({"label_smoothing": 1.0}, "trainer.label_smoothing=1.0"),
        ({"ema_decay": 1.0}, "trainer.ema_decay=1.0"),
        ({"limit_batches": 0}, "trainer.limit_batches=0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TrainerSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_peak_memory_is_that_of_the_job_at_hand() -> None:
    device = torch.device("cpu")
    forget_peak_memory(device)
    before = peak_memory_mib(device)
    with mmap.mmap(-1, 256 * 2**20) as held:
        for _ in range(256):  # in parts: the C library may keep a large one
            held.write(bytes(2**20))
        assert peak_memory_mib(device) - before > 250
    forget_peak_memory(device)
    assert peak_memory_mib(device) - before < 50
