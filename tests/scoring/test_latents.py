"""Models of EDM2's latents are scored by what the VAE makes of them: generators, selection while training, the training set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sida.data.latents import decode_images, decoder_of, load_vae
from sida.errors import UserError
from sida.manifests import DatasetResult, ReferenceResult, ScoresResult, read_manifest
from sida.numerics.draws import Draws
from sida.numerics.samplers import heun, last_step
from sida.recipe import Latents, Recipe, Sampler
from sida.scoring.measure import decoded, generator_images, teacher_images
from sida.scoring.protocol import pixels_of, sampling_noise
from sida.settings import settings
from sida.stores.objects import sha256_of
from sida.teachers.files import save_network
from sida.training.selection import largest_batch, sample_grid
from sida.worker.ranks import Processes
from tests.data.making import class_folders
from tests.data.test_latents import fields
from tests.data.test_latents import vae as vae
from tests.scoring.conftest import tiny
from tests.scoring.files import runner
from tests.scoring.stand_in import FEATURES, write_stand_in

pytest.importorskip("diffusers")

CPU = torch.device("cpu")
NETWORK: dict[str, Any] = {
    "architecture": "ddpmpp",
    "resolution": 8,
    "channels": 4,
    "label_dim": 2,
    "model_channels": 16,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}


def network(seed: int, **changes: Any) -> Any:
    from sida.numerics.networks.build import build_network

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = build_network(NETWORK | changes)
        for parameter in made.parameters():  # published networks begin with zero outputs
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


def test_a_generator_s_latents_are_decoded_with_the_recipe_s_normalisation(vae: Path) -> None:
    latents = Latents(vae=str(vae), licence="-", image_resolution=64, raw_mean=(1.0, 2.0, 3.0, 4.0))
    generator = network(0)
    make = decoded(generator_images(generator, 2.5), decoder_of(latents, CPU))
    seeds, labels = torch.arange(2), torch.eye(2)
    raw = last_step(generator, lambda step: sampling_noise(seeds, (4, 8, 8)), labels, [2.5])
    expected = decode_images(load_vae(latents), raw, latents.raw_mean, latents.raw_std)
    assert torch.equal(make(seeds, labels), expected) and expected.shape == (2, 3, 64, 64)
    assert torch.equal(pixels_of(expected, 0), expected)
    broken = decoded(lambda seeds, labels: raw * torch.nan, decoder_of(latents, CPU))
    with pytest.raises(UserError, match="latents of seeds 0 to 1 are not finite"):
        broken(seeds, labels)


def test_selection_while_training_sees_decoded_images_too(vae: Path, tmp_path: Path) -> None:
    latents = Latents(vae=str(vae), licence="-", image_resolution=64)
    make = decoded(generator_images(network(0), 2.5), decoder_of(latents, CPU))
    processes = Processes(0, 1, CPU)
    assert largest_batch(make, torch.nn.Identity(), 2, 8, processes) == 8
    assert sample_grid(make, 2, "decoded", CPU).startswith(b"\x89PNG")


@pytest.fixture
def recipe(vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    detector = write_stand_in(tmp_path / "inception.pt")
    digest = sha256_of(detector)[0]
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", digest)
    top = class_folders(tmp_path / "images", 12, size=(80, 70))
    save_network(tmp_path / "teacher.safetensors", network(0).state_dict(), NETWORK)
    return tiny(
        teacher={"address": (tmp_path / "teacher.safetensors").as_uri(), "sha256": None, "network": NETWORK},
        dataset={"source": "folder", "address": top.as_uri(), "classes": 2, **fields(vae, 64)},
        evaluation={
            "metric": "fid",
            "detector": {"address": detector.as_uri(), "sha256": digest, "features": FEATURES},
            "images": 20,
        },
        execution={"sampling_batch": 10},
    )


def test_statistics_of_latents_are_of_what_the_vae_gives_back_and_a_generator_is_scored_against_them(
    here: Path, recipe: Recipe, capfd: pytest.CaptureFixture[str]
) -> None:
    from sida.data.prepare import prepare_data
    from sida.data.shards import Shards
    from sida.scoring.adopt import fetch_released
    from sida.scoring.detector import load_detector
    from sida.scoring.reference import load_statistics, reference_statistics
    from sida.scoring.score import score
    from sida.stores import open_store

    folder = here / "inputs"
    folder.mkdir()
    run = runner(folder, recipe)
    dataset = run(prepare_data)
    reference = run(reference_statistics, dataset=dataset)
    assert "what the VAE gives back" in capfd.readouterr().err
    store = open_store(settings().store)
    made = read_manifest(dataset, DatasetResult).result
    assert made.record == "latents"  # type: ignore[union-attr]
    latents, _ = Shards(store, made).batch(torch.arange(12))  # type: ignore[arg-type]
    assert recipe.dataset.latents is not None
    images = decoder_of(recipe.dataset.latents, CPU)(latents)
    detector = load_detector(Path(recipe.evaluation.detector.address.removeprefix("file://")))
    mean, covariance = load_statistics(store, read_manifest(reference, ReferenceResult).result)
    features = detector(images).double()
    torch.testing.assert_close(mean, features.mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(covariance, torch.cov(features.T), rtol=1e-6, atol=1e-12)
    generator = run(fetch_released, address=recipe.teacher.address)
    scored = score(recipe=recipe, generator=generator, reference=reference).manifest.result
    assert isinstance(scored, ScoresResult) and scored.rows[0].n == 20 and scored.rows[0].mean > 0


def test_a_guided_teacher_is_led_away_from_its_unconditional_guide(tmp_path: Path) -> None:
    teacher, guide = network(0), network(1, label_dim=0)
    sampler = Sampler(steps=3, state="float32", guidance=1.4)
    seeds, labels = torch.arange(2), torch.eye(2)
    ours = teacher_images(teacher, sampler, guide)(seeds, labels)
    alone = lambda x, sigma, labels=None: guide(x, sigma, None)  # noqa: E731
    theirs = heun(
        teacher,
        Draws(0).normal("sample", seeds, (4, 8, 8)),
        labels,
        guide=alone,
        guidance=1.4,
        steps=3,
        dtype=torch.float32,
    )
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, teacher_images(teacher, Sampler(steps=3, state="float32"))(seeds, labels))
    with pytest.raises(UserError, match=r"needs teacher\.guide"):
        teacher_images(teacher, sampler)
    with pytest.raises(UserError, match="belongs to EDM2's sampler"):
        teacher_images(teacher, Sampler(steps=3, guidance=1.4), guide)
    with pytest.raises(UserError, match="knows 3 classes, the teacher 2"):
        teacher_images(teacher, sampler, network(1, label_dim=3))
