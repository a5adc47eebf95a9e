"""DDO's teachers: recipes that say what was published of them and no more, and whole runs from stand-ins of their files."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sida import recipe
from sida.foreign import Refused
from sida.manifests import TeacherResult, parse_manifest
from sida.numerics.networks.build import build_network
from sida.numerics.networks.precondition import edm_coefficients
from sida.stores import read_address
from sida.stores.objects import sha256_of
from sida.teachers.convert import convert
from sida.teachers.files import load_network
from tests.conftest import ROOT
from tests.data.making import class_folders, tiny_vae
from tests.scoring.stand_in import FEATURES, write_stand_in
from tests.teachers import nvidia

FILES = "https://huggingface.co/nvidia/DirectDiscriminativeOptimization/resolve/main/"
# README of NVlabs/DDO: recipe -> file, FID without guidance, parameters; then the row whose network and method it shares.
PUBLISHED = {
    "cifar10-uncond-ddo": ("edm-cifar10-uncond-vp-ddo.pkl", 1.38, 56e6, "cifar10-uncond"),
    "cifar10-cond-ddo": ("edm-cifar10-cond-vp-ddo.pkl", 1.30, 56e6, "cifar10-cond"),
    "imagenet-64-edm2-s-ddo": ("edm2-img64-s-ddo.pkl", 0.97, 280e6, "imagenet-512-edm2-s"),
    "imagenet-512-edm2-l-ddo": ("edm2-img512-l-ddo.pkl", 1.26, 777e6, "imagenet-512-edm2-l"),
}
OURS = [name for name in recipe.names() if "-ddo" in name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_has_the_published_teacher_and_score_and_no_score_of_a_generator(name: str) -> None:
    file, score, parameters, _ = PUBLISHED[name]
    loaded = recipe.load(name)
    assert loaded.teacher.address == FILES + file and loaded.teacher.licence.startswith("CC BY-NC-SA 4.0 (NVIDIA, DDO")
    assert loaded.targets is not None and loaded.targets.teacher == score and not loaded.targets.of_generators
    assert loaded.gate.teacher_at_most == pytest.approx(1.05 * score, abs=0.005)
    assert loaded.teacher.sampler.nfe == (63 if "edm2" in name else 35) and loaded.teacher.sampler.guidance == 1
    with torch.device("meta"):
        network = build_network(loaded.teacher.network.model_dump())
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize("name", OURS)
def test_a_recipe_says_that_it_is_ours_and_takes_the_method_of_the_published_row(name: str) -> None:
    base = next(row for row in PUBLISHED if name.startswith(row))
    loaded, row = recipe.load(name), recipe.load(PUBLISHED[base][3] + name.removeprefix(base))
    assert loaded.group == "ours" and loaded.released is None and not loaded.in_another_precision
    assert "not published" in loaded.description and "(ours)" in str(loaded.benchmark)
    noise = {"P_mean": -0.8, "P_std": 1.6} if "imagenet-64" in name else {}
    assert loaded.method == row.method.model_copy(update=noise)
    network = row.teacher.network.model_copy(update={"channels": loaded.dataset.channels})
    assert loaded.teacher.network == network
    if loaded.generator is not None:  # the generator that the authors distilled by SiDA, of the same network
        start = recipe.load(PUBLISHED[base][3])
        assert start.released is not None and loaded.generator.address == start.released.address
        assert start.teacher.network == loaded.teacher.network and start.method.name == "sida"


def test_whatever_has_a_published_generator_is_the_paper_s_and_the_rest_is_ours() -> None:
    loaded = {name: recipe.load(name) for name in recipe.names()}
    ours = {name for name, one in loaded.items() if one.group == "ours"}
    assert ours >= {name for name in loaded if "-ddo" in name or "tf32" in name or name.startswith("digits")}
    assert not any(loaded[name].released for name in ours)
    assert {one.group for one in loaded.values()} == {"paper", "ours"}  # none yet aims at what others published
    row = recipe.load("ffhq-64")
    assert row.targets is not None
    other = row.model_copy(update={"targets": row.targets.model_copy(update={"source": "arXiv 2405.20750"})})
    assert other.group == "others"


def test_edm2_in_pixels_is_edm2_with_three_channels_and_the_same_preconditioning() -> None:
    pixels, latents = recipe.load("imagenet-64-edm2-s-ddo"), recipe.load("imagenet-512-edm2-s")
    assert pixels.dataset.latents is None and pixels.dataset.resolution == pixels.teacher.network.resolution == 64
    shapes = []
    for loaded in (pixels, latents):
        with torch.device("meta"):
            network = build_network(loaded.teacher.network.model_dump())
            x = torch.zeros(2, loaded.dataset.channels, 64, 64)
            image, logits = network(x, torch.ones(2), torch.zeros(2, 1000), want="both")
        assert image.shape == x.shape and logits.shape == (2, 1, 8, 8)
        shapes.append({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    ours, theirs = shapes
    assert ours.keys() == theirs.keys()
    assert {name: shape for name, shape in ours.items() if shape != theirs[name]} == {
        "unet.enc.64x64_conv.weight": (192, 4, 3, 3),  # of three channels and one of ones
        "unet.out_conv.weight": (3, 192, 3, 3),
    }
    c_skip, c_out, c_in, c_noise = (float(c) for c in edm_coefficients(torch.tensor(0.5)))  # sigma = sigma_data
    assert (c_skip, c_out, c_in) == pytest.approx((0.5, 0.5**0.5 / 2, 2**0.5)) and c_noise == pytest.approx(
        -0.1733, abs=1e-4
    )


WIDTH = {"model_channels": 8, "num_blocks": 1}
EDM2 = WIDTH | {"channel_mult": [1, 1, 1, 1], "attn_resolutions": [16, 8], "channels_per_head": 8, "logvar_channels": 8}
SONG = WIDTH | {"channel_mult": [1, 1, 1], "attn_resolutions": [16], "augment_dim": 9}
SONG_CODE = {  # what the published files say of their network besides
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
}


def write_network(path: Path, network: dict[str, Any]) -> None:
    """A pickle of the structure in which EDM's or EDM2's networks were published."""
    torch.manual_seed(0)
    made = build_network(network)
    is_edm2 = network["architecture"] == "edm2"
    if is_edm2:
        torch.nn.init.constant_(made.unet.out_gain, 0.5)  # type: ignore[union-attr, arg-type]  # else it gives nothing back
    sizes = ("resolution", "channels", "label_dim")
    code = {} if is_edm2 else SONG_CODE
    given = {name: value for name, value in network.items() if name not in (*sizes, "architecture")} | code
    args = tuple(network[name] for name in sizes)
    ema = nvidia.module("Precond" if is_edm2 else "EDMPrecond", made.state_dict(), args, use_fp16=True, **given)
    nvidia.write(path, {"ema": ema, "dataset_kwargs": {}})


def small(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network of a stand-in for a recipe's teacher, and what the recipe says of it in other numbers."""
    shipped = recipe.load(name)
    network = shipped.teacher.network
    changed = (EDM2 if network.architecture == "edm2" else SONG) | {"label_dim": 2 if network.label_dim else 0}
    sizes = {"architecture": network.architecture, "resolution": network.resolution, "channels": network.channels}
    without = {"logvar_channels": None} if network.logvar_channels is None else {}  # it is in EDM2's files all the same
    return sizes | changed, changed | without


