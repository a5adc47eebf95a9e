"""Decode a file's bytes to pixels. The content decides how it is decoded, and only these formats are tried.

EXIF rotation is ignored, as NVIDIA's tools do: pixels as stored; ``center-crop-upright`` alone obeys it. RGB and grayscale are
taken as they are (gray tripled for three channels). With ``modes="strict"`` everything else is unreadable: EDM's tool garbled
palette and CMYK images silently. ``"convert"`` takes palette, CMYK and bilevel images by Pillow's conversion and drops alpha
without blending, that of a single transparent color too, as EDM2's tool does.
Deeper grays are refused always: that tool clipped them to white.

What a file claims is looked at before it is decoded: at most ``MAX_PIXELS`` pixels. Decoding takes up to 20 bytes of memory for
each of them (WebP; others 12), beside the file's own bytes twice.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from sida.data.entries import Decoded, Unreadable, is_hidden
from sida.data.transforms import TRANSFORMS
from sida.errors import UserError
from sida.foreign.boundary import reason

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
JPEGS = ("JPEG", "MPO")  # Pillow's name of a JPEG that holds more pictures, as telephones' do: depth, a gain map
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 100_000_000
CONVERTIBLE = ("P", "PA", "CMYK", "1", "LA", "La", "RGBA", "RGBa", "RGBX", "YCbCr")
UPRIGHT = "center-crop-upright"
CROPS = ("center-crop", UPRIGHT, "center-crop-dhariwal")
_ORIENTATION = 0x0112
_TIFF_TILE = 4096**2  # pixels; of larger tiles none may be larger than the picture
_TIFF_VALUES = 2**20  # of one tag: as many tiles of 8x8 as a picture may have, nearly
_TIFF_BYTES = (1, 2, 6, 7)  # types whose values are bytes, taken as they are
_TIFF_WIDTH, _TIFF_LENGTH, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 256, 257, 322, 323
_PPM_BYTES = 2**16
_PPM = re.compile(rb"P[0-9a-zA-Z](?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+\d+\s")

Modes = Literal["strict", "convert"]


@dataclass(frozen=True)
class Decoder:
    """Decoder of files to images uint8 [channels, resolution, resolution]."""

    transform: str
    resolution: int
    channels: int  # 1 or 3
    modes: Modes = "strict"

    def __call__(self, content: bytes) -> Decoded:
        """Return the image and what was not taken of it. Raises Unreadable with the reason."""
        with _opened(content) as image:
            is_lossy = _lossy(image, content)  # of the file: a turned image knows no format
            image.load()
            rotated = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) != 1
            if rotated and self.transform == UPRIGHT:
                image, rotated = ImageOps.exif_transpose(image), False
            square = TRANSFORMS[self.transform](self._plain(image), self.resolution)
            pixels = np.asarray(square)
            total, side = image.width * image.height, min(image.size)
            left_out = total - side * side if self.transform in CROPS else 0
            data = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            return Decoded(data, rotated, left_out, total, is_lossy)

    def _plain(self, image: Image.Image) -> Image.Image:
        """Return the picture with the data set's number of channels."""
        mode = image.mode
        target = "RGB" if self.channels == 3 else "L"
        if "transparency" in image.info and self.modes == "strict":  # a color of palette, gray or RGB (PNG's tRNS, GIF)
            raise Unreadable(
                f"has a transparent color (mode {mode}): set dataset.modes to convert to take it as EDM2 does"
            )
        if mode == target or (mode, target) == ("L", "RGB"):
            return image if mode == target else image.convert("RGB")
        if mode not in (*CONVERTIBLE, "RGB"):
            raise Unreadable(f"has pixels of mode {mode} (deeper than 8 bits): convert it to 8 bits yourself")
        if target == "L" and mode not in ("1", "LA", "La"):
            raise Unreadable(f"is in color (mode {mode}), dataset.channels is 1: convert it to gray, or set channels 3")
        if self.modes == "strict":
            raise Unreadable(f"has pixels of mode {mode}: set dataset.modes to convert to take it as EDM2 does")
        return image.convert(target)


