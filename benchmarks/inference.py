"""Question: how much faster than a plain loop does `predict` process a folder of originals?

    python benchmarks/inference.py [--rounds 5] [--images 500]

Both start from JPEG files and end with probabilities, in float32 and with the same network. The plain loop
prepares and computes one image at a time, with Pillow. pneumo's Predictor reads ahead in threads and computes
batches. The model is a ResNet-18 from one short run on synthetic images.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
import seed_baseline
import torch

from pneumo.inference import model_folder
from pneumo.inference.predictor import Predictor

sys.path.insert(0, str(measure.PROJECT / "tests"))
from support.commands import environment


def train(folder: Path) -> Path:
    """The output folder of a run of one step."""
    overrides = (
        "data=phantom data.phantom.train_patients=40 data.phantom.test_patients=16 data.image_size=224 "
        "trainer.epochs=1 trainer.limit_batches=1 trainer.batch_size=8 trainer.device=cpu "
        "trainer.precision=float32 tracking.enabled=false"
    ).split()
    line = [sys.executable, "-m", "pneumo.train", *overrides, f"output_dir={folder}/outputs"]
    subprocess.run(line, check=True, env=environment(folder), stdout=subprocess.DEVNULL)
    (facts,) = folder.glob("outputs/*/artifacts")
    return facts.parent


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pneumo-bench-") as name:
        folder = Path(name)
        files = measure.originals(folder / "originals", args.images)
        made = model_folder.read(train(folder))
        predictor = Predictor(made)
        network = made.network("cpu").eval()

        @torch.no_grad()
        def plain() -> list[float]:
            tensors = (seed_baseline.to_tensor(seed_baseline.prepare(file, 224)) for file in files)
            return [float(network(tensor[None]).softmax(1)[0, 1]) for tensor in tensors]

        def ours() -> list[float | None]:
            paths = [str(file) for file in files]
            return [prediction.probability for batch in predictor.predict(paths) for prediction, _ in batch]

        expected, predicted = np.array(plain()), np.array(ours(), dtype=float)
        assert np.allclose(made.calibrated(expected), predicted, atol=1e-3), "other probabilities"
        taken = measure.interleaved({"plain loop": plain, "predict": ours}, args.rounds, warm_up=0)
    speeds = {name: len(files) / sorted(seconds)[args.rounds // 2] for name, seconds in taken.items()}
    measure.table(
        ["from files to probabilities", "images/s"], [[name, speed] for name, speed in speeds.items()]
    )
    measure.record(
        f"inference/{len(files)} originals",
        measure.ratio(taken["plain loop"], taken["predict"]),
        5.0,
        **{name.replace(" ", "_") + "_images_per_s": round(speed, 1) for name, speed in speeds.items()},
    )


if __name__ == "__main__":
    main()
