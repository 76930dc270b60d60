"""What model.json may hold: every key must be there, and absurd values are refused."""

import json
from pathlib import Path

import pytest
from support.model_runs import change_facts

from pneumo import UserError
from pneumo.inference import model_folder
from pneumo.names import MODEL_FACTS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", {"name": "os.system", "in_channels": 3, "dropout": 0.1, "num_classes": 2}),
        ("model", {"name": "resnet18", "in_channels": 10**9, "dropout": 0.1, "num_classes": 2}),
        ("model", {"name": "resnet18", "in_channels": True, "dropout": 0.1, "num_classes": 2}),
        ("model", {"name": "resnet18"}),
        ("preprocess", {"image_size": 10**7, "crop_black": True, "equalize": True}),
        ("preprocess", {"image_size": 32, "crop_black": "yes", "equalize": True}),
        ("preprocess", {"image_size": 32, "crop_black": True, "equalize": True, "path": "/etc/passwd"}),
        ("class_names", ["NORMAL", "\x1b[2J"]),
        ("class_names", ["NORMAL"]),
        ("class_names", ["NORMAL", "A" * 10**6]),
        ("thresholds", {"half": 0.5, "sensitivity_95": 1e308}),
        ("thresholds", {"sensitivity_95": 0.5}),
        ("threshold_rule", "youden; rm -rf"),
        ("temperature", 0),
        ("temperature", -1.0),
        ("temperature", "1"),
        ("past", {"labels": [0, 1], "probabilities": [0.5]}),
        ("past", {"labels": [0, 2], "probabilities": [0.5, 0.5]}),
        ("figures", {"auroc": {"value": 1e300, "low": 0.0, "high": 1.0}}),
        ("protocol", "none"),
        ("epoch", 10**400),
        ("counts", {"images": {"train": {"NORMAL": {"deep": 1}}}}),
        ("precision", ["bf16"]),
        ("fingerprint", None),
        ("familiarity", [1]),
        ("format", 99),
        ("more", 1),
    ],
)
def test_absurd_facts_are_refused(key: str, value: object, model_dir: Path) -> None:
    change_facts(model_dir, **{key: value})
    with pytest.raises(UserError, match=key if key != "format" else "format"):
        model_folder.read(model_dir)


def test_every_fact_may_be_missing_and_is_then_named(model_dir: Path) -> None:
    whole = json.loads((model_dir / MODEL_FACTS).read_text())
    for key in whole.keys() - {"format", "weights_sha256"}:
        (model_dir / MODEL_FACTS).write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(UserError, match=key):
            model_folder.read(model_dir)
