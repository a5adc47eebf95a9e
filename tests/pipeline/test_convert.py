"""``convert`` and ``inspect`` by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sida import recipe
from sida.export.generator import open_generator
from sida.teachers.files import save_network
from sida.teachers.formats import read_network
from tests.pipeline.command import Command
from tests.teachers.test_convert import GOLDEN, published
from tests.teachers.training_state import equal, training_state, write

PICKLES = GOLDEN / "pickles"


def test_convert_writes_weights_and_facts_and_says_so(command: Command, tmp_path: Path) -> None:
    said = command("convert", str(published(tmp_path, "ddpmpp_cond")), "--output", str(tmp_path / "out"))
    assert said.status == 0 and "ddpmpp_cond.safetensors: ddpmpp, 3 x 16^2" in said.out
    facts = json.loads((tmp_path / "out" / "ddpmpp_cond.json").read_text())
    assert facts["network"]["num_blocks"] == 2


@pytest.mark.parametrize("name", ["hostile_os_system", "hostile_builtins_eval", "hostile_nested_in_storage"])
@pytest.mark.parametrize("verb", ["convert", "inspect"])
def test_a_hostile_file_ends_in_one_line_status_2_and_no_output(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--output", str(tmp_path / "out")) if verb == "convert" else ()
    line = command(verb, str(PICKLES / f"{name}.pkl"), *options).mistake()
    assert "is refused" in line and ("posix.system" in line or "builtins.eval" in line)
    assert not (tmp_path / "PWNED").exists() and not (tmp_path / "out").exists()


def test_inspect_lists_what_is_inside_a_pickle_and_escapes_its_names(command: Command) -> None:
    said = command("inspect", str(PICKLES / "sida_edm2_like.pkl"))
    assert said.status == 0
    assert "class: EDM_2_Precond_Generator" in said.out and "unet.emb_fourier.freqs  float32 [4]" in said.out
    told = json.loads(command("inspect", str(PICKLES / "edm_like.pkl"), "--json").out)
    assert told["network"]["architecture"] == "ddpmpp" and told["tensors"]["model.map_layer0.weight"][0] == "float32"


def test_a_file_that_is_not_there_and_a_recipe_that_is_not_one_are_named(command: Command, tmp_path: Path) -> None:
    assert "nothing.pkl: no such file: check the path" in command("inspect", "nothing.pkl").mistake()
    path = str(PICKLES / "edm_like.pkl")
    assert "no recipe" in command("convert", path, "--output", str(tmp_path), "--recipe", "digist").mistake()


def test_the_commands_list_choose_and_say_what_was_left_out(command: Command, tmp_path: Path) -> None:
    digits = recipe.load("digits")
    fields = digits.teacher.network.model_dump(mode="json")
    state = training_state(fields)
    path = str(write(tmp_path / "training-state-000512.pt", state))
    listed = command("inspect", path)
    assert listed.status == 0 and "training-state-000512.pt: 3 networks" in listed.out
    assert "network G_ema_state: EMA by its name, " in listed.out
    assert "optimizer g_optimizer_state: its state is not read" in listed.out
    one = json.loads(command("inspect", path, "--key", "G_state", "--json").out)
    assert len(one["tensors"]) == len(state["G_state"]) and set(one["networks"]) == set(state) - set(one["optimizers"])
    out = str(tmp_path / "out")
    assert "--key NAME" in command("convert", path, "--output", out, "--recipe", "digits").mistake()
    said = command("convert", path, "--output", out, "--recipe", "digits", "--key", "G_ema_state")
    assert said.status == 0 and "fresh moments of Adam" in said.out, said.err
    made = tmp_path / "out/training-state-000512-G_ema_state.safetensors"
    opened = open_generator(str(made), digits)  # a start, a generator to score, or to sample from
    assert equal(dict(opened.denoiser.state_dict()), state["G_ema_state"])
    save_network(tmp_path / "s.safetensors", state["G_state"], fields)
    assert "leave --key out" in command("inspect", str(tmp_path / "s.safetensors"), "--key", "x").mistake()


def test_each_network_of_an_edm2_training_state_is_converted_with_its_head_or_without(
    command: Command, tmp_path: Path
) -> None:
    network = {
        **{"architecture": "edm2", "resolution": 64, "channels": 4, "label_dim": 1000, "model_channels": 8},
        **{"channel_mult": [1, 1, 1, 1], "num_blocks": 1, "attn_resolutions": [8], "channels_per_head": 8},
        "logvar_channels": 8,
    }
    state = training_state(network)
    headless = {name: tensor for name, tensor in state["G_ema_state"].items() if not name.startswith("logvar_")}
    path = str(write(tmp_path / "training-state-001024.pt", state | {"G_ema_state": headless}))
    text = f"extends: imagenet-512-edm2-xs\nname: mine\nteacher: {{network: {json.dumps(network)}}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    options = ("--recipe", str(tmp_path / "mine.yaml"), "--output", str(tmp_path / "out"), "--key")
    for key, tensors in (("fake_score_state", state["fake_score_state"]), ("G_ema_state", headless)):
        said = command("convert", path, *options, key)
        assert said.status == 0, said.err
        made = tmp_path / f"out/training-state-001024-{key}.safetensors"
        assert equal(load_file(made), tensors)
        assert (read_network(made, "x").network or {})["logvar_channels"] == (8 if key == "fake_score_state" else None)
