"""Sets with more than two classes: tables, folders, file names and drawn ones, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.images import picture, save

from pneumo import UserError, config
from pneumo.data import cache, phantom
from pneumo.data.manifest import Manifest, build
from pneumo.data.settings import ColumnSettings, DataSettings, PhantomSettings

Make = Callable[..., DataSettings]
ABC = ["well", "viral", "bacterial"]


def counts(built: Manifest) -> dict[str, tuple[int, ...]]:
    return {split: tuple(classes.values()) for split, classes in built.counts().items()}


def refused(settings: DataSettings) -> str:
    with pytest.raises(UserError) as error:
        build(settings)
    return str(error.value)


def one_table(root: Path, classes: list[str], patients: int = 12, extra: str = "") -> Path:
    """One table of two images a patient, the classes in turn, and `extra` rows."""
    lines = ["path,label,patient"]
    for number in range(patients):
        for k in range(2):
            save(picture(0, 2 * number + k, 24, 24), root / f"{number}_{k}.png")
            lines.append(f"{number}_{k}.png,{classes[number % len(classes)]},p{number}")
    (root / "all.csv").write_text("\n".join([*lines, extra]))
    return root


@pytest.fixture
def three(tmp_path: Path, settings: Make) -> Make:
    """Settings of a table with three classes, in the order of ABC."""
    one_table(tmp_path / "set", ["Viral", "well", "bacterial"])
    return lambda **keys: settings(
        **{"name": "csv", "root": tmp_path / "set", "table": "all.csv", "classes": ABC, **keys}
    )


def test_a_table_of_three_classes_has_the_order_of_data_classes(three: Make) -> None:
    built = build(three())
    assert built.class_names == ("well", "viral", "bacterial")
    assert counts(built) == {"train": (4, 4, 4), "val": (2, 2, 2), "test": (2, 2, 2)}
    rows = built.table.set_index("path")["label"]
    assert (rows["0_0.png"], rows["1_0.png"], rows["2_0.png"]) == (1, 0, 2)
    assert (built.table.groupby("patient")["split"].nunique() == 1).all()
    assert set(built.table["subtype"]) == {None}, "the first class need not be normal"


def test_values_are_joined_renamed_and_left_out(three: Make) -> None:
    built = build(three(classes=["well", "ill", "other"], labels={"viral": "ill", "BACTERIAL": "other"}))
    assert built.class_names == ("well", "ill", "other") and sum(counts(built)["train"]) == 12
    merged = build(three(classes=["well", "ill"], labels={"viral": "ill", "bacterial": "ill"}))
    assert merged.class_names == ("NORMAL", "PNEUMONIA")
    out = three(classes=["x", "viral", "bacterial"], labels={"well": None})
    assert "x (0 images of 0 patients) has none in train and val and test" in refused(out)


def test_the_digest_has_the_names_and_the_order_of_the_classes(three: Make) -> None:
    def digests(**keys: object) -> tuple[str, ...]:
        asked = three(**keys)
        data = cache.prepare(build(asked), asked)
        return data.digest, data.digests["test_set"], data.digests["pool"], data.digests["split"]

    plain = digests()
    renamed = digests(classes=["fine", "viral", "bacterial"], labels={"well": "fine"})
    assert all(a != b for a, b in zip(plain[:3], renamed[:3], strict=True)) and plain[3] == renamed[3]
    assert plain[0] != digests(classes=["bacterial", "viral", "well"])[0]
    assert digests() == plain


def test_an_unknown_label_is_named_with_all_others(three: Make, tmp_path: Path) -> None:
    file = tmp_path / "set" / "all.csv"
    file.write_text(file.read_text() + "0_0.png,fungal,p0\n0_1.png,fungal,p0\n1_0.png,,p1\n")
    message = refused(three())
    assert message == (
        f"{file}, line 26: label 'fungal' is not known; data.classes gives well, viral, bacterial. The "
        "labels without a class are empty (1), fungal (2). data.labels={VALUE: CLASS} gives one a class, "
        "{VALUE: null} leaves its images out."
    )
    built = build(three(labels={"fungal": None, "empty": None}))
    assert "3 images are left out by data.labels: 1 empty, 2 fungal." in built.notes
    assert len(refused(three(labels={"fungal": "NORMAL"})).splitlines()) == 1


@pytest.mark.parametrize("patients", [1, 2])
def test_a_class_of_too_few_patients_is_named(tmp_path: Path, settings: Make, patients: int) -> None:
    extra = "\n".join(f"{number}_0.png,rare,q{number}" for number in range(50, 50 + patients))
    root = one_table(tmp_path / "set", ABC, extra=extra)
    for number in range(50, 50 + patients):
        save(picture(0, number, 24, 24), root / f"{number}_0.png")
    asked = settings(name="csv", root=root, table="all.csv", classes=[*ABC, "rare"])
    message = refused(asked)
    whose = "1 image of 1 patient" if patients == 1 else "2 images of 2 patients"
    assert f"rare ({whose}) has none in " in message and message.count("has none") == 1
    assert len(message.splitlines()) == 1 and "A class needs a patient in train" in message


def test_a_class_missing_in_one_split_is_named(tmp_path: Path, settings: Make) -> None:
    root = tmp_path / "set"
    for split, classes in (("train", ABC), ("test", ABC[:2])):
        lines = ["path,label,patient"]
        for number, name in enumerate(classes * 4):
            file = f"{split}{number}.png"
            save(picture(0, number, 24, 24), root / file)
            lines.append(f"{file},{name},{split}{number}")
        (root / f"{split}.csv").write_text("\n".join(lines))
    message = refused(settings(name="csv", root=root, classes=ABC))
    assert "bacterial (4 images of 4 patients) has none in test." in message


def test_a_patient_of_several_classes_counts_as_the_rarest(tmp_path: Path, settings: Make) -> None:
    """Else a rare class whose patients also have a common, later one would get no validation image."""
    lines = ["path,label,patient,split"]
    for number in range(30):
        names = ("rare", "late") if number < 3 else ("well", "late")
        for name in names:
            file = f"{number}{name}.png"
            save(picture(0, len(lines), 24, 24), tmp_path / "set" / file)
            lines.append(f"{file},{name},p{number},{'test' if number in (2, 29) else 'train'}")
    (tmp_path / "set" / "all.csv").write_text("\n".join(lines))
    classes = ["well", "rare", "late"]
    built = build(settings(name="csv", root=tmp_path / "set", table="all.csv", classes=classes))
    assert counts(built)["val"][1] == 1 and counts(built)["train"][1] == 1
    assert "30 patients have images of several classes; all images of a patient are in one split" not in (
        built.notes
    ), "the note is of made test sets"


# ---- folders


def folders(root: Path, names: list[str], splits: tuple[str, ...] = ("train", "test")) -> Path:
    for split in splits:
        for name in names:
            for number in range(6):
                seed = len(split) * 100 + names.index(name) * 10 + number
                save(picture(0, seed, 24, 24), root / split / name / f"{split}{seed}.png")
    return root


def test_folders_are_the_classes(tmp_path: Path, settings: Make) -> None:
    root = folders(tmp_path / "set", ["Well", "bacterial", "viral"])
    built = build(settings(root=root, classes=ABC))
    assert counts(built) == {"train": (5, 5, 5), "val": (1, 1, 1), "test": (6, 6, 6)}
    assert set(built.table.loc[built.table["label"] == 0, "path"].str.split("/").str[1]) == {"Well"}


def test_folders_without_splits_are_the_classes_too(tmp_path: Path, settings: Make) -> None:
    root = folders(tmp_path / "set", [*ABC, "masks"], splits=("",))
    built = build(settings(root=root, classes=ABC))
    assert sum(map(sum, counts(built).values())) == 18 and built.made_test
    message = refused(settings(root=root, classes=[*ABC, "fungal"]))
    assert "has no folder train/, and not a folder for each class" in message


def test_a_folder_of_no_class_is_not_lost(tmp_path: Path, settings: Make) -> None:
    root = folders(tmp_path / "set", [*ABC, "fungal"])
    (root / "train" / "empty").mkdir()
    message = refused(settings(root=root, classes=ABC))
    assert f"{root / 'train' / 'fungal'} holds images" in message and "does not name fungal." in message
    built = build(settings(root=root, classes=ABC, labels={"fungal": None}))
    assert sum(counts(built)["test"]) == 18
    assert any("fungal" in note for note in built.notes if note.startswith("not used"))
    joined = build(settings(root=root, classes=ABC, labels={"fungal": "viral"}))
    assert counts(joined)["test"] == (6, 12, 6)


def test_a_missing_class_folder_is_named(tmp_path: Path, settings: Make) -> None:
    root = folders(tmp_path / "set", ABC)
    message = refused(settings(root=root, classes=[*ABC, "fungal"]))
    assert f"{root / 'train'} has no folder fungal; each split needs a folder for each class" in message


# ---- the public set as three classes


def kermany(root: Path) -> Path:
    for split, first in (("train", 1), ("val", 20), ("test", 40)):
        for number in range(first, first + (2 if split == "val" else 8)):
            for k, kind in enumerate(("bacteria", "virus")):
                if split == "val" and kind == "virus":
                    continue
                name = f"person{number}_{kind}_{number}.jpeg"
                save(picture(1, 3 * number + k, 24, 24), root / split / "PNEUMONIA" / name)
            normal = f"IM-{number:04d}-0001.jpeg"
            save(picture(0, 3 * number + 2, 24, 24), root / split / "NORMAL" / normal)
    return root


def test_kermany3_reads_the_class_in_the_file_name(tmp_path: Path, settings: Make) -> None:
    root = kermany(tmp_path / "set")
    asked = settings(name="kermany3", root=root, classes=["NORMAL", "BACTERIA", "VIRUS"])
    built = build(asked)
    assert built.class_names == ("NORMAL", "BACTERIA", "VIRUS")
    assert counts(built) == {"train": (8, 8, 6), "val": (2, 2, 2), "test": (8, 8, 8)}
    kinds = built.table["path"].str.extract(r"_(bacteria|virus)_")[0].fillna("normal")
    assert (kinds.map({"normal": 0, "bacteria": 1, "virus": 2}) == built.table["label"]).all()
    assert (built.table["subtype"] == kinds).all()
    assert set(built.table.loc[built.table["label"] == 2, "patient"].str.split("-").str[1]) == {"virus"}
    two = build(settings(name="kermany3", root=root, classes=["NORMAL", "VIRUS"], labels={"bacteria": None}))
    assert counts(two)["test"] == (8, 8) and any(
        note.startswith("18 images are left out") for note in two.notes
    )


def test_kermany3_refuses_names_without_a_class(tmp_path: Path, settings: Make) -> None:
    root = kermany(tmp_path / "set")
    odd = save(picture(1, 900, 24, 24), root / "train" / "PNEUMONIA" / "scan7.jpeg")
    asked = settings(name="kermany3", root=root, classes=["NORMAL", "BACTERIA", "VIRUS"])
    assert "1 file names do not tell the class: train/PNEUMONIA/scan7.jpeg." in refused(asked)
    odd.rename(odd.with_name("IM-0900-0001.jpeg"))
    assert "1 file names tell another class than their folder" in refused(asked)


def test_the_real_set_as_three_classes(real_root: Path) -> None:
    built = build(config.compose(["data=kermany3", f"data.root={real_root}"]).data)
    assert counts(built)["test"] == (234, 242, 148)
    together = [a + b for a, b in zip(counts(built)["train"], counts(built)["val"], strict=True)]
    assert together == [1349, 2538, 1345], "the official validation images joined train"


# ---- the synthetic set


def test_a_drawn_set_of_many_classes() -> None:
    drawn = PhantomSettings(train_patients=60, test_patients=45, classes=15)
    table = phantom.table(drawn)
    assert sorted(set(table["label"])) == list(range(15)) and drawn.class_names[:2] == ("NORMAL", "PATTERN_1")
    people = table.groupby(["split", "label"])["patient"].nunique().unstack()
    assert people.min(axis=None) >= 2 and people.loc["train", 0] >= 2 * people.loc["train", 14]
    path = table["path"][table["label"] == 14].iloc[0]
    assert "PATTERN_14" in path and phantom.render(path, drawn).std() > 10
    with pytest.raises(UserError, match="is not a path of the phantom set"):
        phantom.render(path.replace("PATTERN_14", "PATTERN_13"), drawn)
    built = build(DataSettings(name="phantom", phantom=drawn))
    assert built.class_names == drawn.class_names and min(map(min, counts(built).values())) >= 1


def test_patterns_differ_where_nothing_else_does() -> None:
    """The same patient and pose with each pattern: no two pictures are alike."""
    drawn = PhantomSettings(classes=20)
    rng = phantom._rng
    canvases = [phantom._chest(rng(0, "a"), rng(0, "b"), f"pattern{number}") for number in range(1, 20)]
    gaps = [float(np.abs(a - b).mean()) for i, a in enumerate(canvases) for b in canvases[i + 1 :]]
    assert min(gaps) > 1e-3 and len(drawn.class_names) == 20


def test_two_classes_keep_the_digest_of_the_drawn_set() -> None:
    assert phantom.digest(PhantomSettings()) == phantom.digest(PhantomSettings(classes=2))
    assert phantom.digest(PhantomSettings()) != phantom.digest(PhantomSettings(classes=3))


def test_too_small_a_drawn_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.phantom\.train_patients=59 is too few: give 60 or more"):
        phantom.table(PhantomSettings(train_patients=59, classes=15))
    with pytest.raises(UserError, match=r"data\.phantom\.classes=21 must be between 2 and 20"):
        PhantomSettings(classes=21)


# ---- names


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["A"], "has 1 name; give two or more"),
        ([], "has 0 names; give two or more"),
        (["A", "B", "a"], "names 'A' and 'a'"),
        (["A", "B", "B"], "names 'B' and 'B'"),
        (["A", "B", None], "has the name ''"),
        (["A", "B", "C\n"], r"has the name 'C\\n'"),
        (["A", "B", "x" * 101], "1 to 100 printable characters"),
        (["A", "B/C", "B:C"], "names 'B/C' and 'B:C'"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(classes: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        DataSettings(name="csv", classes=classes)
    assert len(str(error.value).splitlines()) == 1


def test_numbers_and_other_alphabets_are_names(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set", ["0", "1.0", "Größe | 3"], patients=12)
    (root / "all.csv").write_text((root / "all.csv").read_text().replace("1.0", "1"))
    asked = settings(name="csv", root=root, table="all.csv", classes=[0, 1, "größe | 3"])
    assert build(asked).class_names == ("0", "1", "größe | 3")
    with pytest.raises(UserError, match="two names that labels cannot tell apart"):
        build(settings(name="csv", root=root, table="all.csv", classes=[1, "1.0", "x"]))


def test_the_drawn_set_and_data_classes_agree() -> None:
    names = ["a", "b", "c"]
    with pytest.raises(UserError, match=r"Give data\.phantom\.classes=3"):
        DataSettings(name="phantom", classes=names)
    drawn = DataSettings(name="phantom", classes=names, phantom=PhantomSettings(classes=3))
    assert drawn.class_names == ("a", "b", "c")


def test_columns_of_the_nih_set_with_three_labels(shared: Path) -> None:
    root = shared / "data" / "nih_adult"
    if not root.is_dir():
        pytest.skip(f"the NIH set is missing: {root}")
    asked = DataSettings(
        name="csv",
        root=str(root),
        table="labels.csv",
        classes=["No Finding", "Pneumonia", "Infiltration|Pneumonia"],
        columns=ColumnSettings(label="Finding Labels"),
    )
    message = refused(asked)
    assert "The labels without a class are " in message and "data.labels={VALUE: CLASS}" in message
