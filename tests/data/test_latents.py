"""Latents by a tiny random VAE, through the job's processes, and back to pixels. EDM2's arithmetic is in tests/golden."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sida.data.convert import convert, finished
from sida.data.decode import Decoder
from sida.data.latents import decode_images, encoder_of, load_vae
from sida.data.prepare import conversion_of
from sida.data.reader import ShuffledData
from sida.data.shards import Shards
from sida.errors import UserError
from sida.numerics.latents import RAW_MEANS, RAW_STDS, latent_scale_bias
from sida.recipe import Latents
from sida.settings import settings
from sida.stores import fetch_object, open_store, put_object
from tests.conftest import ROOT
from tests.data.making import GOLDEN, class_folders, result, section, tiny_vae

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vae(tmp_path_factory.mktemp("vae"))


def fields(vae: Path, image_resolution: int, **more: Any) -> dict[str, Any]:
    latents = {"vae": str(vae), "licence": "-", "image_resolution": image_resolution}
    transform = "center-crop-dhariwal"
    return {"latents": latents, "resolution": image_resolution // 8, "channels": 4, "transform": transform, **more}


def test_images_become_means_and_deviations(vae: Path, tmp_path: Path) -> None:
    top = class_folders(tmp_path / "images", 5, size=(80, 70))
    dataset = section(top, classes=2, **fields(vae, 64))
    conversion = conversion_of(dataset, tmp_path, "data/x", 2 * 2100)
    store = open_store(f"file://{tmp_path / 'store'}")
    assert dataset.latents is not None
    encode = encoder_of(load_vae(dataset.latents))
    put = lambda path, name: put_object(store, path, name)  # noqa: E731
    assert convert(conversion, store, put, tmp_path, numbers=[1], encode=encode) == 0  # another process's share
    assert convert(conversion, store, put, tmp_path, encode=encode) == 1
    assert convert(conversion, store, put, tmp_path) == 3  # resumed: nothing is left for an encoder
    images = [Decoder("center-crop-dhariwal", 64, 3)(path.read_bytes())[0] for path in sorted(top.rglob("*.png"))]
    made = [finished(store, conversion, number) for number in range(3)]
    records = [np.memmap(fetch_object(store, one.shard.object), conversion.layout, "r") for one in made if one]
    assert np.array_equal(np.concatenate(records)["data"], np.stack([encode(image) for image in images]))
    assert np.concatenate(records)["label"].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.slow
def test_several_processes_encode_what_one_does(
    place_on: Path, tmp_path: Path, vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_WORKERS", "2")
    monkeypatch.setattr("sida.data.prepare.SHARD_BYTES", 2 * 2100)
    top = class_folders(tmp_path / "images", 5, size=(80, 70))
    found = result(top, classes=2, **fields(vae, 64))
    assert (found.record, found.count, len(found.shards)) == ("latents", 5, 3)
    assert found.latents is not None and found.latents.vae_sha256
    data, labels = Shards(open_store(settings().store), found).read(torch.arange(5))
    encode = encoder_of(load_vae(Latents(vae=str(vae), licence="-", image_resolution=64)))
    images = [Decoder("center-crop-dhariwal", 64, 3)(path.read_bytes())[0] for path in sorted(top.rglob("*.png"))]
    assert torch.equal(data, torch.from_numpy(np.stack([encode(image) for image in images])))
    assert (data[:, 4:] > 0).all()
    assert labels.tolist() == [0, 0, 0, 1, 1]


CHILD = """
import sys
from pathlib import Path
import sida.data.prepare
sida.data.prepare.SHARD_BYTES = 2100
from tests.data.making import prepare
from tests.data.test_latents import fields
prepare(Path(sys.argv[1]), classes=2, **fields(Path(sys.argv[2]), 64))
"""


def workers() -> list[int]:
    """Processes that encode for this test's store."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue  # it has ended
        ours = settings().store.encode() in environment and b"sida.worker" in line
        if ours and b"torch.distributed.run" not in line and b"multiprocessing" not in line:
            found.append(int(entry.name))
    return found


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "step"])
def test_encoding_that_is_killed_goes_on_from_the_last_shard_of_each_process(
    place: Path, tmp_path: Path, vae: Path, victim: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("SIDA_WORKERS", "2")
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    count = 150
    top = class_folders(tmp_path / "images", count, size=(80, 70))
    store = open_store(settings().store)
    environment = dict(os.environ, SIDA_LEASE_SECONDS="5")
    command = [sys.executable, "-c", CHILD, str(top), str(vae)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment) as step:
        wait(lambda: len(store.list("data/")) >= 5)
        os.kill(step.pid if victim == "step" else workers()[0], signal.SIGKILL)
        assert step.wait(timeout=120) != 0
    wait(lambda: not workers())
    there = len(store.list("data/"))
    assert 5 <= there < count  # it was amid its work
    assert not [key for key in store.list("steps/prepare_data/") if key.endswith("1.json")]

    monkeypatch.setenv("SIDA_LEASE_WAIT", "30")
    monkeypatch.setattr("sida.data.prepare.SHARD_BYTES", 2100)
    found = result(top, classes=2, **fields(vae, 64))
    assert f"{there} of {count} shards were there already" in capsys.readouterr().err
    assert not list(place.glob("sida-scratch-*"))  # nor the killed processes' temporary files
    data, _ = Shards(store, found).read(torch.arange(count))
    encode = encoder_of(load_vae(Latents(vae=str(vae), licence="-", image_resolution=64)))
    decode = Decoder("center-crop-dhariwal", 64, 3)
    images = [decode(path.read_bytes())[0] for path in sorted(top.rglob("*.png"))]
    assert torch.equal(data, torch.from_numpy(np.stack([encode(image) for image in images])))


def test_a_latent_is_drawn_anew_for_every_position_and_never_else(place: Path) -> None:
    top = GOLDEN / "latents" / "latents.zip"
    latents = {"vae": "-", "licence": "-", "image_resolution": 64}
    found = result(top, "edm-zip", resolution=8, channels=4, latents=latents, transform="none")
    data = ShuffledData(Shards(open_store(settings().store), found), 1, torch.device("cpu"))
    first, _ = data.batch(torch.arange(10))  # two epochs
    again, _ = data.batch(torch.tensor([7, 2]))
    assert torch.equal(again, first[[7, 2]])
    order = data.order(torch.arange(10))
    same = [int((order[5:] == image).nonzero()) + 5 for image in order[:5]]
    means = data.shards.batch(order)[0]
    assert not any(torch.equal(first[at], first[later]) for at, later in enumerate(same))
    scale, _ = latent_scale_bias(first)
    stored, _ = data.shards.read(order)
    eps = (first - means) / (stored[:, 4:] * scale)
    assert abs(float(eps.mean())) < 0.1
    assert abs(float(eps.std()) - 1) < 0.1


def test_decoding_inverts_the_normalisation_and_truncates(vae: Path) -> None:
    model = load_vae(Latents(vae=str(vae), licence="-", image_resolution=64))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = decode_images(model, latents, RAW_MEANS, RAW_STDS)
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 64, 64)
    assert torch.equal(images[1:], decode_images(model, latents[1:], RAW_MEANS, RAW_STDS))


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("stabilityai/sd-vae-ft-mse", None, "is not set: .* 40 hex digits .*sida pin RECIPE"),
        ("stabilityai/sd-vae-ft-mse", "main", "'main' is no commit"),
        ("/absent/vae", None, "no .safetensors in it"),
    ],
)
def test_a_vae_must_be_pinned_and_there(
    place: Path, tmp_path: Path, name: str, revision: str | None, said: str
) -> None:
    wrong = fields(Path("/x"), 64) | {
        "latents": {"vae": name, "revision": revision, "licence": "-", "image_resolution": 64}
    }
    with pytest.raises(UserError, match=said):
        result(class_folders(tmp_path / "images", 2), **wrong)


@pytest.mark.slow
def test_a_run_at_512_makes_64x64_latents(place: Path, tmp_path: Path, vae: Path) -> None:
    top = class_folders(tmp_path / "images", 4, size=(700, 530))
    found = result(top, classes=2, **fields(vae, 512))
    data, _ = Shards(open_store(settings().store), found).read(torch.arange(4))
    assert data.shape == (4, 8, 64, 64)
    assert found.picture is not None
