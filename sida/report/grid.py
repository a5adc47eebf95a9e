"""Sample grids as PNG: panels side by side, one image per cell, from the same seeds and labels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sida.numerics.quantize import to_preview_uint8

GRID_ROWS, GRID_COLUMNS = 8, 10
_CELL, _LARGEST_CELL, _GAP, _MARGIN, _TITLE = 40, 96, 4, 20, 34


@dataclass(frozen=True)
class ImagePanel:
    """A title and its images: uint8, or float in [-1, 1]; [N, C, H, W]."""

    title: str
    images: Tensor


def draw_panels(panels: list[ImagePanel]) -> bytes:
    """Return a PNG of the panels in a row, pixels of small images enlarged without smoothing."""
    side = max(_side(panel.images) for panel in panels)
    width = GRID_COLUMNS * (side + _GAP) - _GAP
    height = GRID_ROWS * (side + _GAP) - _GAP
    size = (len(panels) * (width + _MARGIN) + _MARGIN, height + _TITLE + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for number, panel in enumerate(panels):
        left = _MARGIN + number * (width + _MARGIN)
        pen.text((left, 9), panel.title, fill="black", font=font)
        for index, image in enumerate(_as_uint8(panel.images)[: GRID_ROWS * GRID_COLUMNS]):
            row, column = divmod(index, GRID_COLUMNS)
            place = (left + column * (side + _GAP), _TITLE + row * (side + _GAP))
            sheet.paste(_cell(image, side), place)
    return _png(sheet)


def draw_panel(panel: ImagePanel) -> bytes:
    """Return a PNG of one panel alone, no title: for pages that set their own."""
    images = _as_uint8(panel.images)[: GRID_ROWS * GRID_COLUMNS]
    return _draw_rows([images[row : row + GRID_COLUMNS] for row in range(0, len(images), GRID_COLUMNS)])


def draw_nearest(samples: Tensor, neighbors: list[Tensor]) -> bytes:
    """Return a PNG: samples in the first row, below each the training images nearest to it; uint8 [N, C, H, W] each."""
    return _draw_rows([_as_uint8(row) for row in (samples, *neighbors)], gap_below_first=3 * _GAP)


def _draw_rows(rows: list[np.ndarray], gap_below_first: int = _GAP) -> bytes:
    """Draw cells without margin, transparent between them; the first row may stand apart."""
    side = _side(rows[0])
    pitch = side + _GAP
    size = (len(rows[0]) * pitch - _GAP, len(rows) * pitch - 2 * _GAP + gap_below_first)
    sheet = Image.new("RGBA", size, (0, 0, 0, 0))
    for number, row in enumerate(rows):
        top = number * pitch + (gap_below_first - _GAP if number else 0)
        for column, image in enumerate(row):
            sheet.paste(_cell(image, side), (column * pitch, top))
    return _png(sheet, optimize=True)


def _as_uint8(images: Tensor) -> np.ndarray:
    pixels = images if images.dtype == torch.uint8 else to_preview_uint8(images)
    return pixels.cpu().numpy()


def _side(images: Tensor | np.ndarray) -> int:
    """Return the side of a cell, to which small images are enlarged and large ones reduced."""
    return min(max(images.shape[-1], _CELL), _LARGEST_CELL)


def _cell(image: np.ndarray, side: int) -> Image.Image:
    """Return uint8 [C, H, W] as an RGB picture with sides of ``side``; gray repeats to three channels."""
    rgb = np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image[:3]
    resampling = Image.Resampling.NEAREST if image.shape[-1] <= side else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0))).resize((side, side), resampling)


def _png(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", **options)
    return buffer.getvalue()
