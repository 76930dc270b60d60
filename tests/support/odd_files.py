"""Two hundred odd or hostile files. All pictures are synthetic: phantoms, and shapes drawn here.

tests/inference/test_predictor.py checks how prediction handles them. `python tools/odd_files_table.py MODEL`
prints the result as a table by kind of file.
"""

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from pneumo.data import images, phantom
from pneumo.data.settings import PhantomSettings
from support.images import grey_tiff, make_kaggle, tiff

READ, WARNED, REFUSED = "read", "warned", "refused"
MARK = "was-run"  # the file that a payload would create


class Payload:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def phantoms(count: int, split: str = "test") -> list[Image.Image]:
    settings = PhantomSettings()
    table = phantom.table(settings)
    paths = table.loc[table["split"] == split, "path"].tolist()[:count]
    return [Image.fromarray(phantom.render(path, settings)) for path in paths]


def encoded(image: Image.Image, kind: str, **keys: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **keys)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *extra: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def dicom(
    pixels: np.ndarray | None,
    *,
    modality: str = "DX",
    colours: str = "MONOCHROME2",
    syntax: str = "1.2.840.10008.1.2.1",
    **changes: object,
) -> bytes:
    """A DICOM file (explicit VR, little endian) with a patient's name in it; `changes` by keyword.

    frame: the encapsulated stream of a compressed image; window: (centre, width); padding; slope, intercept.
    """

    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        value += (b"\0" if kind in (b"UI", b"OB") else b" ") * (len(value) % 2)
        long = kind in (b"OB", b"OW", b"SQ")
        size = b"\0\0" + struct.pack("<I", len(value)) if long else struct.pack("<H", len(value))
        return struct.pack("<HH", group, number) + kind + size + value

    def number(group: int, which: int, value: object) -> bytes:
        return element(group, which, b"US", struct.pack("<H", int(str(value))))

    height, width = pixels.shape[:2] if pixels is not None else (0, 0)
    bits = 8 * pixels.itemsize if pixels is not None else 16
    data = element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.1.1")
    data += element(8, 0x60, b"CS", modality.encode())
    data += element(0x10, 0x10, b"PN", b"SECRET^PATIENT")
    data += element(0x10, 0x20, b"LO", b"SECRET-ID-4711")
    data += number(0x28, 2, changes.get("samples", 1))
    data += element(0x28, 4, b"CS", colours.encode())
    if "frames" in changes:
        data += element(0x28, 8, b"IS", str(changes["frames"]).encode())
    data += number(0x28, 0x10, changes.get("rows", height)) + number(
        0x28, 0x11, changes.get("columns", width)
    )
    data += number(0x28, 0x100, bits) + number(0x28, 0x101, changes.get("stored", bits))
    data += number(0x28, 0x102, int(str(changes.get("stored", bits))) - 1) + number(0x28, 0x103, 0)
    if "padding" in changes:
        data += number(0x28, 0x120, changes["padding"])
    if "window" in changes:
        centre, span = changes["window"]  # type: ignore[misc]
        data += element(0x28, 0x1050, b"DS", str(centre).encode())
        data += element(0x28, 0x1051, b"DS", str(span).encode())
    if "slope" in changes:
        data += element(0x28, 0x1052, b"DS", str(changes["intercept"]).encode())
        data += element(0x28, 0x1053, b"DS", str(changes["slope"]).encode())
    if "frame" in changes:
        stream = bytes(changes["frame"])  # type: ignore[call-overload]
        stream += b"\0" * (len(stream) % 2)
        items = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        items += (
            struct.pack("<HHI", 0xFFFE, 0xE000, len(stream)) + stream + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        )
        data += struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + items
    elif pixels is not None:
        data += element(0x7FE0, 0x10, b"OW", pixels.astype(f"<u{pixels.itemsize}").tobytes())
    meta = element(2, 0x10, b"UI", syntax.encode())
    meta = element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta
    if syntax.endswith(".99"):
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = packer.compress(data) + packer.flush()
    return b"\0" * 128 + b"DICM" + meta + data


def tag_bomb() -> bytes:
    """A TIFF of 1 MB whose 500 tags all name the same megabyte."""
    tags = {1000 + number: (1, 2**20, 8192) for number in range(500)}
    return tiff(tags, bytes(2**20 + 8192))


