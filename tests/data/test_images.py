"""The reader with every supported and every hostile kind of file; preprocessing against plain Pillow."""

import itertools
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from support.images import GREY, chunk, encoded, picture, png, save

from pneumo import UserError
from pneumo.data import formats, images
from pneumo.data.images import BadImage, preprocess, read

# ---- what must be read


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(tmp_path: Path, mode: str) -> None:
    (tmp_path / "x.jpeg").write_bytes(encoded(GREY.convert(mode), "JPEG", quality=95))
    grey = read(tmp_path / "x.jpeg")
    assert grey.dtype == np.uint8 and grey.shape == (48, 60)
    assert np.abs(grey.astype(int) - np.asarray(GREY)).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_png_modes(tmp_path: Path, mode: str) -> None:
    source = GREY.convert("RGB").quantize(256) if mode == "P" else GREY.convert(mode)
    (tmp_path / "x.png").write_bytes(encoded(source, "PNG"))
    grey = read(tmp_path / "x.png")
    assert grey.dtype == np.uint8 and grey.shape == (48, 60)
    expected = np.asarray(GREY.convert("1").convert("L") if mode == "1" else GREY).astype(int)
    assert np.abs(grey - expected).max() <= (2 if mode == "P" else 0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 128 * 128).round().astype(">u2").reshape(128, 128)
    rows = b"".join(b"\0" + row.tobytes() for row in ramp)
    (tmp_path / "x.png").write_bytes(png(128, 128, 16, 0, rows))
    grey = read(tmp_path / "x.png")
    assert len(np.unique(grey)) == 256
    assert np.abs(grey - ramp / 257).max() <= 0.5


def film(values: np.ndarray, sbit: int | None = None) -> bytes:
    """A 16-bit grey PNG of `values` [H, W]. It declares `sbit` bits if that is given."""
    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    extra = [] if sbit is None else [chunk(b"gAMA", b"\0\0\xb1\x8f"), chunk(b"sBIT", bytes([sbit]))]
    return png(width, height, 16, 0, rows, *extra)


def ramp(largest: int) -> np.ndarray:
    return np.linspace(0, largest, 64 * 128).round().astype(np.uint16).reshape(64, 128)


def by_rule_2(folder: Path, content: bytes, white: int | None = None) -> np.ndarray:
    (folder / "x.png").write_bytes(content)
    grey = read(folder / "x.png", pixels=2, white=white)
    image, _ = images.read_with_colour(folder / "x.png", pixels=2, white=white)
    assert np.array_equal(grey, np.asarray(image))
    return grey


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("declared", [True, False])
def test_rule_2_keeps_all_levels_of_a_detector(tmp_path: Path, bits: int, declared: bool) -> None:
    values = ramp(2**bits - 1)
    grey = by_rule_2(tmp_path, film(values, bits if declared else None))
    assert len(np.unique(grey)) == 256
    assert np.abs(grey - values.astype(float) * 255 / (2**bits - 1)).max() <= 0.5
    kept = {10: 5, 12: 17, 16: 256}[bits]
    assert len(np.unique(read(tmp_path / "x.png"))) == kept  # rule 1, as before


def test_a_dark_film_stays_dark_where_its_range_is_known(tmp_path: Path) -> None:
    values = ramp(1000)
    assert by_rule_2(tmp_path, film(values, sbit=12)).max() == round(1000 / 4095 * 255)
    assert by_rule_2(tmp_path, film(values), white=4095).max() == round(1000 / 4095 * 255)
    assert by_rule_2(tmp_path, film(values)).max() == round(1000 / 1023 * 255)  # other films are unknown
    assert by_rule_2(tmp_path, film(ramp(5000)), white=4095).max() == 255
    assert by_rule_2(tmp_path, film(values, sbit=12), white=65535).max() == 62  # the declaration comes first


