"""Sets described by tables: no patient and no file is lost silently."""

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import picture, save

from pneumo import UserError
from pneumo.data import cache
from pneumo.data.manifest import build, describe
from pneumo.data.settings import ColumnSettings, DataSettings, SplitSettings

Make = Callable[..., DataSettings]


def write(root: Path, **texts: str) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in texts.items():
        (root / f"{name}.csv").write_text(text)
    return root


def refused(settings: DataSettings) -> str:
    with pytest.raises(UserError) as error:
        build(settings)
    return str(error.value)


def one_table(
    root: Path, patients: int = 24, header: str = "Image Index,Finding Labels,Patient ID", images: bool = True
) -> Path:
    """A table in NIH's columns with bare names; two images a patient, some patients with both classes."""
    lines = [header]
    for number in range(patients):
        for k in range(2):
            label = int(number % 2 == 1 or (number % 6 == 0 and k == 1))
            name = f"{number:08d}_{k:03d}.png"
            if images:
                save(picture(label, 2 * number + k), root / "images" / name)
            lines.append(f"{name},{'Mass|Pneumonia' if label else 'No Finding'},{number + 1}")
    root.mkdir(exist_ok=True)
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


# ---- patients


LEAKS = [
    ("patient_id", "p1", "p1"),
    ("Patient ID", "p1", "p1"),
    ("Patient", "p1", "p1"),
    ("PatientID", "p1", "p1"),
    ("patientId", "p1", "p1"),
    ("subject_id", "p1", "p1"),
    ("patient", "101.0", "101"),
    ("patient", "00000101", "101"),
    ("Patient ID", "00000101", "101.0"),
    ("patient", " p1", "p1 "),
]


@pytest.mark.parametrize(("column", "first", "second"), LEAKS)
def test_no_form_of_a_patient_leaks(
    tmp_path: Path, settings: Make, column: str, first: str, second: str
) -> None:
    train = "".join(f"x/{n}.png,{n % 2},a{n}\n" for n in range(8)) + f"x/one.png,0,{first}\n"
    test = f"x/t0.png,0,t0\nx/t1.png,1,t1\nx/two.png,0,{second}\n"
    root = write(tmp_path / "set", train=f"path,label,{column}\n{train}", test=f"path,label,{column}\n{test}")
    message = refused(settings(name="csv", root=root))
    assert "1 patients are in more than one split" in message


@pytest.mark.parametrize("column", ["pat_no", "case id", "ID-of-patient"])
def test_a_column_that_looks_like_a_patient_is_not_passed_over(
    tmp_path: Path, settings: Make, column: str
) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},a{n}\n" for n in range(8))
    root = write(tmp_path / "set", train=f"path,label,{column}\n{rows}", test="path,label\nx/t.png,0\n")
    assert f"{column}" in refused(settings(name="csv", root=root))
    assert "data.columns.patient=NAME" in refused(settings(name="csv", root=root))


@pytest.mark.parametrize("missing", ["NaN", "None", "-1", ""])
def test_people_without_an_id_are_not_one_patient(tmp_path: Path, settings: Make, missing: str) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},{missing}\n" for n in range(8))
    test = f"path,label,patient\nx/t0.png,0,{missing}\nx/t1.png,1,{missing}\n"
    root = write(tmp_path / "set", train=f"path,label,patient\n{rows}", test=test)
    built = build(settings(name="csv", root=root))
    assert built.patients() == {"train": 0, "val": 0, "test": 0}
    assert built.table["patient"].isna().all()
    assert "10 images have no patient" in built.notes[0]


def test_ids_keep_their_spelling(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},{n:04d}\nx/{n}b.png,{n % 2},{n}.0\n" for n in range(1, 9))
    root = write(
        tmp_path / "set", train=f"path,label,patient\n{rows}", test="path,label\ny/t0.png,0\ny/t1.png,1\n"
    )
    built = build(settings(name="csv", root=root))
    pool = built.table[built.table["split"] != "test"]
    assert pool["patient"].nunique() == 16 and sum(built.patients().values()) == 8
    assert (pool.groupby(pool["path"].str.extract(r"(\d+)", expand=False))["split"].nunique() == 1).all()
    assert any("8 patients are spelled in several ways" in note for note in built.notes)