def ct_slice(rng: np.random.Generator) -> Image.Image:
    """The cross-section of a body: a bright ring of fat and bone, two dark lungs, a spine, on black."""
    image = Image.new("L", (512, 512))
    pen = ImageDraw.Draw(image)
    cx, cy = 256 + rng.integers(-10, 10), 256 + rng.integers(-10, 10)
    pen.ellipse((cx - 210, cy - 150, cx + 210, cy + 150), fill=110)
    pen.ellipse((cx - 190, cy - 130, cx + 190, cy + 130), fill=140)
    for side in (-1, 1):
        pen.ellipse((cx + side * 95 - 70, cy - 95, cx + side * 95 + 70, cy + 75), fill=25)
    pen.ellipse((cx - 26, cy + 62, cx + 26, cy + 118), fill=235)
    return _grained(image, rng, 8)


def lateral(rng: np.random.Generator) -> Image.Image:
    """A chest from the side: spine behind, sternum in front, one lung field between, the heart in it."""
    image = Image.new("L", (400, 512), 30)
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 20, 370, 620), fill=150)
    pen.ellipse((110, 70, 300, 430), fill=60)
    pen.ellipse((120, 240, 260, 420), fill=170)
    for level in range(50, 500, 44):
        pen.rectangle((300 + rng.integers(0, 8), level, 345, level + 34), fill=215)
    return _grained(image, rng, 8)


