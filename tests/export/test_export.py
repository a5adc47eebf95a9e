"""A finished generator used elsewhere: `sample`, `export`, and the exported script without this project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sida.export.generator import open_generator
from sida.export.program import Sampler, export_generator
from sida.export.sample import labels_for, sample
from sida.numerics.networks.build import build_network
from sida.numerics.quantize import to_uint8
from sida.scoring.measure import generator_images
from sida.scoring.protocol import one_hot
from sida.teachers.files import save_network
from tests.conftest import ROOT
from tests.pipeline.command import Command
from tests.pipeline.test_verbs import pipeline

NETWORKS: dict[str, dict[str, Any]] = {
    "ddpmpp": {
        "channels": 1,
        "label_dim": 10,
        "augment_dim": 9,
        "resolution": 8,
        "channel_mult": [1, 2],
        "attn_resolutions": [4],
    },
    "ncsnpp": {
        "channels": 3,
        "label_dim": 0,
        "augment_dim": 9,
        "resolution": 16,
        "channel_mult": [1, 2],
        "attn_resolutions": [8],
    },
    "adm": {
        "channels": 3,
        "label_dim": 4,
        "augment_dim": 0,
        "resolution": 16,
        "channel_mult": [1, 2],
        "attn_resolutions": [8],
    },
    "edm2": {
        "channels": 3,
        "label_dim": 4,
        "augment_dim": 0,
        "resolution": 16,
        "channel_mult": [1, 2],
        "attn_resolutions": [8],
    },
}


def made(folder: Path, architecture: str) -> Path:
    """A small network with seeded weights, none of them zero, as a file of ours."""
    network = {"architecture": architecture, "model_channels": 32, "num_blocks": 1, **NETWORKS[architecture]}
    torch.manual_seed(0)
    denoiser = build_network(network)
    tensors = {
        name: t + 0.02 * torch.randn_like(t) if t.is_floating_point() else t
        for name, t in denoiser.state_dict().items()
    }
    path = folder / f"{architecture}.safetensors"
    save_network(path, tensors, network, sigma_init=2.5, licence="CC BY 4.0")
    return path


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(place, monkeypatch, capsys)


def pixels_of(path: str | Path) -> np.ndarray:
    """uint8 [H, W, C] of a PNG."""
    with Image.open(path) as file:
        return np.asarray(file)


def alone(script: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The exported script in a Python that cannot import this project: -I leaves out folder, PYTHONPATH and user packages."""
    code = (
        "import sys, runpy; sys.modules['sida'] = None; sys.modules['safetensors'] = None\n"
        f"sys.argv[1:] = {list(arguments)!r}\nrunpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_exported_script_makes_the_same_images_without_this_project(tmp_path: Path) -> None:
    generator = open_generator(str(made(tmp_path, "ddpmpp")))
    export_generator(generator, tmp_path / "out")
    said = alone(
        tmp_path / "out/sample.py",
        "--seeds",
        "5-40",
        "--grid",
        "g.png",
        "--tensor",
        "t.pt",
        "--batch",
        "16",
        cwd=tmp_path,
    )
    assert said.returncode == 0, said.stderr
    seeds = torch.arange(5, 41)
    labels = labels_for(generator, 36, None)
    make = generator_images(generator.denoiser, generator.sigma_init)
    with torch.no_grad():
        ours = torch.cat([make(s, one_hot(c, 10)) for s, c in zip(seeds.split(16), labels.split(16), strict=True)])
    theirs = torch.load(tmp_path / "t.pt", weights_only=True)
    assert (theirs - ours).abs().max() <= 1e-6  # bit for bit on most machines: the same kernels on the same batch
    grid = pixels_of(tmp_path / "g.png")
    assert grid.shape == (48, 48, 3)
    assert (grid[:8, 8:16, 0] == to_uint8(theirs)[1, 0].numpy()).all()


def test_a_generator_of_two_steps_is_exported_with_both(tmp_path: Path) -> None:
    path = made(tmp_path, "ddpmpp")
    one = open_generator(str(path))
    save_network(path, one.denoiser.state_dict(), one.network, sigma_init=2.5, steps=2, licence="CC BY 4.0")
    two = open_generator(str(path))
    export_generator(two, tmp_path / "out")
    seeds, labels = torch.arange(9, 13), torch.arange(4)
    with torch.no_grad():
        found = torch.export.load(tmp_path / "out/generator.pt2").module()(seeds, labels)
        expected = generator_images(two.denoiser, 2.5, 2)(seeds, one_hot(labels, 10))
        assert (found - generator_images(one.denoiser, 2.5)(seeds, one_hot(labels, 10))).abs().max() > 0.1
    assert (found - expected).abs().max() <= 1e-6
    assert open_generator(str(tmp_path / "out/generator.safetensors")).steps == 2
    assert "2 network evaluations per image" in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow  # torch.export takes seconds a network
@pytest.mark.parametrize("architecture", ["ncsnpp", "adm", "edm2"])
def test_every_architecture_can_be_recorded_and_any_number_of_images_asked_for(
    tmp_path: Path, architecture: str
) -> None:
    generator = open_generator(str(made(tmp_path, architecture)))
    export_generator(generator, tmp_path / "out")
    program = torch.export.load(tmp_path / "out/generator.pt2").module()
    for seeds in (torch.arange(7), torch.tensor([2**40])):
        labels = torch.arange(len(seeds)) % max(1, generator.classes)
        with torch.no_grad():
            expected = Sampler(generator)(seeds, labels)
            assert (program(seeds, labels) - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))
    again = open_generator(str(tmp_path / "out/generator.safetensors"))
    assert (again.network, again.sigma_init, again.licence) == (generator.network, 2.5, "CC BY 4.0")