def test_ids_that_excel_has_shortened_are_refused(tmp_path: Path, settings: Make) -> None:
    root = write(
        tmp_path / "set",
        train="path,label,patient\nx/0.png,0,1\nx/1.png,1,1.23E+10\n",
        test="path,label,patient\nx/2.png,0,3\n",
    )
    message = refused(settings(name="csv", root=root))
    assert "train.csv, line 3" in message and "'1.23E+10'" in message and "Excel" in message


def test_patients_from_the_paths(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"x/patient{n // 2}/{n}.png,{n // 2 % 2}\n" for n in range(16))
    root = write(
        tmp_path / "set", train=f"path,label\n{rows}", test="path,label\ny/patient3/t.png,1\ny/p/t.png,0\n"
    )
    message = refused(settings(name="csv", root=root, patient_pattern=r"(patient\d+)"))
    assert "1 patients are in more than one split: patient3" in message


# ---- splits


def test_a_table_without_a_split_is_split_by_patient(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set")
    asked = settings(name="csv", table=str(root / "labels.csv"), root=root, positive=["Pneumonia"])
    built = build(asked)
    counts = {split: sum(classes.values()) for split, classes in built.counts().items()}
    assert sum(counts.values()) == 48 and counts["test"] == pytest.approx(0.2 * 48, abs=2)
    assert all(count for classes in built.counts().values() for count in classes.values())
    assert (built.table.groupby("patient")["split"].nunique() == 1).all()
    assert any(
        "20 % of the images of each class, by patient, are the test set" in note for note in built.notes
    )
    assert "4 patients have images of both classes; all images of a patient are in one split" in built.notes
    assert built.table["path"].iloc[0].count("/") == 0  # as the table spells it
    assert built.file_of(built.table["path"].iloc[0]).startswith("images/")
    assert not any("not used" in note for note in built.notes)


def test_the_made_test_set_depends_on_its_seed_alone(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set", images=False)

    def test_paths(**keys: object) -> list[str]:
        table = build(
            settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"], **keys)
        ).table
        return table.loc[table["split"] == "test", "path"].tolist()

    first = test_paths()
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    assert test_paths() == first and test_paths(split_seed=5) == first
    assert test_paths(split=SplitSettings(seed=1)) != first
    assert len(test_paths(split=SplitSettings(test_fraction=0.5))) == pytest.approx(24, abs=2)


def test_another_split_is_another_digest(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set")

    def digest(**keys: object) -> str:
        made = settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"], **keys)
        return cache.prepare(build(made), made).digest

    first = digest()
    assert digest() == first and digest(split=SplitSettings(test_fraction=0.2)) == first
    others = {
        digest(split=SplitSettings(seed=1)),
        digest(split=SplitSettings(test_fraction=0.4)),
        digest(split_seed=1),
    }
    assert len(others | {first}) == 4
    (root / "images").rename(root / "moved")  # where the images are does not count
    assert digest() == first


def test_copies_stay_together_in_a_made_test_set(tmp_path: Path, settings: Make) -> None:
    root = tmp_path / "set"
    lines = ["path,label,patient"]

    def content(path: str) -> int:
        return int(path[:-4]) // 4 * 4 + int(path[:-4]) % 2  # each image is there twice

    for number in range(60):
        save(picture(number % 2, content(f"{number}.png")), root / f"{number}.png")
        lines.append(f"{number}.png,{number % 2},p{number}")
    write(root, labels="\n".join(lines))
    made = settings(name="csv", table="labels.csv", root=root)
    apart = build(made).table.assign(content=lambda table: [str(content(path)) for path in table["path"]])
    assert (apart.groupby("content")["split"].nunique() > 1).any()  # without knowing the contents
    data = cache.prepare(build(made), made)
    assert not data.problems and data.copies == 30
    assert all(count for classes in data.manifest.counts().values() for count in classes.values())
    assert any("60 images have the same bytes" in note for note in data.manifest.notes)


@pytest.mark.parametrize("validation", ["val", "valid", "Validation", "dev"])
def test_a_split_column(tmp_path: Path, settings: Make, validation: str) -> None:
    names = {0: "TRAIN", 1: "train", 2: validation, 3: "test"}
    rows = "".join(f"{n}.png,{n // 4 % 2},p{n},{names[n % 4]}\n" for n in range(32))
    root = write(tmp_path / "set", labels=f"path,label,patient,Split\n{rows}")
    built = build(settings(name="csv", table="labels.csv", root=root, val_protocol="official"))
    assert {split: sum(c.values()) for split, c in built.counts().items()} == {
        "train": 16,
        "val": 8,
        "test": 8,
    }
    assert not built.made_test
    ignored = build(settings(name="csv", table="labels.csv", root=root, columns=ColumnSettings(split="none")))
    assert ignored.made_test


def test_a_column_that_only_resembles_a_split_is_not_one(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"{n}.png,{n % 2},p{n},{'AB'[n % 2]}\n" for n in range(20))
    root = write(tmp_path / "set", labels=f"path,label,patient,set\n{rows}")
    assert build(settings(name="csv", table="labels.csv", root=root)).made_test


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            ["train", "test", "trian"],
            ["labels.csv, line 4", "Split 'trian' is not a split", "data.columns.split=none"],
        ),
        (["train", "val", "val"], ["no row has Split test", "data.columns.split=none"]),
        (["test", "test", "test"], ["no row has Split train"]),
    ],
)
def test_a_split_column_that_cannot_be_used(
    tmp_path: Path, settings: Make, values: list[str], words: list[str]
) -> None:
    rows = "".join(f"{n}.png,{n % 2},p{n},{value}\n" for n, value in enumerate(values))
    root = write(tmp_path / "set", labels=f"path,label,patient,Split\n{rows}")
    message = refused(settings(name="csv", table="labels.csv", root=root))
    assert all(word in message for word in words), message