def test_values_that_a_writer_scaled_to_16_bits_are_not_scaled_again(tmp_path: Path) -> None:
    """The PNG standard requires that. sBIT then gives the number of bits before scaling."""
    values = ramp(4095).astype(np.uint32)
    scaled = (values * 16 + values // 256).astype(np.uint16)
    assert np.array_equal(by_rule_2(tmp_path, film(scaled, 12)), by_rule_2(tmp_path, film(values, 12)))


def test_the_largest_value_of_an_undeclared_film_is_known(tmp_path: Path) -> None:
    files = {
        "undeclared": (film(ramp(3000)), 3000),
        "declared": (film(ramp(3000), 12), None),
        "damaged declaration": (film(ramp(3000), 77), 3000),
        "8 bits": (encoded(GREY, "PNG"), None),
        "jpeg": (encoded(GREY, "JPEG"), None),
        "short": (b"\x89PNG\r\n\x1a\n", None),
    }
    for name, (content, expected) in files.items():
        (tmp_path / name).write_bytes(content)
        assert images.largest_undeclared(tmp_path / name) == expected, name
    with pytest.raises(BadImage):
        images.largest_undeclared(tmp_path / "missing")
    (tmp_path / "cut").write_bytes(film(ramp(3000))[:200])
    with pytest.raises(BadImage, match="damaged"):
        images.largest_undeclared(tmp_path / "cut")


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "grey+alpha", "RGBA"])
def test_16_bits_with_colour_or_alpha_are_read_as_their_upper_8(
    tmp_path: Path, colour: int, channels: int, pixels: int
) -> None:
    """Pillow has no mode for them. They are read as the 8-bit PNG of the upper bytes would be."""
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, channels), dtype=np.uint16)
    values[..., 0] //= 16  # a 12-bit film in the first channel
    for depth, kept in ((16, values.astype(">u2")), (8, (values >> 8).astype(np.uint8))):
        rows = b"".join(b"\0" + row.tobytes() for row in kept)
        declared = chunk(b"sBIT", bytes([12 if depth == 16 else 8] * channels))
        (tmp_path / f"{depth}.png").write_bytes(png(8, 8, depth, colour, rows, declared))
    deep = read(tmp_path / "16.png", pixels=pixels, white=4095)
    assert np.array_equal(deep, read(tmp_path / "8.png", pixels=pixels))
    assert images.largest_undeclared(tmp_path / "16.png") is None


def test_a_12_bit_film_keeps_16_levels_if_it_is_stored_with_colour(tmp_path: Path) -> None:
    values = ramp(4095)
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    (tmp_path / "x.png").write_bytes(png(values.shape[1], values.shape[0], 16, 2, rows))
    for pixels in (1, 2):
        assert np.unique(read(tmp_path / "x.png", pixels=pixels)).tolist() == [*range(16)]
    assert len(np.unique(by_rule_2(tmp_path, film(values)))) == 256  # as grey


def test_many_chunks_before_the_pixels_end_the_search(tmp_path: Path) -> None:
    text = [chunk(b"tEXt", b"k\0v")] * formats.MAX_CHUNKS
    rows = b"\0" + np.array([4095], ">u2").tobytes()
    (tmp_path / "x.png").write_bytes(png(1, 1, 16, 0, rows, *text, chunk(b"sBIT", b"\x0c")))
    assert images.significant_bits(tmp_path / "x.png") is None


def test_eight_bits_are_the_same_under_both_rules(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG"):
        (tmp_path / "x").write_bytes(encoded(GREY, kind))
        assert np.array_equal(read(tmp_path / "x"), read(tmp_path / "x", pixels=2, white=4095))


def test_an_unknown_pixel_rule_is_named(tmp_path: Path) -> None:
    save(picture(0, seed=1), tmp_path / "x.png")
    with pytest.raises(UserError, match="pixels=3 is not a pixel rule; the rules are 1 and 2"):
        read(tmp_path / "x.png", pixels=3)


def test_sixteen_bits_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(np.full((4, 9), 25700, np.uint16)), "PNG", exif=exif)
    (tmp_path / "x.png").write_bytes(data)
    grey = read(tmp_path / "x.png")
    assert grey.shape == (9, 4) and (grey == 100).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_get_a_black_background(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 200, 200, 200])
        image.paste(0, (0, 0, 4, 8))
        data = encoded(image, "PNG", transparency=bytes([255, 0]))  # colour 1 is see-through
        expected = np.zeros((8, 8))
    else:
        alpha = Image.new("L", (8, 8), 0)
        alpha.paste(255, (0, 0, 4, 8))
        image = Image.new("L", (8, 8), 200).convert(mode)
        image.putalpha(alpha)
        data = encoded(image, "PNG")
        expected = np.repeat([[200] * 4 + [0] * 4], 8, axis=0)
    (tmp_path / "x.png").write_bytes(data)
    assert np.array_equal(read(tmp_path / "x.png"), expected)


def test_one_bit_and_grey_with_a_transparent_level(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(8, 1, 1, 0, b"\0\xaa", chunk(b"tRNS", b"\0\1")))
    assert read(tmp_path / "1.png").tolist() == [[0] * 8]
    (tmp_path / "8.png").write_bytes(png(3, 1, 8, 0, b"\0\x05\x06\x07", chunk(b"tRNS", b"\0\x06")))
    assert read(tmp_path / "8.png").tolist() == [[5, 0, 7]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :16], upright[16:, :16] = 250, 120  # no symmetry left
    undo = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
        6: np.rot90, 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    (tmp_path / "x.jpeg").write_bytes(encoded(stored, kind, exif=exif))
    assert np.abs(read(tmp_path / "x.jpeg").astype(int) - upright).max() <= 6


