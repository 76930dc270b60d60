"""Write synthetic X-rays and CSV files that describe them, to try `data=csv`.

    python tools/synthetic_set.py DIR [--train-patients 120] [--test-patients 60]

DIR gets images/*.png, train.csv and test.csv with the columns path, label and patient.
"""

import argparse
from pathlib import Path

import pandas as pd
from PIL import Image

from pneumo.data import phantom
from pneumo.data.settings import PhantomSettings


def write(folder: Path, settings: PhantomSettings) -> dict[str, int]:
    """Write the set into `folder`; return the number of images by split."""
    table = phantom.table(settings)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, row in enumerate(table.itertuples()):
        name = f"images/{number:04d}.png"  # shows neither the class nor the patient
        Image.fromarray(phantom.render(str(row.path), settings)).save(folder / name)
        rows.append({"path": name, "label": row.label, "patient": row.patient})
    described = pd.DataFrame(rows)
    counts = {}
    for split in ("train", "test"):
        part = described[(table["split"] == split).to_numpy()]
        part.to_csv(folder / f"{split}.csv", index=False)
        counts[split] = len(part)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--train-patients", type=int, default=120)
    parser.add_argument("--test-patients", type=int, default=60)
    given = parser.parse_args()
    settings = PhantomSettings(train_patients=given.train_patients, test_patients=given.test_patients)
    counts = write(given.folder, settings)
    print(f"{counts['train']} training and {counts['test']} test images in {given.folder}")


if __name__ == "__main__":
    main()
