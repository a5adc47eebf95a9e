"""Recipes: what is read, what is refused, and in which words."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sida import recipe
from sida.errors import RecipeError

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"


def variant(folder: Path, text: str) -> str:
    path = folder / "variant.yaml"
    path.write_text(f"extends: digits\nname: variant\n{text}")
    return str(path)


def refusal(name: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_of_the_project_is_valid_and_named_as_its_file(name: str) -> None:
    assert recipe.load(name).name == name


@pytest.mark.parametrize("name", ["digits-sid2a", "patches-32"])
def test_the_files_that_come_with_the_project_are_those_that_recipes_name(name: str) -> None:
    loaded = recipe.load(name)
    for file in (loaded.teacher, loaded.generator, loaded.evaluation.detector):
        if file is not None and file.address is not None:
            content = Path(urlsplit(file.address).path).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file.sha256


def test_the_patches_take_what_the_digits_do_without() -> None:
    loaded = recipe.load("patches-32")
    network, method = loaded.teacher.network, loaded.method
    assert (network.channels, network.resolution, network.label_dim) == (3, 32, 2)
    assert network.attn_resolutions
    assert network.augment_dim
    assert method.dropout > 0
    assert method.augment > 0


def test_a_variant_changes_single_fields_of_its_base() -> None:
    base, tiny = recipe.load("digits"), recipe.load(str(TINY))
    assert tiny.method.images == 2048
    assert tiny.method.alpha == base.method.alpha
    assert tiny.teacher.address == base.teacher.address  # relative to the file it stands in


def test_another_address_does_not_inherit_the_digest_of_the_first(tmp_path: Path) -> None:
    loaded = recipe.load(variant(tmp_path, "teacher: {address: mine.safetensors}"))
    assert loaded.teacher.address == (tmp_path / "mine.safetensors").as_uri()
    assert loaded.teacher.sha256 is None
    assert loaded.evaluation.detector.sha256 == recipe.load("digits").evaluation.detector.sha256


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    assert "did you mean 'digits'" in refusal("digist")
    assert "sida list" in refusal("zebra")
    assert "no recipe file" in refusal("./nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method: {alhpa: 1.0}", "method.alhpa: unknown key; did you mean 'alpha'?"),
        ("colour: red", "colour: unknown key"),
        ("method: {alpha: high}", "method.alpha: Input should be a valid number, found 'high'"),
        ("method: {images: 1.5}", "method.images"),
        ("method: {images: '12'}", "method.images: Input should be a valid integer, found '12'"),
        ("method: {images: true}", "method.images"),
        ("method: {batch: 0}", "method.batch"),
        ("method: {batch: 100, loss_group: 64}", "not a multiple of loss_group"),
        ("method: {warm_up_decay_from: 4_000}", "warm_up_decay_from 4000 is not within the warm-up"),
        ("method: {ema_ramp: 0}", "method.ema_ramp"),
        ("method: {name: dmd}", "method.name: Input should be 'sid', 'sida', 'sid2a' or 'uni', found 'dmd'"),
        ("method: {name: uni}", "method uni needs a divergence: fkl, rkl, js, chi2 or fisher"),
        (
            "method: {name: uni, divergence: kl}",
            "method.divergence: Input should be 'fkl', 'rkl', 'js', 'chi2' or 'fisher'",
        ),
        ("method: {divergence: js}", "method sida has no divergence: remove it, or use uni"),
        ("method: {tmax: 2000}", "method.tmax"),
        ("method: null", "method"),
        ("teacher: {sha256: abc}", "teacher.sha256"),
        ("teacher: {address: null, train: null}", "needs an address to fetch from, or a train section"),
        ("teacher: {sampler: {guidance: 1.4}}", "teacher: sampler.guidance 1.4 needs a guide network"),
        ("method: {name: sid2a}", "add a generator section"),
        ("generator: {address: a.safetensors, licence: mine}", "remove generator, or use sid2a"),
        ("execution: {nodes: 2}", "processes counts over all machines"),
        ("execution: {processes: 3}", "method.batch 128 does not divide among 3 processes: use 1, 2, 4, 8"),
        ("execution: {micro_batch: 48}", "groups of 32 (method.loss_group) with: 16, 32, 64"),
        ("execution: {processes: 1, micro_batch: 16}", "execution.micro_batch 16: each process's share of 128 images"),
        ("dataset: {source: cifar}", "dataset.source: Input should be 'digits', 'patches', 'cifar10'"),
        ("dataset: {latents: {vae: a, licence: b, image_resolution: 64}}", "one number for each of 1 channels"),
        ("teacher: {network: {resolution: 16}}", "dataset is 1 x 8^2"),
        ("dataset: {classes: 7}", "label_dim 10, but dataset.classes 7"),
        ("evaluation: {selection_images: 2_000_000}", "reach into the reported ones"),
        ("name: Bad Name", "is given twice"),
        ("description: 2026-11-24", "use numbers, text, lists and mappings only"),
        ("method: {alpha: .nan}", "method.alpha"),
    ],
)
def test_a_wrong_field_is_named_with_its_path(tmp_path: Path, text: str, expected: str) -> None:
    message = refusal(variant(tmp_path, text))
    assert "variant.yaml" in message
    assert expected in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: [",
        "a: &x 1\nb: *x",
        "a: 1\na: 2",
        "!!python/object/apply:os.system ['true']",
        "\x00",
        "a: " + "[" * 5000,
    ],
)
def test_what_is_no_plain_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert "broken.yaml" in refusal(str(path))


def test_a_recipe_cannot_extend_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\nname: a")
    (tmp_path / "b.yaml").write_text("extends: a\nname: b")
    assert "extends itself" in refusal(str(tmp_path / "a.yaml"))


def test_small_numbers_may_be_written_without_a_point(tmp_path: Path) -> None:
    assert recipe.load(variant(tmp_path, "method: {fake_score_rate: 1e-5}")).method.fake_score_rate == 1e-5


def test_what_was_measured_with_a_recipe_is_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: digits\nname: mine\nmethod: {images: 1_024}\n")
    assert recipe.load("digits").expected is not None
    assert recipe.load(str(tmp_path / "mine.yaml")).expected is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: {seed: 010}", "line 3: 010 is another number in YAML 1.1"),
        ("method: {seed: 08}", "line 3: 08 is another number"),
        ("method: {seed: 1:30}", "line 3: 1:30 is another number"),
        ("method: {seed: 0b11}", "line 3: 0b11 is another number"),
        ("method: {<<: {seed: 3}}", "line 3: << \\(merging\\) is not read"),
        ("description: " + "x" * 200_000, "is larger than 131,072 bytes"),
        ("teacher: {network: {num_blocks: 100000000}}", "teacher.network.num_blocks: .* 32"),
        ("teacher: {network: {resolution: 1000000000}}", "teacher.network.resolution: .* 8192"),
        ("teacher: {network: {channel_mult: [1, 100000]}}", "teacher.network.channel_mult.1: .* 64"),
        ("teacher: {network: {channel_mult: []}}", "teacher.network.channel_mult: .* at least 1"),
        ("teacher: {network: {channel_mult: [1, 1, 1, 1, 1]}}", "5 levels, too many for 8 pixels"),
        ("teacher: {network: {model_channels: 60000}}", "teacher.network.model_channels: .* 16384"),
        ("teacher: {network: {label_dim: 2147483648}}", "teacher.network.label_dim: .* 1000000"),
        ("teacher: {network: {architecture: edm2, augment_dim: 9}}", "edm2 has no augmentation labels"),
        ("method: {batch: 1000000000000}", "method.batch: "),
        ("evaluation: {detector: {features: 10000000}}", "evaluation.detector.features: "),
    ],
)
def test_what_is_ambiguous_or_far_too_large_is_refused_at_once(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: digits\nname: mine\n{text}\n")
    with pytest.raises(RecipeError, match=said) as caught:
        recipe.load(str(path))
    assert len(str(caught.value)) <= 300
    path.write_text("extends: digits\nname: mine\ndescription: '010'\nmethod: {seed: 10, alpha: 0.5}\n")
    assert recipe.load(str(path)).description == "010"  # quoted, it is text
