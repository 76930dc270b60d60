"""Coverage-guided fuzzing of the code that reads untrusted files: images, DICOM, tables, weights and states.

    python tools/fuzz_readers.py image|dicom|csv|checkpoint [--seconds 60] [--corpus DIR] [--findings DIR]

A finding is an unexpected error, a result that breaks the reader's promise, a path outside the root, an
attempt to run something, more than 2 GB of memory, or more than ten seconds for one input. The input is kept
under --findings, and the exit code is 1. Coverage includes only Python code: pneumo and the Python parts of
Pillow, pydicom, safetensors and torch's weights_only unpickler. Their compiled parts run without guidance.
"""

import argparse
import hashlib
import io
import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

RSS_LIMIT_MB = 2000  # the promise; importing torch takes 500 of it
INPUT_LIMIT_S = 10  # processor time, so that a busy machine does not cause findings
HANG_S = 600
PNG = b"\x89PNG\r\n\x1a\n"
INSTRUMENTED = ["pneumo", "PIL", "pydicom", "safetensors"]
Reader = Callable[[bytes], None]


class Finding(Exception):
    """A reader did what it must never do."""


# ---- the targets: each returns a function that reads one input


def image(folder: Path) -> Reader:
    import numpy as np

    from pneumo.data import images

    file = folder / "x"

    def one(data: bytes) -> None:
        file.write_bytes(data)
        try:
            grey = images.read(file)
        except images.BadImage:
            return
        if grey.dtype != np.uint8 or grey.ndim != 2 or not 0 < grey.size <= images.MAX_PIXELS:
            raise Finding(f"read gave {grey.dtype} {grey.shape}")
        square = images.preprocess(grey, image_size=32)
        if square.dtype != np.uint8 or square.shape != (32, 32):
            raise Finding(f"preprocess gave {square.dtype} {square.shape}")

    return one


def csv(folder: Path) -> Reader:
    from pneumo import UserError
    from pneumo.data import found, manifest
    from pneumo.data.settings import DataSettings

    root = folder / "root"
    (root / "below").mkdir(parents=True)
    (root / "out").symlink_to("/etc")
    (root / "in").symlink_to("below")
    inside = os.path.realpath(root) + os.sep
    settings = [DataSettings(name="csv", root=str(root), val_protocol=way) for way in ("patient", "official")]

    def one(data: bytes) -> None:
        for split, text in zip(found.SPLITS, [*data.split(b"====", 2), b"", b""], strict=False):
            (root / f"{split}.csv").write_bytes(text)
        if not data.count(b"===="):
            (root / "test.csv").write_bytes(data)
        if not (root / "val.csv").stat().st_size:
            (root / "val.csv").unlink()
        for setting in settings:
            try:
                described = manifest.describe(setting)
            except UserError:
                continue
            manifest.problems(described)
            described.counts()
            described.patients()
            table = described.table
            for path in table["path"]:
                if "\0" in path or not (os.path.realpath(root / path) + os.sep).startswith(inside):
                    raise Finding(f"{path!r} leaves the root")
            if not set(table["label"]) <= {0, 1} or not set(table["split"]) <= set(found.SPLITS):
                raise Finding("an unknown label or split")

    return one


def checkpoint(folder: Path) -> Reader:
    from pneumo import UserError
    from pneumo.models.weights import load_backbone
    from pneumo.training.checkpoint import load_resume, load_weights

    model, state = small_model(), folder / "state"
    state.mkdir()

    def one(data: bytes) -> None:
        form, content = data[:1], data[1:]
        if form in (b"p", b"P"):  # only the pickle: a zip's checksums would reject nearly every change
            content = zipped(content)
        if form in (b"s", b"p"):
            (state / "step-000000001.pt").write_bytes(hashlib.sha256(content).digest() + content)
            loaded = load_resume(state)
            if loaded is not None and not (isinstance(loaded, dict) and "identity" in loaded):
                raise Finding(f"load_resume gave {type(loaded)}")
            return
        file = folder / ("x.pth" if form in (b"w", b"P") else "x.safetensors")
        file.write_bytes(content)
        try:
            if form == b"b":
                load_weights(file, model)
            else:
                load_backbone(model, "resnet18", str(file))
        except UserError:
            pass

    return one


