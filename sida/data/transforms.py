"""Transforms of a picture to the data set's square, as each published set was made (numbers: EDM's and EDM2's dataset tools).

Resizing runs horizontally, then vertically, in two calls: so every Pillow gives what versions up to 12 give, with which the
published data sets were made (13 turns the passes round for tall images).
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from PIL.Image import Resampling


def none(image: Image.Image, resolution: int) -> Image.Image:
    """Return the picture as it is; raise for another size."""
    if image.size != (resolution, resolution):
        raise ValueError(f"is {image.width}x{image.height}, not {resolution}x{resolution}")
    return image


def lanczos(image: Image.Image, resolution: int) -> Image.Image:
    """Resize straight to the square without a crop, so that other shapes are squeezed: FFHQ-64, AFHQv2-64."""
    return _resize(image, (resolution, resolution), Resampling.LANCZOS)


def center_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Crop the largest centered square, then LANCZOS: ImageNet-64 as EDM made it."""
    return _resize(_center(image, min(image.size)), (resolution, resolution), Resampling.LANCZOS)


def center_crop_dhariwal(image: Image.Image, resolution: int) -> Image.Image:
    """Halve by BOX while twice as large, BICUBIC to the shorter side, crop the center: ImageNet-512 as EDM2 and ADM made it."""
    while min(image.size) >= 2 * resolution:
        image = _resize(image, (image.width // 2, image.height // 2), Resampling.BOX)
    scale = resolution / min(image.size)
    image = _resize(image, (round(image.width * scale), round(image.height * scale)), Resampling.BICUBIC)
    return _center(image, resolution)


def _center(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _resize(image: Image.Image, size: tuple[int, int], method: Resampling) -> Image.Image:
    return image.resize((size[0], image.height), method).resize(size, method)


TRANSFORMS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "none": none,
    "lanczos": lanczos,
    "center-crop": center_crop,
    "center-crop-upright": center_crop,  # turned by the decoder before
    "center-crop-dhariwal": center_crop_dhariwal,
}