def stand_in(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that changes the files and sizes of a shipped one, with all that it names beside it."""
    shipped = recipe.load(name)
    is_edm2, latents = shipped.teacher.network.architecture == "edm2", shipped.dataset.latents
    network, changed = small(name)
    write_network(folder / "teacher.pkl", network)
    features = np.random.default_rng(0).normal(0.1, 0.1, (500, FEATURES))
    moments = {"mu": features.mean(0), "sigma": np.cov(features.T)}
    if is_edm2:  # EDM2's file holds a dictionary for each metric
        (folder / "reference").write_bytes(pickle.dumps({"fid": moments, "num_images": 500}))
    else:
        np.savez(folder / "reference.npz", **moments)  # type: ignore[arg-type]
    detector = sha256_of(write_stand_in(folder / "inception.pt"))[0]
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", detector)
    classes = network["label_dim"]
    class_folders(folder / "images", 24, classes=classes or 1, size=(600, 540) if latents else (70, 66))
    dataset: dict[str, Any] = {"source": "folder", "address": "images", "classes": classes, "images": 24}
    if latents is not None:
        dataset["latents"] = {"vae": str(tiny_vae(folder / "vae")), "licence": "none"}
    elif not is_edm2:
        dataset["transform"] = "center-crop"
    fields = {
        "extends": str(ROOT / "recipes" / name),
        "name": f"{name}-tiny",
        "teacher": {"address": "teacher.pkl", "network": changed, "sampler": {"steps": 2}},
        "dataset": dataset,
        "method": {
            **{"images": 64, "batch": 8, "loss_group": 4, "precision": "float32"},
            **{"generator_from": 16, "adversarial_from": 32},
        },
        "evaluation": {
            "detector": {"address": "inception.pt", "sha256": detector, "features": FEATURES},
            "reference": {"address": "reference" if is_edm2 else "reference.npz"},
            **{"extra_metrics": [], "images": 20, "ranges": 2, "selection_images": 20, "selection_every": 32},
        },
        "gate": {"teacher_at_most": 1e9},
        "execution": {"processes": 1, "micro_batch": None, "sampling_batch": 10, "checkpoint_every": 32},
    }
    if shipped.generator is not None:
        fields["generator"] = {"address": "teacher.pkl"}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_stand_in_of_the_published_file_becomes_the_recipe_s_network(name: str, tmp_path: Path) -> None:
    network, changed = small(name)
    write_network(tmp_path / "teacher.pkl", network)
    made = convert(tmp_path / "teacher.pkl", tmp_path / "out", network=network | changed)
    denoiser = load_network(made.weights, network | changed).eval()
    x = torch.randn(2, network["channels"], network["resolution"], network["resolution"])
    labels = torch.eye(2) if network["label_dim"] else None
    with torch.no_grad():
        image, logits = denoiser(x, 0.5, labels, want="both")
    assert image.shape == x.shape and torch.isfinite(image).all() and logits.shape[:2] == (2, 1)
    wrong = network | changed | {"channels": 7 - network["channels"]}
    with pytest.raises(Refused, match="channels of its network"):
        convert(tmp_path / "teacher.pkl", tmp_path / "other", network=wrong)


RUNS = [*PUBLISHED, "cifar10-uncond-ddo-sid2a", "imagenet-64-edm2-s-ddo-sid"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_from_a_stand_in_of_the_published_file_ends_with_a_score(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "512" in name:
        pytest.importorskip("diffusers")
    path = stand_in(name, tmp_path, monkeypatch)
    command = [sys.executable, "-m", "pipeline", "run", str(path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert {step["state"] for step in made["steps"]} == {"ran"}
    assert [score["model"] for score in made["scores"]][:2] == ["teacher", "generator"]
    assert "Published" not in made["verdict"]  # there is nothing to compare a generator with
    address = next(step["manifest"] for step in made["steps"] if step["name"] == "fetch_teacher")
    teacher: TeacherResult = parse_manifest(read_address(address), address).result  # type: ignore[assignment]
    shipped = recipe.load(name)
    assert teacher.licence == shipped.teacher.licence
    assert (teacher.network["channels"], teacher.network["resolution"]) == (
        shipped.dataset.channels,
        shipped.dataset.resolution,
    )
