"""Folders and CSV files to one table; the validation split; refusals and their messages."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from support.images import make_kaggle, picture, save

from pneumo import UserError
from pneumo.data import manifest, splits, tables
from pneumo.data.manifest import Manifest, build, describe, digests
from pneumo.data.patients import keys as patient_keys
from pneumo.data.patients import parse_name
from pneumo.data.settings import DataSettings
from pneumo.names import CLASS_NAMES

Make = Callable[..., DataSettings]


def write_csv(
    root: Path, train: str | bytes, test: str | bytes | None = None, val: str | None = None
) -> Path:
    root.mkdir(exist_ok=True)
    if test is None:
        test = "path,label,patient\nx/t0.png,0,t0\nx/t1.png,1,t1\n"
    for name, text in (("train", train), ("test", test), ("val", val)):
        if text is not None:
            (root / f"{name}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def rows(patients: int, images: int = 2, header: str = "path,label,patient", folder: str = "x") -> str:
    lines = [header]
    for number in range(patients):
        for k in range(images):
            lines.append(f"{folder}/{number}_{k}.png,{number % 2},p{number}")
    return "\n".join(lines) + "\n"


def refused(settings: DataSettings) -> str:
    with pytest.raises(UserError) as error:
        build(settings)
    return str(error.value)


# ---- the Kaggle layout


def test_kaggle_layout(kaggle_read_only: Path, settings: Make) -> None:
    table = build(settings(root=kaggle_read_only)).table
    assert list(table.columns) == ["path", "label", "patient", "subtype", "split"]
    assert len(table) == 2 * 2 * (10 + 1 + 4)
    first = table[table["path"] == "train/PNEUMONIA/person3_virus_1001.jpeg"].iloc[0]
    assert (first["label"], first["patient"], first["subtype"]) == (1, "person-virus-3", "virus")
    assert set(table.loc[table["label"] == 0, "subtype"]) == {"normal"}


def test_clutter_is_skipped_and_other_files_are_named(kaggle: Path, settings: Make) -> None:
    folder = kaggle / "train" / "NORMAL"
    for name in ("._IM-0001-0001.jpeg", ".DS_Store"):
        (folder / name).write_bytes(b"clutter")
    (folder / "__MACOSX").mkdir()
    (kaggle / "__MACOSX" / "train" / "NORMAL").mkdir(parents=True)
    assert not build(settings(root=kaggle)).notes
    (folder / "readme.txt").write_text("x")
    (folder / "caf\udce9.txt").write_text("x")  # a name that is not UTF-8
    built = build(settings(root=kaggle))
    assert len(built.table) == 60
    assert "2 files" in built.notes[0] and "readme.txt" in built.notes[0]
    built.notes[0].encode()  # printable


def test_nested_copy_of_the_archive(tmp_path: Path, settings: Make) -> None:
    make_kaggle(tmp_path / "chest_xray", patients=3)
    make_kaggle(tmp_path / "chest_xray" / "chest_xray", patients=3)
    expected = build(settings(root=tmp_path / "chest_xray")).table
    assert len(expected) == 2 * 2 * (3 + 1 + 4)
    make_kaggle(tmp_path / "b" / "chest_xray" / "chest_xray", patients=3)
    for root in (tmp_path / "b", tmp_path / "b" / "chest_xray", tmp_path):
        assert build(settings(root=root)).table.equals(expected)


@pytest.mark.parametrize(
    ("name", "patient", "subtype"),
    [
        ("person1_bacteria_1.jpeg", "person-bacteria-1", "bacteria"),
        ("person1_virus_12_3.jpeg", "person-virus-1", "virus"),
        ("IM-0115-0001.jpeg", "IM-115", "normal"),
        ("IM-0115-0001-0002.jpeg", "IM-115", "normal"),
        ("NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-115", "normal"),
        ("NORMAL-28501-0001.jpeg", "NORMAL-28501", "normal"),
        ("BACTERIA-30629-0001.jpeg", "BACTERIA-30629", "bacteria"),
        ("VIRUS-30629-0003.jpeg", "VIRUS-30629", "virus"),
        ("train/NORMAL/IM-1-1.PNG", "IM-1", "normal"),
        ("img001.jpeg", None, None),
        ("person_bacteria_1.jpeg", None, None),
        ("person1_fungus_1.jpeg", None, None),
        ("xIM-0115-0001.jpeg", None, None),
        ("IM-0115-0001x.jpeg", None, None),
    ],
)
def test_names(name: str, patient: str | None, subtype: str | None) -> None:
    assert parse_name(name) == ((patient, subtype) if patient else None)


def test_unknown_names_list_the_first_ten_and_the_way_out(kaggle: Path, settings: Make) -> None:
    for number in range(14):
        save(picture(0, number), kaggle / "train" / "NORMAL" / f"odd{number:02d}.jpeg")
    message = refused(settings(root=kaggle))
    assert message.startswith("14 file names") and "and 4 more" in message
    assert message.count("/odd") == 10 and "`patient` column" in message and "data=csv" in message


def test_missing_folders(tmp_path: Path, kaggle: Path, settings: Make) -> None:
    message = refused(settings(root=tmp_path / "nowhere"))
    assert "nowhere" in message and "`pneumo data fetch" in message and "data=phantom" in message
    (tmp_path / "bare").mkdir()
    message = refused(settings(root=tmp_path / "bare"))
    assert "no folder train/" in message and "data=phantom" in message
    (kaggle / "train" / "NORMAL").rename(kaggle / "away")
    assert "NORMAL" in refused(settings(root=kaggle))


def test_a_set_without_images_is_refused(tmp_path: Path, settings: Make) -> None:
    for split in ("train", "test"):
        for name in CLASS_NAMES:
            (tmp_path / split / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no image: .* none was found"):
        build(settings(root=tmp_path))
    (tmp_path / "train" / "NORMAL" / "one.gif").write_bytes(b"x")
    with pytest.raises(UserError, match=r"only train/NORMAL/one\.gif"):
        build(settings(root=tmp_path))


def test_an_empty_class_is_refused(kaggle: Path, settings: Make) -> None:
    for file in (kaggle / "test" / "NORMAL").iterdir():
        file.unlink()
    message = refused(settings(root=kaggle))
    assert "the test split" in message and "no NORMAL" in message


def test_a_patient_in_two_splits_is_refused(kaggle: Path, settings: Make) -> None:
    save(picture(0, 77), kaggle / "test" / "NORMAL" / "IM-0002-0009.jpeg")
    message = refused(settings(root=kaggle))
    assert "1 patients" in message and "IM-2" in message
    assert manifest.problems(describe(settings(root=kaggle)))


def test_the_real_set(real_root: Path, settings: Make) -> None:
    official = build(settings(root=real_root, val_protocol="official"))
    counts = {split: sum(classes.values()) for split, classes in official.counts().items()}
    assert counts == {"train": 5216, "val": 16, "test": 624}
    assert official.patients() == {"train": 3654, "val": 15, "test": 428}
    assert official.counts()["train"] == {"NORMAL": 1341, "PNEUMONIA": 3875}
    carved = build(settings(root=real_root, val_fraction=0.1))
    pool = pd.Series({"NORMAL": 1341 + 8, "PNEUMONIA": 3875 + 8})
    assert np.allclose(pd.Series(carved.counts()["val"]) / pool, 0.1, atol=0.01)
    contents = [hashlib.sha256((real_root / path).read_bytes()).hexdigest() for path in carved.table["path"]]
    repeated = pd.Series(contents).value_counts()
    assert (int((repeated - 1).sum()), int((repeated > 1).sum())) == (32, 30)
    hashes = dict(zip(carved.table["path"], contents, strict=True))
    before = carved.table
    manifest.keep_copies_together(carved, hashes, settings(root=real_root, val_fraction=0.1))
    assert carved.table is before and not manifest.content_problems(carved, hashes)


# ---- CSV files


@pytest.mark.parametrize("column", ["path", "filepath", "img"])
def test_csv_columns(tmp_path: Path, settings: Make, column: str) -> None:
    root = write_csv(tmp_path / "set", rows(8, header=f"{column},label,patient"))
    built = build(settings(name="csv", root=root))
    assert len(built.table) == 18 and not built.notes
    assert built.table.loc[built.table["path"] == "x/3_1.png", "patient"].item() == "p3"


def test_csv_in_the_reports_form(tmp_path: Path, settings: Make) -> None:
    """`path,label`, with the paths of the unpacked archive; patients come from the names."""
    make_kaggle(tmp_path / "chest_xray", patients=6)
    for split in ("train", "val", "test"):
        files = sorted((tmp_path / "chest_xray" / split).rglob("*.jpeg"))
        lines = [f"{file.relative_to(tmp_path)},{int(file.parent.name == 'PNEUMONIA')}" for file in files]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *lines]))
    from_csv = build(settings(name="csv", root=tmp_path))
    from_folders = build(settings(root=tmp_path / "chest_xray"))
    assert not from_csv.notes
    ours = from_csv.table.assign(path=from_csv.table["path"].str.removeprefix("chest_xray/"))
    assert ours.to_dict("records") == from_folders.table.to_dict("records")


def test_csv_forms_that_spreadsheets_write(tmp_path: Path, settings: Make) -> None:
    text = "\ufeff Path , path, label ,patient, age\r\n"
    text += 'z, x/a.png , normal,p1,3\r\n\r\nz,"x/b, 2.png",PNEUMONIA, p2 ,4\r\n'
    text += "z,x\\c.png,0,p3,\r\nz,./x//d.png,1,,\r\n"
    root = write_csv(tmp_path / "set", text)
    built = build(settings(name="csv", root=root))
    pool = built.table[built.table["split"] != "test"].sort_values("path")
    assert pool["path"].tolist() == ["x/a.png", "x/b, 2.png", "x/c.png", "x/d.png"]
    assert pool["label"].tolist() == [0, 1, 0, 1]
    assert pool["patient"].tolist()[:3] == ["p1", "p2", "p3"] and pd.isna(pool["patient"].tolist()[3])
    assert "1 images have no patient" in built.notes[0] and "`patient` column" in built.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,lable\nx/a.png,0\n", ["no column label", "path, lable"]),
        ("picture,label\nx/a.png,0\n", ["no column path (or filepath, or img)", "picture, label"]),
        ("picture;label\nx/a.png;0\n", ["no column path", "picture, label", "data.columns.path=NAME"]),
        ("path,label\nx/a.png,0\nx/b.png,7\n", ["line 3", "'7'", "0 or NORMAL, 1 or PNEUMONIA"]),
        ("path,label\n\nx/a.png,0\n\nx/b.png,7\n", ["line 5", "'7'"]),
        ("path,label\nx/a.png\n", ["line 2", "''"]),
        ("path,label\nx/a.png,0,9\n", ["Expected 2 fields in line 2"]),
        ("path,label,label\nx/a.png,0,1\n", ["column label more than once"]),
        ("path,label\n../a.png,0\n", ["line 2", "'../a.png'", "leaves data.root"]),
        ("path,label\nx/../../a.png,0\n", ["leaves data.root"]),
        ("path,label\n/etc/passwd,0\n", ["'/etc/passwd'", "leaves data.root"]),
        ("path,label\nout/a.png,0\n", ["'out/a.png' leaves data.root", "or below a link"]),
        ("path,label\nlink.png,0\n", ["'link.png' leaves data.root", "it is a link"]),
        ("path,label\na\0b.png,0\n", ["is not a path"]),
        ("path,label\n,0\n", ["line 2", "is not a path"]),
        ("path,label\n", ["no rows"]),
        ("path,label\n\n\n", ["no rows"]),
        ("", ["cannot be read as CSV"]),
        (b"path,label\n\xff\xfe,0\n", ["cannot be read as CSV (UTF-8)", "utf-8"]),
        ('path,label\n"x/a.png,0\n', ["cannot be read as CSV"]),
        ("path,label\nx/a.png,0\nx/a.png,1\n", ["listed more than once", "x/a.png (label NORMAL and PNEUMO"]),
    ],
)
def test_csv_errors(tmp_path: Path, settings: Make, text: str | bytes, words: list[str]) -> None:
    root = write_csv(tmp_path / "set", text)
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "link.png").symlink_to(tmp_path / "outside" / "a.png")
    message = refused(settings(name="csv", root=root))
    assert all(word in message for word in words), message
    if "more than once" not in words[0]:
        assert "train.csv" in message or "listed" in message


def test_links_that_stay_below_the_root_are_followed(tmp_path: Path, settings: Make) -> None:
    root = write_csv(tmp_path / "set", rows(8, folder="link"))
    (root / "x").mkdir()
    (root / "link").symlink_to(root / "x")
    assert len(build(settings(name="csv", root=root)).table) == 18


def test_missing_csv_files(tmp_path: Path, settings: Make) -> None:
    root = write_csv(tmp_path / "set", rows(8))
    (root / "train.csv").unlink()
    assert "train.csv is missing" in refused(settings(name="csv", root=root))
    (root / "train.csv").mkdir()
    assert "train.csv is missing" in refused(settings(name="csv", root=root))


def test_a_table_past_the_limits_is_refused_before_it_fills_the_memory(
    tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_csv(tmp_path / "set", rows(8))
    monkeypatch.setattr(tables, "MAX_ROWS", 16)
    build(settings(name="csv", root=root))
    monkeypatch.setattr(tables, "MAX_ROWS", 15)
    assert "more rows than the limit of 15" in refused(settings(name="csv", root=root))
    with (root / "train.csv").open("ab") as file:
        file.truncate(3 * 2**30)  # sparse
    assert "more than the limit of 268,435,456" in refused(settings(name="csv", root=root))


def test_a_val_csv_joins_the_pool_or_stays(tmp_path: Path, settings: Make) -> None:
    val = "path,label,patient\nx/v0.png,0,v0\nx/v1.png,1,v1\n"
    root = write_csv(tmp_path / "set", rows(20), val=val)
    official = build(settings(name="csv", root=root, val_protocol="official")).table
    assert official.loc[official["split"] == "val", "path"].tolist() == ["x/v0.png", "x/v1.png"]
    carved = build(settings(name="csv", root=root)).table
    assert (carved["split"] == "val").sum() == 8
    (root / "val.csv").unlink()
    message = refused(settings(name="csv", root=root, val_protocol="official"))
    assert "data.val_protocol=patient" in message


# ---- the validation split


def test_carving_depends_on_split_seed_alone(
    kaggle_read_only: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(settings(root=kaggle_read_only)).table
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: reversed(list(scandir(folder))))
    assert build(settings(root=kaggle_read_only)).table.equals(first)
    other = build(settings(root=kaggle_read_only, split_seed=1)).table
    assert not other.equals(first)
    for table in (first, other):
        assert not set(table.loc[table["split"] == "val", "patient"]) & set(
            table.loc[table["split"] == "train", "patient"]
        )
        val = table[table["split"] == "val"]
        assert val["label"].value_counts().to_dict() == {0: 4, 1: 4}  # a fifth of 22 images, two per patient


def test_the_official_validation_images_join_train(kaggle_read_only: Path, settings: Make) -> None:
    table = build(settings(root=kaggle_read_only)).table
    joined = table[table["path"].str.startswith("val/")]
    assert len(joined) == 4 and (joined["split"] == "train").any()
    official = build(settings(root=kaggle_read_only, val_protocol="official")).table
    assert (official["split"] == official["path"].str.split("/").str[0]).all()


def table_of(patients: list[list[int]]) -> pd.DataFrame:
    """One list of labels per patient."""
    lines = [
        (f"x/{number}_{k}.png", label, f"p{number}")
        for number, labels in enumerate(patients)
        for k, label in enumerate(labels)
    ]
    return pd.DataFrame(lines, columns=["path", "label", "patient"]).assign(subtype=None, split="train")


@effort(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=40),
    fraction=st.floats(0.01, 0.9),
    split_seed=st.integers(0, 5),
    copies=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=12),
)
def test_carving_is_disjoint_and_keeps_every_row(
    patients: list[list[int]], fraction: float, split_seed: int, copies: list[tuple[int, int]]
) -> None:
    table = table_of(patients)
    settings = DataSettings(val_fraction=fraction, split_seed=split_seed)
    groups = patient_keys(table)
    carved = splits.carve_validation(table, settings, groups)
    assert carved.drop(columns="split").equals(table.drop(columns="split"))
    assert set(carved["split"]) <= {"train", "val"}
    assert (carved.groupby("patient")["split"].nunique() == 1).all()
    shuffled = table.sample(frac=1, random_state=split_seed)
    again = splits.carve_validation(shuffled, settings, groups.loc[shuffled.index])
    assert again.sort_index()["split"].equals(carved["split"])
    for label in (0, 1):  # a class with two patients or more gives some and keeps some
        single = [labels for labels in patients if max(labels) == label]
        if len(single) > 1:
            mine = carved[carved.groupby("patient")["label"].transform("max") == label]
            assert set(mine["split"]) == {"train", "val"}
    # With copies across patients, every patient and every content stays in one split.
    paths = carved["path"].tolist()
    hashes = {path: path for path in paths}
    for one, other in copies:
        hashes[paths[one % len(paths)]] = hashes[paths[other % len(paths)]]
    whole = Manifest(Path("x"), carved)
    manifest.keep_copies_together(whole, hashes, settings)
    assert sorted(whole.table["path"]) == sorted(paths)
    assert (whole.table.groupby("patient")["split"].nunique() == 1).all()
    assert (whole.table.groupby(whole.table["path"].map(hashes))["split"].nunique() == 1).all()


def test_copies_without_patients_are_kept_together(tmp_path: Path, settings: Make) -> None:
    lines = [f"x/{number}_{k}.png,{number % 2}" for number in range(40) for k in range(2)]
    root = write_csv(tmp_path / "set", "\n".join(["path,label", *lines]))
    built = build(settings(name="csv", root=root))
    hashes = {path: path.split("_")[0] for path in built.table["path"]}  # every image is there twice
    assert any("two splits" in problem for problem in manifest.content_problems(built, hashes))
    manifest.keep_copies_together(built, hashes, settings(name="csv", root=root))
    assert not manifest.content_problems(built, hashes)
    assert (built.table["split"] == "val").sum() == 16  # still a fifth
    assert "80 images" in built.notes[-1]


def test_copies_in_two_splits_or_under_two_labels_are_refused(kaggle_read_only: Path, settings: Make) -> None:
    built = build(settings(root=kaggle_read_only))
    paths = built.table.groupby(["split", "label"])["path"].first()
    for one, other, words in (
        (("train", 0), ("test", 0), "in two splits"),
        (("train", 0), ("train", 1), "under two labels"),
    ):
        hashes = {path: path for path in built.table["path"]} | {paths[other]: paths[one]}
        message = "\n".join(manifest.content_problems(built, hashes))
        assert words in message and paths[one] in message and paths[other] in message


def test_class_names_are_public() -> None:
    assert CLASS_NAMES == ("NORMAL", "PNEUMONIA")


def test_the_test_set_and_the_split_have_digests_of_their_own() -> None:
    settings = [DataSettings(name="phantom", split_seed=seed, val_protocol="patient") for seed in (0, 1)]
    built = [build(each) for each in settings]
    table = built[0].table
    hashes = {path: path for path in table["path"]}
    first, second = (digests(each, hashes) for each in built)
    assert first["test_set"] == second["test_set"] and first["pool"] == second["pool"]
    assert first["split"] != second["split"]
    changed = hashes | {table["path"][table["split"] == "test"].iloc[0]: "other content"}
    other = digests(built[0], changed)
    assert other["test_set"] != first["test_set"] and other["split"] == first["split"]
