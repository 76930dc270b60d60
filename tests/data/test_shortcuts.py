"""The probe for shortcuts, on the originals and on files made for it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from support import odd_files
from support.images import GREY, encoded, picture, save

from pneumo import UserError
from pneumo.data import shortcuts
from pneumo.data.manifest import Manifest
from pneumo.data.patients import parse_name


def described(root: Path) -> Manifest:
    """All images below class folders, with the patients of their names."""
    files = sorted(file for file in root.rglob("*.*") if file.is_file())
    rows = [
        {
            "path": str(file.relative_to(root)),
            "label": int(file.parent.name == "PNEUMONIA"),
            "patient": (parse_name(file.name) or (None,))[0],
            "subtype": None,
            "split": "train",
        }
        for file in files
    ]
    return Manifest(root, pd.DataFrame(rows))


def scores(found: shortcuts.Shortcuts) -> dict[str, float]:
    return {probe.name: roc_auc_score(found.labels, probe.chances) for probe in found.probes}


def test_the_originals_give_their_label_away(native: list[Path]) -> None:
    found = shortcuts.find(described(native[0].parents[1]), pixels=2)
    area = scores(found)
    assert area["aspect ratio"] == pytest.approx(0.851, abs=0.02)
    assert area["JPEG quality"] > 0.95 and area["all"] > 0.95
    assert len(found.labels) == len(found.patients) == 160
    quality = found.facts["quality"].to_numpy()
    assert [np.median(quality[found.labels == label]) for label in (0, 1)] == [96, 75]


def test_without_a_shortcut_the_probe_is_at_chance(tmp_path: Path) -> None:
    for number in range(120):
        label = number % 2
        name = f"person{number}_virus_1.jpeg" if label else f"IM-{number:04d}-0001.jpeg"
        save(picture(0, number), tmp_path / ("NORMAL", "PNEUMONIA")[label] / name)
    area = scores(shortcuts.find(described(tmp_path), pixels=2))
    assert area["size"] == area["file type"] == area["JPEG quality"] == 0.5
    assert 0.3 < area["all"] < 0.7


def test_the_type_of_the_file_is_found(tmp_path: Path) -> None:
    for number in range(40):
        label = number % 2
        name = f"person{number}_virus_1.png" if label else f"IM-{number:04d}-0001.jpeg"
        save(picture(0, number), tmp_path / ("NORMAL", "PNEUMONIA")[label] / name)
    assert scores(shortcuts.find(described(tmp_path), pixels=2))["file type"] == 1


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_quality_of_a_jpeg(tmp_path: Path, quality: int, mode: str) -> None:
    (tmp_path / "x").write_bytes(encoded(GREY.convert(mode), "JPEG", quality=quality))
    assert shortcuts.facts_of(tmp_path / "x", pixels=2)["quality"] == pytest.approx(quality, abs=1)


def test_the_facts_of_a_file(tmp_path: Path) -> None:
    framed = np.pad(np.full((40, 60), 100, np.uint8), ((10, 0), (20, 20)))
    (tmp_path / "x").write_bytes(encoded(Image.fromarray(framed), "TIFF"))
    assert shortcuts.facts_of(tmp_path / "x", pixels=2) == {
        "width": 100, "height": 50, "aspect": 2, "type": "TIFF", "colour": "L", "quality": 0,
        "left": 0.2, "right": 0.2, "top": 0.2, "bottom": 0, "level": 48,
    }  # fmt: skip
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    (tmp_path / "x").write_bytes(odd_files.dicom(framed, window=(128, 256)))
    assert shortcuts.facts_of(tmp_path / "x", pixels=2)["type"] == "DICOM"


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    for number in range(4):
        save(picture(0, number), tmp_path / "NORMAL" / f"IM-{number:04d}-0001.jpeg")
    with pytest.raises(UserError, match="two classes"):
        shortcuts.find(described(tmp_path), pixels=2)
