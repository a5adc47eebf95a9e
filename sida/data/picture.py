"""A picture of a data set: images with their labels, and how many there are of each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sida.data.shards import Shards
from sida.manifests import DatasetResult

COLUMNS, ROWS = 12, 6
CELL, GAP, MARGIN, LINE = 64, 6, 16, 14
CHART_HEIGHT = 120


def draw_picture(path: Path, shards: Shards, dataset: DatasetResult) -> None:
    """Write a PNG: images spread evenly over the data set (of latents the first three mean channels), then the histogram."""
    count = min(len(shards), COLUMNS * ROWS)
    chosen = [index * len(shards) // count for index in range(count)]
    rows = -(-count // COLUMNS)
    width = 2 * MARGIN + COLUMNS * (CELL + GAP) - GAP
    grid = rows * (CELL + LINE + GAP)
    height = 2 * MARGIN + LINE + grid + (CHART_HEIGHT + 2 * LINE if dataset.histogram else 0)
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    size = f"{dataset.channels}x{dataset.resolution}x{dataset.resolution}"
    unit = "images" if dataset.record == "pixels" else dataset.record
    pen.text((MARGIN, MARGIN - 4), f"{dataset.source}: {dataset.count:,} {unit}, {size}", "black", font)
    for place, record in enumerate(shards.records(chosen)):
        row, column = divmod(place, COLUMNS)
        left, top = MARGIN + column * (CELL + GAP), MARGIN + LINE + row * (CELL + LINE + GAP)
        sheet.paste(_cell(record["data"], dataset).resize((CELL, CELL), Image.Resampling.NEAREST), (left, top))
        if dataset.classes:
            pen.text((left, top + CELL), str(record["label"]), "black", font)
    if dataset.histogram:
        _chart(pen, font, dataset.histogram, MARGIN, MARGIN + LINE + grid, width - 2 * MARGIN)
    sheet.save(path, format="PNG")


def _cell(data: np.ndarray, dataset: DatasetResult) -> Image.Image:
    if dataset.record == "latents":
        means = data[:3]
        low, high = means.min(), means.max()
        data = ((means - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
    rgb = np.repeat(data, 3, axis=0) if len(data) == 1 else data[:3]
    return Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0)))


def _chart(pen: ImageDraw.ImageDraw, font: object, histogram: tuple[int, ...], left: int, top: int, width: int) -> None:
    """Draw one bar a class; with more classes than pixels each column shows the largest of its classes."""
    smallest, largest = min(histogram), max(histogram)
    text = f"images per class: {smallest:,} to {largest:,} in {len(histogram):,} classes"
    pen.text((left, top), text, "black", font)  # type: ignore[arg-type]
    bottom = top + LINE + CHART_HEIGHT
    starts = [column * len(histogram) // width for column in range(width + 1)]
    gaps = len(histogram) <= width // 3  # between the classes' bars
    for column in range(width):
        classes = histogram[starts[column] : max(starts[column] + 1, starts[column + 1])]
        bar = round(max(classes) / max(largest, 1) * CHART_HEIGHT)
        if bar and not (gaps and column and starts[column] != starts[column - 1]):
            pen.line((left + column, bottom - bar, left + column, bottom), "steelblue")
    pen.line((left, bottom, left + width, bottom), "black")
