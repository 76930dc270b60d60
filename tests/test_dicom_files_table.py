"""The table of pydicom's own files: every file has an outcome, and `pneumo predict` agrees."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.commands import Command

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")

import dicom_files_table as table  # noqa: E402


def test_the_page_is_what_the_script_writes() -> None:
    written = table.PAGE.read_text()
    if f"pydicom {pydicom.__version__}," not in written:
        pytest.skip("the page is of another version of pydicom")
    pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed: pip install 'pneumo[dicom]'")
    assert written == table.page(table.outcomes()), "run python tools/dicom_files_table.py --write"


def test_a_prediction_of_the_whole_folder_has_the_same_outcomes(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    rows = table.outcomes()
    assert len({row.file for row in rows}) == len(rows) > 150
    counts = Counter(row.outcome for row in rows)
    assert counts[table.READ] >= 3 and counts[table.SKIPPED] > 100 and counts[table.REFUSED]
    assert all(row.reason for row in rows)
    shutil.copytree(table.FOLDER, tmp_path / "in", ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    ending = command("predict", f"model={made_models['resnet18']}", "input=in", "output=out.csv")
    assert ending.code == 1
    kinds = Counter(row.reason for row in rows if row.outcome == table.SKIPPED)
    assert f"{counts[table.SKIPPED]} DICOM files are not radiographs and were skipped: " in ending.out
    for kind, number in kinds.items():
        assert f"{number} {kind}" in ending.out
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert len(lines) == counts[table.READ] + counts[table.REFUSED]
    assert f"{counts[table.REFUSED]} could not be read" in ending.out
