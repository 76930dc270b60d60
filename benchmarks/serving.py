"""Question: how much time does `mlflow models serve` add to the model's, and does its memory stay constant?

python benchmarks/serving.py [--requests 10000] [--threads 2] [--image FILE] [--model FOLDER]

Registers a ResNet-18 with random weights at 64 pixels (or the given model folder or run) in a new tracker and
serves it on 127.0.0.1. Threads then send one image per request. Prints requests per second, p50 and p99
latency relative to the model alone (reading, preparing and predicting one image in this process), errors, and
the memory of the server and its workers over the requests. It has no target and is not part of `make bench`.
"""

import argparse
import base64
import http.client
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from pneumo.inference import model_folder, pyfunc
from pneumo.inference.predictor import Predictor
from pneumo.tracking.registry import resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.model_runs import make
from support.servers import Serving, champion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--image", type=Path, help="a JPEG or PNG; default: the model's example")
    parser.add_argument("--model", type=Path, help="artifacts of a finished run; default: random weights")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pneumo-serving-") as scratch:
        measure(Path(scratch), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    uri = champion(folder, options.model or make(folder / "artifacts", "resnet18"))
    text = (
        base64.b64encode(options.image.read_bytes()).decode()
        if options.image
        else pyfunc.serving_spec().example[pyfunc.COLUMN]
    )
    own = own_time(
        Predictor(model_folder.read(resolve("models:/pneumo@champion", uri, folder).folder)), text, folder
    )
    threads = torch.get_num_threads()
    print(f"the model alone, one image: p50 {1000 * np.median(own):.1f} ms, {threads} threads")
    server = Serving(folder, uri)
    server.start()
    try:
        server.wait()
        load(server, text, options, float(np.median(own)))
    finally:
        server.kill()


def own_time(predictor: Predictor, text: str, folder: Path, times: int = 50) -> list[float]:
    """Seconds from the bytes of one image to its row, in this process."""
    file = folder / "image"
    spent = []
    for _ in range(times + 5):
        started = time.perf_counter()
        file.write_bytes(base64.b64decode(text))
        predictor.predictions([""], [predictor.prepare(file)])
        spent.append(time.perf_counter() - started)
    return spent[5:]


def load(server: Serving, text: str, options: argparse.Namespace, own_s: float) -> None:
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[text]]}}).encode()
    spent: list[float] = []
    wrong: list[int] = []
    lock = threading.Lock()
    left = iter(range(options.requests))
    memory: list[tuple[int, float]] = []
    root = psutil.Process(server.process.pid if server.process else 0)

    def resident_mb() -> float:
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)]) / 2**20

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            started = time.perf_counter()
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            with lock:
                spent.append(time.perf_counter() - started)
                if answer.status != 200:
                    wrong.append(answer.status)
                if number % max(1, options.requests // 10) == 0:
                    memory.append((number, resident_mb()))

    for _ in range(10):
        server.post(body)
    started = time.perf_counter()
    threads = [threading.Thread(target=send) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started
    p50, p99 = (1000 * np.quantile(spent, q) for q in (0.5, 0.99))
    print(
        f"{len(spent)} requests by {options.threads} threads, {len(body) / 1000:.0f} kB each: "
        f"{len(spent) / wall:.1f} per second; latency p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"{p50 / (1000 * own_s):.2f} and {p99 / (1000 * own_s):.2f} times the model alone; "
        f"{len(wrong)} not answered with 200"
    )
    print("memory, MB: " + ", ".join(f"{mb:.0f} at {number}" for number, mb in memory))


if __name__ == "__main__":
    main()
