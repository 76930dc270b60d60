"""Cross-validation: who is in which fold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.images import picture, save

from pneumo import UserError
from pneumo.data import cache, folds, patients
from pneumo.data.manifest import Manifest, build
from pneumo.data.settings import DataSettings, PhantomSettings

Make = Callable[..., DataSettings]
DRAWN = PhantomSettings(train_patients=60, test_patients=12)


def drawn(fold: int = 0, count: int = 5, **keys: object) -> DataSettings:
    return DataSettings(
        name="phantom", **{"phantom": DRAWN, "val_protocol": "fold", "folds": count, "fold": fold, **keys}
    )


def validated(settings: DataSettings) -> list[set[str]]:
    """The validation images of each fold."""
    every = [build(replace(settings, fold=fold)) for fold in range(settings.folds)]
    return [{*built.table["path"][built.table["split"] == "val"]} for built in every]


def split_of(built: Manifest) -> dict[str, str]:
    return dict(zip(built.table["path"], built.table["split"], strict=True))


def test_every_image_outside_test_validates_once() -> None:
    parts = validated(drawn())
    pool = {path for path, split in split_of(build(drawn())).items() if split != "test"}
    assert set.union(*parts) == pool and sum(map(len, parts)) == len(pool)


def test_the_test_set_is_that_of_the_other_protocols() -> None:
    plain = {
        path for path, split in split_of(build(drawn(val_protocol="patient"))).items() if split == "test"
    }
    for fold in range(5):
        assert {path for path, split in split_of(build(drawn(fold))).items() if split == "test"} == plain


@pytest.mark.parametrize("classes", [2, 3])
def test_a_patient_is_in_one_fold_and_every_fold_has_its_share_of_each_class(classes: int) -> None:
    settings = drawn(phantom=replace(DRAWN, classes=classes))
    table = build(settings).table
    table["fold"] = folds.assign(table, settings, patients.keys(table))
    pool = table[table["split"] != "test"]
    assert (pool.groupby("patient")["fold"].nunique() == 1).all()
    shares = pd.crosstab(pool["fold"], pool["label"])
    most = pool.groupby("patient").size().max()
    assert shares.shape == (5, classes)
    assert (shares.max() - shares.min() <= most).all(), "a fold differs by one patient at most"


def test_folds_follow_from_the_split_seed_and_not_from_the_order_of_files() -> None:
    settings = drawn()
    table = build(settings).table
    assert validated(settings) == validated(drawn())
    assert validated(settings) != validated(drawn(split_seed=1))
    turned = table.iloc[::-1].reset_index(drop=True)
    one, other = (
        dict(zip(rows["path"], folds.assign(rows, settings, patients.keys(rows)), strict=True))
        for rows in (table, turned)
    )
    assert one == other


def test_the_folder_of_validation_joins_train(kaggle: Path, settings: Make) -> None:
    asked = settings(root=kaggle, val_protocol="fold", folds=3, fold=0)
    parts = validated(asked)
    official = split_of(build(settings(root=kaggle, val_protocol="official")))
    assert {path for path, split in official.items() if split == "val"} <= set.union(*parts)
    assert set.union(*parts) == {path for path, split in official.items() if split != "test"}


def test_a_table_without_a_test_set_gets_one_first(tmp_path: Path, settings: Make) -> None:
    lines = ["path,label,patient"]
    for number in range(30):
        save(picture(number % 2, number, 24, 24), tmp_path / "set" / f"{number}.png")
        lines.append(f"{number}.png,{number % 3 % 2},p{number}")
    (tmp_path / "set" / "all.csv").write_text("\n".join(lines))
    asked = settings(name="csv", root=tmp_path / "set", table="all.csv", val_protocol="fold", folds=4, fold=0)
    tests = [
        {path for path, split in split_of(build(replace(asked, fold=fold))).items() if split == "test"}
        for fold in range(4)
    ]
    parts = validated(asked)
    assert len(tests[0]) > 0 and all(test == tests[0] for test in tests)
    assert not tests[0] & set.union(*parts) and len(tests[0]) + sum(map(len, parts)) == 30


def test_copies_of_an_image_are_in_one_fold(kaggle: Path, settings: Make) -> None:
    copied = kaggle / "train/NORMAL/IM-0900-0001.jpeg"
    copied.write_bytes((kaggle / "train/NORMAL/IM-0001-0001.jpeg").read_bytes())
    asked = settings(root=kaggle, val_protocol="fold", folds=5, fold=0)
    for fold in range(5):
        data = cache.prepare(build(replace(asked, fold=fold)), replace(asked, fold=fold))
        held = split_of(data.manifest)
        assert held["train/NORMAL/IM-0900-0001.jpeg"] == held["train/NORMAL/IM-0001-0001.jpeg"]
        assert not data.problems


def test_each_fold_has_a_digest_and_all_have_the_pools(kaggle: Path, settings: Make) -> None:
    made = []
    for fold in range(3):
        asked = settings(root=kaggle, val_protocol="fold", folds=3, fold=fold)
        made.append(cache.prepare(build(asked), asked).digests)
    assert len({digests["split"] for digests in made}) == 3
    assert len({digests["pool"] for digests in made}) == len({digests["test_set"] for digests in made}) == 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"fold": 5}, "data.fold=5 must be from 0 to 4: data.folds=5."),
        ({"fold": -1}, "data.fold=-1 must be from 0 to 4"),
        ({"fold": None}, "`--multirun data.fold=0,1,2,3,4` trains them all"),
        ({"folds": 1, "fold": 0}, "data.folds=1 must be at least 2"),
    ],
)
def test_a_fold_that_does_not_exist_is_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        DataSettings(**{"val_protocol": "fold", **keys})
    assert words in str(error.value)


def test_too_few_patients_are_counted_by_class() -> None:
    few = PhantomSettings(train_patients=12, test_patients=12)
    table = build(drawn(phantom=few, val_protocol="patient")).table
    pool = table[table["split"] != "test"]
    fewest = pool.groupby("label")["patient"].nunique().min()
    for fold in (0, 3):
        with pytest.raises(UserError) as error:
            build(drawn(fold, count=int(fewest) + 1, phantom=few))
        assert f" has {fewest} patients outside test" in str(error.value)
    build(drawn(count=int(fewest), phantom=few))


def test_the_real_set_keeps_all_its_patients(real_root: Path, settings: Make) -> None:
    asked = settings(root=real_root, val_protocol="fold", folds=5, fold=0)
    table = build(asked).table
    fold = folds.assign(table, asked, patients.keys(table))
    shares = pd.crosstab(fold[fold >= 0], table["label"][fold >= 0])
    assert shares.sum().tolist() == [
        int(((table["split"] != "test") & (table["label"] == label)).sum()) for label in (0, 1)
    ]
    assert (shares.max() - shares.min() <= 2).all()
    assert table[fold >= 0].groupby("patient").apply(lambda rows: fold[rows.index].nunique()).max() == 1
