"""How prediction handles odd and hostile files, as a Markdown table by kind of file.

    python tools/odd_files_table.py MODEL

MODEL is a model folder or a run's folder. The files are generated; it takes about 20 s.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import odd_files

from pneumo.inference import inputs
from pneumo.inference.predictor import Prediction, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = odd_files.make(folder)
        predictor, _ = load(args.model, "", folder / "cache")
        odd = inputs.find(folder / "in")
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        predictions = [prediction for batch in predictor.predict(odd.files) for prediction, _ in batch]
        seconds = time.monotonic() - started
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        predictions += [predictor.refused(path, "a link out of the folder") for path in odd.outside]
        by_path = {os.path.relpath(prediction.path, folder / "in"): prediction for prediction in predictions}
        assert not (folder / odd_files.MARK).exists() and not Path(odd_files.MARK).exists()
        assert sorted(by_path) == sorted(kinds), set(by_path) ^ set(kinds)
    print("| kind of file | files | probability | of these with a warning | refused | most common message |")
    print("|---|---:|---:|---:|---:|---|")
    for kind in dict.fromkeys(kinds.values()):
        print(_row(kind, [by_path[path] for path in kinds if kinds[path] == kind]))
    print(f"\n{len(kinds)} files in {seconds:.1f} s, peak memory + {grown_mb:.0f} MB; no payload ran.")


def _row(kind: str, predictions: list[Prediction]) -> str:
    refused = sum(bool(prediction.error) for prediction in predictions)
    warned = sum(bool(prediction.warnings) for prediction in predictions)
    messages = Counter(
        message.split(" (score")[0]
        for prediction in predictions
        for message in [*prediction.warnings, prediction.error]
        if message
    )
    first = messages.most_common(1)[0][0].replace("|", "/") if messages else ""
    counts = f"{len(predictions)} | {len(predictions) - refused} | {warned} | {refused}"
    return f"| {kind} | {counts} | {first[:90]} |"


if __name__ == "__main__":
    main()
