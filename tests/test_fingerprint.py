"""A run's identity: versions, machines and folders do not move it, and what decides a result does."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from pneumo import config
from pneumo import fingerprint as identity
from pneumo.data import cache, manifest, phantom
from pneumo.data.settings import DataSettings, PhantomSettings
from pneumo.fingerprint import (
    IRRELEVANT,
    KEYS_0_1,
    LATER,
    TABLE_KEYS,
    LaterKey,
    fingerprint,
    older_fingerprints,
    relevant,
)
from pneumo.sweep.identity import choices, job_key, sweep_id
from pneumo.sweep.optuna_sweeper import OptunaSweeper
from pneumo.versions import CORE, PIXELS

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
LATER_SETS = ("nih14", "chexpert", "rsna", "covid_radiography", "kermany3")


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    config.register()
    with initialize_config_dir(str(config.shipped_dir("conf")), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def composed(overrides: str) -> dict[str, Any]:
    return config.to_config(compose("train", overrides.split())).as_dict()


def of(overrides: str, digest: str = DIGEST, **versions: int) -> str:
    return fingerprint(composed(overrides), digest, **versions)


@pytest.mark.parametrize("overrides", VERSION_0_1)
def test_fingerprints_are_those_of_version_0_1(overrides: str) -> None:
    assert of(overrides, core=1, pixels=1) == VERSION_0_1[overrides]


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
    assert options <= given | defaults | {f"data={name}" for name in LATER_SETS}


@pytest.mark.parametrize("name", LATER_SETS)
def test_presets_of_later_versions_differ_from_a_table_only_in_how_they_are_read(name: str) -> None:
    assert of(f"data={name}") == of("data=csv")


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/elsewhere",
        "data.cache_dir=/elsewhere",
        "data.num_workers=3",
        "data=csv data.table=x.csv data.columns.path=y data.positive=[A] data.split.seed=3",  # in the digest
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
    one, two = (relevant({"model": {"weights": str(file)}}, 1, 1) for file in (first, second))
    assert one == two == {"model.weights": hashlib.sha256(b"weights").hexdigest()}
    second.write_bytes(b"others")
    assert relevant({"model": {"weights": str(second)}}, 1, 1) != one


# ---- other identities of version 0.1

UNTOUCHED = "model.dropout=0 optim.weight_decay=0 trainer.precision=float32 data.pixels=1"


@pytest.mark.parametrize(
    ("overrides", "known"),
    [
        ("model=resnet18,densenet121 optim.lr=1e-4,3e-4", "sweep-33357c2092"),
        (
            "sampler=shuffle,weighted seed=0,1,2 data.image_size=64 tracking.experiment=x trainer.device=cpu",
            "sweep-f1c48e5a4e",
        ),
    ],
)
def test_sweep_ids_are_those_of_version_0_1(overrides: str, known: str) -> None:
    assert sweep_id(None, choices(overrides.split()), "pneumo") == known
    new = f"{overrides} trainer.sync_batchnorm=false on_code_change=keep data.pixels=null"
    assert sweep_id(None, choices(new.split()), "pneumo") == known


@pytest.mark.parametrize(
    ("overrides", "known"),
    [
        ("model=resnet18 optim.lr=1e-4", "74e633fa63"),
        ("sampler=weighted seed=2 data.image_size=64", "a2768f469a"),
    ],
)
def test_job_keys_are_those_of_version_0_1(overrides: str, known: str) -> None:
    assert job_key(choices(overrides.split())) == known
    assert job_key(choices([*overrides.split(), "trainer.sync_batchnorm=false"])) == known
    assert job_key(choices([*overrides.split(), "trainer.sync_batchnorm=true"])) != known


@pytest.mark.parametrize(
    ("overrides", "known"),
    [
        (f"data.root=/x {UNTOUCHED}", "d01f28b7d16e"),
        (f"data=phantom optim=sgd {UNTOUCHED} data.phantom.seed=4", "53fbc8c9d6be"),
    ],
)
def test_study_names_are_those_of_version_0_1(
    overrides: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PNEUMO_DATA", raising=False)
    space = [SimpleNamespace(key="optim.lr", text="optim.lr=interval(1e-4,3e-3)")]
    keys = SimpleNamespace(direction="maximize")
    sweeper: Any = SimpleNamespace(config=compose("train", overrides.split()), space=space, keys=keys)
    assert OptunaSweeper._digest(sweeper) == known


def test_digests_and_cache_keys_are_those_of_version_0_1(tmp_path: Path) -> None:
    settings = PhantomSettings(train_patients=40, test_patients=16, seed=3)
    assert phantom.digest(settings) == "2db9f1b0e30934b111f7243d8eda6475acb0adb5ddaab3f18af5b3ad209fa2f3"
    few = PhantomSettings(train_patients=40, test_patients=8)
    made = DataSettings(
        name="phantom",
        image_size=16,
        cache_dir=str(tmp_path / "phantom"),
        num_workers=1,
        val_fraction=0.3,
        pixels=1,
        phantom=few,
    )
    data = cache.prepare(manifest.build(made), made)
    assert data.digest == "bcce5235a467e0c8eedcef75aefe3af7ad5b82ef02945ad8db32de4da9dd9e38"
    assert folders(tmp_path / "phantom") == ["af58dac6b49dcd05c19a249f33ea7475"]


def test_a_tables_digest_and_cache_key_are_those_of_version_0_1(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("test", 4)):
        rows = ["path,label,patient"]
        for row in range(count):
            levels = (row * 7 + (split == "test")) % 251 + np.indices((20, 24)).sum(0) * 3
            Image.fromarray(levels.astype("uint8")).save(tmp_path / f"{split}{row}.png")
            rows.append(f"{split}{row}.png,{row % 2},p{split}{row // 2}")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    made = DataSettings(
        name="csv",
        root=str(tmp_path),
        image_size=16,
        cache_dir=str(tmp_path / "cache"),
        num_workers=1,
        val_fraction=0.3,
        pixels=1,
    )
    data = cache.prepare(manifest.build(made), made)
    assert data.digest == "8b8d21697ab601c2d3557cc41cb4a6197d6454bad7244c2b51d183b18e52ed0f"
    assert folders(tmp_path / "cache") == ["c30ebbc88743260b1d1b0d4518c9dce8"]


def folders(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir() if entry.is_dir()]


# ---- later keys and versions


def test_every_key_is_declared() -> None:
    """A new key must say whether it decides results: in IRRELEVANT, or with a neutral value in LATER."""
    flat: set[str] = set()
    for group, value in composed("").items():
        if group in IRRELEVANT[""]:
            continue
        keys = value if isinstance(value, dict) else {"": None}
        flat |= {f"{group}.{key}".rstrip(".") for key in keys if key not in IRRELEVANT.get(group, ())}
    outside = {key for key in LATER if key.split(".")[1] in IRRELEVANT.get(key.split(".")[0], ())}
    assert flat == KEYS_0_1 | (LATER.keys() - outside)
    assert {f"data.{key}" for key in TABLE_KEYS} <= {".".join(key.split(".")[:2]) for key in outside}


def test_folds_count_where_they_are_used() -> None:
    assert of("data.fold=1 data.folds=4") == of("")
    folded = [of(f"data.val_protocol=fold data.fold={fold}") for fold in range(3)]
    assert len({*folded, of("data.val_protocol=fold data.fold=0 data.folds=4"), of("")}) == 5


def test_another_way_of_reading_is_another_sweep_and_another_study(monkeypatch: pytest.MonkeyPatch) -> None:
    neutral = choices(["data=csv", "seed=0,1"])
    assert choices(["data=csv", "seed=0,1", "data.table=null", "data.split.seed=0"]) == neutral
    assert choices(["data=csv", "seed=0,1", "data.positive=[A]"]) != neutral
    assert identity.reading(composed("data=csv")["data"]) == {}
    read = identity.reading(composed("data=csv data.split.seed=2 data.columns.path=A")["data"])
    assert read == {"split": {"seed": 2}, "columns": {"path": "A"}}


def test_a_saved_configuration_without_nested_keys_has_their_neutral_values() -> None:
    saved = composed("")
    for key in TABLE_KEYS:
        del saved["data"][key]
    assert identity.with_neutral(saved)["data"] == composed("")["data"]
    assert "table" not in saved["data"]


def test_a_new_key_at_its_neutral_value_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(identity.LATER, "trainer.mixup", LaterKey(neutral=None))
    before = of("")
    whole = composed("")
    assert fingerprint(whole | {"trainer": whole["trainer"] | {"mixup": None}}, DIGEST) == before
    assert fingerprint(whole | {"trainer": whole["trainer"] | {"mixup": 0.2}}, DIGEST) != before


def test_a_changed_default_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neutral value is not the default: a saved run that lacks the key means the neutral value."""
    monkeypatch.setitem(identity.LATER, "trainer.mixup", LaterKey(neutral=0.0))
    saved, whole = of(""), composed("")
    assert fingerprint(whole | {"trainer": whole["trainer"] | {"mixup": 0.0}}, DIGEST) == saved