def small_model():  # type: ignore[no-untyped-def]
    """The smallest model with the layer names of a backbone."""
    from collections import OrderedDict

    from torch import nn

    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(3, 2, 1, bias=False), bn1=nn.BatchNorm2d(2), fc=nn.Linear(2, 2))
    )


def zipped(pickled: bytes) -> bytes:
    """A file in torch.save's format around `pickled`, with four storages of 64 bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for number in range(4):
            archive.writestr(f"archive/data/{number}", bytes(64))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


# ---- seeds, made from small valid files


def image_seeds() -> list[bytes]:
    import numpy as np
    from PIL import Image, PngImagePlugin

    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (9, 13), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_itxt("Comment", "x-ray", zip=True)
    text.add_text("Title", "x-ray", zip=True)
    made = []

    def add(picture: Image.Image, kind: str, **options: object) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        made.append(buffer.getvalue())

    for mode in ("L", "RGB", "CMYK"):
        add(grey.convert(mode), "JPEG")
    add(grey, "JPEG", progressive=True, exif=exif, icc_profile=bytes(40), comment=b"x", dpi=(72, 72))
    for mode in ("1", "L", "P", "RGB", "LA", "RGBA"):
        add(grey.convert(mode), "PNG")
    add(grey.convert("P"), "PNG", transparency=bytes(range(99)))
    add(grey, "PNG", transparency=3, exif=exif, pnginfo=text, icc_profile=bytes(40), dpi=(72, 72))
    add(grey, "PNG", save_all=True, append_images=[grey.rotate(90)])
    add(Image.fromarray(rng.integers(0, 65536, (5, 7), dtype=np.uint16)), "PNG")
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        add(grey, kind)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4"):
        add(grey.convert("1") if compression == "group4" else grey, "TIFF", compression=compression)
    for mode in ("1", "P", "RGBA", "CMYK"):
        add(grey.convert(mode), "TIFF")
    add(Image.fromarray(rng.integers(0, 65536, (5, 7), dtype=np.uint16)), "TIFF", exif=exif)
    add(grey, "TIFF", save_all=True, append_images=[grey.rotate(90)])
    for mode in ("P", "RGB", "RGBA"):
        add(grey.convert(mode), "BMP")
    add(grey.convert("RGBA"), "WEBP", lossless=True, exif=exif)
    add(grey, "WEBP", save_all=True, append_images=[grey.rotate(90)])
    return [*made, dicom_seeds()[0]]


def dicom_seeds() -> list[bytes]:
    import numpy as np
    from PIL import Image
    from support.odd_files import dicom

    rng = np.random.default_rng(0)
    deep = rng.integers(0, 4096, (9, 13), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray((deep // 16).astype(np.uint8)).save(buffer, "JPEG")
    return [
        dicom(deep, stored=12),
        dicom(deep, stored=12, window=(2048, 4096), slope=0.5, intercept=-100, padding=0),
        dicom((deep // 16).astype(np.uint8), colours="MONOCHROME1", modality="CR"),
        dicom((deep // 16).astype(np.uint8), syntax="1.2.840.10008.1.2.4.50", frame=buffer.getvalue()),
        dicom(deep, syntax="1.2.840.10008.1.2.5", frame=bytes(64) + bytes(200)),
        dicom(deep, syntax="1.2.840.10008.1.2.1.99"),
        dicom(None),
    ]


def csv_seeds() -> list[bytes]:
    test = "path,label\nIM-0009-0001.jpeg,NORMAL\nperson9_virus_1.jpeg,1\n"
    train = (
        "path,label,patient\nbelow/a.png,0,p1\nb.png,1,p2\nin/c.png,0,p3\n\nperson1_bacteria_1.jpeg,1,p4\n"
    )
    made = [
        train + "====" + "====" + test,
        train + "====" + "img,label\nv.png,0\nw.png,1\n" + "====" + test,
        train.replace("\n", "\r\n") + "========" + test,
        '\ufefffilepath, label\n"a, b.png", pneumonia\n"c""d.png",normal\n========' + test,
        train.replace("b.png", "../x.png"),
        train.replace("b.png", "/etc/passwd"),
        train.replace("b.png", "out/passwd"),
        train.replace("b.png", "below\\..\\b.png"),
        train.replace("b.png", "a\0b.png"),
        train.replace(",1,", ",7,"),
        train.replace("label", "path"),
    ]
    return [text.encode() for text in made] + [b"", train.encode("utf-16")]


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo run",)


def checkpoint_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    weights = small_model().state_dict()
    state = {"identity": {"seed": 0}, "model": weights, "step": 3, "best": None, "rng": [torch.zeros(8)]}
    tensors = save(dict(weights))
    made = [b"b" + tensors, b"f" + tensors, b"b" + tensors[:40], b"f{}"]
    for content in (state, weights, {"state_dict": weights}, Hostile(), [1, 2]):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with zipfile.ZipFile(buffer) as archive:
            pickled = archive.read("archive/data.pkl")
        made += [b"s" + buffer.getvalue(), b"w" + buffer.getvalue(), b"p" + pickled, b"P" + pickled]
        if not isinstance(content, Hostile):
            old = io.BytesIO()
            torch.save(content, old, _use_new_zipfile_serialization=False)
            made += [b"s" + old.getvalue(), b"w" + old.getvalue()]
    for protocol in (0, 2, 5):
        made += [form + pickle.dumps(Hostile(), protocol) for form in (b"p", b"P", b"w", b"s")]
    return made


TARGETS = {"image": image, "dicom": image, "csv": csv, "checkpoint": checkpoint}
SEEDS = {"image": image_seeds, "dicom": dicom_seeds, "csv": csv_seeds, "checkpoint": checkpoint_seeds}
WORDS = {
    "image": [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"acTL",
              b"fcTL", b"fdAT", b"gAMA", b"Exif\0\0", b"JFIF\0", b"Adobe", b"\xff\xc0", b"\xff\xc4",
              b"\xff\xda", b"\xff\xe1", b"MPF\0", b"\x7f\xff\xff\xff", b"II*\0", b"MM\0*", b"BM", b"RIFF",
              b"WEBP", b"VP8X", b"VP8L", b"VP8 ", b"ANMF", b"\x69\x87", b"\x25\x88", b"\x02\x01\x03\0"],
    "dicom": [b"DICM", b"DX", b"CR", b"MONOCHROME1", b"OB\0\0", b"OW\0\0", b"SQ\0\0", b"UI", b"US", b"DS",
              b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.5", b"\xe0\x7f\x10\0", b"\x28\0\x10\0",
              b"\xff\xff\xff\xff", b"\xfe\xff\0\xe0", b"\xfe\xff\xdd\xe0"],
    "csv": [b"path", b"label", b"patient", b"filepath", b"img", b"NORMAL", b"PNEUMONIA", b"====", b"../",
            b"out/", b"in/", b"/etc/passwd", b"\0", b'"', b"\r", b"\xef\xbb\xbf", b"person1_virus_2", b"\\"],
    "checkpoint": [b"cposix\nsystem\n", b"cos\nsystem\n", b"cbuiltins\nbytearray\n", b"cbuiltins\neval\n",
                   b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n",
                   b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n", b"ctorch\nFloatStorage\n",
                   b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"ctorch.serialization\nload\n",
                   b"identity", b"state_dict", b"storage", b"data_offsets", b"dtype", b"shape", b"F32"],
}  # fmt: skip


# ---- running


def with_right_checksums(data: bytes) -> bytes:
    """A PNG with corrected chunk checksums, so that a change reaches the decoder."""
    made, place = bytearray(PNG), len(PNG)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        made += data[place:end] + zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(made) + data[place:]


FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.", "pty.", "ctypes.",
             "pickle.find_class", "shutil.", "urllib.", "webbrowser.")  # fmt: skip


def fuzz(target: str, folder: Path, flags: list[str]) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    import atheris

    if target == "checkpoint":
        import torch.serialization
        from torch import _utils, _weights_only_unpickler  # not all of torch: that takes minutes

        for module in (_utils, _weights_only_unpickler, torch.serialization):
            for thing in vars(module).values():
                for function in vars(thing).values() if isinstance(thing, type) else [thing]:
                    if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                        atheris.instrument_func(function)
    with atheris.instrument_imports(include=INSTRUMENTED):
        one = TARGETS[target](folder)
        for seed in SEEDS[target]():  # first use imports modules, which is not an attack
            with warnings.catch_warnings(action="ignore"):
                one(seed)
    attempts: list[str] = []
    watching = False

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event.startswith(FORBIDDEN):
            attempts.append(f"{event} {arguments}")

    def guarded(data: bytes) -> None:
        nonlocal watching
        watching, before = True, time.process_time()
        try:
            with warnings.catch_warnings(action="ignore"):
                one(data)
        finally:
            watching = False
        if attempts:
            raise Finding(f"it tried {attempts}")
        if (taken := time.process_time() - before) > INPUT_LIMIT_S:
            raise Finding(f"{taken:.0f} s for one input")
        if (peak := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024) > RSS_LIMIT_MB:
            raise Finding(f"{peak} MB of memory")

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        changed = atheris.Mutate(data, len(data) if seed % 5 == 0 else max_size)
        return with_right_checksums(changed)[:max_size] if changed.startswith(PNG) and seed % 4 else changed

    sys.addaudithook(watch)
    atheris.Setup([sys.argv[0], *flags], guarded, custom_mutator=mutate, enable_python_coverage=True)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="kept and grown from run to run (default: a new one)")
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args, flags = parser.parse_known_args()
    if args.inside:
        fuzz(args.target, args.inside, flags)
        return 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        folder = Path(made)
        corpus = args.corpus or folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for seed in SEEDS[args.target]():
            (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
        args.findings.mkdir(parents=True, exist_ok=True)
        words = folder / "words"
        words.write_text(
            "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS[args.target])
        )
        (folder / "work").mkdir()
        command = [
            *(sys.executable, __file__, args.target, "--inside", str(folder / "work")),
            f"-max_total_time={args.seconds}",
            f"-timeout={HANG_S}",
            f"-report_slow_units={HANG_S}",  # wall time; guarded() measures processor time
            f"-rss_limit_mb={RSS_LIMIT_MB}",
            "-max_len=16384",
            f"-dict={words}",
            f"-artifact_prefix={args.findings}/{args.target}-",
            "-print_final_stats=1",
            str(corpus),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace") as process:  # fmt: skip
            assert process.stdout
            tail: list[str] = []
            executions = coverage = features = "0"
            for line in process.stdout:
                tail = [*tail[-80:], line]
                if match := re.match(r"#(\d+)\s.*cov: (\d+) ft: (\d+)", line):
                    executions, coverage, features = match.groups()
                if match := re.match(r"stat::number_of_executed_units: (\d+)", line):
                    executions = match[1]
                if "DONE" in line or "pulse" in line or "INITED" in line:
                    print(line.rstrip(), flush=True)
        inputs = len(list(corpus.iterdir()))
    findings = sorted(args.findings.glob(f"{args.target}-*"))
    if process.returncode:
        print("".join(tail))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{args.target}: {executions} executions in {args.seconds} s "
        f"({used.ru_utime + used.ru_stime:.0f} s on the processor), {coverage} edges and {features} features "
        f"covered, {used.ru_maxrss // 1024} MB at most, {inputs} inputs kept, {len(findings)} findings"
    )
    for finding in findings:
        print(f"finding: {finding}")
    return 1 if process.returncode or findings else 0


if __name__ == "__main__":
    sys.exit(main())
