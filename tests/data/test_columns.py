"""Which column is what: the names of public sets, forms that spreadsheets write, and refusals."""

from collections.abc import Sequence
from typing import Any

import pytest

from pneumo import UserError
from pneumo.data import columns
from pneumo.data.settings import ColumnSettings, DataSettings


def find(names: Sequence[str], **keys: Any) -> columns.Columns:
    named = {key: keys.pop(key) for key in list(keys) if key in vars(ColumnSettings())}
    settings = DataSettings(name="csv", columns=ColumnSettings(**named), **keys)
    return columns.find(names, settings, "t.csv")


def refused(names: Sequence[str], **keys: Any) -> str:
    with pytest.raises(UserError) as error:
        find(names, **keys)
    return str(error.value)


@pytest.mark.parametrize(
    ("header", "path", "label", "patient", "split"),
    [
        ("path,label,patient", "path", "label", "patient", None),
        ("filepath,label", "filepath", "label", None, None),
        ("img,label", "img", "label", None, None),
        ("Path,path,label", "path", "label", None, None),  # written exactly so comes first
        (
            "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position",
            *("Image Index", "Finding Labels", "Patient ID", None),
        ),
        ("ImageID,PatientID,PatientBirth,PatientSex_DICOM,Labels", "ImageID", "Labels", "PatientID", None),
        (
            "patientid,offset,sex,age,finding,survival,view,modality,filename,doi",
            *("filename", "finding", "patientid", None),
        ),
        ("image_id,class_name,class_id,rad_id,x_min", "image_id", "class_name", None, None),
        ("Unnamed: 0,X_ray_image_name,Label,Dataset_type", "X_ray_image_name", "Label", None, "Dataset_type"),
        ("FILE NAME,Target,Subject_ID,Split", "FILE NAME", "Target", "Subject_ID", "Split"),
        ("filename,diagnosis,MRN,subset", "filename", "diagnosis", "MRN", "subset"),
        ("filename,diagnosis,patient_name,PatientID", "filename", "diagnosis", "PatientID", None),
    ],
)  # fmt: skip
def test_known_names_are_found(
    header: str, path: str, label: str, patient: str | None, split: str | None
) -> None:
    found = find(header.split(","))
    assert (found.path, found.label, found.patient, found.split) == (path, label, patient, split)


@pytest.mark.parametrize(
    "name",
    ["patient", "patient_id", "Patient ID", "PATIENT-ID", "patientId", "PatientID", "subject id", "Person"],
)  # fmt: skip
def test_every_form_of_a_patient_column_is_used(name: str) -> None:
    assert find(["path", "label", name]).patient == name


@pytest.mark.parametrize(
    "name",
    ["ID of patient", "pat_nr", "patients", "id_paciente", "case_id", "PatientHash", "patient image id"],
)  # fmt: skip
def test_what_looks_like_a_patient_and_is_not_used_is_refused(name: str) -> None:
    message = refused(["path", "label", name])
    assert name in message and "data.columns.patient=NAME" in message and "patient=none" in message
    assert find(["path", "label", name], patient=name).patient == name
    assert find(["path", "label", name], patient="none").patient is None


@pytest.mark.parametrize(
    "name", ["Patient Age", "patient_sex", "PatientGender", "PatientOrientation", "patientage"]
)
def test_what_is_about_a_patient_is_no_id(name: str) -> None:
    assert find(["path", "label", name]).patient is None


def test_two_patient_columns_are_refused() -> None:
    message = refused(["path", "label", "Patient", "patient_id"])
    assert "Patient, patient_id" in message and "data.columns.patient=NAME" in message
    assert find(["path", "label", "Patient", "patient_id"], patient="patient_id").patient == "patient_id"


def test_a_pattern_beside_a_patient_column_is_refused() -> None:
    message = refused(["path", "label", "patient"], patient_pattern="p(1)")
    assert "data.patient_pattern=p(1)" in message and "data.columns.patient=none" in message
    assert find(["path", "label", "patient"], patient_pattern="p(1)", patient="none").patient is None


def test_columns_can_be_named() -> None:
    found = find(["a", "b", "Some Thing"], path="a", label="some_thing", subgroups=["b"])
    assert (found.path, found.label, found.subgroups) == ("a", "Some Thing", ["b"])
    assert found.shown() == {"path": "a", "label": "Some Thing", "subgroups": "b"}


@pytest.mark.parametrize(
    ("names", "keys", "words"),
    [
        (["picture", "label"], {}, ["no column path (or filepath, or img)", "picture", "data.columns.path"]),
        (["patientId", "Target"], {}, ["data.columns.path='patientId'"]),
        (["path", "lable"], {}, ["no column label", "path, lable", "data.columns.label=NAME"]),
        (["path", "label"], {"label": "lable"}, ["label=lable", "path, label", "Did you mean label?"]),
        (["path", "label"], {"subgroups": ["sex"]}, ["data.columns.subgroups=sex"]),
        (["path", "label", "ID"], {"subgroups": ["ID"], "patient": "ID"}, ["subgroups=ID is not a subgroup"]),
        (["path", "label", "Subject"], {"subgroups": ["subject"], "patient": "none"}, ["=Subject is not"]),
        (["file", "label", "prediction"], {"subgroups": ["prediction"]}, ["label, probability, prediction"]),
        (["path", "A"], {"positive": ["A", "B"]}, ["no column label"]),
    ],
)  # fmt: skip
def test_a_missing_column_is_named(names: list[str], keys: dict[str, Any], words: list[str]) -> None:
    message = refused(names, **keys)
    assert all(word in message for word in words), message


def test_findings_may_have_a_column_each() -> None:
    found = find(["Path", "Sex", "Age", "No Finding", "Pneumonia"], positive=["pneumonia"])
    assert found.label is None and found.findings == ["Pneumonia"] and found.shown()["label"] == "Pneumonia"
    assert find(["path", "label", "Pneumonia"], positive=["pneumonia"]).label == "label"


def test_subgroups_are_found_by_their_usual_names() -> None:
    found = find(["Path", "label", "Patient Gender", "age", "View Position", "other"])
    assert found.subgroups == ["Patient Gender", "age", "View Position"]
    assert find(["path", "label", "sex"], subgroups=[]).subgroups == []
    assert find(["path", "label", "A B", "sex"], subgroups=["a_b", "A B"]).subgroups == ["A B"]
