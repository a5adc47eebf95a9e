"""Images of 512x512, EDM2's latents of them, and an EDM2 network, through the whole DAG and the command line, on both stores."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sida.manifests import DatasetResult, GeneratorResult, Manifest, ReferenceResult, ScoresResult, parse_manifest
from sida.numerics.frechet import Moments, frechet_distance
from sida.recipe import Latents
from sida.scoring.detector import load_detector
from sida.scoring.measure import decoded, generator_images
from sida.scoring.protocol import range_labels
from sida.scoring.reference import load_statistics
from sida.settings import settings
from sida.stores import fetch_object, open_store, read_address
from sida.stores.objects import sha256_of
from sida.teachers.files import load_network, save_network
from tests.conftest import ROOT
from tests.data.conftest import address, place_on, s3
from tests.data.making import class_folders, tiny_vae
from tests.scoring.stand_in import FEATURES, write_stand_in

pytest.importorskip("diffusers")

__all__ = ["address", "place_on", "s3"]

NETWORK = {
    "architecture": "edm2",
    "resolution": 64,
    "channels": 4,
    "label_dim": 2,
    "model_channels": 8,
    "channel_mult": [1, 1, 1, 1],
    "num_blocks": 1,
    "attn_resolutions": [8],
    "logvar_channels": 8,
    "channels_per_head": 8,
}

RECIPE = """
extends: {base}
name: tiny-512
description: EDM2's path with a VAE and networks of a few thousand weights, for tests
teacher:
  address: teacher.safetensors
  licence: none
  network: {network}
  sampler: {{steps: 2, guidance: 1.5}}
  guide: {{address: teacher.safetensors, network: {network}}}
dataset:
  source: folder
  address: images
  latents: {{vae: {vae}, licence: none}}
  classes: 2
  images: 24
method:
  images: 64
  batch: 8
  loss_group: 4
  generator_from: 16
  adversarial_from: 32
  precision: float32
evaluation:
  detector: {{address: inception.pt, sha256: "{detector}", features: {features}}}
  reference: null
  images: 20
  ranges: 2
  selection_images: 20
  selection_every: 32
gate: {{teacher_at_most: 1e9}}
execution: {{processes: 2, sampling_batch: 10, checkpoint_every: 32}}
targets: null
"""


def recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe's file, with all that it names beside it."""
    from sida.numerics.networks.build import build_network

    class_folders(folder / "images", 24, size=(600, 540))
    detector = sha256_of(write_stand_in(folder / "inception.pt"))[0]
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", detector)
    torch.manual_seed(0)
    teacher = build_network(NETWORK)
    torch.nn.init.constant_(teacher.unet.out_gain, 0.5)  # a new network's is zero: it would give nothing back
    save_network(folder / "teacher.safetensors", teacher.state_dict(), NETWORK)
    path = folder / "tiny-512.yaml"
    base = ROOT / "recipes" / "bases" / "edm2"
    vae = tiny_vae(folder / "vae")
    path.write_text(
        RECIPE.format(base=base, network=json.dumps(NETWORK), vae=vae, detector=detector, features=FEATURES)
    )
    return path


def run(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipeline", "run", str(path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_512_run_is_scored_by_what_the_vae_makes_of_its_latents(
    place_on: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path, monkeypatch)
    first = run(path)
    assert {step["state"] for step in first["steps"]} == {"ran"}
    manifests: dict[str, Manifest] = {
        step["name"]: parse_manifest(read_address(step["manifest"]), step["manifest"]) for step in first["steps"]
    }
    results: dict[str, Any] = {name: manifest.result for name, manifest in manifests.items()}

    data: DatasetResult = results["prepare_data"]
    assert (data.record, data.count, data.histogram, data.resolution) == ("latents", 24, (12, 12), 64)
    assert data.latents is not None and data.latents.image_resolution == 512
    store = open_store(settings().store)
    reference: ReferenceResult = results["reference_statistics"]
    generator: GeneratorResult = results["distill"]
    scores: ScoresResult = results["score"]
    assert generator.images_seen == 64

    # The score once more, from the published weights and the recipe's own VAE.
    latents = Latents(vae=str(tmp_path / "vae"), licence="-", image_resolution=512)
    from sida.data.latents import decoder_of

    network = load_network(fetch_object(store, generator.weights), generator.network).eval()
    make = decoded(generator_images(network, 2.5), decoder_of(latents, torch.device("cpu")))
    detector = load_detector(fetch_object(store, reference.detector))
    for value, first_seed in zip(scores.rows[0].values, scores.rows[0].first_seeds, strict=True):
        classes = range_labels(data.histogram, 20, first_seed)
        with torch.no_grad():
            images = make(torch.arange(first_seed, first_seed + 20), torch.eye(2)[classes])
            assert images.shape == (20, 3, 512, 512)
            moments = Moments(FEATURES)
            moments.add(detector(images))
        assert value == pytest.approx(
            frechet_distance(*moments.mean_cov(), *load_statistics(store, reference)), rel=1e-4
        )

    with Image.open(io.BytesIO(read_address(first["samples"]))) as grid:
        assert grid.size == (3 * (10 * 100 - 4 + 20) + 20, 8 * 100 - 4 + 34 + 20)  # three panels of cells of 96
    evidence = json.loads(store.read(results["compare"].evidence.key))
    assert evidence["training_images"] == 24 and evidence["median_distance"] > 0
    assert "(of latents: the first three channels of the means)" in read_address(first["report"]).decode()
    assert {step["state"] for step in run(path)["steps"]} == {"reused"}
