"""Sets as folders: names in any case, folders below the classes, links, and everything accounted for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import make_kaggle, picture, save

from pneumo import UserError
from pneumo.data import manifest
from pneumo.data.manifest import build
from pneumo.data.settings import DataSettings, SplitSettings

Make = Callable[..., DataSettings]


def refused(settings: DataSettings) -> str:
    with pytest.raises(UserError) as error:
        build(settings)
    return str(error.value)


def records(settings: DataSettings) -> list[tuple[str, int, str, str]]:
    """Name, label, patient and split of each image, without the names of the folders."""
    table = build(settings).table
    names = table["path"].str.rpartition("/")[2]
    return sorted(zip(names, table["label"], table["patient"], table["split"], strict=True))


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "VALID"])
@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
def test_splits_and_classes_match_in_any_case(
    tmp_path: Path, settings: Make, validation: str, case: Callable[[str], str]
) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    expected = records(settings(root=root, val_protocol="official"))
    for split, name in (("train", case("train")), ("val", validation), ("test", case("test"))):
        (root / split).rename(root / name)
        for class_name in ("NORMAL", "PNEUMONIA"):
            (root / name / class_name).rename(root / name / case(class_name))
    assert records(settings(root=root, val_protocol="official")) == expected


def test_images_in_folders_below_a_class_are_read(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    expected = records(settings(root=root))
    for split in ("train", "val", "test"):
        for file in list((root / split / "PNEUMONIA").iterdir()):
            kind = "bacteria" if "bacteria" in file.name else "virus/deep"
            (file.parent / kind).mkdir(parents=True, exist_ok=True)
            file.rename(file.parent / kind / file.name)
    assert len(records(settings(root=root))) == len(expected)
    assert {record[:3] for record in records(settings(root=root))} == {record[:3] for record in expected}
    assert not build(settings(root=root)).notes


def test_masks_are_not_read(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    expected = records(settings(root=root))
    save(picture(0, 1), root / "train" / "NORMAL" / "masks" / "IM-0001-0001.png")
    assert records(settings(root=root)) == expected
    assert build(settings(root=root)).notes == ["not used: train/NORMAL/masks/ (1 images)"]


def test_what_is_not_used_is_listed(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    for number in range(12):
        save(picture(0, number), root / "train" / "COVID19" / "a" / f"{number}.png")
        save(picture(0, number), root / "unlabelled" / f"{number % 5}.png")
    (root / "labels.csv").write_text("x")
    (root / "train" / "NORMAL" / "readme.txt").write_text("x")
    assert build(settings(root=root)).notes == [
        "1 files without an image's suffix were left out: train/NORMAL/readme.txt",
        "not used: train/COVID19/ (12 images), unlabelled/ (5 images), labels.csv (a table)",
    ]


def test_the_nested_copy_of_the_archive_is_listed(tmp_path: Path, settings: Make) -> None:
    make_kaggle(tmp_path / "chest_xray", patients=3)
    make_kaggle(tmp_path / "chest_xray" / "chest_xray", patients=3)
    save(picture(0, 1), tmp_path / "other" / "a.png")
    notes = build(settings(root=tmp_path)).notes
    assert notes == ["not used: chest_xray/chest_xray/ (32 images), other/ (1 images)"]


def test_two_folders_for_one_split_are_refused(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    (root / "valid").mkdir()
    assert "val/ and valid/, which both mean val" in refused(settings(root=root))


def test_a_missing_folder_lists_what_is_there(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    (root / "train").rename(root / "images")
    message = refused(settings(root=root))
    assert "has no folder train/" in message
    assert "It has images/ (16 images), test/ (16 images), val/ (4 images)." in message
    (root / "images").rename(root / "train")
    (root / "train" / "NORMAL").rename(root / "train" / "Healthy ones")
    message = refused(settings(root=root))
    assert "NORMAL is missing" in message and "Healthy ones/ (8 images), PNEUMONIA/ (8 images)" in message
    assert "data.positive=[NAME,...]" in message and "data.classes=[HEALTHY,OTHER]" in message


@pytest.mark.parametrize("name", ["archive.zip", "chest_xray.tar.gz"])
def test_an_archive_is_to_be_unpacked(tmp_path: Path, settings: Make, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    for root in (tmp_path, tmp_path / name):
        for option in ("chest_xray", "csv", "covid_radiography"):
            keys = {"positive": ["x"]} if option == "covid_radiography" else {}
            message = refused(settings(name=option, root=root, **keys))
            assert name in message and "unpack it first" in message, message


def test_a_set_without_test_gets_one_when_asked(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=10)
    for file in (root / "test").rglob("*.jpeg"):
        file.unlink()
    for folder in ("test/NORMAL", "test/PNEUMONIA", "test"):
        (root / folder).rmdir()
    message = refused(settings(root=root))
    assert "has no folder test/" in message and "data.split.test_fraction=0.2" in message
    built = build(settings(root=root, split=SplitSettings(test_fraction=0.3)))
    assert built.made_test and built.counts()["test"] == {"NORMAL": 6, "PNEUMONIA": 6}
    assert (built.table.groupby("patient")["split"].nunique() == 1).all()


def renamed(root: Path) -> Path:
    """The files under names that tell no patient of the public set: p<number>_<k>."""
    for file in root.rglob("*.jpeg"):
        number = "".join(sign for sign in file.stem if sign.isdigit())
        file.rename(file.with_name(f"s{number[:5]}_{file.stem[-1]}{file.parent.name[0]}.jpeg"))
    return root


def test_other_names_without_patients_get_a_clear_note(tmp_path: Path, settings: Make) -> None:
    root = renamed(make_kaggle(tmp_path / "set", patients=4))
    built = build(settings(root=root))
    assert built.patients() == {"train": 0, "val": 0, "test": 0}
    assert (
        built.notes[0].startswith("the patients are not known") and "data.patient_pattern" in built.notes[0]
    )


def test_patients_of_other_names_come_from_a_pattern(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    expected = records(settings(root=root))
    for file in root.rglob("*.jpeg"):
        parsed = str(expected[[record[0] for record in expected].index(file.name)][2])
        file.rename(file.with_name(f"{parsed}__{file.name.replace('IM', 'x').replace('person', 'x')}"))
    built = build(settings(root=root, patient_pattern=r"/([^/]+)__"))
    assert sum(built.patients().values()) == len({record[2] for record in expected})
    assert (built.table.groupby("patient")["split"].nunique() == 1).all()
    (root / "train" / "NORMAL" / "nobody.jpeg").write_bytes(b"x")
    notes = build(settings(root=root, patient_pattern=r"/([^/]+)__")).notes
    assert "1 images have no patient" in notes[0] and "data.patient_pattern" in notes[0]


def test_classes_under_other_names(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    expected = records(settings(root=root))
    for split in ("train", "val", "test"):
        (root / split / "NORMAL").rename(root / split / "Fine")
        (root / split / "PNEUMONIA").rename(root / split / "Sick")
    assert records(settings(root=root, positive=["sick"])) == expected
    assert records(settings(root=root, classes=["Fine", "Sick"])) == expected
    assert records(settings(root=root, labels={"Fine": 0, "Sick": "PNEUMONIA"})) == expected


# ---- links: one rule, as for tables


def test_a_link_out_of_the_root_is_refused(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    outside = save(picture(0, 3), tmp_path / "outside" / "IM-0002-0001.jpeg")
    link = root / "train" / "NORMAL" / "IM-0901-0001.jpeg"
    link.symlink_to(outside)
    message = refused(settings(root=root))
    assert "1 links lead out of data.root" in message and "train/NORMAL/IM-0901-0001.jpeg" in message
    link.unlink()
    for name in ("train/NORMAL/more", "train/PNEUMONIA"):
        if (root / name).is_dir():
            (root / name).rename(tmp_path / "moved")
        (root / name).symlink_to(tmp_path / "outside")
        assert f"lead out of data.root={root}: {name}" in refused(settings(root=root))
        (root / name).unlink()


def test_a_link_that_stays_below_the_root_is_followed(tmp_path: Path, settings: Make) -> None:
    root = make_kaggle(tmp_path / "set", patients=4)
    expected = records(settings(root=root))
    (root / "train" / "NORMAL").rename(root / "kept")
    (root / "train" / "NORMAL").symlink_to(root / "kept")
    assert records(settings(root=root)) == expected
    assert not build(settings(root=root)).notes
    (root / "kept" / "loop").symlink_to(root / "kept")
    assert records(settings(root=root)) == expected
    (tmp_path / "link").symlink_to(root)  # the root itself may be a link
    assert records(settings(root=tmp_path / "link")) == expected


def test_the_real_set_is_used_whole(real_root: Path, settings: Make) -> None:
    assert build(settings(root=real_root)).notes == []
    assert manifest.describe(settings(root=real_root)).files == {}
