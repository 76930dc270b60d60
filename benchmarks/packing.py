"""Question: two runs at once with one thread each, or one after the other with two threads each?

    python benchmarks/packing.py [--rounds 5]

Two processes train a ResNet-18 on a prepared batch. They warm up, wait for each other, then make their steps.
The ratio is the time in turn over the time at once. Above 1, packing is faster.
"""

import subprocess
import sys
import time

import measure
import torch
from torch.nn.functional import cross_entropy

from pneumo.models import build_model


def worker(threads: int, size: int, batch: int, steps: int) -> None:
    """Warm up and print "ready". For every line on standard input, make `steps` steps and print "done"."""
    torch.set_num_threads(threads)
    model = build_model("resnet18").to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 2

    def step() -> None:
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        for _ in range(steps):
            step()
        print("done", flush=True)


class Worker:
    def __init__(self, threads: int, *rest: int) -> None:
        line = [sys.executable, __file__, "--worker", *map(str, (threads, *rest))]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise SystemExit(f"a worker ended with {self.process.wait()}")

    def end(self) -> None:
        self.process.communicate()


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return worker(*map(int, sys.argv[2:]))
    parser = measure.options(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    args = parser.parse_args()
    rows = []
    for size in args.sizes:
        rest = (size, 32, 3) if size <= 64 else (size, 8, 2)
        narrow, wide = [Worker(1, *rest) for _ in range(2)], [Worker(2, *rest) for _ in range(2)]
        for one in (*narrow, *wide):
            one.wait()

        def at_once(workers: list[Worker] = narrow) -> float:
            began = time.perf_counter()
            for one in workers:
                one.start()
            for one in workers:
                one.wait()
            return time.perf_counter() - began

        def in_turn(workers: list[Worker] = wide) -> float:
            began = time.perf_counter()
            for one in workers:
                one.start()
                one.wait()
            return time.perf_counter() - began

        taken = measure.interleaved({"at once": at_once, "in turn": in_turn}, args.rounds)
        for one in (*narrow, *wide):
            one.end()
        images = 2 * rest[1] * rest[2]
        speeds = {name: images / sorted(seconds)[args.rounds // 2] for name, seconds in taken.items()}
        rows.append([f"ResNet-18, {size} px", speeds["at once"], speeds["in turn"]])
        measure.record(
            f"packing/two one-thread jobs at once, {size} px",
            measure.ratio(taken["in turn"], taken["at once"]),
            1.0,
            **{name.replace(" ", "_") + "_images_per_s": round(speed, 1) for name, speed in speeds.items()},
        )
    measure.table(["two jobs", "at once, one thread each: images/s", "in turn, two threads: images/s"], rows)


if __name__ == "__main__":
    main()
