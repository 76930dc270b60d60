"""Question: what does preparing the images cost, and does it stay bounded and linear?

    python benchmarks/cache_build.py [--rounds 5] [--images 60] [--pool 1500] [--small 100000]

Measures:
- the deterministic part of preprocessing on one core against the baseline, in turns on the same originals;
  the pixels must be equal
- building a cache with two processes against one
- building with many small synthetic images against a tenth of them
- the memory of a run that builds and trains on these images, minus that of a run on 1,000 images
- the time to read a warm cache of these images
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np

from pneumo.data import cache, manifest
from pneumo.data.images import preprocess, read_image
from pneumo.data.settings import DataSettings

SIZE, SMALL_SIZE = 224, 64


def per_core(files: list[Path], rounds: int) -> None:
    import seed_baseline  # it imports torch, which the processes that build a cache do not need

    for file in files[:20]:
        same = np.asarray(seed_baseline.prepare(file, SIZE))
        assert (preprocess(read_image(file), image_size=SIZE)[..., None] == same).all(), (
            f"other pixels: {file}"
        )

    def baseline() -> None:
        for file in files:
            seed_baseline.prepare(file, SIZE)

    def ours() -> None:
        for file in files:
            preprocess(read_image(file), image_size=SIZE)

    taken = measure.interleaved({"baseline": baseline, "pneumo": ours}, rounds)
    watch = measure.Stopwatch()
    for file in files:
        seed_baseline.prepare(file, SIZE, watch)
        with watch.part("ours: read"):
            grey = read_image(file)
        with watch.part("ours: preprocess"):
            preprocess(grey, image_size=SIZE)
    rows = [[part, 1e3 * seconds / len(files)] for part, seconds in watch.wall_s.items()]
    measure.table(["one core, part", "ms per image"], rows)
    speeds = {name: len(files) / sorted(seconds)[len(seconds) // 2] for name, seconds in taken.items()}
    measure.record(
        "cache/deterministic part, one core",
        measure.ratio(taken["baseline"], taken["pneumo"]),
        1.8,
        **{f"{name}_images_per_s": round(speed, 1) for name, speed in speeds.items()},
        parts_ms={part: round(ms, 3) for part, ms in rows},
    )


def settings(root: Path, cache_dir: Path, size: int, workers: int | None = None) -> DataSettings:
    return DataSettings(
        root=str(root), cache_dir=str(cache_dir), image_size=size, num_workers=workers, val_fraction=0.1
    )


def kaggle_layout(root: Path, contents: list[bytes]) -> Path:
    """A chest_xray folder of these files, a tenth for testing. Extra bytes at the end make each unique."""
    for number, content in enumerate(contents):
        split = "test" if number % 10 == 0 else "train"
        kind, name = ("NORMAL", f"IM-{number:06d}-0001") if number // 10 % 2 else (
            "PNEUMONIA", f"person{number}_virus_{number}"
        )  # fmt: skip
        folder = root / split / kind
        if number < 40:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpeg").write_bytes(content + number.to_bytes(8, "big"))
    return root


def prepare(root: Path, cache_dir: Path, size: int, workers: int | None = None) -> float:
    """Seconds to build the cache from nothing, in this process."""
    asked = settings(root, cache_dir, size, workers)
    began = time.perf_counter()
    cache.prepare(manifest.build(asked), asked)
    return time.perf_counter() - began


def two_processes(folder: Path, files: list[Path], count: int, rounds: int) -> None:
    contents = [file.read_bytes() for file in files]
    root = kaggle_layout(folder / "pool", [contents[number % len(files)] for number in range(count)])
    fresh = iter(range(1000))

    def build(workers: int) -> float:
        return prepare(root, folder / f"pool-cache{next(fresh)}", SIZE, workers)

    taken = measure.interleaved({"one": lambda: build(1), "two": lambda: build(2)}, rounds, warm_up=0)
    measure.table(
        ["processes", "images/s"],
        [[name, count / sorted(seconds)[len(seconds) // 2]] for name, seconds in taken.items()],
    )
    measure.record(
        "cache/two processes over one",
        measure.ratio(taken["one"], taken["two"]),
        1.9,
        images=count,
        seconds={name: [round(value, 2) for value in seconds] for name, seconds in taken.items()},
    )


def child(root: str, cache_dir: str) -> None:
    """In a separate process: print the seconds of a warm start as JSON."""
    asked = settings(Path(root), Path(cache_dir), SMALL_SIZE)
    began = time.perf_counter()
    data = cache.prepare(manifest.build(asked), asked)
    print(json.dumps({"seconds": time.perf_counter() - began, "images": len(data.rows)}))


def train(root: Path, folder: Path, report: Path) -> int:
    """A short run that builds a cache and trains. Returns its peak resident memory in bytes."""
    sys.path.insert(0, str(measure.PROJECT / "tests"))
    from support.commands import environment

    overrides = [
        f"data.root={root}", f"data.image_size={SMALL_SIZE}", "trainer.epochs=1", "trainer.limit_batches=5",
        "trainer.device=cpu", "tracking.enabled=false", f"output_dir={folder}/outputs",
    ]  # fmt: skip
    code = (
        "import json,resource,subprocess,sys; done = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024;"
        "open(sys.argv[1], 'w').write(json.dumps(used)); sys.exit(done.returncode)"
    )
    line = [sys.executable, "-c", code, str(report), sys.executable, "-m", "pneumo.train", *overrides]
    subprocess.run(line, check=True, env=environment(folder), cwd=folder)
    return json.loads(report.read_text())


def many(folder: Path, count: int, rounds: int) -> None:
    content = measure.draw(folder / "small.jpeg", 0, 80, 64).read_bytes()
    big = kaggle_layout(folder / "many", [content] * count)
    tenth = kaggle_layout(folder / "tenth", [content] * (count // 10))
    small = kaggle_layout(folder / "thousand", [content] * 1000)

    tenths = [prepare(tenth, folder / f"tenth-cache{number}", SMALL_SIZE) for number in range(3)]
    whole_s = prepare(big, folder / "cache", SMALL_SIZE)
    growth = whole_s / sorted(tenths)[1]
    print(f"{count // 10:,} images: {sorted(tenths)[1]:.1f} s; {count:,} images: {whole_s:.1f} s")
    measure.record(
        "cache/ten times the images, in at most 11 times the time", 11 / growth, 1.0, growth=round(growth, 2)
    )

    line = [sys.executable, __file__, "--warm", str(big), str(folder / "cache")]
    warm = [
        json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
        for _ in range(rounds)
    ]
    assert warm[0]["images"] == count
    seconds = sorted(start["seconds"] for start in warm)[rounds // 2]
    measure.record(f"cache/warm start of {count:,} images", 3 / seconds, 1.0, seconds=round(seconds, 2))

    few, whole = (
        train(root, folder, folder / "memory.json") for root in (small, big)
    )  # both build a cache, because these runs use another cache folder
    above = (whole - few) / 2**30
    print(f"peak resident memory: {few / 2**30:.2f} GB with 1,000 images, {whole / 2**30:.2f} with {count:,}")
    measure.record(
        f"cache/memory of {count:,} images built and trained on",
        2 / max(above, 0.01),
        1.0,
        above_gb=round(above, 3),
        thousand_gb=round(few / 2**30, 3),
    )


def main() -> None:
    if sys.argv[1:2] == ["--warm"]:
        return child(*sys.argv[2:])
    parser = measure.options(__doc__)
    parser.add_argument("--images", type=int, default=60, help="originals for the comparison on one core")
    parser.add_argument("--pool", type=int, default=1500, help="originals for two processes against one")
    parser.add_argument("--pool-rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=100_000, help="small images for growth and memory")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="pneumo-bench-") as name:
        folder = Path(name)
        files = measure.originals(folder / "originals", args.images)
        per_core(files, args.rounds)
        if args.pool:
            two_processes(folder, files, args.pool, args.pool_rounds)
        if args.small:
            many(folder, args.small, args.rounds)


if __name__ == "__main__":
    main()