def photo(rng: np.random.Generator) -> Image.Image:
    """A landscape in colour."""
    rows, columns = np.mgrid[0:300, 0:400]
    hill = 150 + 60 * np.sin(columns / rng.uniform(30, 80) + rng.uniform(0, 6))
    sky = np.stack([120 + rows / 4, 170 + rows / 6, 240 - rows / 8], 2)
    ground = np.stack([70 + columns / 9, 140 - rows / 9, 50 + 0 * rows], 2)
    picture = np.where((rows > hill)[:, :, None], ground, sky) + rng.normal(0, 6, (300, 400, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _grained(image: Image.Image, rng: np.random.Generator, spread: float) -> Image.Image:
    pixels = np.asarray(image).astype(float)
    return Image.fromarray((pixels + rng.normal(0, spread, pixels.shape)).clip(0, 255).astype(np.uint8))


def strange(kind: str, base: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An image of a `kind` that no set of chest X-rays holds; some kinds change `base`, an X-ray."""
    drawn = {
        "colour photo": photo,
        "CT-like slice": ct_slice,
        "lateral-like view": lateral,
        "noise": lambda rng: Image.fromarray(rng.integers(0, 256, (300, 360), dtype=np.uint8)),
        "blank": lambda rng: Image.new("L", (320, 300), int(rng.choice((0, 128, 255)))),
        "checkerboard": lambda rng: Image.fromarray(
            (np.indices((300, 360)).sum(0) // int(rng.integers(8, 40)) % 2 * 255).astype(np.uint8)
        ),
    }
    if kind in drawn:
        return drawn[kind](rng)
    return {
        "rotated 90 degrees": lambda: base.transpose(Image.Transpose.ROTATE_90),
        "rotated 270 degrees": lambda: base.transpose(Image.Transpose.ROTATE_270),
        "upside down": lambda: base.transpose(Image.Transpose.ROTATE_180),
        "inverted": lambda: ImageOps.invert(base),
        "mirrored": lambda: ImageOps.mirror(base),
        "two side by side": lambda: _beside(base),
        "cut to a corner": lambda: base.crop((0, 0, base.width // 2, base.height // 2)),
    }[kind]()


def _beside(image: Image.Image) -> Image.Image:
    both = Image.new("L", (2 * image.width, image.height))
    both.paste(image, (0, 0))
    both.paste(image, (image.width, 0))
    return both


STRANGE = (
    *("colour photo", "CT-like slice", "lateral-like view", "noise", "blank", "checkerboard"),
    *("rotated 90 degrees", "rotated 270 degrees", "upside down", "inverted", "mirrored"),
    *("two side by side", "cut to a corner"),
)


def in_every_format(root: Path) -> None:
    """The Kaggle layout with images in all formats, each with the name of its format."""
    make_kaggle(root)
    forms: list[tuple[str, Callable[[Image.Image], bytes]]] = [
        (".tif", lambda image: encoded(image, "TIFF")),
        (".TIFF", lambda image: grey_tiff(np.asarray(image).astype(np.uint16) * 16)),
        (".bmp", lambda image: encoded(image, "BMP")),
        (".webp", lambda image: encoded(image, "WEBP", lossless=True)),
        (".dcm", lambda image: dicom(np.asarray(image).astype(np.uint16) * 16, stored=12)),
        (".png", lambda image: encoded(image, "PNG")),
    ]
    for number, file in enumerate(sorted((root / "train").rglob("*.jpeg"))):
        suffix, form = forms[number % len(forms)]
        with Image.open(file) as image:
            file.with_suffix(suffix).write_bytes(form(image.convert("L")))
        file.unlink()


def files(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """(kind, name, content) of every plain file."""
    rng = np.random.default_rng(0)
    bases = phantoms(24)
    base = bases[0]
    jpeg, data = encoded(base, "JPEG", quality=90), encoded(base, "PNG")
    grey = np.asarray(base)

    # Good images, in every form.
    for number, image in enumerate(bases[:6]):
        yield "X-ray, JPEG", f"plain{number}.jpeg", encoded(image, "JPEG")
        yield "X-ray, PNG", f"plain{number}.png", encoded(image, "PNG")
    rgb = base.convert("RGB")
    forms = {
        "rgb.jpeg": encoded(rgb, "JPEG"), "progressive.jpeg": encoded(base, "JPEG", progressive=True),
        "cmyk.jpeg": encoded(rgb.convert("CMYK"), "JPEG"), "rgb.png": encoded(rgb, "PNG"),
        "rgba.png": encoded(rgb.convert("RGBA"), "PNG"), "la.png": encoded(base.convert("LA"), "PNG"),
        "palette.png": encoded(base.convert("P"), "PNG"), "bit.png": encoded(base.convert("1"), "PNG"),
        "sixteen.png": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "twelve_in_sixteen.png": encoded(Image.fromarray(grey.astype(np.uint16) * 16), "PNG"),
        "quality5.jpeg": encoded(base, "JPEG", quality=5),
        "large.png": encoded(base.resize((3000, 2500)), "PNG", compress_level=1),
        "wide.png": encoded(base.resize((4000, 8)), "PNG"),
        "tall.png": encoded(base.resize((8, 4000)), "PNG"),
        "tiny.png": encoded(base.resize((3, 3)), "PNG"), "one_pixel.png": encoded(base.resize((1, 1)), "PNG"),
        "text_in_it.png": png(8, 8, 8, 0, bytes(72), chunk(b"tEXt", b"Patient\0" + b"x" * 5000)),
    }  # fmt: skip
    for name, content in forms.items():
        yield "X-ray, odd form or size", name, content
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield "X-ray with EXIF orientation", f"exif{orientation}.jpeg", encoded(base, "JPEG", exif=exif)
    yield "wrong suffix", "really_png.jpeg", data
    yield "wrong suffix", "really_jpeg.png", jpeg
    yield "wrong suffix", "really_jpeg.dcm", jpeg
    names = [
        "with space.png", "new\nline.png", "quote\".png", "comma,semi;.png", "ümläut-片.png", "=1+1.png",
        "-rf.png", "$(touch was-run).png", "`touch was-run`.png", "'; DROP TABLE runs; --.png", "UPPER.PNG",
        "escape\x1b[31m.png", "a" * 240 + ".png", "..png", "dots...png", "right\u202eto-left.png", "%s%n.png",
        os.fsdecode(b"not-utf8-\xff\xfe.png"),
    ]  # fmt: skip
    for name in names:
        yield "odd file name", name, data

    others = {
        "plain.tif": encoded(base, "TIFF"), "deflate.tiff": encoded(base, "TIFF", compression="tiff_deflate"),
        "sixteen.tif": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
        "plain.bmp": encoded(base, "BMP"), "colour.bmp": encoded(rgb, "BMP"),
        "plain.webp": encoded(base, "WEBP"), "exact.webp": encoded(rgb, "WEBP", lossless=True),
        "really_tiff.png": encoded(base, "TIFF"), "really_webp.dcm": encoded(base, "WEBP"),
    }  # fmt: skip
    for name, content in others.items():
        yield "X-ray, TIFF, BMP or WebP", name, content

    # Images that are not like the chest X-rays of training.
    for kind in STRANGE:
        for number in range(3):
            image = strange(kind, bases[6 + number], rng)
            yield f"unlike: {kind}", f"{kind.replace(' ', '_')}{number}.png", encoded(image, "PNG")

    # Damaged files.
    for part in range(1, 13):
        yield "cut short", f"cut{part}.jpeg", jpeg[: len(jpeg) * part // 13]
        yield "cut short", f"cut{part}.png", data[: len(data) * part // 13]
    for number in range(16):
        for kind, whole in (("jpeg", jpeg), ("png", data)):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 6):
                damaged[place] = int(rng.integers(0, 256))
            yield "flipped bytes", f"flipped{number}.{kind}", bytes(damaged)
    yield "with something after it", "tail.jpeg", jpeg + b"x" * 1000
    yield "with something after it", "zip_after.png", data + _zipped()
    yield "empty", "empty.jpeg", b""
    yield "empty", "empty.dcm", b""

    # Files that would take all memory or much time.
    yield "bomb", "bomb.png", png(30_000, 30_000, 1, 0, b"\0" * 99)
    yield "bomb", "bomb_full.png", png(50_000, 20_000, 8, 0, bytes(10**7))
    yield "bomb", "longest.png", png(2**31 - 1, 2**31 - 1, 16, 6, b"\0")
    yield "bomb", "no_width.png", png(0, 5, 8, 0, b"\0")
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * (40 * 2**20)))
    yield "bomb", "text_bomb.png", png(1, 1, 8, 0, b"\0\0", text)
    yield (
        "bomb",
        "icc_bomb.png",
        png(1, 1, 8, 0, b"\0\0", chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(9**8)))),
    )
    progressive = encoded(base.resize((600, 600)), "JPEG", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    yield "bomb", "scans.jpeg", progressive[:-2] + progressive[scan:-2] * 2000 + b"\xff\xd9"
    sized = bytearray(jpeg)
    at = sized.index(b"\xff\xc0")
    sized[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    yield "bomb", "sized.jpeg", bytes(sized)

    yield "bomb", "tags.tif", tag_bomb()
    yield "bomb", "pages.tif", encoded(base, "TIFF", save_all=True, append_images=[base] * 3)
    yield "bomb", "moving.webp", encoded(base, "WEBP", save_all=True, append_images=[base.rotate(9)])

    # Other kinds of files.
    others = {
        "gif.png": encoded(base, "GIF"), "ppm.png": encoded(base, "PPM"), "ico.png": encoded(base, "ICO"),
        "eps.jpeg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "pdf.png": b"%PDF-1.7\n1 0 obj\n",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "html.jpeg": b"<!doctype html><script>fetch('http://127.0.0.1')</script>",
        "text.png": b"this is not an image\n" * 50, "zip.png": _zipped(), "elf.jpeg": b"\x7fELF" + bytes(200),
        "script.png": f"#!/bin/sh\ntouch {MARK}\n".encode(), "sqlite.png": b"SQLite format 3\0" + bytes(100),
        "pickle.png": pickle.dumps(Payload(str(folder / MARK))), "zeros.jpeg": bytes(100_000),
        "random.jpeg": rng.bytes(50_000),
        "jpeg_mark_only.jpeg": b"\xff\xd8\xff", "png_mark_only.png": data[:8],
        "tga.png": bytes(2) + b"\x03" + bytes(9) + b"\x08\0\x08\0\x08\0" + bytes(64),
    }  # fmt: skip
    for name, content in others.items():
        yield "another kind of file", name, content

    # DICOM.
    deep = grey.astype(np.uint16) * 16
    rle = encoded(base, "JPEG", quality=90)
    good = {
        "dx.dcm": dicom(deep, stored=12, window=(2048, 4096)), "cr.dcm": dicom(grey, modality="CR"),
        "no_suffix": dicom(deep, stored=12), "monochrome1.dcm": dicom(255 - grey, colours="MONOCHROME1"),
        "padded.dcm": dicom(np.pad(deep + 1, 9), stored=13, padding=0),
        "rescaled.dcm": dicom(deep, stored=12, slope=0.5, intercept=-100, window=(924, 2048)),
        "baseline.dcm": dicom(grey, syntax="1.2.840.10008.1.2.4.50", frame=rle),
        "no_modality.dcm": dicom(deep, modality=""),  # its SOP class is that of a DX
    }  # fmt: skip
    for name, content in good.items():
        yield "DICOM, CR or DX", name, content
    unfolding = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 10**6
    bad = {
        "ct.dcm": dicom(deep, modality="CT"), "mr.dcm": dicom(deep, modality="MR"),
        "frames.dcm": dicom(grey, frames=100),
        "frames_bomb.dcm": dicom(grey, frames=2_000_000_000),
        "colour.dcm": dicom(grey, samples=3, colours="RGB"),
        "palette.dcm": dicom(grey, colours="PALETTE COLOR"), "no_pixels.dcm": dicom(None),
        "sized.dcm": dicom(grey, rows=65535, columns=65535), "short.dcm": dicom(deep)[:-5000],
        "more.dcm": dicom(grey, rows=4000, columns=4000),
        "deflated.dcm": dicom(grey, syntax="1.2.840.10008.1.2.1.99"),
        "video.dcm": dicom(grey, syntax="1.2.840.10008.1.2.4.102", frame=b"x" * 100),
        "unknown_syntax.dcm": dicom(grey, syntax="1.2.3.4"),
        "not_jpeg.dcm": dicom(grey, syntax="1.2.840.10008.1.2.4.50", frame=b"x" * 999),
        "other_size.dcm": dicom(grey, syntax="1.2.840.10008.1.2.4.50", frame=bytes(sized)),
        "rle_bomb.dcm": dicom(grey, syntax="1.2.840.10008.1.2.5", frame=unfolding),
        "not_j2k.dcm": dicom(grey, syntax="1.2.840.10008.1.2.4.90", frame=b"\xff\x4f\xff\x51" + b"\xff" * 60),
        "mark_only.dcm": bytes(128) + b"DICM", "mark_and_noise.dcm": bytes(128) + b"DICM" + rng.bytes(5000),
    }  # fmt: skip
    for name, content in bad.items():
        yield "DICOM, of another kind or damaged", name, content


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
    return buffer.getvalue()


def make(folder: Path) -> dict[str, str]:
    """Write all files below `folder`/in. Returns the kind of each path, relative to that folder."""
    inside = folder / "in"
    inside.mkdir(parents=True)
    (folder / "outside.png").write_bytes(encoded(phantoms(1)[0], "PNG"))
    kinds = {}
    for kind, name, content in files(folder):
        (inside / name).write_bytes(content)
        kinds[name] = kind
    os.mkfifo(inside / "pipe.jpeg")
    (inside / "loop.jpeg").symlink_to("loop.jpeg")
    (inside / "dangling.jpeg").symlink_to("nowhere.jpeg")
    (inside / "within.jpeg").symlink_to("plain0.jpeg")
    (inside / "outside.jpeg").symlink_to(folder / "outside.png")
    (inside / "passwords.png").symlink_to("/etc/passwd")
    (inside / "device.jpeg").symlink_to("/dev/zero")
    (inside / "deep" / "er").mkdir(parents=True)
    (inside / "deep" / "er" / "plain.png").write_bytes((inside / "plain0.png").read_bytes())
    with (inside / "huge.jpeg").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # sparse
    special = ("pipe", "loop", "dangling", "within", "outside", "device")
    kinds |= {f"{name}.jpeg": "pipe, device or link" for name in special}
    kinds |= {"passwords.png": "pipe, device or link", "deep/er/plain.png": "X-ray, PNG", "huge.jpeg": "bomb"}
    # Not images: a folder with the name of one, and a folder that is a link.
    (inside / "folder.jpeg").mkdir()
    (inside / "elsewhere").symlink_to("/etc")
    return kinds