def test_the_content_counts_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.jpeg").write_bytes(encoded(GREY, "PNG"))
    (tmp_path / "x.png").write_bytes(encoded(GREY, "JPEG"))
    assert np.array_equal(read(tmp_path / "x.jpeg"), np.asarray(GREY))
    assert read(str(tmp_path / "x.png")).shape == (48, 60)


# ---- what must be refused


def hostile(folder: Path) -> dict[str, tuple[Path | str, str]]:
    """Name -> (path, what the reason must contain)."""
    jpeg, data = encoded(GREY, "JPEG"), encoded(GREY, "PNG")
    files = {
        "empty": (b"", "empty"),
        "cut_jpeg": (jpeg[: len(jpeg) // 2], "damaged"),
        "cut_png": (data[: len(data) // 2], "damaged"),
        "cut_in_header": (jpeg[:10], "damaged"),
        "text": (b"this is not an image\n" * 20, images.UNKNOWN),
        "gif": (encoded(GREY, "GIF"), images.UNKNOWN),
        "ppm": (encoded(GREY, "PPM"), images.UNKNOWN),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", images.UNKNOWN),
        "bomb": (png(30_000, 30_000, 1, 0, b"\0" * 99), "limit of 50,000,000"),
        "wide": (png(20_000, 6_000, 8, 0, b"\0" * 99), "20000 x 6000"),
        "no_width": (png(0, 5, 8, 0, b"\0"), ""),
        "text_chunk": (
            png(1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * (40 * 2**20)))),
            "damaged",
        ),
    }
    result: dict[str, tuple[Path | str, str]] = {}
    for name, (content, reason) in files.items():
        (folder / f"{name}.jpeg").write_bytes(content)
        result[name] = (folder / f"{name}.jpeg", reason)
    (folder / "folder.jpeg").mkdir()
    os.mkfifo(folder / "pipe.jpeg")
    (folder / "loop.jpeg").symlink_to(folder / "loop.jpeg")
    with (folder / "huge.jpeg").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # sparse
    return result | {
        "folder": (folder / "folder.jpeg", "not a regular file"),
        "pipe": (folder / "pipe.jpeg", "not a regular file"),
        "device": ("/dev/zero", "not a regular file"),
        "loop": (folder / "loop.jpeg", "symbolic links"),
        "missing": (folder / "missing.jpeg", "No such file"),
        "nul": (f"{folder}/a\0b.jpeg", "null"),
        "huge": (folder / "huge.jpeg", "more than the limit"),
    }


def test_hostile_files_are_refused_with_path_and_reason(tmp_path: Path) -> None:
    for name, (path, reason) in hostile(tmp_path).items():
        with pytest.raises(BadImage) as refused:
            read(path)
        error = refused.value
        assert isinstance(error, ValueError), name
        assert error.path == str(path) and str(path) in str(error), name
        assert error.reason and reason in error.reason and "\n" not in error.reason, (name, error.reason)
        copy = pickle.loads(pickle.dumps(error))
        assert (copy.path, copy.reason, str(copy)) == (error.path, error.reason, str(error)), name


def test_a_file_that_declares_900_megapixels_costs_no_memory(tmp_path: Path) -> None:
    hostile(tmp_path)
    script = (
        "import sys\n"
        "from pneumo.data.images import BadImage, read\n"
        # Not ru_maxrss: it would include the process that started this one.
        "def peak():\n"
        "    (line,) = (line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "    return int(line.split()[1]) // 1024\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    try: read(path)\n"
        "    except BadImage as error: print(error.reason)\n"
        "print(peak() - before)\n"
    )
    bombs = [str(tmp_path / name) for name in ("bomb.jpeg", "wide.jpeg", "text_chunk.jpeg", "huge.jpeg")]
    done = subprocess.run([sys.executable, "-c", script, *bombs], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 5, done.stdout
    assert int(done.stdout.splitlines()[-1]) < 60, done.stdout  # MB


def test_large_text_that_is_within_bounds_is_read(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 500_000)
    (tmp_path / "x.png").write_bytes(encoded(GREY, "PNG", pnginfo=info))
    assert np.array_equal(read(tmp_path / "x.png"), np.asarray(GREY))


def test_flipped_bytes_never_raise_anything_but_bad_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG"):
        whole = np.frombuffer(encoded(GREY.resize((20, 16)), kind), np.uint8)
        for _ in range(150):
            data = whole.copy()
            data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            (tmp_path / "x").write_bytes(data.tobytes())
            try:
                assert read(tmp_path / "x").ndim == 2
            except BadImage as error:
                assert error.reason


# ---- preprocessing


def by_pillow(grey: Image.Image, size: int, crop: bool, equalize: bool) -> np.ndarray:
    """The report's steps, written again with Pillow on a three-channel image."""
    if crop and grey.getbbox():
        grey = grey.crop(grey.getbbox())
    if equalize:
        grey = ImageOps.equalize(grey)
    colour = Image.merge("RGB", (grey, grey, grey))
    scale = size / max(colour.width, colour.height)
    target = (max(1, round(colour.width * scale)), max(1, round(colour.height * scale)))
    resized = np.asarray(colour.resize(target, Image.Resampling.BILINEAR))
    top, left = (size - resized.shape[0]) // 2, (size - resized.shape[1]) // 2
    padding = ((top, size - resized.shape[0] - top), (left, size - resized.shape[1] - left), (0, 0))
    return np.pad(resized, padding)


def agree(ours: np.ndarray, reference: np.ndarray) -> None:
    assert ours.dtype == np.uint8
    near = np.abs(ours[..., None].astype(int) - reference) <= 1
    assert near.mean() >= 0.999


def test_preprocess_equals_plain_pillow_on_original_images(native: list[Path]) -> None:
    for file in native[::4]:
        agree(preprocess(read(file)), by_pillow(Image.open(file).convert("L"), 224, True, True))


def test_every_switch_equals_plain_pillow_on_original_images(native: list[Path]) -> None:
    for file, crop, equalize in itertools.product(native[::70], (True, False), (True, False)):
        for size in (64, 225):
            ours = preprocess(read(file), image_size=size, crop_black=crop, equalize=equalize)
            agree(ours, by_pillow(Image.open(file).convert("L"), size, crop, equalize))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (1, 4000), (4000, 1), (33, 32), (48, 60)])
@pytest.mark.parametrize("border", [0, 3])
def test_preprocess_equals_plain_pillow_on_odd_sizes(shape: tuple[int, int], border: int) -> None:
    grey = np.pad(np.random.default_rng(1).integers(1, 256, shape, dtype=np.uint8), border)
    for crop, equalize in itertools.product((True, False), (True, False)):
        ours = preprocess(grey, image_size=31, crop_black=crop, equalize=equalize)
        assert ours.shape == (31, 31)
        agree(ours, by_pillow(Image.fromarray(grey), 31, crop, equalize))


@pytest.mark.parametrize("level", [0, 1, 4])
def test_rule_2_crops_a_border_that_is_nearly_black(level: int) -> None:
    content = np.random.default_rng(0).integers(5, 256, (48, 60), dtype=np.uint8)
    framed = np.pad(content, ((7, 3), (0, 11)), constant_values=level)
    expected = preprocess(content, image_size=32)
    assert np.array_equal(preprocess(framed, image_size=32, pixels=2), expected)
    assert np.array_equal(preprocess(framed, image_size=32), expected) == (level == 0)  # rule 1
    assert not np.array_equal(preprocess(framed, image_size=32, crop_black=False, pixels=2), expected)


def test_rule_2_crops_no_level_above_4_and_leaves_the_content_as_it_is() -> None:
    framed = np.pad(np.full((8, 8), 200, np.uint8), 4, constant_values=5)
    assert np.array_equal(preprocess(framed, image_size=16, pixels=2), preprocess(framed, image_size=16))
    dark = np.array([[3, 100, 3], [100, 2, 100], [3, 100, 3]], np.uint8)  # nearly black inside stays
    assert np.array_equal(preprocess(dark, image_size=3, equalize=False, pixels=2), dark)


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("keys", [{}, {"equalize": False}], ids=["default", "not equalised"])
def test_all_black_stays_black(level: int, pixels: int, keys: dict[str, bool]) -> None:
    dark = preprocess(np.full((9, 5), level, np.uint8), image_size=16, pixels=pixels, **keys)
    assert dark.max() == level and dark.shape == (16, 16)


def test_preprocess_takes_views_and_leaves_its_input_alone(tmp_path: Path) -> None:
    grey = picture(0, seed=1)
    before = grey.copy()
    turned = preprocess(grey.T, image_size=20)
    assert np.array_equal(turned, preprocess(np.ascontiguousarray(grey.T), image_size=20))
    assert np.array_equal(grey, before)
    file = save(grey, tmp_path / "x.png")
    assert np.array_equal(preprocess(read(file), image_size=20), preprocess(grey, image_size=20))
