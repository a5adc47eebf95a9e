"""Single images: modes, broken and hostile files. What NVIDIA's tools make of good ones is in tests/golden."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sida.data.decode import Decoder, is_image, look_at
from sida.data.entries import Unreadable
from tests.data.making import GOLDEN, bomb, picture, png

DECODE = Decoder("center-crop", 8, 3)


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "LA", "RGBA"])
def test_modes_that_the_tools_garbled_are_refused_unless_the_recipe_asks_for_conversion(mode: str) -> None:
    content = file_of(picture(1).convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    with pytest.raises(Unreadable, match=f"mode {mode}: set dataset.modes to convert"):
        DECODE(content)
    image = Decoder("center-crop", 8, 3, "convert")(content).data
    assert image.shape == (3, 8, 8)


@pytest.mark.parametrize("modes", ["strict", "convert"])
def test_sixteen_bit_grey_is_refused_always_as_it_would_turn_white(modes: Any) -> None:
    with pytest.raises(Unreadable, match="deeper than 8 bits"):
        Decoder("center-crop", 8, 3, modes)((GOLDEN / "modes" / "inputs" / "grey16.png").read_bytes())


def test_alpha_is_dropped_not_blended() -> None:
    opaque = picture(1)
    clear = opaque.copy()
    clear.putalpha(0)
    decode = Decoder("center-crop", 8, 3, "convert")
    assert np.array_equal(decode(file_of(clear))[0], decode(file_of(opaque))[0])


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "I;16"])
def test_a_transparent_color_is_treated_as_alpha_is(mode: str) -> None:
    image = picture(1).convert("L" if mode == "I;16" else mode).convert(mode)
    color: Any = (1, 2, 3) if mode == "RGB" else 1
    content, opaque = file_of(image, transparency=color), file_of(image)
    with Image.open(io.BytesIO(content)) as opened:
        assert "transparency" in opened.info
    for channels in (1, 3):
        with pytest.raises(Unreadable, match=r"transparent color|deeper than 8 bits"):
            Decoder("center-crop", 8, channels)(content)
    convert = Decoder("center-crop", 8, 3, "convert")
    if mode == "I;16":
        with pytest.raises(Unreadable, match="deeper than 8 bits"):
            convert(content)
    else:
        assert np.array_equal(convert(content)[0], convert(opaque)[0])


def test_grey_is_tripled_for_colour_and_colour_refused_for_grey() -> None:
    grey = file_of(picture(1).convert("L"))
    image = DECODE(grey).data
    assert (image == image[:1]).all()
    assert np.array_equal(Decoder("center-crop", 8, 1)(grey)[0], image[:1])
    with pytest.raises(Unreadable, match="is in color"):
        Decoder("center-crop", 8, 1)(png(1))


def test_the_content_decides_not_the_name() -> None:
    assert is_image("photo.JPEG") and is_image("a/.png") and not is_image("notes.txt") and not is_image("x.eps")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    with pytest.raises(Unreadable, match="is none of PNG, JPEG"):
        DECODE(postscript)  # Pillow would start Ghostscript


def test_no_cut_or_noise_does_more_than_make_an_image_unreadable() -> None:
    rng = np.random.default_rng(0)
    for content in (png(1, (40, 30)), file_of(picture(1, (40, 30)), "JPEG"), file_of(picture(1, (40, 30)), "WEBP")):
        for _ in range(40):
            spoilt = bytearray(content[: rng.integers(1, len(content))])
            spoilt[rng.integers(len(spoilt))] ^= 1 << rng.integers(8)
            with suppress(Unreadable):
                image = DECODE(bytes(spoilt)).data
                assert image.shape == (3, 8, 8)  # the spoilt byte did not matter


def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    for side in (11_000, 60_000):
        with pytest.raises(Unreadable, match="refused as a bomb"):
            DECODE(bomb(side))


def test_an_animation_is_its_first_frame() -> None:
    frames = [picture(number, (8, 8)).quantize(16) for number in (1, 2)]
    content = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image = Decoder("none", 8, 3, "convert")(content).data
    assert np.array_equal(image, np.asarray(frames[0].convert("RGB")).transpose(2, 0, 1))


def test_a_telephone_s_jpeg_of_several_pictures_counts_as_compressed_with_loss_and_is_turned() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8))
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # a quarter turn clockwise
    depth = noise.resize((4, 4))
    noise.save(content, "MPO", save_all=True, append_images=[depth], exif=exif.tobytes(), quality=95)
    upright = Decoder("center-crop-upright", 8, 3)(content.getvalue())
    assert (look_at(content.getvalue()).lossy, upright.lossy, upright.rotated) == (True, True, False)
    with Image.open(io.BytesIO(content.getvalue())) as stored:
        turned = np.asarray(stored.convert("RGB").rotate(-90, expand=True))
    np.testing.assert_array_equal(upright.data, turned[4:12].transpose(2, 0, 1))


def test_a_comment_without_end_in_a_ppm_is_refused_at_once() -> None:
    decode = Decoder("lanczos", 8, 3)
    pixels = bytes(8 * 8 * 3)
    assert decode(b"P6\n# a comment\n8 8\n# another\n255\n" + pixels).data.shape == (3, 8, 8)
    started = time.thread_time()
    with pytest.raises(Unreadable, match="has no size within its first"):
        decode(b"P6\n#" + b"x" * 20_000_000 + b"\n8 8\n255\n" + pixels)
    assert time.thread_time() - started < 1


# -- memory


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*extra: bytes) -> bytes:
    """A PNG of 8x8 with more chunks."""
    content = png(1, (8, 8))
    return content[:33] + b"".join(extra) + content[33:]


def _patched(content: bytes, at: int, form: str, *values: int) -> bytes:
    return content[:at] + struct.pack(form, *values) + content[at + struct.calcsize(form) :]


def _tiff(*tags: tuple[int, int, int, int], big: bool = False) -> bytes:
    """A TIFF of 8x8 grays by its tags (number, type, count, value), those of its size included."""
    head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(tags)) if big else b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + b"".join(struct.pack("<HHQQ" if big else "<HHII", *tag) for tag in tags) + bytes(500)


GRAYS = ((256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1))
ZEROS = zlib.compress(bytes(2**26), 9)
FRAMES = [Image.new("RGB", (256, 256), (number % 256, number // 256, 0)) for number in range(600)]


def bombs() -> dict[str, bytes]:
    """Files below a megabyte that ask for a gigabyte."""
    small = {form: file_of(picture(1, (8, 8)), form) for form in ("JPEG", "WEBP", "BMP", "PPM")}
    jpeg, gif = small["JPEG"], file_of(picture(1, (8, 8)).quantize(16), "GIF")
    lossless = file_of(picture(1, (8, 8)), "WEBP", lossless=True)
    size_in_webp = lossless.index(b"VP8L") + 9
    animated = file_of(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:3], lossless=True, method=0)
    tiles = ((322, 4, 1, 8192), (323, 4, 1, 8192), (324, 4, 1, 700))  # of which the first is there, 64 MiB
    return {
        "png": bomb(30_000),
        "jpeg": _patched(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", 30_000, 30_000),
        "gif's screen": _patched(gif, 6, "<HH", 30_000, 30_000),
        "gif's frame": _patched(gif, gif.rindex(b"\x2c\0\0\0\0") + 5, "<HH", 60_000, 60_000),
        "webp": _patched(lossless, size_in_webp, "<I", 0x10000000 | 16_382 | 16_382 << 14),
        "webp's canvas": _patched(animated, animated.index(b"VP8X") + 12, "<HBHB", 29_999, 0, 29_999, 0),
        "bmp": _patched(small["BMP"], 18, "<ii", 30_000, 30_000),
        "ppm": b"P6 30000 30000 255\n" + bytes(100),
        "tiff": _tiff((256, 4, 1, 30_000), (257, 4, 1, 30_000), *GRAYS[2:], (273, 4, 1, 400), (279, 4, 1, 100)),
        "tiff's tiles": _tiff(*GRAYS, *tiles, (325, 4, 1, len(ZEROS))).ljust(700, b"\0") + ZEROS,
        "tiff's tiles, twice": _tiff(
            *GRAYS, (322, 3, 1, 16), (322, 4, 1, 2**30), (323, 4, 1, 40_000), (324, 4, 1, 400)
        ),
        "bigtiff's tiles": _tiff(*GRAYS, (322, 4, 1, 40_000), (323, 3, 1, 40_000), (324, 4, 1, 400), big=True),
        "tiff's strips": _tiff(*GRAYS, (273, 4, 60_000_000, 0), (278, 4, 1, 1), (279, 4, 60_000_000, 0)),
        "bigtiff's strips": _tiff(*GRAYS, (273, 16, 2**40, 0), (279, 16, 2**40, 0), big=True),
        "tiff's end": _tiff(*GRAYS)[:30],
        "png's text": _png(_chunk(b"zTXt", b"a\0\0" + ZEROS)),
        "png's many texts": _png(*[_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20), 9))] * 80),
        "png's profile": _png(_chunk(b"iCCP", b"a\0\0" + ZEROS)),
        "png's international text": _png(_chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS)),
    }


def harmless() -> dict[str, bytes]:
    """Files whose first picture is small, whatever else they hold."""
    jpeg = file_of(picture(1, (8, 8)), "JPEG")
    exif = b"\xff\xe1" + struct.pack(">H", 65_002) + (b"Exif\0\0MM\0*\0\0\0\10" + b"\xff" * 65_000)[:65_000]
    profile = b"\xff\xe2" + struct.pack(">H", 65_002) + (b"ICC_PROFILE\0\1\xff" + b"x" * 65_000)[:65_000]
    content = png(1, (8, 8))
    return {
        "gif of many frames": file_of(FRAMES[0].quantize(8), "GIF", save_all=True, append_images=FRAMES[1:]),
        "apng of many frames": file_of(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:100]),
        "webp of many frames": file_of(
            FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True, method=0
        ),
        "jpeg with much exif": jpeg[:2] + exif * 100 + jpeg[2:],
        "jpeg with many profiles": jpeg[:2] + profile * 100 + jpeg[2:],
        "png with much after its pixels": content[:33] + _chunk(b"IDAT", ZEROS) + content[-12:],
        "png with much exif": _png(_chunk(b"eXIf", b"MM\0*\0\0\0\10" + b"x" * 5_000_000)),
    }


MEASURE = """
import json, sys, warnings
from pathlib import Path
from sida.data.decode import Decoder, look_at
from sida.data.entries import Unreadable

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

warnings.simplefilter("ignore")
said = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    content, before = path.read_bytes(), peak()
    for read in (look_at, Decoder("center-crop", 8, 3, "convert")):
        try:
            read(content)
            line = ""
        except Unreadable as error:
            line = str(error)
    said[path.name] = [peak() - before, line]
print(json.dumps(said))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to measure by")
def test_no_small_file_takes_much_memory_and_what_asks_for_it_is_refused_in_a_line(tmp_path: Path) -> None:
    files = bombs() | harmless()
    (tmp_path / "0").write_bytes(png(1))  # what the decoders take once
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, timeout=100
    )
    said = json.loads(done.stdout)
    for name in files:
        grown, line = said[name]
        assert grown < 48, (name, grown)  # MiB
        assert bool(line) == (name in bombs()), (name, line)
        assert len(line) < 150 and "\n" not in line
