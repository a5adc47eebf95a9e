"""Score any generator file or folder of images with a recipe's data, reference and detector: the steps, one after the other."""

from __future__ import annotations

from pathlib import Path

from sida.errors import UserError
from sida.foreign.boundary import no_file
from sida.manifests import GeneratorResult, Manifest, ScoresResult
from sida.recipe import Recipe
from sida.scoring.adopt import fetch_released
from sida.scoring.images import open_images, score_images
from sida.scoring.labels import data_step
from sida.scoring.npz_images import is_npz
from sida.scoring.reference import reference_statistics
from sida.scoring.score import score
from sida.steps import StepOutcome


def holds_images(path: Path) -> bool:
    """Return whether what lies there is scored as images, a folder's or an npz's, and not as a generator."""
    return not path.is_file() or is_npz(path)


def score_file(path: Path, recipe: Recipe, *, repeat: str = "") -> StepOutcome[ScoresResult]:
    """Return the published score of a safetensors file, a published pickle, a folder of images or an npz of them.

    Raises UserError for others.
    """
    if path.exists() and not path.is_dir() and (problem := no_file(path)):
        raise UserError(f"{path} {problem}: give a safetensors file, a folder of images or an npz")
    generator: Manifest[GeneratorResult] | None = None
    if holds_images(path):
        open_images(path, recipe)  # before anything is computed
    else:
        generator = fetch_released(recipe=recipe, address=path.absolute().as_uri(), method=path.name).manifest
    dataset = data_step(recipe)(recipe=recipe).manifest
    reference = reference_statistics(recipe=recipe, dataset=dataset).manifest
    if generator is None:
        return score_images(recipe=recipe, folder=str(path), reference=reference, repeat=repeat)
    return score(recipe=recipe, generator=generator, reference=reference, repeat=repeat)
