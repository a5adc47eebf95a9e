"""EDM2's uncertainty head: NVIDIA's files always hold one, the authors' generators never, and recipes say what their run used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sida import recipe
from sida.foreign import Refused
from sida.scoring.adopt import as_safetensors, generator_network
from sida.teachers.convert import agreed_network, convert
from sida.teachers.files import NetworkFile, load_network
from tests.teachers import nvidia
from tests.teachers.test_convert import _edm2, check_outputs, golden

EDM2 = [name for name in recipe.names() if "edm2" in name]


def with_head(folder: Path) -> Path:
    """As NVIDIA publishes teachers."""
    return nvidia.write(folder / "teacher.pkl", {"ema": nvidia.module("Precond", state(), (8, 4, 10), **_edm2())})


def without_head(folder: Path) -> Path:
    """As SiDA's authors publish generators."""
    arguments = {name: value for name, value in _edm2().items() if name != "logvar_channels"}
    arguments |= {"force_normalization": True, "use_gan": False, "use_fp16": True}
    tensors = {name: tensor for name, tensor in state().items() if not name.startswith("logvar")}
    ema = nvidia.module("EDM_2_Precond_Generator", tensors, (8, 4, 10), **arguments)
    return nvidia.write(folder / "generator.pkl", {"ema": ema})


def state() -> dict[str, torch.Tensor]:
    return golden("edm2_cond")[1]


@pytest.mark.parametrize("name", EDM2)
def test_every_edm2_recipe_takes_nvidia_s_teacher_and_the_authors_generator(name: str) -> None:
    loaded = recipe.load(name)
    wanted = loaded.teacher.network.model_dump(mode="json")
    nvidias = NetworkFile("pickle", {}, wanted | {"logvar_channels": 128})
    assert agreed_network(nvidias, wanted, "teacher") == wanted
    authors = NetworkFile("pickle", {}, {key: value for key, value in wanted.items() if key != "logvar_channels"})
    for found in (authors, nvidias):  # a start that this project distilled may hold one
        assert agreed_network(found, generator_network(loaded), "generator")["logvar_channels"] is None


def test_a_head_is_left_out_where_the_recipe_has_none_and_the_rest_computes_the_same(tmp_path: Path) -> None:
    whole = convert(with_head(tmp_path), tmp_path / "whole")
    assert whole.network["logvar_channels"] == 16
    wanted = whole.network | {"logvar_channels": None}
    for source in (with_head(tmp_path), without_head(tmp_path), whole.weights):
        made = convert(source, tmp_path / "headless", network=wanted)
        assert made.network == wanted
        assert not [key for key in load_file(made.weights) if key.startswith("logvar")]
        tensors = golden("edm2_cond")[0]
        network: Any = load_network(made.weights, wanted).eval()
        with torch.no_grad():
            image = network(tensors["x"], tensors["sigma"], tensors["labels"])
        torch.testing.assert_close(image, tensors["D"], rtol=1e-5, atol=1e-5)
    assert as_safetensors(whole.weights, whole.network, tmp_path / "as") == whole.weights
    kept = as_safetensors(whole.weights, wanted, tmp_path / "as")
    assert load_network(kept, wanted).logvar(torch.ones(1)) is None
    check_outputs(whole, "edm2_cond")


def test_a_teacher_without_the_head_that_its_run_needs_is_refused(tmp_path: Path) -> None:
    wanted = convert(with_head(tmp_path), tmp_path / "whole").network
    with pytest.raises(Refused, match="logvar_channels of its network is None, the recipe's is 16"):
        convert(without_head(tmp_path), tmp_path / "out", network=wanted)