def test_valid_csv_is_validation(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},p{n}\n" for n in range(8))
    root = write(
        tmp_path / "set",
        train=f"path,label,patient\n{rows}",
        valid="path,label,patient\nx/v0.png,0,v0\nx/v1.png,1,v1\n",
        test="path,label,patient\nx/t0.png,0,t0\nx/t1.png,1,t1\n",
    )
    official = build(settings(name="csv", root=root, val_protocol="official"))
    assert official.table.loc[official.table["split"] == "val", "path"].tolist() == ["x/v0.png", "x/v1.png"]


def test_train_without_test(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},p{n}\n" for n in range(20))
    root = write(tmp_path / "set", train=f"path,label,patient\n{rows}", extra="a,b\n1,2\n")
    message = refused(settings(name="csv", root=root))
    assert "test.csv is missing" in message and "extra.csv, train.csv" in message
    assert "data.table=" in message and "data.split.test_fraction=0.2" in message
    assert build(settings(name="csv", root=root, split=SplitSettings(test_fraction=0.2))).made_test
    write(root, test="path,label,patient\nx/t0.png,0,t0\nx/t1.png,1,t1\n")
    message = refused(settings(name="csv", root=root, split=SplitSettings(test_fraction=0.2)))
    assert "data.split.test_fraction=0.2" in message and "this set has one (2 images)" in message


# ---- rows and paths


def test_equal_rows_collapse_with_a_note(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},p{n}\n" * (1 + n % 3) for n in range(9))
    test = "path,label,patient\nx/t0.png,0,t0\n./x/t0.png,0,\nx/t1.png,1,t1\n"
    root = write(tmp_path / "set", train=f"path,label,patient\n{rows}", test=test)
    built = build(settings(name="csv", root=root))
    assert len(built.table) == 11 and built.table["path"].is_unique
    assert built.table.loc[built.table["path"] == "x/t0.png", "patient"].item() == "t0"
    assert any(note.startswith("10 rows repeat an image") for note in built.notes)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("x/a.png,0,p", "x/a.png,1,p", "x/a.png (label NORMAL and PNEUMONIA)"),
        ("x/a.png,0,p", "x/a.png,0,q", "x/a.png (patient p and q)"),
    ],
)
def test_one_path_with_two_values_names_both(
    tmp_path: Path, settings: Make, first: str, second: str, words: str
) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},p{n}\n" for n in range(8))
    root = write(
        tmp_path / "set",
        train=f"path,label,patient\n{rows}{first}\n{second}\n",
        test="path,label,patient\ny/0.png,0,a\ny/1.png,1,b\n",
    )
    assert words in refused(settings(name="csv", root=root))


