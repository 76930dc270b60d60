"""Write synthetic X-rays and a table that describes them, to try `data=csv`.

    python tools/synthetic_set.py DIR [--patients 180]

DIR gets images/*.png and labels.csv with the columns path, label and patient.
"""

import argparse
from pathlib import Path

import pandas as pd
from PIL import Image

from pneumo.data import phantom
from pneumo.data.settings import PhantomSettings
from pneumo.names import CLASS_NAMES


def write(folder: Path, patients: int) -> pd.DataFrame:
    """Write the set into `folder`; return its table."""
    settings = PhantomSettings(train_patients=patients)
    table = phantom.table(settings).query("split == 'train'")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, row in enumerate(table.itertuples()):
        name = f"images/{number:04d}.png"  # shows neither the class nor the patient
        Image.fromarray(phantom.render(str(row.path), settings)).save(folder / name)
        patient = str(row.patient).removeprefix("train")
        rows.append({"path": name, "label": CLASS_NAMES[int(row.label)], "patient": f"p{patient}"})
    described = pd.DataFrame(rows)
    described.to_csv(folder / "labels.csv", index=False)
    return described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--patients", type=int, default=180)
    given = parser.parse_args()
    described = write(given.folder, given.patients)
    print(f"{len(described)} images of {described['patient'].nunique()} patients in {given.folder}")


if __name__ == "__main__":
    main()
