"""What model.json may hold: every key must be there, and absurd values are refused."""

import json
from pathlib import Path

import pytest
from support.model_runs import FINDINGS, THREE, change_facts

from pneumo import UserError
from pneumo.inference import model_folder, schema
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
        ("preprocess", {"image_size": 32, "crop_black": True, "equalize": True, "pixels": 3}),
        ("preprocess", {"image_size": 32, "crop_black": True, "equalize": True, "pixels": True}),
        ("white", 0),
        ("white", 10**9),
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


def test_every_fact_but_a_later_one_may_be_missing_and_is_then_named(model_dir: Path) -> None:
    whole = json.loads((model_dir / MODEL_FACTS).read_text())
    for key in whole.keys() - {"format", "weights_sha256", *schema.LATER}:
        (model_dir / MODEL_FACTS).write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(UserError, match=key):
            model_folder.read(model_dir)


THRESHOLDS = {name: {"half": 0.5, "sensitivity_95": 0.2} for name in THREE}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_names", [*THREE[:2]]),
        ("class_names", [*THREE[:2], THREE[0]]),
        ("class_names", [*THREE[1:], THREE[0]]),
        ("class_names", [f"c{number}" for number in range(300)]),
        ("model", {"name": "resnet18", "in_channels": 3, "dropout": 0.1, "num_classes": 10**6}),
        ("class_thresholds", None),
        ("class_thresholds", {name: THRESHOLDS[name] for name in THREE[:2]}),
        ("class_thresholds", THRESHOLDS | {"more": {"half": 0.5}}),
        ("class_thresholds", THRESHOLDS | {THREE[0]: {"half": 7}}),
        ("class_thresholds", THRESHOLDS | {THREE[0]: {"youden": 0.5}}),
        ("class_figures", None),
        ("class_figures", {name: {"auroc": {"value": 1e300, "low": 0.0, "high": 1.0}} for name in THREE}),
        ("past", {"labels": [0], "probabilities": [0.5]}),
        ("past", {"labels": [0], "probabilities": [[0.5, 0.5]]}),
        ("past", {"labels": [3], "probabilities": [[0.5, 0.3, 0.2]]}),
        ("past", {"labels": [0], "probabilities": [[0.5, 0.3, "x"]]}),
        ("past", {"labels": [0], "probabilities": [[0.5, 0.3, 2]]}),
    ],
)
def test_absurd_facts_of_three_classes_are_refused(key: str, value: object, dir_of_three: Path) -> None:
    change_facts(dir_of_three, **{key: value})
    with pytest.raises(UserError, match="class_|past" if key == "class_names" else key):
        model_folder.read(dir_of_three)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_thresholds", THRESHOLDS),
        ("class_figures", {name: {} for name in THREE}),
        ("past", {"labels": [0, 1], "probabilities": [[0.5, 0.5], [0.5, 0.5]]}),
        ("past", {"labels": [[0, 1]], "probabilities": [0.5]}),
        ("class_temperatures", {"NORMAL": 1.0, "PNEUMONIA": 1.0}),
        ("temperature", None),
        ("thresholds", {}),
    ],
)
def test_two_classes_have_nothing_of_three(key: str, value: object, model_dir: Path) -> None:
    change_facts(model_dir, **{key: value})
    with pytest.raises(UserError, match="threshold for" if key == "thresholds" else key):
        model_folder.read(model_dir)


HALF = {name: {"half": 0.5} for name in FINDINGS}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "multiclass"),
        ("task", None),
        ("temperature", 1.0),
        ("class_temperatures", None),
        ("class_temperatures", dict.fromkeys(FINDINGS[:3], 1.0)),
        ("class_temperatures", dict.fromkeys(FINDINGS, 0)),
        ("class_temperatures", dict.fromkeys(FINDINGS, "1")),
        ("class_thresholds", None),
        ("class_thresholds", {name: HALF[name] for name in FINDINGS[:3]}),
        ("class_thresholds", HALF | {FINDINGS[0]: {"half": 7}}),
        ("class_figures", None),
        ("past", {"labels": [0], "probabilities": [[0.5] * 4]}),
        ("past", {"labels": [[0, 1, 0]], "probabilities": [[0.5] * 4]}),
        ("past", {"labels": [[0, 1, 0, 2]], "probabilities": [[0.5] * 4]}),
        ("past", {"labels": [[0, 1, 0, True]], "probabilities": [[0.5] * 4]}),
        ("past", {"labels": [[0, 1, 0, -1]], "probabilities": [[0.5] * 3]}),
        ("past", {"labels": [[0, 1, 0, -1]], "probabilities": [0.5]}),
        ("past", {"labels": [[0, 1, 0, -1]], "probabilities": []}),
    ],
)
def test_absurd_facts_of_findings_are_refused(key: str, value: object, dir_of_findings: Path) -> None:
    model_folder.read(dir_of_findings)
    change_facts(dir_of_findings, **{key: value})
    with pytest.raises(
        UserError, match="class_temperatures is for" if value is None and key == "task" else key
    ):
        model_folder.read(dir_of_findings)


def test_a_model_of_two_classes_is_not_one_of_two_findings(model_dir: Path) -> None:
    change_facts(model_dir, task="multilabel")
    with pytest.raises(UserError, match="class_names are those of two classes"):
        model_folder.read(model_dir)
