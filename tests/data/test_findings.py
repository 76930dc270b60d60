"""Several findings an image: labels that list them, a column for each, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import picture, save

from pneumo import UserError
from pneumo.data import cache
from pneumo.data.findings import matrix
from pneumo.data.manifest import Manifest, build
from pneumo.data.settings import DataSettings

Make = Callable[..., DataSettings]
LABELS = ["No Finding", "Edema", "Edema|Mass", "Mass|Other", "Nodule", "Nodule|Edema"]
NAMES = ["Edema", "Mass", "Nodule"]


def table(root: Path, header: str, values: list[str], patients: int = 24) -> Path:
    """One image a patient, the values in turn."""
    lines = [f"path,patient,{header}"]
    for number in range(patients):
        save(picture(0, number, 24, 24), root / f"{number}.png")
        lines.append(f"{number}.png,p{number},{values[number % len(values)]}")
    (root / "all.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def several(tmp_path: Path, settings: Make) -> Make:
    def make(header: str = "Finding Labels", values: list[str] = LABELS, **keys: object) -> DataSettings:
        root = table(tmp_path / "set", header, values)
        known = {"name": "csv", "root": root, "table": "all.csv", "task": "multilabel", "classes": NAMES}
        return settings(**{**known, **keys})

    return make


def codes(built: Manifest) -> dict[str, str]:
    return dict(zip(built.table["path"], built.table["findings"], strict=True))


def refused(settings: DataSettings) -> str:
    with pytest.raises(UserError) as error:
        build(settings)
    return str(error.value)


def test_a_label_lists_the_findings(several: Make) -> None:
    built = build(several())
    found = codes(built)
    assert [found[f"{number}.png"] for number in range(6)] == ["000", "100", "110", "010", "001", "101"]
    assert any("does not name, and that are not used: Other (4)" in note for note in built.notes)
    assert sum(built.images().values()) == 24 and min(built.images().values()) > 0
    totals = [sum(split[name] for split in built.counts().values()) for name in ("No Finding", *NAMES)]
    assert totals == [4, 12, 8, 8]
    # The stratum is the rarest finding of an image; Mass and Nodule are equally rare, Mass is first.
    strata = dict(zip(built.table["path"], built.table["label"], strict=True))
    assert [strata[f"{number}.png"] for number in range(6)] == [0, 1, 2, 2, 3, 3]
    assert matrix(built.table["findings"]).shape == (24, 3)


def test_another_separator_lists_and_joined_names(several: Make) -> None:
    texts = [text.replace("|", ";") for text in LABELS]
    assert codes(build(several(values=texts, separator=";"))) == codes(build(several()))
    texts = [str(text.split("|")).replace(",", "") if "|" not in text else text for text in LABELS]
    assert codes(build(several(values=texts))) == codes(build(several()))
    joined = build(several(labels={"Other": "Nodule", "No Finding": None}))
    assert codes(joined)["3.png"] == "011" and "0.png" not in codes(joined)


@pytest.mark.parametrize(("uncertain", "sign"), [("ignore", "-"), ("zero", "0"), ("one", "1")])
def test_a_column_for_each_finding_with_unknown_and_uncertain_ones(
    several: Make, uncertain: str, sign: str
) -> None:
    values = ["1.0,0.0,", "0,1,-1.0", ",,1", "0,,0", "1,-1,1", ",,"]
    built = build(several("mass,edema,NODULE", values, uncertain=uncertain))
    found = codes(built)
    expected = ["01-", f"10{sign}", "--1", "-00", f"{sign}11"]
    assert [found[f"{number}.png"] for number in range(5)] == expected
    assert len(found) == 20 and any("4 images are left out: none of" in note for note in built.notes)
    empty = build(several("Edema,Mass,Nodule", values, uncertain=uncertain, labels={"empty": 0}))
    assert codes(empty)["5.png"] == "000"


def test_all_that_labels_say_is_in_the_digest_and_how_it_is_written_is_not(several: Make) -> None:
    def digest(settings: DataSettings) -> str:
        return cache.prepare(build(settings), settings).digest

    first = digest(several())
    columns = ["0,0,0", "1,0,0", "1,1,0", "0,1,0", "0,0,1", "1,0,1"]
    assert digest(several("Edema,Mass,Nodule", columns)) == first
    columns[3] = "0,1,"  # not known instead of absent; the rarest finding is the same
    assert digest(several("Edema,Mass,Nodule", columns)) != first


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"classes": ["Edema", "Mas"]}, "data.classes names Mas, which no label has"),
        ({"classes": ["Edema"]}, "takes two or more"),
        ({"classes": None}, "needs the findings"),
        ({"classes": ["NORMAL", "Edema"]}, "data.classes names NORMAL, which is not a finding"),
        ({"positive": ["Edema"]}, "one of them"),
        ({"separator": ""}, "data.separator is empty"),
        ({"uncertain": "two"}, "the options are ignore, zero, one"),
        ({"task": "classes", "uncertain": "one"}, "no effect without data.task=multilabel"),
        ({"labels": {"Other": "Cyst"}}, "the options are Edema, Mass, Nodule, No Finding and null"),
        ({"values": ["Edema", ""]}, "line 3: label '' names no finding"),
        ({"values": ["No Finding|Edema"]}, "line 2: label 'No Finding|Edema' contradicts itself"),
        ({"header": "Edema,Mass,Nodule", "values": ["1,0,maybe"]}, "line 2: Nodule is 'maybe'"),
        ({"header": "Edema,Mass,Nodule", "values": ["1,0,", "0,1,"]}, "no image has a known label of Nodule"),
        ({"header": "Edema,Mass,Nodule", "values": ["1,0,0", "0,1,0"]}, "Nodule is present in none"),
        ({"header": "Edema,Mass,x", "values": ["1,0,0"]}, "has no column Nodule"),
        ({"name": "kermany3", "table": None}, "needs a table, and data=kermany3 has none"),
    ],
)
def test_what_cannot_be_read_is_refused(several: Make, keys: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        build(several(**keys))
    assert words in str(error.value)


def test_a_finding_that_one_split_lacks_is_noted(several: Make) -> None:
    values = ["No Finding", "Edema", "Mass|Edema"] * 7 + ["Nodule", "Edema", "Mass"]
    built = build(several(values=values))
    assert any(note.startswith("val has no image with, or none without, Nodule") for note in built.notes)


def test_the_known_sets_have_their_findings() -> None:
    assert len(DataSettings(name="nih14", task="multilabel", positive=["Pneumonia"]).class_names) == 14
    assert "Support Devices" in DataSettings(name="chexpert", task="multilabel").class_names
    one = DataSettings(name="nih14", positive=["Pneumonia"])
    assert one.stratum_names == one.class_names == ("NORMAL", "PNEUMONIA")
