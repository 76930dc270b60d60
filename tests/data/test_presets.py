"""The presets on rows in each set's own columns: synthetic rows, and the real ones of the NIH set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.images import picture, save

from pneumo import config
from pneumo.data import cache
from pneumo.data.manifest import Manifest, build
from pneumo.data.settings import DataSettings


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PNEUMO_DATA", raising=False)
    yield


def settings(*overrides: str) -> DataSettings:
    return config.compose(list(overrides)).data


def counts(built: Manifest) -> dict[str, Any]:
    return {split: tuple(classes.values()) for split, classes in built.counts().items()}


def disjoint(built: Manifest) -> bool:
    return bool((built.table.dropna(subset=["patient"]).groupby("patient")["split"].nunique() == 1).all())


NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def nih(root: Path, patients: int = 20) -> Path:
    lines = [NIH]
    for number in range(1, patients + 1):
        for k in range(3):
            finding = ("No Finding", "Effusion|Pneumonia", "Mass", "Pneumonia")[number % 4]
            name = f"{number:08d}_{k:03d}.png"
            save(picture(0, 3 * number + k, 24, 24), root / f"images_{number % 3:03d}" / "images" / name)
            lines.append(f"{name},{finding},{k},{number},58,M,PA,2682,2749,0.143,0.143,")
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines))
    (root / "test_list.txt").write_text("x")
    return root


def test_nih14(tmp_path: Path) -> None:
    asked = settings("data=nih14", f"data.root={nih(tmp_path)}")
    built = build(asked)
    assert counts(built) == {"train": (21, 21), "val": (3, 3), "test": (6, 6)} and disjoint(built)
    assert built.table["patient"].iloc[0].isdigit() and built.file_of("00000001_000.png").startswith(
        "images_001/"
    )
    assert built.columns["subgroups"] == "Patient Gender, Patient Age, View Position"
    assert "not used: test_list.txt" in built.notes


def test_a_preset_finds_its_root_by_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = nih(tmp_path / "set")
    monkeypatch.setenv("PNEUMO_DATA", str(root))
    assert settings("data=nih14").root == str(root)
    monkeypatch.setenv("PNEUMO_DATA", str(tmp_path))
    table = f"data.table={root}/Data_Entry_2017.csv"
    assert settings("data=nih14", table).root == str(root)
    monkeypatch.delenv("PNEUMO_DATA")
    assert settings("data=nih14").root == "./data/nih14"
    assert settings("data=csv").root == "./data/chest_xray"
    monkeypatch.chdir(root)
    assert settings("data=nih14").root == "."


CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
    "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,"
    "Fracture,Support Devices"
)


def chexpert(root: Path) -> Path:
    values = ("1.0", "0.0", "-1.0", "")
    for split, first, count in (("train", 1, 60), ("valid", 101, 8)):
        lines = [CHEXPERT]
        for number in range(first, first + count):
            for view in ("view1_frontal", "view2_lateral"):
                path = f"{split}/patient{number:05d}/study1/{view}.jpg"
                save(picture(0, 2 * number + len(view), 24, 24), root / path)
                empty = "," * 6
                lines.append(
                    f"CheXpert-v1.0-small/{path},Female,68,Frontal,AP{empty},,{values[number % 4]}{empty}"
                )
        (root / f"{split}.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("below", [False, True])
def test_chexpert(tmp_path: Path, below: bool) -> None:
    folder = chexpert(tmp_path / "CheXpert-v1.0-small")
    if below:  # data.root is the folder above, which the table's paths begin in
        for name in ("train.csv", "valid.csv"):
            (folder / name).rename(tmp_path / name)
    built = build(settings("data=chexpert", f"data.root={tmp_path if below else folder}"))
    assert "34 images are left out by data.labels: 34 -1.0." in built.notes
    # A quarter of 136 images is positive; negative and empty ones are the other class.
    assert sum(n for n, _ in counts(built).values()) == 68 and sum(p for _, p in counts(built).values()) == 34
    assert all(min(pair) > 0 for pair in counts(built).values()) and disjoint(built)
    assert sum(built.patients().values()) == 51
    assert built.table["path"].iloc[0].startswith("CheXpert-v1.0-small/")
    assert not any("not used" in note for note in built.notes)


def test_chexperts_columns_of_findings(tmp_path: Path) -> None:
    folder = chexpert(tmp_path / "CheXpert-v1.0-small")
    findings = ("data.columns.label=null", "data.positive=[Pneumonia,Edema]")
    built = build(settings("data=chexpert", f"data.root={folder}", *findings))
    assert built.columns["label"] == "Edema, Pneumonia"
    assert sum(p for _, p in counts(built).values()) == 34


def test_rsna(tmp_path: Path) -> None:
    lines = ["patientId,x,y,width,height,Target"]
    for number in range(40):
        patient = f"{number:08x}-64d0-4f50-aa66-c4d1e4f9d2a1"
        (tmp_path / "stage_2_train_images").mkdir(exist_ok=True)
        (tmp_path / "stage_2_train_images" / f"{patient}.dcm").write_bytes(b"x")
        if number % 2:  # a row a box
            lines += [f"{patient},{x}.0,152.0,213.0,379.0,1" for x in range(1 + number % 3)]
        else:
            lines.append(f"{patient},,,,,0")
    (tmp_path / "stage_2_train_labels.csv").write_text("\n".join(lines))
    (tmp_path / "stage_2_test_images").mkdir()
    (tmp_path / "stage_2_test_images" / "other.dcm").write_bytes(b"x")
    built = build(settings("data=rsna", f"data.root={tmp_path}"))
    assert len(built.table) == 40 and counts(built)["test"] == (4, 4) and disjoint(built)
    assert sum(built.patients().values()) == 40
    path = built.table["path"].iloc[0]
    assert built.file_of(path) == f"stage_2_train_images/{path}.dcm"
    assert built.notes[0] == (
        f"{len(lines) - 41} rows repeat an image that is listed above them, with the same label: each image "
        "counts once."
    )
    assert "not used: stage_2_test_images/ (1 images)" in built.notes


@pytest.mark.parametrize("above", ["", "COVID-19_Radiography_Dataset"])
def test_covid_radiography(tmp_path: Path, above: str) -> None:
    root = tmp_path / above
    for class_name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        for number in range(20):
            for kind in ("images", "masks"):
                save(picture(0, number, 24, 24), root / class_name / kind / f"{class_name}-{number}.png")
        (root / f"{class_name}.metadata.xlsx").write_bytes(b"x")
    built = build(settings("data=covid_radiography", f"data.root={tmp_path}"))
    assert counts(built) == {"train": (14, 14), "val": (2, 2), "test": (4, 4)}
    prefix = f"{above}/" if above else ""
    assert set(built.table["path"].str.rpartition("/")[0]) == {"Normal/images", "Viral Pneumonia/images"}
    assert any(note.startswith("the patients are not known") for note in built.notes)
    unused = next(note for note in built.notes if note.startswith("not used: "))
    for name in (
        "COVID/ (40 images)",
        "Lung_Opacity/ (40 images)",
        "Normal/masks/ (20 images)",
        "COVID.metadata.xlsx",
    ):
        assert f"{prefix}{name}" in unused, unused


def test_the_thousand_rows_of_the_nih_set(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "nih_adult"
    if not root.is_dir():
        pytest.skip(f"the NIH set is missing: {root}")
    table = ("data=csv", f"data.table={root}/labels.csv", "data.positive=[Pneumonia]")
    built = build(settings(*table))
    assert len(built.table) == 1000 and sum(sum(pair) for pair in counts(built).values()) == 1000
    assert sum(n for n, _ in counts(built).values()) == 500 and sum(built.patients().values()) == 682
    assert disjoint(built) and counts(built)["test"] == pytest.approx((100, 100), abs=3)
    line = "21 patients have images of both classes; all images of a patient are in one split"
    assert built.notes.count(line) == 1 and not any("not used" in note for note in built.notes)
    small = ("data.image_size=32", f"data.cache_dir={tmp_path}", "data.num_workers=1")
    preset = settings("data=nih14", f"data.table={root}/labels.csv", *small)
    data = cache.prepare(build(preset), preset)
    assert data.manifest.table.equals(built.table) and not data.bad and not data.problems
    again = settings(
        "data=csv", f"data.root={root}", "data.table=labels.csv", "data.positive=[Pneumonia]", *small
    )
    assert cache.prepare(build(again), again).digest == data.digest