def test_one_path_in_two_splits_names_both(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},\n" for n in range(8))
    root = write(
        tmp_path / "set",
        train=f"path,label,patient\n{rows}",
        test="path,label,patient\nx/1.png,1,\ny/1.png,0,b\n",
    )
    message = refused(settings(name="csv", root=root, val_protocol="patient"))
    assert "1 paths are listed more than once" in message and "x/1.png (split test and train)" in message


def test_absolute_paths_inside_the_root_are_accepted(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set", header="path,label,patient")
    relative = build(settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])).table
    (tmp_path / "link").symlink_to(root)
    text = (root / "labels.csv").read_text().splitlines()
    for typed in (root, tmp_path / "link"):
        lines = [text[0], *(f"{typed}/images/{line}" for line in text[1:])]
        (root / "labels.csv").write_text("\n".join(lines))
        table = build(settings(name="csv", table="labels.csv", root=typed, positive=["Pneumonia"])).table
        assert table["path"].str.removeprefix("images/").tolist() == relative["path"].tolist()
    (root / "other").mkdir()
    table = str(root / "labels.csv")
    assert "leaves data.root" in refused(
        settings(name="csv", table=table, root=root / "other", positive=["Pneumonia"])
    )


def test_a_bare_name_must_be_unique(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set")
    save(picture(0, 1), root / "more" / "00000003_001.png")
    message = refused(settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"]))
    assert "line 9" in message and "is there 2 times" in message
    assert "images/00000003_001.png, more/00000003_001.png" in message


def test_a_bare_name_is_found_without_its_suffix(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set")
    file = root / "labels.csv"
    file.write_text(file.read_text().replace(".png", ""))
    made = settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])
    data = cache.prepare(build(made), made)
    assert len(data.rows) == 48 and not data.bad
    assert data.manifest.file_of("00000000_000") == "images/00000000_000.png"


def test_what_is_not_used_is_listed(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set")
    for number in range(3):
        save(picture(0, number), root / "COVID19" / "deep" / f"{number}.png")
        save(picture(0, number), root / "images" / f"extra{number}.png")
    (root / "docs").mkdir()
    for name in ("docs/readme.txt", "other.csv", "notes.txt", ".hidden"):
        (root / name).write_text("x")
    (root / "valid.csv").mkdir()  # a folder is not called a file
    notes = build(settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])).notes
    assert (
        "not used: COVID19/ (3 images), 3 images in images/, docs/ (no image, 1 files), notes.txt, "
        "other.csv (a table)" in notes
    )


def test_the_table_may_be_anywhere(tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = one_table(tmp_path / "set")
    expected = build(settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])).table
    (tmp_path / "here").mkdir()
    (root / "labels.csv").rename(tmp_path / "here" / "t.csv")
    monkeypatch.chdir(tmp_path)
    for table in ("here/t.csv", tmp_path / "here" / "t.csv", "../set/../here/t.csv"):
        built = build(settings(name="csv", table=str(table), root=root, positive=["Pneumonia"]))
        assert built.table.equals(expected)
    message = refused(settings(name="csv", table="t.csv", root=root, positive=["Pneumonia"]))
    assert f"{root}/t.csv" in message and f"{tmp_path}/t.csv" in message and "images/ (48 images)" in message


def test_a_mistyped_table_is_named_where_no_root_is_given(
    tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_table(tmp_path / "set", images=False)
    monkeypatch.chdir(tmp_path)
    message = refused(settings(name="csv", table="set/lables.csv", root="data/chest_xray"))
    assert "data.table=set/lables.csv is not a file" in message and f"{tmp_path}/set/lables.csv" in message
    assert f"The tables of {tmp_path}/set are labels.csv." in message


def test_a_large_table_costs_little(tmp_path: Path, settings: Make) -> None:
    """112,120 rows take 5 seconds of processor time; a cost for each row and row would show here."""
    root = one_table(tmp_path / "set", patients=10_000, images=False)
    before = time.process_time()
    assert (
        len(build(settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])).table)
        == 20_000
    )
    assert time.process_time() - before < 15


