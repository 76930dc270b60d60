"""A run that looks for several findings an image, from its table to its report, and what refuses it."""

import json
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from support.commands import Command
from support.images import picture, save

LABELS = ["No Finding", "Edema", "Edema|Mass", "Mass", "Nodule", "Nodule|Edema"]
TINY = ["data.image_size=32", "data.num_workers=1", "trainer.batch_size=8", "trainer.epochs=1"]
TINY += ["trainer.device=cpu", "model=resnet18"]


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    """One image a patient; some labels of Nodule are not known."""
    root, rows = tmp_path / "set", ["path,patient,sex,Edema,Mass,Nodule"]
    for number in range(48):
        found = LABELS[number % 6].split("|")
        values = [str(int(name in found)) for name in ("Edema", "Mass", "Nodule")]
        values[2] = "" if number % 7 == 3 else values[2]
        save(picture(0, number, 24, 24), root / f"{number}.png")
        rows.append(f"{number}.png,p{number},{'FM'[number % 2]},{','.join(values)}")
    (root / "all.csv").write_text("\n".join(rows))
    known = ["data=csv", f"data.root={root}", "data.table=all.csv", "data.task=multilabel"]
    return [*known, "data.classes=[Edema,Mass,Nodule]", *TINY]


def test_a_run_has_the_scores_of_its_findings(command: Command, table: list[str], tmp_path: Path) -> None:
    ending = command("train", *table, "trainer.class_weights=true")
    assert ending.code == 0, ending.err
    (folder,) = (
        path.parent for path in (tmp_path / "outputs").glob("*/journal.jsonl") if "sweeps" not in str(path)
    )
    artifacts = folder / "artifacts"
    rows = pd.read_csv(artifacts / "predictions/test.csv")
    areas = []
    for name in ("Edema", "Mass", "Nodule"):
        known = rows[rows[f"label_{name}"].notna()]
        if known[f"label_{name}"].nunique() == 2:
            areas.append(roc_auc_score(known[f"label_{name}"], known[f"p_{name}"]))
    report = json.loads((artifacts / "reports/classification_test.json").read_text())
    assert report["scores"]["auroc"] == pytest.approx(sum(areas) / len(areas), abs=1e-12)
    assert list(report["class_scores"]) == ["Edema", "Mass", "Nodule"] and list(rows)[-1] == "sex"
    assert len(list((artifacts / "figures").glob("*.png"))) == 9
    assert "done already, skipped" in command("train", *table, "trainer.class_weights=true").out
    one_class = [*table[:3], "data.columns.label=Edema", *TINY]
    assert command("train", *one_class).code == 0
    mixed = command("compare", "experiment=pneumo")
    (line,) = (line for line in mixed.err.splitlines() if line.startswith("error:"))
    assert mixed.code == 1 and "1 run with 3 findings (Edema, Mass, Nodule)" in line
