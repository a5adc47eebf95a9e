"""Score any generator file or folder of images with a recipe's data, reference and detector: the steps, one after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sida.recipe import Recipe
from sida.steps import Published


def score_file(path: Path, recipe: Recipe, *, repeat: str = "", attempt: str = "") -> Published:
    """The published score of a safetensors file, a published pickle, or a folder of images. Raises UserError for others."""
    from sida.data.prepare import prepare_data
    from sida.scoring.adopt import fetch_released
    from sida.scoring.images import find_images, score_images
    from sida.scoring.labels import label_distribution, needs_images
    from sida.scoring.reference import reference_statistics
    from sida.scoring.score import score

    if path.is_dir() or not path.exists():
        find_images(path, recipe.evaluation.images)  # before anything is computed
    with tempfile.TemporaryDirectory() as folder:
        run = runner(Path(folder), recipe)
        generator = None if path.is_dir() else run(fetch_released, address=path.absolute().as_uri(), method=path.name)
        dataset = run(prepare_data if needs_images(recipe) else label_distribution)
        reference = run(reference_statistics, dataset=dataset)
        if generator is None:
            return score_images(recipe=recipe, folder=str(path), reference=reference, repeat=repeat, attempt=attempt)
        return score(recipe=recipe, generator=generator, reference=reference, repeat=repeat, attempt=attempt)


def runner(folder: Path, recipe: Recipe) -> Callable[..., str]:
    """Runs a step and gives its manifest as a file in ``folder``, as the next step takes it."""

    def run(function: Callable[..., Published], **arguments: Any) -> str:
        published = function(recipe=recipe, **arguments)
        path = folder / f"{published.manifest.about.step}.json"
        path.write_bytes(published.manifest.to_json())
        return str(path)

    return run