def test_labels_that_are_left_out_are_counted(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"x/{n}.png,{('1.0', '0.0', '-1.0', '')[n % 4]},p{n}\n" for n in range(40))
    root = write(tmp_path / "set", labels=f"path,label,patient\n{rows}")
    made = settings(name="csv", table="labels.csv", root=root, labels={-1: None, "empty": "NORMAL"})
    built = build(made)
    assert len(built.table) == 30 and (built.table["label"] == 0).sum() == 20
    assert built.notes[0] == "10 images are left out by data.labels: 10 -1.0."


def test_subgroups_are_kept_by_path(tmp_path: Path, settings: Make) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},p{n},{'MF'[n % 2]},{n}\n" * 2 for n in range(20))
    root = write(tmp_path / "set", labels=f"path,label,patient,Sex,Patient Age\n{rows}")
    built = build(settings(name="csv", table="labels.csv", root=root))
    assert built.subgroups.loc["x/7.png"].to_dict() == {"Sex": "F", "Patient Age": "7"}
    assert built.subgroups.index.is_unique and len(built.subgroups) == 20


@pytest.mark.parametrize("text", ["two\nlines", "a\rb", "x" * 5000])
def test_a_text_that_no_prediction_can_hold_is_not_a_subgroup(
    tmp_path: Path, settings: Make, text: str
) -> None:
    rows = "".join(f"x/{n}.png,{n % 2},p{n},f,\n" for n in range(20))
    root = write(tmp_path / "set", labels=f'path,label,patient,Sex,Note\nx/20.png,0,p20,f,"{text}"\n{rows}')
    named = {"name": "csv", "table": "labels.csv", "root": root}
    with pytest.raises(UserError, match=r"labels\.csv, line 2: Note has .*data\.columns\.subgroups"):
        build(settings(**named, columns=ColumnSettings(subgroups=["Note"])))
    assert list(build(settings(**named)).subgroups) == ["Sex"]


@pytest.mark.parametrize("write_as", ["tsv", "gz", "semicolon", "utf-16"])
def test_forms_of_one_table_give_one_set(tmp_path: Path, settings: Make, write_as: str) -> None:
    root = one_table(tmp_path / "set", images=False)
    expected = build(settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])).table
    text = (root / "labels.csv").read_text()
    name = {"tsv": "t.tsv", "gz": "t.csv.gz"}.get(write_as, "t.csv")
    content = {
        "tsv": text.replace(",", "\t").encode(),
        "gz": gzip.compress(text.encode()),
        "semicolon": text.replace(",", ";").encode(),
        "utf-16": text.replace(",", "\t").encode("utf-16"),
    }[write_as]
    (root / name).write_bytes(content)
    assert build(settings(name="csv", table=name, root=root, positive=["Pneumonia"])).table.equals(expected)


@pytest.mark.parametrize("form", ["words", "numbers", "lists"])
def test_forms_of_labels_give_one_set(tmp_path: Path, settings: Make, form: str) -> None:
    root = one_table(tmp_path / "set", images=False)
    expected = build(settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])).table
    new = {
        "words": ("Positive", "negative"),
        "numbers": ("1.0", "0.0"),
        "lists": ("\"['Mass', 'Pneumonia']\"", "['normal']"),
    }[form]
    file = root / "labels.csv"
    file.write_text(file.read_text().replace("Mass|Pneumonia", new[0]).replace("No Finding", new[1]))
    positive = ["pneumonia"] if form == "lists" else None
    assert build(settings(name="csv", table="labels.csv", root=root, positive=positive)).table.equals(
        expected
    )


# ---- files that are missing


