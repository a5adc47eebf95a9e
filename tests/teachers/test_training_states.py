"""Files of several networks: each is named, one is chosen, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sida.errors import UserError
from sida.foreign import Refused
from sida.foreign.fetch import fetch_file
from sida.scoring.adopt import as_safetensors
from sida.teachers.choosing import Several
from sida.teachers.convert import convert
from sida.teachers.formats import read_network
from tests.foreign.web import serve
from tests.fuzz.kinds import NETWORK
from tests.teachers import nvidia
from tests.teachers.training_state import equal, training_state, write


@pytest.fixture
def network() -> dict[str, Any]:
    return dict(NETWORK)


def test_a_training_state_names_its_networks_and_gives_the_one_asked_for(
    tmp_path: Path, network: dict[str, Any]
) -> None:
    state = training_state(network)
    path = write(tmp_path / "training-state-020480.pt", state)
    with pytest.raises(Several) as several:
        convert(path, tmp_path / "out", network=network)
    assert list(several.value.networks) == ["fake_score_state", "G_state", "G_ema_state"]
    assert "--key NAME" in str(several.value) and "fake_score_state, G_state, G_ema_state" in str(several.value)
    numbers = sum(tensor.numel() for tensor in state["G_state"].values())
    assert several.value.networks["G_state"] == f"{len(state['G_state'])} tensors, {numbers:,} numbers, float32"
    assert several.value.networks["G_ema_state"].startswith("EMA by its name, ")
    assert not (tmp_path / "out").exists()
    for key in several.value.networks:
        made = convert(path, tmp_path / "out", key=key, network=network)
        assert equal(load_file(made.weights), state[key])
        facts = json.loads(made.facts.read_text())
        assert facts["key"] == made.key == key and facts["origin"] == path.name
        assert made.left_out == ("fake_score_optimizer_state", "g_optimizer_state")
    assert sorted(file.name for file in (tmp_path / "out").iterdir())[:2] == [
        "training-state-020480-G_ema_state.json",
        "training-state-020480-G_ema_state.safetensors",
    ]
    with pytest.raises(Refused, match=r"holds no network 'G', it holds fake_score_state, G_state, G_ema_state"):
        convert(path, tmp_path / "out", key="G", network=network)


def test_networks_in_half_precision_stay_so_and_become_float32_where_they_are_used(
    tmp_path: Path, network: dict[str, Any]
) -> None:
    state = training_state(network)
    halves = {name: tensor.half() for name, tensor in state["G_ema_state"].items()}
    path = write(tmp_path / "s.pt", state | {"G_ema_state": halves})
    made = convert(path, tmp_path / "out", key="G_ema_state", network=network)
    assert equal(load_file(made.weights), halves)


def test_the_only_network_is_taken_whatever_its_name_and_the_ema_of_several(
    tmp_path: Path, network: dict[str, Any]
) -> None:
    state = training_state(network)
    only = read_network(write(tmp_path / "a.pt", {"G": state["G_state"], "seen": 3}), "a.pt")
    assert equal(dict(only.tensors), state["G_state"]) and only.about == {"key": "G"}
    both = {"model": state["G_state"], "ema": state["G_ema_state"]}
    taken = read_network(write(tmp_path / "b.pt", both), "b.pt")
    assert equal(dict(taken.tensors), state["G_ema_state"]) and set(taken.networks) == {"model", "ema"}
    nested = write(tmp_path / "c.pt", {"state": both})
    assert equal(dict(read_network(nested, "c.pt", "state.model").tensors), state["G_state"])
    with pytest.raises(Several, match=r"state\.model, state\.ema"):
        read_network(nested, "c.pt")


def test_a_snapshot_of_several_networks_gives_the_ema_or_the_one_asked_for(
    tmp_path: Path, network: dict[str, Any]
) -> None:
    state = training_state(network)
    arguments = {"model_type": "SongUNet", "model_channels": 16, "num_blocks": 1, "channel_mult": [1]}
    modules = {
        name: nvidia.module("EDMPrecond", state[held], (8, 1, 0), **arguments)
        for name, held in (("ema", "G_ema_state"), ("G", "G_state"))
    }
    path = nvidia.write(tmp_path / "network-snapshot.pkl", {**modules, "dataset_kwargs": {}, "loss_fn": None})
    assert set(read_network(path, "x").networks) == {"ema", "G"}
    for key, held in ((None, "G_ema_state"), ("G", "G_state"), ("ema", "G_ema_state")):
        found = read_network(path, "x", key)
        assert found.tensors.keys() == state[held].keys()
        name = "model.map_layer0.weight"
        assert torch.equal(torch.from_numpy(found.tensors[name].array().copy()), state[held][name])
        assert found.about.get("key") == (key if key == "G" else None)
    broken = nvidia.Persistent("Odd", _parameters={"x": 1})
    found = read_network(nvidia.write(path, {**modules, "odd": broken}), "x")
    assert found.tensors.keys() == state["G_ema_state"].keys() and "x: x is no tensor" in found.networks["odd"]
    with pytest.raises(Several, match="G, psi"):
        read_network(nvidia.write(path, {"G": modules["ema"], "psi": modules["G"]}), "x")


@pytest.mark.parametrize("top", [True, False])
def test_a_file_of_torch_before_1_6_is_read_bit_for_bit(top: bool, tmp_path: Path, network: dict[str, Any]) -> None:
    state = training_state(network)
    shared = {"a": torch.arange(12.0).reshape(3, 4).T, "b": torch.zeros(9)[2:5].bfloat16(), "c": torch.zeros(0)}
    for tensors in (state["G_state"], {**shared, "d": shared["a"][1:]}):
        path = write(tmp_path / "old.pt", tensors if top else {"G": tensors, "note": [1, "x"]}, old=True)
        found = read_network(path, "old.pt")
        from sida.teachers.formats import tensors_of

        assert found.format == "old torch" and equal(tensors_of(found, path), dict(tensors))
    path = write(tmp_path / "state.pt", state, old=True)
    made = convert(path, tmp_path / "out", key="G_ema_state", network=network)
    assert equal(load_file(made.weights), state["G_ema_state"])


def test_a_damaged_file_of_torch_before_1_6_is_refused_in_one_line(tmp_path: Path, network: dict[str, Any]) -> None:
    path = write(tmp_path / "old.pt", training_state(network)["G_state"], old=True)
    whole = path.read_bytes()
    for content, said in (
        (whole[:-10], "cut off"),
        (whole + b"x", "1 bytes follow its last storage"),
        (whole.replace(b"FloatStorage", b"FlpatStorage"), "FlpatStorage"),
        (whole[:200], "cut off"),
    ):
        path.write_bytes(content)
        with pytest.raises(Refused, match=said) as caught:
            read_network(path, "old.pt")
        assert str(caught.value).startswith("old.pt is refused") and "\n" not in str(caught.value)


def test_a_whole_module_of_torch_before_1_6_is_refused_and_not_executed(tmp_path: Path) -> None:
    path = write(tmp_path / "old.pt", {"net": torch.nn.Linear(2, 2)}, old=True)
    with pytest.raises(Refused, match=r"torch\.nn\.modules\.linear\.Linear is not one that .* nothing in it was"):
        read_network(path, "old.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_what_a_wrapper_puts_before_every_name_is_taken_off_and_said(
    prefix: str, kind: str, tmp_path: Path, network: dict[str, Any]
) -> None:
    state = training_state(network)["G_state"]
    wrapped = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    path = tmp_path / f"net.{kind}"
    save_file(wrapped, path) if kind == "safetensors" else torch.save({"state_dict": wrapped}, path)
    made = convert(path, tmp_path / "out", network=network)
    assert equal(load_file(made.weights), state) and made.removed_prefix == prefix
    facts = json.loads(made.facts.read_text())
    assert facts["removed_prefix"] == prefix and set(facts["tensors"]) == set(state)
    assert equal(load_file(as_safetensors(path, network, tmp_path / "again")), state)  # as `score` and `sample` read it


def test_names_that_only_partly_have_a_prefix_are_refused_by_name(tmp_path: Path, network: dict[str, Any]) -> None:
    state = training_state(network)["G_state"]
    first, *others = state
    save_file({first: state[first], **{f"module.{name}": state[name] for name in others}}, tmp_path / "n.safetensors")
    with pytest.raises(UserError, match=r"n\.safetensors: does not fit ddpmpp: missing model\."):
        convert(tmp_path / "n.safetensors", tmp_path / "out", network=network)


def test_a_step_that_is_given_a_file_of_several_networks_ends_with_the_list(
    place: Path, tmp_path: Path, network: dict[str, Any]
) -> None:
    content = write(tmp_path / "state.pt", training_state(network)).read_bytes()
    with serve(content) as web, pytest.raises(UserError) as caught:
        fetch_file(web.address, "generator", check=lambda file: read_network(file, f"generator {file}"))
    line = str(caught.value)
    assert line.startswith(f"generator {web.address}: holds 3 networks") and caught.value.exit_code == 2
    assert "--key NAME`: fake_score_state, G_state, G_ema_state" in line and "the download is thrown away" in line


def test_a_training_state_of_edm_is_not_executed_and_its_snapshot_named(
    tmp_path: Path, network: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = training_state(network)
    net = nvidia.module("EDMPrecond", state["G_state"], (8, 1, 3), model_type="SongUNet")
    with nvidia.persistence():
        path = write(tmp_path / "training-state-000512.pt", {"net": net, "optimizer_state": state["g_optimizer_state"]})
    with pytest.raises(Refused, match=r"nothing in it was executed\. Take the network-snapshot-\*\.pkl saved with it"):
        read_network(path, path.name)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