def test_a_key_outside_its_condition_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_sgd(flat: Any) -> bool:
        return flat["optim.name"] == "sgd"

    monkeypatch.setitem(identity.LATER, "optim.nesterov", LaterKey(neutral=True, matters=with_sgd))
    for overrides, same in (("optim=adamw", True), ("optim=sgd", False)):
        whole = composed(overrides)
        changed = whole | {"optim": whole["optim"] | {"nesterov": False}}
        assert (fingerprint(changed, DIGEST) == fingerprint(whole, DIGEST)) is same


def test_a_new_key_below_the_phantom_moves_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, before = PhantomSettings(), phantom.digest(PhantomSettings())
    keys = dataclasses.asdict(settings)
    monkeypatch.setitem(identity.LATER, "data.phantom.age", LaterKey(neutral=None))
    monkeypatch.setattr(phantom, "asdict", lambda _: keys | {"age": None})
    assert phantom.digest(settings) == before
    monkeypatch.setattr(phantom, "asdict", lambda _: keys | {"age": 5})
    assert phantom.digest(settings) != before


def test_versions_count_only_where_they_touch() -> None:
    touched = relevant(composed(""))
    assert (touched["core"], touched["pixels"]) == (CORE, PIXELS)
    untouched = relevant(composed(UNTOUCHED))
    assert "core" not in untouched and "pixels" not in untouched
    assert older_fingerprints(composed(UNTOUCHED), DIGEST) == {}


def test_older_fingerprints_are_named() -> None:
    older = older_fingerprints(composed(""), DIGEST)
    assert older["core 1, pixels 1"] == VERSION_0_1[""] and of("") not in older.values()


def test_a_saved_configuration_of_version_0_1_means_core_1_and_pixels_1() -> None:
    saved = composed("")
    del saved["data"]["pixels"], saved["trainer"]["sync_batchnorm"], saved["on_code_change"]
    assert fingerprint(saved, DIGEST, core=1, pixels=1) == VERSION_0_1[""]
