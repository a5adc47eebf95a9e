"""DINOv2 written here: the features of Meta's own network, the resize of the protocol, and files read without running them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from sida import recipe
from sida.errors import RecipeError, UserError
from sida.recipe import Detector
from sida.scoring.detector import is_torchscript, load_detector
from sida.scoring.detector_file import DINOV2_ADDRESS, DINOV2_SHA256, check_detector, detector_file
from sida.scoring.dinov2 import AT_ONCE, DinoV2, network_of, sizes_of
from tests.scoring.dinov2_golden import GOLDEN, GRIDS, WIDTH, inputs, weights
from tests.scoring.stand_in import write_stand_in


def network(grid: int = 16, **changes: Tensor) -> DinoV2:
    state = weights(grid) | changes
    sizes = sizes_of({name: tuple(tensor.shape) for name, tensor in state.items()}, "test")
    return network_of(state, sizes)


def noise(count: int, size: int, channels: int = 3, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(low, high, (count, channels, size, size), generator=generator, dtype=torch.uint8)


# -- the network


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_features_are_those_of_meta_s_own_network_whatever_the_grid_of_its_positions(grid: int) -> None:
    golden = torch.tensor(json.loads(GOLDEN.read_text())[str(grid)], dtype=torch.float64)
    found = network(grid).double().features(inputs())
    # Positions are interpolated in float32, there as here: another torch may round them otherwise.
    torch.testing.assert_close(found, golden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network(grid).features(inputs().float()).double(), golden, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_every_tensor_shows_in_the_features_but_the_mask_s() -> None:
    whole = network().double().features(inputs())
    for name, tensor in weights(16).items():
        changed = network(**{name: tensor * 1.1 + 0.01}).double().features(inputs())
        moved = float((changed - whole).abs().max())
        assert moved == 0 if name == "mask_token" else moved > 1e-4, name


@pytest.mark.parametrize("size", [32, 512])
def test_images_are_resized_as_pillow_does_and_scaled_by_imagenet_s_numbers(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dgm-eval, where FD-DINOv2 comes from, resizes with Pillow, which rounds to whole numbers after each direction."""
    images, seen = (
        noise(2, size, low=80, high=176),
        [],
    )  # the filter's overshoot stays within 0 to 255, where Pillow cuts
    monkeypatch.setattr(DinoV2, "features", lambda self, x: seen.append(x) or x[:, :, 0, 0])
    network()(images)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for image, ours in zip(images, seen[0], strict=True):
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
        theirs = np.asarray(pixels.resize((224, 224), Image.Resampling.BICUBIC)) / 255
        difference = ours.permute(1, 2, 0).numpy() * deviation + mean - theirs
        assert (
            np.abs(difference).max() * 255 < 1.5
        )  # half a step from each rounding, the first one seen through the filter
        assert abs(difference.mean()) * 255 < 0.05


@torch.no_grad()
def test_features_do_not_depend_on_the_batch_and_gray_images_count_as_three_equal_channels() -> None:
    images = noise(AT_ONCE + 3, 8, channels=1)
    detector = network()
    features = detector(images)
    assert features.shape == (AT_ONCE + 3, WIDTH) and features.dtype == torch.float32
    torch.testing.assert_close(features[-2:], detector(images[-2:].expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="DINOv2 knows no classes"):
        detector.with_probabilities(images)


# -- its file


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@torch.no_grad()
def test_a_state_dict_is_read_as_tensors_and_gives_the_same_features(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"dinov2.{form}"
    (torch.save if form == "pth" else save_file)(weights(37), path)
    assert not is_torchscript(path)
    detector = load_detector(path)
    assert isinstance(detector, DinoV2) and not any(one.requires_grad for one in detector.parameters())
    assert torch.equal(detector(noise(2, 32)), network(37)(noise(2, 32)))
    assert detector_file(Detector(kind="dinov2", address=path.as_uri(), features=WIDTH))[0] == path


def test_a_pickle_inside_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "PWNED").touch, ())

    path = tmp_path / "dinov2.pth"
    torch.save(weights(5) | {"cls_token": Hostile()}, path)
    with pytest.raises(UserError, match="nothing in it was executed"):
        load_detector(path)
    assert not (tmp_path / "PWNED").exists()


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in (weights(5) | changes).items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (changed(register_tokens=torch.zeros(1, 4, WIDTH)), "with registers"),
        (changed(**{"blocks.1.mlp.fc1.weight": None}), r"blocks.1.mlp.fc1.weight is missing"),
        (changed(**{"blocks.0.mlp.w12.weight": torch.zeros(8, WIDTH)}), r"blocks.0.mlp.w12.weight is \[8, 128\]"),
        (changed(**{"norm.bias": torch.zeros(7)}), r"norm.bias is \[7\]"),
        (changed(pos_embed=torch.zeros(1, 24, WIDTH)), r"pos_embed is \[1, 24, 128\]"),
        (changed(**{"patch_embed.proj.weight": torch.zeros(100, 3, 14, 14)}), r"patch_embed.proj.weight is \[100"),
        (changed(cls_token=torch.zeros(1, 1, WIDTH, dtype=torch.int64)), "does not hold DINOv2's weights"),
        ({"layers.0.weight": torch.zeros(3)}, "does not hold DINOv2's weights"),
    ],
)
def test_another_network_is_refused_by_what_differs(tmp_path: Path, state: dict[str, Tensor], problem: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(UserError, match=problem) as error:
        load_detector(path)
    assert "take dinov2_vitl14_pretrain.pth" in str(error.value) and len(str(error.value)) < 300


def test_a_detector_of_another_kind_than_the_recipe_s_is_refused(tmp_path: Path) -> None:
    torch.save(weights(5), tmp_path / "dinov2.pth")
    write_stand_in(tmp_path / "script.pt")
    with pytest.raises(UserError, match="is a state dict as DINOv2's weights are, kind is inception"):
        detector_file(Detector(kind="inception", address=(tmp_path / "dinov2.pth").as_uri(), features=WIDTH))
    with pytest.raises(UserError, match="is not DINOv2's weights, kind is dinov2"):
        detector_file(Detector(kind="dinov2", address=(tmp_path / "script.pt").as_uri(), features=WIDTH))
    (tmp_path / "old.pth").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="not a detector"):
        check_detector(tmp_path / "old.pth", "dinov2")


