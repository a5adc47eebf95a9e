"""Headers may claim what they like: they are compared with the file before a network is built, in seconds and little memory."""

from __future__ import annotations

import io
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sida.errors import UserError
from sida.teachers.convert import convert
from sida.teachers.files import save_network
from sida.teachers.formats import read_network
from tests.fuzz.kinds import NETWORK
from tests.teachers import nvidia

TENSORS = {f"a{number}": torch.zeros(2) for number in range(60)}


def state() -> dict[str, torch.Tensor]:
    from sida.numerics.networks.build import build_network

    return dict(build_network(NETWORK).state_dict())


def refused(path: Path, said: str, network: dict[str, Any] | None = None) -> None:
    started = time.thread_time()
    with pytest.raises(UserError, match=said) as caught:
        convert(path, path.parent / "out", network=network)
    assert time.thread_time() - started < 5
    assert str(path) in str(caught.value) and ".converting" not in str(caught.value)
    assert len(str(caught.value)) <= 300 and not (path.parent / "out").exists()


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"num_blocks": 10**6}, "num_blocks"),
        ({"num_blocks": 10**400}, "num_blocks"),
        ({"channel_mult": [1] * 1000}, "channel_mult"),
        ({"channel_mult": [100_000]}, "channel_mult.0"),
        ({"channel_mult": []}, "channel_mult"),
        ({"model_channels": 60_000}, "model_channels"),
        ({"label_dim": 2**31}, "label_dim"),
        ({"resolution": 2**30}, "resolution"),
        ({"channel_mult": [1] * 5}, "channel_mult has 5 levels, too many for 8 pixels"),
        ({"architecture": "edm2", "augment_dim": 9}, "edm2 has no augmentation labels"),
        (
            {"num_blocks": 32, "resolution": 8192, "channel_mult": [64] * 10},
            "it holds 60 tensors, and the network has 650",
        ),
        ({"architecture": "adm", "model_channels": 7}, "its network cannot be built"),
        ({"model_channels": 16_000, "channel_mult": [64], "label_dim": 1_000_000}, "does not fit"),
    ],
)
def test_a_network_that_is_claimed_is_not_built(claims: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", TENSORS, NETWORK | claims)
    refused(tmp_path / "net.safetensors", said)


def test_a_pickle_s_arguments_are_bounded_too(tmp_path: Path) -> None:
    for argument, value in (("num_blocks", 10**6), ("model_channels", 60_000), ("attention_flavour", "x" * 900)):
        ema = nvidia.module("EDMPrecond", TENSORS, (8, 1, 0), model_type="SongUNet", **{argument: value})
        refused(nvidia.write(tmp_path / "net.pkl", {"ema": ema}), argument)
    shared: Any = [0] * 64
    for _ in range(2):
        shared = [shared] * 64
    ema = nvidia.module("EDMPrecond", TENSORS, (8, 1, 0), **{f"a{number}": shared for number in range(90)})
    refused(nvidia.write(tmp_path / "net.pkl", {"ema": ema}), "more than 100000")


def test_a_torch_file_with_a_member_twice_or_a_strange_version_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save(state(), file)
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/data/0", archive.read(archive.namelist()[3]))
    path.write_bytes(file.getvalue())
    refused(path, "is in it twice", NETWORK)
    with zipfile.ZipFile(io.BytesIO(file.getvalue())) as old, zipfile.ZipFile(path, "w") as new:
        for name in dict.fromkeys(old.namelist()):
            new.writestr(name, b"9" * 40 if name.endswith("/version") else old.read(name))
    refused(path, "torch", NETWORK)


def test_modules_that_share_many_tensors_end_within_the_budget(tmp_path: Path) -> None:
    modules = nvidia.module("EDMPrecond", TENSORS, (8, 1, 0))
    parameters = {f"p{number}": torch.nn.Parameter(torch.zeros(1)) for number in range(400)}
    children = {f"m{number}": nvidia.Persistent("M", _parameters=parameters) for number in range(400)}
    vars(modules)["_modules"] = children
    with pytest.raises(UserError, match="more than 100000"):
        read_network(nvidia.write(tmp_path / "net.pkl", {"ema": modules}), "net.pkl")


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_networks_that_share_their_parts_end_within_the_budget(kind: str, tmp_path: Path) -> None:
    started, path = time.thread_time(), tmp_path / "net"
    if kind == "torch":
        tensors = {f"t{number}": torch.zeros(1) for number in range(500)}
        entry = {f"m{number}": tensors for number in range(1000)}
        torch.save({f"n{number}": entry for number in range(1000)}, path)
    else:
        parameters = {f"p{number}": torch.nn.Parameter(torch.zeros(1)) for number in range(1000)}
        shared = nvidia.Persistent("M", _parameters=parameters)
        nvidia.write(path, {f"n{number}": shared for number in range(20_000)})
    with pytest.raises(UserError, match=r"net .*more than 100000"):
        read_network(path, "net")
    assert time.thread_time() - started < 5
