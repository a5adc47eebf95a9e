"""Scoring a model of latents: its samples become pixels by the recipe's VAE and normalisation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sida.data.latents import decode_images, load_vae
from sida.errors import UserError
from sida.recipe import Latents
from sida.scoring.measure import decoded
from tests.data.making import tiny_vae

pytest.importorskip("diffusers")
SEEDS, LABELS = torch.arange(5), torch.zeros(5, 0)


def latents_of(seeds: Tensor, labels: Tensor) -> Tensor:
    """A model: float64 latents [n, 4, 8, 8] that follow from the seeds."""
    return torch.stack(
        [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    ).double()


def section(vae: Path, **fields: object) -> Latents:
    return Latents.model_validate({"vae": str(vae), "licence": "-", "image_resolution": 64, **fields})


def test_samples_are_decoded_with_the_recipes_vae_and_normalisation_whatever_the_batch(tmp_path: Path) -> None:
    latents = section(tiny_vae(tmp_path / "vae"), raw_mean=(0.5, 0.0, -0.5, 1.0), raw_std=(0.5, 0.6, 0.7, 0.8))
    make = decoded(latents_of, latents, torch.device("cpu"))
    images = make(SEEDS, LABELS)
    assert images.dtype == torch.uint8 and images.shape == (5, 3, 64, 64)
    assert torch.equal(images, torch.cat([make(SEEDS[:2], LABELS[:2]), make(SEEDS[2:], LABELS[2:])]))
    vae, found = load_vae(latents), latents_of(SEEDS, LABELS).float()
    assert torch.equal(images, decode_images(vae, found, latents.raw_mean, latents.raw_std))
    published = section(tmp_path / "vae")
    assert not torch.equal(images, decode_images(vae, found, published.raw_mean, published.raw_std))


def test_latents_that_are_not_finite_are_not_scored(tmp_path: Path) -> None:
    make = decoded(
        lambda seeds, labels: latents_of(seeds, labels) / 0, section(tiny_vae(tmp_path)), torch.device("cpu")
    )
    with pytest.raises(UserError, match="latents of seeds 0 to 4 are not finite"):
        make(SEEDS, LABELS)


def test_a_vae_that_is_not_pinned_or_not_there_is_named(tmp_path: Path) -> None:
    for vae, said in (("someone/vae", "revision is not set"), (str(tmp_path), "cannot be loaded")):
        with pytest.raises(UserError, match=said):
            decoded(latents_of, section(Path(vae)), torch.device("cpu"))
