"""Images of a finished generator for given seeds: those that scores and reports see, bit for bit on the same machine and batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sida.data.shards import one_hot
from sida.disk import writing_whole
from sida.errors import UserError
from sida.numerics.samplers import one_step, seeded_latents
from sida.scoring.protocol import pixels_of, sampling_noise

if TYPE_CHECKING:
    from sida.export.generator import Generator

GAP = 2  # pixels between images of a grid
SMALL = 32  # images below are enlarged to about this, without smoothing

# seeds int64 [N], an image's shape -> unit normal float32 [N, *shape]
Noise = Callable[[Tensor, Sequence[int]], Tensor]


def labels_for(generator: Generator, count: int, chosen: Sequence[int] | None) -> Tensor:
    """Return int64 [count]: the chosen classes in turn; by default every class in turn."""
    if not generator.classes:
        if chosen:
            raise UserError("--labels: this generator is unconditional: leave them out")
        return torch.zeros(count, dtype=torch.int64)
    classes = list(chosen or range(generator.classes))
    if wrong := [label for label in classes if not 0 <= label < generator.classes]:
        raise UserError(f"--labels {wrong[0]}: this generator has classes 0 to {generator.classes - 1}")
    return torch.tensor(classes)[torch.arange(count) % len(classes)]


def sample(
    generator: Generator, seeds: Sequence[int], labels: Tensor, *, noise: Noise = sampling_noise, batch: int = 64
) -> Tensor:
    """Return uint8 [N, C, H, W], one image for each seed: those of ``sample_parts`` at once."""
    return torch.cat(list(sample_parts(generator, seeds, labels, noise=noise, batch=batch)))


def sample_parts(
    generator: Generator, seeds: Sequence[int], labels: Tensor, *, noise: Noise = sampling_noise, batch: int = 64
) -> Iterator[Tensor]:
    """Return an iterator over uint8 [B, C, H, W], an image for each seed. ``labels`` int64 [N]; ``noise``: by default scores' own.

    Raises UserError for a generator of latents, which are no pictures yet, and for images that are not finite.
    """
    channels = generator.shape[0]
    if channels not in (1, 3):
        raise UserError(
            f"this generator makes latents of {channels} channels, no pictures: `score` and `run` decode them with the recipe's VAE"
        )
    parts = (slice(start, start + batch) for start in range(0, len(seeds), batch))
    return (_made(generator, seeds[part], labels[part], noise) for part in parts)


def _made(generator: Generator, seeds: Sequence[int], labels: Tensor, noise: Noise) -> Tensor:
    device = next((p.device for p in generator.denoiser.parameters()), torch.device("cpu"))
    with torch.no_grad():
        z = noise(torch.tensor(seeds, dtype=torch.int64), generator.shape).to(device)
        c = one_hot(labels, generator.classes).to(device)
        return pixels_of(one_step(generator.denoiser, z, c, generator.sigma_init), int(seeds[0])).cpu()


def authors_noise(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the noise of the SiD authors' image writer."""
    return seeded_latents(seeds.tolist(), shape)[0]


def authors_labels(generator: Generator, seeds: Sequence[int]) -> Tensor:
    """Return int64 [N]: the class that the authors' image writer draws after a seed's noise."""
    return torch.cat([seeded_latents([seed], generator.shape, generator.classes)[1] for seed in seeds])


def write_images(folder: Path, seeds: Sequence[int], images: Tensor) -> None:
    """Write one PNG for each seed, ``00000042.png``, into a folder that is there: one that `score` takes."""
    for seed, image in zip(seeds, images, strict=True):
        _write(folder / f"{seed:08d}.png", picture(image))


def write_grid(path: Path, images: Tensor) -> None:
    """Write one PNG with all images in rows, about as many rows as columns."""
    columns = math.ceil(math.sqrt(len(images)))
    zoom = max(1, SMALL // images.shape[-1])
    pitch = images.shape[-1] * zoom + GAP
    sheet = Image.new("RGB", (columns * pitch - GAP, math.ceil(len(images) / columns) * pitch - GAP), "white")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        tile = picture(image)
        cell = tile.resize((tile.width * zoom, tile.height * zoom), Image.Resampling.NEAREST)
        sheet.paste(cell, (column * pitch, row * pitch))
    _write(path, sheet)


def picture(image: Tensor) -> Image.Image:
    """Return uint8 [1 or 3, H, W] as a gray or RGB picture."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _write(path: Path, image: Image.Image) -> None:
    """Write all or nothing."""
    with writing_whole(path, "the picture") as draft:
        image.save(draft, format="PNG")
