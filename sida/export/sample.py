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

from sida import devices
from sida.data.latents import decoder_of
from sida.data.shards import one_hot
from sida.disk import writing_whole
from sida.errors import UserError
from sida.numerics.samplers import last_step, seeded_latents
from sida.numerics.schedules import step_sigmas
from sida.scoring.measure import decoded
from sida.scoring.protocol import pixels_of, sampling_noise

if TYPE_CHECKING:
    from sida.export.generator import Generator
    from sida.recipe import Recipe

GAP = 2  # pixels between images of a grid
SMALL = 32  # images below are enlarged to about this, without smoothing

Decode = Callable[[Tensor], Tensor]  # normalized latents -> images uint8
# seeds int64 [N], an image's shape, the generator's step from 1 on -> unit normal float32 [N, *shape]
Noise = Callable[[Tensor, Sequence[int], int], Tensor]


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


def decoder_for(generator: Generator, recipe: Recipe | None, device: torch.device) -> Decode | None:
    """Return what makes pictures of the generator's latents, by the recipe's VAE; None for a generator of pictures.

    Raises UserError when no recipe says which VAE that is, or one of other latents.
    """
    latents = recipe.dataset.latents if recipe is not None else None
    if recipe is None or latents is None:
        if generator.shape[0] in (1, 3):
            return None
        raise UserError(
            f"this generator makes latents of {generator.shape[0]} channels, no pictures: add --recipe, whose dataset.latents "
            f"names the VAE that decodes them"
        )
    channels, resolution = recipe.dataset.channels, recipe.dataset.resolution
    if generator.shape != (channels, resolution, resolution):
        raise UserError(
            f"this generator makes {' x '.join(map(str, generator.shape))}, recipe {recipe.name} decodes latents of "
            f"{channels} x {resolution} x {resolution}: give the recipe that it was distilled by"
        )
    return decoder_of(latents, device)


def sample(
    generator: Generator,
    seeds: Sequence[int],
    labels: Tensor,
    *,
    noise: Noise = sampling_noise,
    batch: int = 64,
    decode: Decode | None = None,
) -> Iterator[Tensor]:
    """Return an iterator over uint8 [B, C, H, W], one image for each seed, made where the generator is.

    ``labels`` int64 [N]; ``noise`` by default that of scores; ``decode`` for a generator of latents. Raises UserError for images
    that are not finite.
    """
    device = next((p.device for p in generator.denoiser.parameters()), torch.device("cpu"))
    sigmas = step_sigmas(generator.sigma_init, generator.steps)

    def made(some: Tensor, c: Tensor) -> Tensor:
        return last_step(generator.denoiser, _drawn(noise, some, generator.shape, device), c, sigmas)

    make = decoded(made, decode)
    c = one_hot(labels, generator.classes).to(device)
    for some, labeled in zip(torch.tensor(list(seeds)).split(batch), c.split(batch), strict=True):
        with torch.no_grad(), devices.products("float32"):
            images = pixels_of(make(some, labeled), int(some[0])).cpu()
        yield images


def _drawn(noise: Noise, seeds: Tensor, shape: Sequence[int], device: torch.device) -> Callable[[int], Tensor]:
    return lambda step: noise(seeds, shape, step).to(device)


def authors_noise(seeds: Tensor, shape: Sequence[int], step: int = 1) -> Tensor:
    """Return the noise of the SiD authors' image writer. Raises UserError for a later step, whose noise it does not draw here."""
    if step > 1:
        raise UserError("--draws authors: is known for one step, and this generator takes more: leave it out")
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