def prepared(settings: DataSettings) -> str:
    with pytest.raises(UserError) as error:
        cache.prepare(build(settings), settings)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda name: f"images/{name}", "{root}/{name}, without images/: set data.path_prefix=images/"),
        (lambda name: f"x/{name}", "{root}/{name}, without x/: set data.path_prefix=x/"),
        (lambda name: f"below/{name.upper()}", "{root}/below/{name}, in another case"),
        (lambda name: f"below/{name[:-4]}", "{root}/below/{name}, with a suffix: add .png"),
        (lambda name: f"below/{name[:-4]}.jpg", "{root}/below/{name}, with another suffix: write .png"),
        (lambda name: f"y/below/{name}x", "No image of that name is below {root}"),
    ],
)
def test_if_all_are_missing_the_nearest_name_is_shown(
    tmp_path: Path, settings: Make, change: Callable[[str], str], hint: str
) -> None:
    root = one_table(tmp_path / "set") / "images"
    names = sorted(file.name for file in root.iterdir())
    if "/below/" in hint:
        (root / "below").mkdir()
        for name in names:
            (root / name).rename(root / "below" / name)
    rows = [f"{change(name)},{number // 2 % 2},p{number // 2}" for number, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    made = settings(name="csv", table="labels.csv", root=root)
    message = prepared(made)
    first = build(made).table["path"].iloc[0]
    assert "\n" not in message and f"none of the 48 images exists below data.root={root}" in message
    assert f"looked for as {root}/{first}." in message
    assert hint.format(root=root, name=f"{first.rpartition('/')[2][:12]}.png") in message, message


def test_a_prefix_is_removed_where_a_file_is_missing(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set") / "images"
    names = sorted(file.name for file in root.iterdir())
    rows = [f"NIH/all/{name},{number // 2 % 2},p{number // 2}" for number, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    made = settings(name="csv", table="labels.csv", root=root, path_prefix="NIH/all/")
    data = cache.prepare(build(made), made)
    assert len(data.rows) == 48 and data.manifest.table["path"].str.startswith("NIH/all/").all()


def test_missing_files_are_grouped_by_reason(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set")
    lines = (root / "labels.csv").read_text().splitlines()
    lines += [f"gone/{number}.png,No Finding,g{number}" for number in range(500)]
    lines += [f"empty{number}.png,No Finding,e{number}" for number in range(3)]
    for number in range(3):
        (root / f"empty{number}.png").touch()
    (root / "labels.csv").write_text("\n".join(lines))
    made = settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])
    message = prepared(made)
    assert message.startswith("503 images cannot be read:") and len(message.splitlines()) < 20
    assert message.count("gone/") == 10 and "and 490 more: No such file" in message
    assert message.count("the file is empty") == 3
    file = Path(message.partition("are listed in ")[2].splitlines()[0])
    assert file.parent == Path(str(made.cache_dir)) and len(file.read_text().splitlines()) == 503


def test_an_emptied_class_reports_what_was_left_out_and_why(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set")
    for file in (root / "images").iterdir():
        if int(file.name[:8]) % 2:  # these patients have pneumonia only
            file.write_bytes(b"")
    made = settings(
        name="csv", table="labels.csv", root=root, positive=["Pneumonia"], on_bad_image="skip",
        split=SplitSettings(seed=3),
    )  # fmt: skip
    names = [file.name for file in (root / "images").iterdir()]
    kept = [int(name[:8]) for name in names if not int(name[:8]) % 6]
    assert kept  # some images of the class remain, in some of the splits
    for number in {*kept}:
        (root / "images" / f"{number:08d}_001.png").write_bytes(b"")
    message = prepared(made)
    assert "no PNEUMONIA image" in message and "28 unreadable images were left out" in message
    assert "the file is empty (0 bytes)" in message and "and 18 more" in message


# ---- links


def test_links_that_lead_out_are_refused_in_a_word(tmp_path: Path, settings: Make) -> None:
    root = one_table(tmp_path / "set")
    outside = save(picture(0, 5), tmp_path / "outside.png")
    inside = root / "images" / "00000002_000.png"
    inside.unlink()
    inside.symlink_to(outside)
    made = settings(name="csv", table="labels.csv", root=root, positive=["Pneumonia"])
    message = refused(made)
    assert "00000002_000.png" in message and "link" in message
    inside.unlink()
    inside.symlink_to(root / "images" / "00000002_001.png")
    assert len(describe(made).table) == 48
