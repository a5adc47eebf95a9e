"""The step score_images: a folder of images, whoever made them, against the recipe's reference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sida.errors import UserError
from sida.launch.spec import ScoreOutcome
from sida.manifests import Manifest, ReferenceResult, ScoresResult
from sida.progress import Progress
from sida.recipe import Recipe
from sida.scoring.reference import load_statistics
from sida.scoring.score import SOURCES, check_reference, scores_result
from sida.steps import From, StepRun, step
from sida.stores.objects import fetch_object

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@step(version=1, sources=SOURCES, measures=True)
def score_images(
    run: StepRun,
    recipe: Recipe,
    folder: str,
    reference: Annotated[Manifest[ReferenceResult], From("reference_statistics")],
) -> ScoresResult:
    """Score the images of a folder, the first evaluation.images of them by name.

    Args:
        reference: Feature moments of the training set.

    Returns:
        The folder's score.
    """
    check_reference(recipe, reference.result)
    count = recipe.evaluation.images
    paths = find_images(Path(folder), count)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    sha256 = digest.hexdigest()
    parameters = {"images": sha256, "count": count, "extra_metrics": list(recipe.evaluation.extra_metrics)}
    run.claim(parameters, reference=reference)
    return _measure(run, reference, paths, sha256)


def find_images(folder: Path, count: int) -> list[Path]:
    """Return the first ``count`` image files under a folder, by name. Raises UserError when there are fewer."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give a safetensors file or a folder of images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if len(paths) < count:
        raise UserError(
            f"{folder}: holds {len(paths):,} images ({', '.join(ENDINGS)}), {count:,} are asked for: make more, or say "
            f"--images {max(len(paths), 2)} and compare only with scores of as many"
        )
    return paths[:count]


@contextmanager
def open_image(path: Path, resolution: int) -> Iterator[Image]:
    """Open an image file. Raises UserError naming the file if it is no image, or of another size."""
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=("PNG", "JPEG", "BMP", "WEBP")) as image:
            if image.size != (resolution, resolution):
                raise UserError(
                    f"{path}: is {image.size[0]}x{image.size[1]}, the recipe's images are {resolution}x{resolution}: "
                    f"scores of resized images are other scores; make them at the right size"
                )
            yield image
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({error}): make it again") from error


def read_images(paths: list[Path], channels: int, resolution: int) -> Tensor:
    """Return uint8 [N, C, H, W]. Raises UserError naming a file that is no image, or of another size."""
    import numpy as np
    import torch

    images = np.empty((len(paths), channels, resolution, resolution), np.uint8)
    for index, path in enumerate(paths):
        with open_image(path, resolution) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        images[index] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(images)


def size_of_images(recipe: Recipe) -> tuple[int, int]:
    """Return channels and resolution of the images that a recipe is about, those of latents decoded."""
    data = recipe.dataset
    return (3, data.latents.image_resolution) if data.latents else (data.channels, data.resolution)


def _measure(run: StepRun, reference: Manifest[ReferenceResult], paths: list[Path], sha256: str) -> ScoresResult:
    import torch

    from sida import devices
    from sida.numerics.frechet import sampling_bias
    from sida.scoring.detector import load_detector
    from sida.scoring.measure import evaluate
    from sida.scoring.sums import Sums

    recipe, statistics = run.recipe, reference.result
    device = devices.claim()
    detector = load_detector(fetch_object(run.store, statistics.detector)).to(device)
    batch, size = recipe.execution.batch_limit, size_of_images(recipe)
    sums = Sums(statistics.features, len(paths), recipe.evaluation.extra_metrics)
    progress = Progress(run.step.name, len(paths), "images")
    with torch.no_grad():
        for start in range(0, len(paths), batch):
            part = read_images(paths[start : start + batch], *size)
            sums.add(detector, part.to(device), start)
            progress.update(start + len(part))
    real = load_statistics(run.store, statistics)
    values, further = evaluate([sums], "the folder", real, run.store, statistics, device)
    bias = sampling_bias(real[1], len(paths))
    return scores_result(
        recipe,
        reference,
        ScoreOutcome(values=values, further=further, sampling_bias=bias, images_per_second=0.0, batch=batch),
        n=len(paths),
        seeds=[],
        model="images",
        label=f"{len(paths):,} images of a folder",
        nfe=None,
        sampler="files",
        checkpoint_sha256=sha256,
        licence="unknown: made elsewhere",
    )
