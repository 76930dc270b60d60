"""A run's identity: versions, machines and folders do not move it, and what decides a result does."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pneumo import config
from pneumo.fingerprint import fingerprint, relevant

# What version 0.1 computed for images with the digest 000...: every option of every group is among them. A
# change here means that no run made before is found again.
VERSION_0_1 = {
    "": "2aa138396ebc5864",
    "model=resnet50 sampler=shuffle augment=none optim=sgd schedule=constant": "8a6b3157f7475b1d",
    "model=densenet121 sampler=weighted augment=light schedule=cosine": "cee990c66f81149f",
    "augment=none": "6b19af4597460f7b",
    "augment=light": "beac3093a8d2d751",
    "sampler=shuffle": "50dd44944b7901a6",
    "sampler=weighted": "d2e25c5c79aa023f",
    "optim=sgd": "01f4e2e8f33e9326",
    "schedule=constant": "c7d45b7faa568887",
    "schedule=cosine": "458a184348c59aaa",
    "data=phantom": "2aa138396ebc5864",  # the images' digest tells data sets apart
    "data=csv": "2aa138396ebc5864",
    "experiment=seed_report": "eba547ccbfb2de7a",
    "experiment=seed_report model=densenet121 seed=3 data.image_size=112": "2d093b0ed3813d38",
    "trainer.epochs=8 trainer.ema_decay=null trainer.grad_clip_norm=1 optim.lr=3e-4 "
    "data.val_protocol=official": "d82eadf05b9130ce",
}
DIGEST = "0" * 64


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    config.register()
    with initialize_config_dir(str(config.shipped_dir("conf")), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def of(overrides: str, digest: str = DIGEST) -> str:
    return fingerprint(config.to_config(compose("train", overrides.split())).as_dict(), digest)


@pytest.mark.parametrize("overrides", VERSION_0_1)
def test_fingerprints_are_those_of_version_0_1(overrides: str) -> None:
    assert of(overrides) == VERSION_0_1[overrides]


def test_the_literals_cover_every_option() -> None:
    given = {word for overrides in VERSION_0_1 for word in overrides.split()}
    defaults = {"data=chest_xray", "model=resnet18", "sampler=imbalanced", "augment=strong", "optim=adamw"}
    defaults |= {"schedule=onecycle", "trainer=default", "tracking=default"}
    groups = ("data", "model", "sampler", "augment", "optim", "schedule", "trainer", "tracking", "experiment")
    options = {
        f"{group}={file.stem}"
        for group in groups
        for file in (config.shipped_dir("conf") / group).glob("*.yaml")
    }
    assert options <= given | defaults


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/elsewhere",
        "data.cache_dir=/elsewhere",
        "data.num_workers=3",
        "output_dir=/elsewhere",
        "trainer.device=cuda",
        "trainer.compile=true",
        "trainer.checkpoint_every_s=1",
        "tracking.uri=http://127.0.0.1:5000",
        "force=true",
        "keep_best=1",
        "sweep_id=one",
    ],
)
def test_what_cannot_change_a_result_is_left_out(override: str) -> None:
    assert of(override) == of("")


@pytest.mark.parametrize("override", ["seed=1", "optim.lr=2e-3", "data.image_size=64", "trainer.epochs=21"])
def test_what_can_change_a_result_counts(override: str) -> None:
    assert of(override) != of("")


def test_other_images_are_another_run() -> None:
    assert of("", "1" * 64) != of("")


def test_a_weights_file_counts_by_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for file in (first, second):
        file.write_bytes(b"weights")
    one, two = (relevant({"model": {"weights": str(file)}}) for file in (first, second))
    assert one == two == {"model.weights": hashlib.sha256(b"weights").hexdigest()}
    second.write_bytes(b"others")
    assert relevant({"model": {"weights": str(second)}}) != one