class Look(NamedTuple):
    """Description of an image file by its header; nothing is decoded."""

    size: tuple[int, int]  # width, height
    kind: str  # "PNG RGB, 8 bits"
    lossy: bool


def look_at(content: bytes) -> Look:
    """Return what an image file's header says. Raises Unreadable with the reason."""
    with _opened(content) as image:
        layout = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
        found = re.search(
            r";(\d+)", layout
        )  # Pillow's name of 16-bit color, of which it takes the upper 8 bits: RGB;16B
        bits = int(found[1]) if found else {"1": 1, "I": 32, "F": 32}.get(image.mode, 8)
        bits = 16 if image.mode.startswith("I;16") else bits
        kind = f"{image.format} {image.mode}, {bits} {'bits' if bits > 1 else 'bit'}"
        return Look(image.size, kind, _lossy(image, content))


def _lossy(image: Image.Image, content: bytes) -> bool:
    """Return whether a file was compressed with loss."""
    if image.format == "WEBP":
        return b"VP8L" not in content[:64]
    return image.format in JPEGS or image.info.get("compression") in ("jpeg", "tiff_jpeg")


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong within is an Unreadable."""
    try:
        if content[:1] == b"P" and not _PPM.match(content[:_PPM_BYTES]):  # Pillow takes a byte at a time
            raise Unreadable(f"has no size within its first {_PPM_BYTES:,} bytes, as a PPM has")
        if content[:2] in (b"II", b"MM"):
            try:
                _check_tiff(content)
            except struct.error as error:
                raise Unreadable("is a TIFF that breaks off") from error
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Unreadable(f"is {image.width}x{image.height}: refused as a bomb")
        yield image
    except Unreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable("has too many pixels: refused as a bomb") from error
    except Image.UnidentifiedImageError as error:
        raise Unreadable("is none of " + ", ".join(FORMATS)) from error
    except MemoryError as error:  # the machine's fault, not the image's, which must not be left out for it
        raise UserError("too little memory to decode an image: free some, or use fewer processes") from error
    except Exception as error:  # Pillow's decoders raise whatever hostile bytes make them raise
        raise Unreadable(reason(error)) from error


def _check_tiff(content: bytes) -> None:
    """Raise Unreadable for a TIFF whose tiles, or lists of them, take more memory than the picture; struct.error for a cut one."""
    order, big = "<" if content[:2] == b"II" else ">", 43 in content[2:4]
    head, entry, first = ("QQ", "HHQQ", 8) if big else ("IH", "HHII", 4)
    (at,) = struct.unpack_from(order + head[0], content, first)
    (count,) = struct.unpack_from(order + head[1], content, at)
    at += struct.calcsize(order + head[1])
    found: dict[int, list[int]] = {tag: [] for tag in (_TIFF_WIDTH, _TIFF_LENGTH, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH)}
    for number in range(count):
        place = at + number * struct.calcsize(order + entry)
        tag, kind, values, value = struct.unpack_from(order + entry, content, place)
        if values > _TIFF_VALUES and kind not in _TIFF_BYTES:
            raise Unreadable(f"has {values:,} values under its tag {tag}: refused as a bomb")
        if kind == 3:  # a number of two bytes stands at the beginning of its field
            (value,) = struct.unpack_from(order + "H", content, place + struct.calcsize(order + entry[:-1]))
        if tag in found:
            found[tag].append(value)
    # Of a tag that is there twice libtiff takes the first, Pillow the last.
    width, length = (min(found[tag], default=0) for tag in (_TIFF_WIDTH, _TIFF_LENGTH))
    across, down = (max(found[tag], default=0) for tag in (_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH))
    if across * down > max(_TIFF_TILE, width * length):
        raise Unreadable(f"has tiles of {across}x{down} pixels: refused as a bomb")


def is_image(name: str) -> bool:
    """Return whether a file counts as an image: by the ending of its name, as in NVIDIA's tools, and not hidden."""
    return name.lower().endswith(ENDINGS) and not is_hidden(name)
