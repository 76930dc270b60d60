"""Trained and generated models for the tests of their use."""

import json
from pathlib import Path

import numpy as np
import torch

from pneumo.config import Config
from pneumo.data.augment import normalise
from pneumo.data.settings import DataSettings, PhantomSettings
from pneumo.evaluation.predictions import SplitResult, predictions_csv
from pneumo.models import build_model
from pneumo.models.settings import ModelSettings
from pneumo.names import CLASS_NAMES, MODEL_FACTS, many_classes
from pneumo.tracking.settings import TrackingSettings
from pneumo.training.checkpoint import save_weights
from support import plain_settings
from support.images import picture, save

SIZE = 32
THREE = ("healthy", "bacterial, lobar", "viral|<other>")  # classes whose names need care
FINDINGS = ("Edema", "Mass, <large>", "Nodule", "Hernia")  # validation has no image with the last one


def phantom(folder: Path, **keys: object) -> Config:
    """A run of seconds on synthetic images, tracked in `folder`."""
    config = Config(
        model=ModelSettings(name="resnet18"),
        data=DataSettings(
            name="phantom",
            image_size=SIZE,
            cache_dir=str(folder / "cache"),
            num_workers=1,
            phantom=PhantomSettings(train_patients=40, test_patients=16),
        ),
        augment=plain_settings.augment(),
        optim=plain_settings.optim(),
        schedule=plain_settings.schedule(),
        trainer=plain_settings.trainer(epochs=1, limit_batches=2, batch_size=16, precision="float32"),
        tracking=TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db"),
        output_dir=str(folder / "outputs"),
    )
    for key, value in keys.items():
        setattr(config, key, value)
    return config


def train(folder: Path, **keys: object) -> Path:
    """The artifacts of a finished phantom run."""
    from pneumo.run import run

    outcome = run(phantom(folder, **keys))
    assert outcome.code == 0, outcome.reason
    return max((folder / "outputs").glob("*/artifacts"), key=lambda path: path.stat().st_mtime)


def images(count: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """uint8 [count, size, size]: odd ones brighter on the left, even ones on the right, and noise."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 120, (count, size, size))
    made[1::2, :, : size // 2] += 120
    made[::2, :, size // 2 :] += 120
    return made.astype(np.uint8)


def make(
    folder: Path,
    name: str,
    in_channels: int = 3,
    seed: int = 0,
    classes: tuple[str, ...] = CLASS_NAMES,
    multilabel: bool = False,
    **facts: object,
) -> Path:
    """The artifacts of a finished run with random weights, whose BatchNorm statistics fit its images.

    The validation and test sets are `images` 0 and 1, whose labels are the `classes` in turn. With
    `multilabel` they are those of `findings`.
    """
    torch.manual_seed(seed)
    network = build_model(name, num_classes=len(classes), in_channels=in_channels)
    with torch.inference_mode():
        for start in range(3):
            network(normalise(torch.from_numpy(images(16, 10 + start)), in_channels))
        network.eval()
        splits = {}
        for number, split in enumerate(("val", "test")):
            logits = network(normalise(torch.from_numpy(images(24, number)), in_channels)).double()
            chances = (logits.sigmoid() if multilabel else logits.softmax(1)).numpy()
            labels = findings(24, number, len(classes)) if multilabel else np.arange(24) % len(classes)
            splits[split] = SplitResult(
                paths=[f"{split}/{row}.png" for row in range(24)],
                patients=[f"p{row // 2}" for row in range(24)],
                labels=labels,
                probabilities=chances if many_classes(classes) else chances[:, 1],
                class_names=classes,
            )
    best = {
        "fingerprint": f"{seed:016x}",
        "protocol": "patient_val",
        "epoch": 1,
        "monitor": "val/auroc",
        "model": {"name": name, "dropout": 0.09, "in_channels": in_channels, "weights": None},
        "preprocess": {"image_size": SIZE, "crop_black": True, "equalize": True},
        "class_names": list(classes),
        **({"task": "multilabel"} if multilabel else {}),
        "data_digest": "d" * 64,
        "synthetic": True,
        **facts,
    }
    save_weights(folder / "checkpoints" / "best.safetensors", network.state_dict(), best)
    (folder / "predictions").mkdir(exist_ok=True)
    for split, result in splits.items():
        (folder / "predictions" / f"{split}.csv").write_bytes(predictions_csv(result))
    return folder


def findings(count: int, seed: int, columns: int) -> np.ndarray:
    """Labels [count, columns] of 1, 0 and -1. In set 0, no image has the last finding."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, columns)) < 0.4).astype(np.int64)
    labels[1::2, 0], labels[::2, 0] = 1, 0  # the side of the light
    labels[0, 1:], labels[1, 1:] = 0, 1
    labels[2:][rng.random((count - 2, columns)) < 0.15] = -1
    if seed == 0:
        labels[:, -1] = np.minimum(labels[:, -1], 0)
    return labels


def change_facts(model_dir: Path, **changed: object) -> None:
    """Change values of a model folder's model.json."""
    file = model_dir / MODEL_FACTS
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def image_folder(folder: Path, count: int = 5) -> Path:
    """`folder`/in with `count` generated images, 0.png to 4.png."""
    for number in range(count):
        save(picture(number % 2, number), folder / "in" / f"{number}.png")
    return folder / "in"
