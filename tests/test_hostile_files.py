"""Hostile files: refused with a reason, no code of theirs runs, less than 2 GB of memory is used."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.commands import PROJECT as ROOT
from support.commands import import_path
from support.images import png

MEMORY_MB = 2000

# Tries each reader on its hostile files, in a separate process; prints what it answered, then its memory.
READ = """
import json, sys, time, warnings
from pathlib import Path
from torch import nn
from pneumo import UserError
from pneumo.data import manifest
from pneumo.data.images import read
from pneumo.data.settings import DataSettings
from pneumo.models import build_model
from pneumo.training.checkpoint import load_resume, load_weights

def resume(path):
    with warnings.catch_warnings(record=True, action="always") as caught:
        assert load_resume(path) is None
    raise UserError(str(caught[-1].message))

readers = {
    "weights": lambda path: build_model("resnet18", weights=str(path)),
    "best": lambda path: load_weights(path, nn.Linear(2, 2)),
    "resume": resume,
    "table": lambda path: manifest.build(DataSettings(name="csv", root=str(path))),
    "image": read,
}
answers = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.process_time()
    try:
        readers[path.name.split("-")[0]](path)
        words = "accepted"
    except UserError as error:
        words = str(error)
    answers[path.name] = (words, time.process_time() - started)