def test_missing_weights_say_where_to_get_them(tmp_path: Path) -> None:
    address = (tmp_path / "dinov2_vitl14_pretrain.pth").as_uri()
    with pytest.raises(UserError) as error:
        detector_file(Detector(kind="dinov2", address=address, sha256=DINOV2_SHA256, features=1024))
    assert DINOV2_ADDRESS in str(error.value) and DINOV2_SHA256 in str(error.value)


def test_the_sizes_of_vit_l_are_read_from_its_shapes() -> None:
    with torch.device("meta"):  # 304 million weights, without memory for them
        state = {name: torch.empty(shape) for name, shape in _large().items()}
    sizes = sizes_of({name: tuple(tensor.shape) for name, tensor in state.items()}, "test")
    assert (sizes.width, sizes.blocks, sizes.hidden, sizes.positions) == (1024, 24, 4096, 37)
    bytes_of_weights = 4 * sum(tensor.numel() for tensor in state.values())
    assert (
        0 < 1_217_586_395 - bytes_of_weights < 400 * len(state)
    )  # of the published file; the rest is its zip's headers


def _large() -> dict[str, tuple[int, ...]]:
    block = {
        **{f"norm{number}.{kind}": (1024,) for number in (1, 2) for kind in ("weight", "bias")},
        **{"attn.qkv.weight": (3072, 1024), "attn.qkv.bias": (3072,), "attn.proj.weight": (1024, 1024)},
        **{"attn.proj.bias": (1024,), "ls1.gamma": (1024,), "ls2.gamma": (1024,), "mlp.fc1.weight": (4096, 1024)},
        **{"mlp.fc1.bias": (4096,), "mlp.fc2.weight": (1024, 4096), "mlp.fc2.bias": (1024,)},
    }
    whole = {"cls_token": (1, 1, 1024), "pos_embed": (1, 1370, 1024), "mask_token": (1, 1024)}
    whole |= {"patch_embed.proj.weight": (1024, 3, 14, 14), "patch_embed.proj.bias": (1024,)}
    whole |= {f"blocks.{number}.{name}": shape for number in range(24) for name, shape in block.items()}
    return whole | {"norm.weight": (1024,), "norm.bias": (1024,)}


# -- its name


@pytest.mark.parametrize(
    ("evaluation", "problem"),
    [
        ("metric: fid, detector: {kind: dinov2}", "call it fd_dinov2"),
        ("metric: fd_digits, detector: {kind: dinov2}", "call it fd_dinov2"),
        ("metric: fd_dinov2", "fd_dinov2 takes kind dinov2"),
        ("metric: fd_dinov2, detector: {kind: dinov2, features: 384}", "ViT-L/14's, of 1024 features, not 384"),
        ("metric: fd_dinov2, detector: {kind: dinov2, features: 1024}, extra_metrics: [is]", "know no classes"),
        (
            "extra_metrics: [kid, fd_dinov2]",
            "'fd_dinov2' is another detector's distance: give it .* a section `second`",
        ),
    ],
)
def test_the_name_says_whose_features_they_are(tmp_path: Path, evaluation: str, problem: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: digits\nname: mine\nevaluation: {{{evaluation}}}\n")
    with pytest.raises(RecipeError, match=problem):
        recipe.load(str(path))
