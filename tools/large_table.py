"""Write a set as large as NIH ChestX-ray14 in its columns, and measure `pneumo data check` on it.

    python tools/large_table.py DIR [--rows 112120]

DIR gets Data_Entry_2017.csv and images_*/images/*.png with synthetic names and tiny random images, unless it
has them. Prints wall time, processor time and the memory of the largest process.
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

FINDINGS = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Edema")
HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
TABLE = "Data_Entry_2017.csv"
A_FOLDER = 10_000  # images


def write(root: Path, rows: int) -> None:
    """A table of `rows` images, one to six a patient."""
    chance, pixels = random.Random(0), np.random.default_rng(0)
    lines, patient = [HEADER], 0
    while len(lines) <= rows:
        patient += 1
        for k in range(min(chance.randint(1, 6), rows + 1 - len(lines))):
            name = f"{patient:08d}_{k:03d}.png"
            folder = root / f"images_{len(lines) // A_FOLDER + 1:03d}" / "images"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.integers(1, 255, (12, 12), dtype=np.uint8)).save(folder / name)
            found = chance.sample(FINDINGS, chance.randint(1, 3)) if chance.random() < 0.5 else ["No Finding"]
            lines.append(f"{name},{'|'.join(found)},{k},{patient},{chance.randint(1, 90)},M,PA")
    (root / TABLE).write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--rows", type=int, default=112_120)
    given = parser.parse_args()
    if not (given.folder / TABLE).is_file():
        write(given.folder, given.rows)
    command = [sys.executable, "-m", "pneumo", "data", "check", "data=nih14", f"data.root={given.folder}"]
    started = time.monotonic()
    environment = {**os.environ, "PNEUMO_CACHE": str(given.folder.absolute().with_suffix(".cache"))}
    code = subprocess.run(command, env=environment, check=False).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"wall {time.monotonic() - started:.1f} s, processor {used.ru_utime + used.ru_stime:.1f} s, "
        f"largest process {used.ru_maxrss / 1024:.0f} MiB"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