# Not ru_maxrss: that of the process which started this one would count.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([answers, int(peak.split()[1]) // 1024]))
"""


class Payload:
    """Unpickled without care, this would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def zipped(pickled: bytes, storage: bytes = b"", how: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch.save writes it, with the given pickle and storage."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", storage)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def pickles(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> (content, expected message), for every reader of torch's format."""
    ask = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x5e\xd0\xb2\x00\x85R."  # bytearray(3,000,000,000)
    byte = pickle.dumps(3 * 10**8, 2)[2:-1]
    storage = b"((X\x07\x00\x00\x00storagectorch\nByteStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + byte
    bomb = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n" + storage + b"tQK\x00"
    bomb += b"(" + byte + b"t(K\x01t\x89ccollections\nOrderedDict\n)RtRs."
    wide = torch.zeros(1).expand(100_000, 100_000)  # four bytes that claim to be 40 GB
    return {
        "runs": (saved({"identity": {}, "x": Payload(mark)}), "posix system|run code"),
        "runs-plain": (pickle.dumps({"identity": {}, "x": Payload(mark)}), "names a function|run code"),
        "runs-safe": (pickle.dumps(Payload(mark), 0), "system|run code"),
        "asks-memory": (zipped(ask), "builtins bytearray"),
        "asks-memory-plain": (ask, "builtins bytearray"),
        "unpacks": (zipped(bomb, bytes(3 * 10**8), zipfile.ZIP_DEFLATED), "unpacks to more than its size"),
        "claims": (saved({"identity": {}, "fc.weight": wide}), "more numbers than the file holds"),
        "ends": (b"\x80\x02]q\x00(\x80\x02]", "EOFError|not enough data|exhausted|pickle"),
    }


def bombs() -> dict[str, tuple[bytes, str]]:
    """Images with too many pixels or too many scans, and the largest that are accepted."""
    buffer = io.BytesIO()
    Image.new("L", (7000, 7000), 90).save(buffer, "JPEG", progressive=True)
    jpeg = buffer.getvalue()
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    buffer = io.BytesIO()
    Image.new("L", (7000, 7000), 90).save(
        buffer, "MPO", save_all=True, append_images=[Image.new("L", (8, 8))], progressive=True
    )
    two = buffer.getvalue()  # pictures in one file: Pillow does not call this a JPEG
    end = two.index(b"\xff\xd9\xff\xd8")
    buffer = io.BytesIO()
    Image.new("L", (7000, 7000), 90).save(buffer, "JPEG")
    plain = buffer.getvalue()
    only = plain[plain.rindex(b"\xff\xda") : -2]
    largest = io.BytesIO()
    Image.fromarray(np.zeros((7000, 7000, 4), np.uint8)).save(largest, "PNG", compress_level=1)
    return {
        "pixels.png": (png(60_000, 60_000, 8, 6, b"\0" * 99), "more pixels than the limit of 50,000,000"),
        "scans.jpeg": (jpeg[:-2] + last * 5000 + b"\xff\xd9", "5006 scans of 7000 x 7000"),
        "scans-of-two.jpeg": (two[:end] + last * 5000 + two[end:], "5012 scans of 7000 x 7000"),
        "scans-of-one.jpeg": (plain[:-2] + only * 100 + b"\xff\xd9", "damaged: broken data stream"),
        "usual-scans.jpeg": (jpeg, "accepted"),
        "largest.png": (largest.getvalue(), "accepted"),
    }


def tables(folder: Path) -> dict[str, str]:
    """Write CSV sets below `folder`. Returns the expected message of each."""
    line = b"a.png,0\n"
    contents = {
        "rows": (b"path,label\n" + line * 10_000_000, "more rows than the limit of 1,000,000"),
        "columns": (b"path,label" + b"," * 20_000_000, "more columns than the limit of 1,000"),
        "cells": (
            b"path,label" + b"," * 897 + b"\n" + (b"a,0" + b"," * 897 + b"\n") * 40_000,
            "more rows than the limit of 35,595",
        ),
        "passwd": (b"path,label\n../../etc/passwd,0\n", "'../../etc/passwd' leaves"),
        "absolute": (b"path,label\n/etc/passwd,0\n", "'/etc/passwd' leaves"),
        "link": (b"path,label\nlink,0\n", "'link' leaves"),
        "nul": (b"path,label\na\0b.png,0\n", "is not a path"),
        "long-path": (b"path,label\n" + b"a" * 20_000_000 + b",0\n", "aaa' leaves"),
        "long-number": (b"path,label\nIM-" + b"9" * 5000 + b"-1.png,0\n", "999' leaves"),
    }
    for name, (content, _) in contents.items():
        root = folder / f"table-{name}"
        root.mkdir()
        (root / "train.csv").write_bytes(content)
        (root / "test.csv").write_bytes(b"path,label\na.png,0\n")
        (root / "link").symlink_to("/etc/passwd")
    return {f"table-{name}": words for name, (_, words) in contents.items()}


def test_nothing_hostile_is_run_or_fills_the_memory(tmp_path: Path) -> None:
    folder, mark = tmp_path / "hostile", tmp_path / "executed"
    folder.mkdir()
    wanted = tables(folder)
    for name, (content, words) in pickles(mark).items():
        (folder / f"weights-{name}.pth").write_bytes(content)
        wanted[f"weights-{name}.pth"] = words
        for reader in ("weights", "best"):
            (folder / f"{reader}-{name}.safetensors").write_bytes(content)
            wanted[f"{reader}-{name}.safetensors"] = "safetensors|cannot be read"
        state = folder / f"resume-{name}" / "step-000000001.pt"
        state.parent.mkdir()
        state.write_bytes(hashlib.sha256(content).digest() + content)
        wanted[state.parent.name] = words
    with (folder / "weights-sparse.pth").open("wb") as file:
        file.truncate(20 * 2**30)
    wanted["weights-sparse.pth"] = "more than the limit"
    for name, (content, words) in bombs().items():
        (folder / f"image-{name}").write_bytes(content)
        wanted[f"image-{name}"] = words
    command = [sys.executable, "-c", READ, str(folder)]
    environment = {**os.environ, "PYTHONPATH": import_path(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    answers, peak_mb = json.loads(done.stdout)
    assert answers.keys() == wanted.keys()
    wrong = {
        name: words[:500]
        for name, (words, _) in answers.items()
        if not any(part in words for part in wanted[name].split("|")) or len(words) > 10_000
    }
    assert not wrong
    seconds = {name: round(taken, 1) for name, (_, taken) in answers.items() if taken > 0.5}
    assert max(seconds.values(), default=0) < 20, seconds
    assert peak_mb < MEMORY_MB
    assert not mark.exists()


def test_a_hostile_table_ends_the_command_in_words(tmp_path: Path) -> None:
    """As a user sees it: a table of ten million rows, and the memory of the whole command."""
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / f"{split}.csv").write_bytes(b"path,label\n" + b"a.png,0\n" * 10_000_000)
    watched = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024); sys.exit(code)"
    )
    arguments = ["data=csv", f"data.root={tmp_path}/set", f"output_dir={tmp_path}/outputs"]
    command = [sys.executable, "-c", watched, sys.executable, "-m", "pneumo.train", *arguments]
    environment = {**os.environ, "PYTHONPATH": import_path(ROOT), "PNEUMO_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1 and "more rows than the limit of 1,000,000" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and int(done.stdout.split()[-1]) < MEMORY_MB
