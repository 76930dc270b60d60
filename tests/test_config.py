"""Every configuration composes, the public keys have their documented defaults, and composing is quick."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pneumo import UserError, config

GROUPS = ("data", "model", "sampler", "augment", "optim", "schedule", "trainer", "tracking", "experiment")
OPTIONS = [
    (group, file.stem)
    for group in GROUPS
    for file in sorted((config.shipped_dir("conf") / group).glob("*.yaml"))
]
SWEEPS = sorted(file.stem for file in config.shipped_dir("sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def hydra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MLFLOW_TRACKING_URI", "PNEUMO_DATA", "PNEUMO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    config.register()
    with initialize_config_dir(str(config.shipped_dir("conf")), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def composed(*overrides: str) -> config.Config:
    return config.to_config(compose("train", list(overrides)))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    assert isinstance(composed(f"{group}={option}"), config.Config)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_composes(name: str) -> None:
    assert composed(f"sweep={name}")


@pytest.mark.parametrize(
    "file",
    [*config.shipped_dir("sweeps").glob("*.yaml"), *config.shipped_dir("conf").glob("experiment/*.yaml")],
    ids=lambda file: file.stem,
)
def test_every_sweep_and_experiment_opens_with_its_question(file: Path) -> None:
    text = file.read_text()
    for word in ("Question:", "Command:", "Time:", "Result:"):
        assert word in text


def test_documented_defaults() -> None:
    run = composed()
    assert (run.model.dropout, run.model.pretrained, run.model.weights, run.model.in_channels) == (
        0.09,
        False,
        None,
        3,
    )
    assert (run.sampler.name, run.augment.name, run.optim.name) == ("imbalanced", "strong", "adamw")
    trainer = run.trainer
    assert (trainer.batch_size, trainer.precision, trainer.device, trainer.compile) == (
        64,
        "auto",
        "auto",
        "auto",
    )
    assert (trainer.class_weights, trainer.early_stop_epochs, trainer.monitor) == (False, None, "val/auroc")
    assert (trainer.limit_batches, trainer.grad_accum_steps, trainer.grad_clip_norm) == (None, 1, None)
    assert (trainer.deterministic, trainer.checkpoint_every_s) == (False, 300)
    data = run.data
    assert (data.name, data.image_size, data.val_protocol, data.val_fraction) == (
        "chest_xray",
        224,
        "patient",
        0.1,
    )
    assert (data.equalize, data.crop_black, data.on_bad_image) == (True, True, "error")
    assert data.root == "./data/chest_xray"
    assert run.tracking.uri == f"sqlite:///{config.project_dir()}/mlflow.db"
    assert (run.tracking.experiment, run.tracking.enabled, run.seed, run.force) == ("pneumo", True, 0, False)
    assert run.output_dir == str(config.project_dir() / "outputs")


def test_environment_names_data_and_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMO_DATA", "/somewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    run = composed()
    assert (run.data.root, run.tracking.uri) == ("/somewhere", "http://127.0.0.1:5000")


def test_the_trackers_password_is_not_kept_with_a_run() -> None:
    run = composed("tracking.uri='http://me:xyzzy-4711@127.0.0.1:5000/x'")
    assert run.tracking.uri == "http://me:xyzzy-4711@127.0.0.1:5000/x"
    assert "uri: http://127.0.0.1:5000/x" in run.as_yaml()
    assert "xyzzy-4711" not in run.as_yaml()


def test_seed_report_is_the_seed_reports_recipe() -> None:
    run = composed("experiment=seed_report", "model=densenet121")
    assert run.model.name == "densenet121"
    assert (run.trainer.epochs, run.trainer.batch_size, run.trainer.select_on) == (50, 64, "test")
    assert (run.optim.name, run.optim.lr, run.optim.weight_decay) == ("adamw", 1e-4, 1e-4)
    assert (run.model.dropout, run.augment.name, run.sampler.name) == (0.09, "light", "imbalanced")
    assert run.schedule.name == "constant"
    assert run.trainer.ema_decay is None


@pytest.mark.parametrize(
    "override",
    [
        "model.dropout=1.5",
        "trainer.epochs=0",
        "trainer.monitor=val/nonsense",
        "data.val_fraction=0",
        "data.on_bad_image=ignore",
        "optim.lr=-1",
        "trainer.ema_decay=1",
        "trainer.batch_size=1",
        "augment.flip_p=2",
        "sampler.smoothing=-1",
        "tracking.experiment=' '",
        "seed=-1",
    ],
)
def test_values_out_of_range_are_named(override: str) -> None:
    key, value = override.split("=")
    with pytest.raises(UserError) as caught:
        composed(override)
    assert key.split(".")[-1] in str(caught.value)
    assert value.strip("'") in str(caught.value)


@pytest.mark.parametrize("value", ["true", "false", "auto"])
def test_compile_takes_true_and_false_as_hydra_reads_them(value: str) -> None:
    assert composed(f"trainer.compile={value}").trainer.compile == value


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices_that_torch_knows_are_taken(device: str) -> None:
    assert composed(f"trainer.device={device}").trainer.device == device


def test_composing_beside_a_running_command_leaves_it_as_it_was() -> None:
    running = GlobalHydra.instance().hydra
    assert config.compose(["seed=3", "data=phantom"]).seed == 3
    assert GlobalHydra.instance().hydra is running and composed("seed=4").seed == 4


def test_composing_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['train', '--cfg', 'job']\n"
        "from pneumo import train\n"
        "try: train.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'mlflow', 'matplotlib', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "val_protocol: patient" in done.stdout
