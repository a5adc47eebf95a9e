"""Single images: modes, broken and hostile files. What NVIDIA's tools make of good ones is in tests/golden."""

from __future__ import annotations

import io
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sida.data.decode import Decoder, is_image
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


def test_a_comment_without_end_in_a_ppm_is_refused_at_once() -> None:
    decode = Decoder("lanczos", 8, 3)
    pixels = bytes(8 * 8 * 3)
    assert decode(b"P6\n# a comment\n8 8\n# another\n255\n" + pixels).data.shape == (3, 8, 8)
    started = time.thread_time()
    with pytest.raises(Unreadable, match="has no size within its first"):
        decode(b"P6\n#" + b"x" * 20_000_000 + b"\n8 8\n255\n" + pixels)
    assert time.thread_time() - started < 1
