"""Published files become safetensors that compute what the authors' networks computed."""

from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sida.errors import UserError
from sida.foreign import Refused
from sida.teachers.convert import Converted, convert
from sida.teachers.files import NetworkFile, load_network, save_network
from sida.teachers.formats import read_network
from tests.teachers import nvidia

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
NETWORKS: dict[str, Any] = json.loads((GOLDEN / "data" / "networks.json").read_text())
TAGS = [tag for tag in NETWORKS if (GOLDEN / "data" / f"net_{tag}.safetensors").is_file()]


def golden(tag: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All tensors of a golden network's file, and its state by published name."""
    tensors = load_file(GOLDEN / "data" / f"net_{tag}.safetensors")
    return tensors, {
        name.removeprefix("state/"): tensor for name, tensor in tensors.items() if name.startswith("state/")
    }


def published(path: Path, tag: str, protocol: int = 4, **changes: Any) -> Path:
    """A golden network as NVIDIA would have published it."""
    arguments = {k: v for k, v in NETWORKS[tag].items() if k not in ("precond", "params", "grad_norm_order")} | changes
    args = (arguments.pop("img_resolution"), arguments.pop("img_channels"), arguments.pop("label_dim"))
    class_name = "Precond" if tag.startswith("edm2") else "EDMPrecond"
    ema = nvidia.module(class_name, golden(tag)[1], args, **arguments)
    return nvidia.write(path / f"{tag}.pkl", {"ema": ema, "dataset_kwargs": {}}, protocol)


def check_outputs(made: Converted, tag: str) -> None:
    tensors, _ = golden(tag)
    network = load_network(made.weights, made.network).eval()
    with torch.no_grad():
        image, logits = network(
            tensors["x"], tensors["sigma"], tensors.get("labels"), tensors.get("augment_labels"), want="both"
        )
    torch.testing.assert_close(image, tensors["D"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, tensors["logits"], rtol=1e-5, atol=1e-5)
    if "logvar" in tensors:
        logvar = network.logvar(tensors["sigma"])
        assert logvar is not None
        torch.testing.assert_close(logvar.detach(), tensors["logvar"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tag", TAGS)
def test_a_published_pickle_converted_without_executing_it_reproduces_the_golden_outputs(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = convert(published(tmp_path, tag), tmp_path / "out", licence="CC BY-NC-SA 4.0")
    check_outputs(made, tag)
    facts = json.loads(made.facts.read_text())
    assert facts["licence"] == "CC BY-NC-SA 4.0" and facts["format"] == "pickle"
    assert facts["source_sha256"] == made.source_sha256 and facts["class"].endswith("Precond")
    assert not (tmp_path / "PWNED").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{tag}.json", f"{tag}.safetensors"]


def test_a_conversion_done_twice_gives_the_same_bytes_whatever_the_protocol(tmp_path: Path) -> None:
    made = []
    for protocol in (2, 5):
        path = published(tmp_path, "edm2_cond", protocol)
        made.append(load_file(convert(path, tmp_path / str(protocol)).weights))
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    path = published(tmp_path, "edm2_cond")
    assert convert(path, tmp_path / "a").weights.read_bytes() == convert(path, tmp_path / "b").weights.read_bytes()


@pytest.mark.parametrize("name", ["edm_like", "edm2_like", "sida_edm2_like"])
def test_a_pickle_whose_tensors_do_not_fit_its_own_arguments_is_refused_and_nothing_is_written(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"does not fit|is \["):
        convert(GOLDEN / "pickles" / f"{name}.pkl", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError):
        convert(GOLDEN / "pickles" / f"{name}.pkl", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []  # a folder that was there stays


def test_half_precision_stays_half_and_the_header_names_the_architecture(tmp_path: Path) -> None:
    ema = nvidia.module("Precond", {n: t.half() for n, t in golden("edm2_cond")[1].items()}, (8, 4, 10), **_edm2())
    made = convert(nvidia.write(tmp_path / "half.pkl", {"ema": ema}), tmp_path)
    assert {str(tensor.dtype) for tensor in load_file(made.weights).values()} == {"torch.float16"}
    assert read_network(made.weights, "x").network == made.network
    assert made.network["channels_per_head"] == 8 and made.network["logvar_channels"] == 16


def _edm2() -> dict[str, Any]:
    names = ("logvar_channels", "model_channels", "channel_mult", "num_blocks", "attn_resolutions", "channels_per_head")
    return {name: NETWORKS["edm2_cond"][name] for name in names}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_type": "skip"}, "decoder_type is 'skip'"),
        ({"embedding_type": "other"}, "neither DDPM"),
        ({"model_type": "VideoUNet"}, "model_type is VideoUNet"),
        ({"sigma_data": 1.0}, "sigma_data 0.5"),
        ({"attention_flavour": "new"}, "attention_flavour is not known"),
        ({"num_blocks": "many"}, "num_blocks"),
        ({"model_channels": None}, "model_channels"),
    ],
)
def test_an_architecture_that_is_not_ours_is_refused_by_the_argument(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = published(tmp_path, "ddpmpp_cond", **changes)
    with pytest.raises(Refused, match=said) as caught:
        convert(path, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_network_that_differs_from_the_recipes_is_refused_by_the_field(tmp_path: Path) -> None:
    path = published(tmp_path, "ddpmpp_cond")
    network = read_network(path, "x").network
    assert network is not None
    convert(path, tmp_path / "out", network=network)
    with pytest.raises(Refused, match=r"num_blocks of its network is 2, the recipe's is 3"):
        convert(path, tmp_path / "out", network=network | {"num_blocks": 3})


def test_torch_files_are_read_with_weights_only_and_take_their_architecture_from_the_recipe(tmp_path: Path) -> None:
    _, state = golden("ddpmpp_cond")
    network = read_network(published(tmp_path, "ddpmpp_cond"), "x").network
    for wrapped in (state, {"ema": state, "step": 3}):
        torch.save(wrapped, tmp_path / "net.pt")
        check_outputs(convert(tmp_path / "net.pt", tmp_path / "out", network=network), "ddpmpp_cond")
    with pytest.raises(Refused, match="does not say which architecture"):
        convert(tmp_path / "net.pt", tmp_path / "out")


class Gadget:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_torch_files_that_are_not_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"ema": Gadget()}, tmp_path / "gadget.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "good.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:1000])
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme", "hello")
    for name in ("gadget", "list", "cut", "bomb", "other"):
        with pytest.raises(Refused, match=rf"{name}\.pt") as caught:
            read_network(tmp_path / f"{name}.pt", f"{name}.pt")
        assert len(str(caught.value).splitlines()) == 1
    assert capsys.readouterr().out == ""


def test_safetensors_with_our_header_are_kept_as_they_are_and_others_take_the_recipes_architecture(
    tmp_path: Path,
) -> None:
    _, state = golden("ddpmpp_cond")
    network = read_network(published(tmp_path, "ddpmpp_cond"), "x").network
    assert network is not None
    save_network(tmp_path / "ours.safetensors", state, network)
    made = convert(tmp_path / "ours.safetensors", tmp_path / "out")
    assert made.weights.read_bytes() == (tmp_path / "ours.safetensors").read_bytes()
    save_file(state, tmp_path / "theirs.safetensors")
    check_outputs(convert(tmp_path / "theirs.safetensors", tmp_path / "out", network=network), "ddpmpp_cond")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no pickle, torch file or safetensors"),
        (b"<html>not found</html>", "a web page"),
        (b"\xff" * 8 + b"{}", "damaged safetensors"),
        (b"\x20" + bytes(7) + b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}', "safetensors"),
        (b"\x80\x04}.", "holds no network"),
        (b"\x80\x04]\x8c\x03abca.", "it holds: list"),
    ],
)
def test_a_file_that_is_no_network_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(content)
    with pytest.raises(Refused, match=said) as caught:
        read_network(tmp_path / "net", "net")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_replaced_while_it_is_read_is_not_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published(tmp_path, "ddpmpp_uncond")
    (tmp_path / "other").mkdir()
    other = published(tmp_path / "other", "ddpmpp_cond")

    def replace(*given: Any) -> NetworkFile:
        found = read_network(*given)
        other.replace(path)
        return found

    monkeypatch.setattr("sida.teachers.convert.read_network", replace)
    with pytest.raises(UserError, match="changed while being read"):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device (os error 28)")],
)
def test_a_full_disk_names_the_file_and_what_to_do_about_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    path = published(tmp_path, "ddpmpp_uncond")
    monkeypatch.setattr("sida.teachers.convert.save_network", fail)
    with pytest.raises(UserError) as caught:
        convert(path, tmp_path / "out", label="teacher x.pkl")
    line = str(caught.value)
    assert line.startswith("teacher x.pkl: ") and "No space left on device" in line
    assert line.endswith(": free space, or set TMPDIR to a folder with room") and "--output" not in line