def test_sample_draws_what_scores_see_as_files_and_as_a_grid(command: Command, tmp_path: Path) -> None:
    path = made(tmp_path, "adm")
    said = command(
        "sample",
        str(path),
        "--seeds",
        "3,7-8",
        "--labels",
        "2,0",
        "--grid",
        str(tmp_path / "g.png"),
        "--output",
        str(tmp_path / "images"),
        "--json",
    )
    assert said.status == 0, said.err
    told = json.loads(said.out)
    assert (told["images"], told["licence"]) == (3, "CC BY 4.0")
    generator = open_generator(str(path))
    (expected,) = sample(generator, [3, 7, 8], torch.tensor([2, 0, 2]))
    names = ["00000003.png", "00000007.png", "00000008.png"]
    assert sorted(file.name for file in Path(told["folder"]).iterdir()) == names
    for name, image in zip(names, expected, strict=True):
        pixels = pixels_of(Path(told["folder"]) / name)
        assert (pixels == image.permute(1, 2, 0).numpy()).all()
    assert pixels_of(told["grid"]).shape == (66, 66, 3)  # two columns of 32, and the gap


def test_sample_draws_the_images_and_classes_of_the_authors_image_writer_too(command: Command, tmp_path: Path) -> None:
    path, folder = made(tmp_path, "adm"), tmp_path / "images"
    assert command("sample", str(path), "--seeds", "5,70", "--draws", "authors", "--output", str(folder)).status == 0
    denoiser = open_generator(str(path)).denoiser
    for seed in (5, 70):
        torch_generator = torch.Generator().manual_seed(seed)  # one for each seed; latents first, then the class
        z = torch.randn(1, 3, 16, 16, generator=torch_generator)
        label = torch.randint(4, (1,), generator=torch_generator)
        with torch.no_grad():
            image = to_uint8(denoiser(2.5 * z, 2.5, one_hot(label, 4)))[0]
        difference = pixels_of(folder / f"{seed:08d}.png").astype(int) - image.permute(1, 2, 0).numpy()
        assert abs(difference).max() <= 1  # the batch's size may change a rounding


def test_a_generator_is_found_by_recipe_and_by_manifest(command: Command, tmp_path: Path) -> None:
    teacher = ROOT / "recipes/assets/digits-teacher.safetensors"
    assert "--recipe" in command("sample", str(teacher), "--grid", str(tmp_path / "g.png")).mistake()
    assert command("sample", str(teacher), "--recipe", "digits", "--grid", str(tmp_path / "g.png")).status == 0

    from sida.recipe import load
    from sida.scoring.adopt import fetch_released

    published = fetch_released(recipe=load("digits"), address=teacher.as_uri())
    by_manifest = open_generator(published.address)
    by_recipe = open_generator(teacher.as_uri(), load("digits"))
    labels = torch.arange(4)
    (mine,), (recipes,) = (sample(one, range(4), labels) for one in (by_manifest, by_recipe))
    assert torch.equal(mine, recipes)


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "FILE"), ["--grid", "--output"]),
        (("sample", "nowhere.safetensors", "--grid", "g.png"), ["nowhere.safetensors", "no such file"]),
        (("sample", "file:///nowhere/1.json", "--grid", "g.png"), ["nowhere/1.json"]),
        (("sample", "FILE", "--grid", "nowhere/g.png"), ["nowhere", "make it first"]),
        (("sample", "FILE", "--grid", "g.png", "--seeds", "9-3"), ["--seeds", "9-3"]),
        (("sample", "FILE", "--grid", "g.png", "--seeds", "0-99999999999"), ["--seeds"]),
        (("sample", "FILE", "--grid", "g.png", "--labels", "10"), ["--labels 10", "0 to 9"]),
        (("sample", "FILE", "--grid", "g.png", "--batch", "0"), ["--batch", "'0'"]),
        (("sample", "garbage.safetensors", "--grid", "g.png"), ["garbage.safetensors"]),
        (("sample", "dataset.json", "--grid", "g.png"), ["dataset.json", "manifest"]),
        (("export", "FILE", "--output", "there"), ["there", "exists already"]),
        (("export", "FILE", "--output", "nowhere/there"), ["nowhere", "make it first"]),
        (("export", "garbage.safetensors", "--output", "new"), ["garbage.safetensors"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    where: Path, command: Command, arguments: tuple[str, ...], words: list[str]
) -> None:
    path = made(where, "ddpmpp")
    (where / "there").mkdir()
    (where / "garbage.safetensors").write_bytes(b"garbage")
    (where / "dataset.json").write_text("{}")
    before = set(where.rglob("*"))
    line = command(*(str(path) if word == "FILE" else word for word in arguments)).mistake()
    assert all(word in line for word in words), line
    assert set(where.rglob("*")) == before


LATENTS = {
    **{"architecture": "edm2", "resolution": 64, "channels": 4, "label_dim": 2, "model_channels": 8, "num_blocks": 1},
    **{"channel_mult": [1, 1, 1, 1], "attn_resolutions": [8], "channels_per_head": 8},
}
LATENT_RECIPE = """
extends: imagenet-512-edm2-xs
name: tiny-512
teacher: {{address: none.safetensors, network: {network}}}
dataset: {{latents: {{vae: {vae}, licence: none, raw_mean: [1, 2, 3, 4]}}, classes: 2}}
"""


@pytest.fixture
def latents(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An EDM2 generator, the recipe that it belongs to, and the folder of the VAE."""
    pytest.importorskip("diffusers")
    from tests.data.making import tiny_vae

    vae, path = tiny_vae(tmp_path / "vae"), tmp_path / "edm2.safetensors"
    torch.manual_seed(0)
    save_network(path, build_network(LATENTS).state_dict(), LATENTS, sigma_init=2.5, licence="none")
    text = LATENT_RECIPE.format(network=json.dumps(LATENTS), vae=vae)
    (tmp_path / "tiny-512.yaml").write_text(text)
    return path, tmp_path / "tiny-512.yaml", vae


def test_a_generator_of_latents_is_drawn_by_its_recipe_s_vae(
    command: Command, latents: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    path, recipe, vae = latents
    assert "add --recipe, whose dataset.latents" in command("sample", str(path), "--grid", "g.png").mistake()
    npz = tmp_path / "images.npz"
    options = ("--seeds", "3,9", "--labels", "1", "--output", str(tmp_path / "images"), "--npz", str(npz))
    said = command("sample", str(path), "--recipe", str(recipe), *options)
    assert said.status == 0, said.err
    assert "2 images of 3 x 512 x 512" in said.out
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(str(vae), use_safetensors=True)
    network = open_generator(str(path)).denoiser
    make = generator_images(network, 2.5)
    with torch.no_grad():
        z = make(torch.tensor([3, 9]), one_hot(torch.tensor([1, 1]), 2))
        raw = (z / 0.5) * torch.tensor([4.17, 4.62, 3.71, 3.28])[:, None, None] + torch.arange(1.0, 5.0)[:, None, None]
        pictures = [(model.decode(one[None]).sample[0].clip(0, 1) * 255).to(torch.uint8) for one in raw]
    assert float(torch.stack(pictures).float().std()) > 1  # pictures, not one colour
    for seed, picture in zip((3, 9), pictures, strict=True):
        found = pixels_of(tmp_path / "images" / f"{seed:08d}.png")
        assert found.shape == (picture.shape[1], picture.shape[2], 3)
        assert abs(found.astype(int) - picture.permute(1, 2, 0).numpy()).max() <= 1  # rounding before truncation
    with np.load(npz) as packed:
        images = [pixels_of(tmp_path / "images" / f"{seed:08d}.png") for seed in (3, 9)]
        assert (packed["arr_0"] == np.stack(images)).all() and packed["arr_1"].tolist() == [1, 1]


def test_a_recipe_of_other_latents_is_refused(
    command: Command, latents: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, recipe, _ = latents
    other = tmp_path / "other.safetensors"
    fields = LATENTS | {"resolution": 32, "attn_resolutions": [4]}
    save_network(other, build_network(fields).state_dict(), fields, sigma_init=2.5, licence="none")
    generator = open_generator(str(other))
    from sida.errors import UserError
    from sida.export.sample import decoder_for
    from sida.recipe import load

    with pytest.raises(UserError, match="4 x 32 x 32, recipe tiny-512 decodes latents of 4 x 64 x 64"):
        decoder_for(generator, load(str(recipe)), torch.device("cpu"))


def test_help_of_both_verbs_has_examples() -> None:
    assert "examples:" in pipeline("sample", "--help").stdout
    assert "examples:" in pipeline("export", "--help").stdout
