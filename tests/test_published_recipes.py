"""The recipes of the published runs against what the authors' scripts say (tests/golden/facts), field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sida import recipe
from sida.recipe import Recipe
from sida.scoring.score import unsaid

FACTS = Path(__file__).parent / "golden" / "facts"
PUBLISHED = yaml.safe_load((FACTS / "recipes.yaml").read_text())
URLS = yaml.safe_load((FACTS / "urls.yaml").read_text())
RUNS = {run["id"]: run for run in PUBLISHED["recipes"]}

# What a run's field is called here. Every field of the facts stands in one of the two tables.
NUMBERS = {
    "global_batch": lambda r: r.method.batch,
    "micro_batch_per_gpu": lambda r: r.method.loss_group,
    "duration_Mimg": lambda r: r.method.images / 1e6,
    "ema_halflife_Mimg": lambda r: r.method.ema_half_life / 1e6,
    "lr_fake_score": lambda r: r.method.fake_score_rate,
    "lr_generator": lambda r: r.method.generator_rate,
    "adam_beta1_generator": lambda r: r.method.generator_beta1,
    "alpha": lambda r: r.method.alpha,
    "tmax": lambda r: r.method.tmax,
    "init_sigma": lambda r: r.method.sigma_init,
    "fp16": lambda r: r.method.precision == "float16",
    "ls": lambda r: r.method.fake_score_weight,
    "lsg": lambda r: r.method.generator_weight,
    "lsd": lambda r: r.method.discriminator_weight,
    "lsg_gan": lambda r: r.method.adversarial_weight,
    "dropout": lambda r: r.method.dropout,
    "augment": lambda r: r.method.augment,
    "P_mean": lambda r: r.method.P_mean,
    "P_std": lambda r: r.method.P_std,
    "use_gan": lambda r: r.method.adversarial,
    "force_normalization": lambda r: r.method.forced_normalization,
    "return_logvar": lambda r: r.teacher.network.logvar_channels is not None,
    "model_channels": lambda r: r.teacher.network.model_channels,
    "cond": lambda r: r.teacher.network.label_dim > 0,
    "cres": lambda r: ",".join(map(str, r.teacher.network.channel_mult)),
    "gpus_in_script": lambda r: r.execution.processes,
    "kimg_between_fid_evals": lambda r: r.evaluation.selection_every / 1e3,
    "method": lambda r: r.method.name,
    "data_stat": lambda r: r.evaluation.reference.address,
    "init_generator_from": lambda r: r.generator.address,
}
ELSEWHERE = {
    "id": "names the run",
    "benchmark": "checked by the table's tests",
    "entry": "the authors' script",
    "source": "the authors' script",
    "arch": "architecture, checked with the parameter counts in tests/training",
    "teacher": "an address, checked below",
    "data": "the authors' own file",
    "data_corrected": "the authors' own file",
    "metrics": "checked below",
    "xflip": "false everywhere: there is no such field",
    "tick": "kimg_between_fid_evals = tick x snap",
    "snap": "kimg_between_fid_evals = tick x snap",
    "dump": "checked below",
    "duplicate_flags_last_wins": "text",
    "script_errors": "text: what is repaired, below",
    "notes": "text: what is repaired, below",
}
# Where a recipe does not do what the script says, and what it does instead. The recipes' comments say why.
REPAIRED = {
    "imagenet-64-sid": {"alpha": 1.2, "duration_Mimg": 1000, "use_gan": False},
    "ffhq-64-sid": {"alpha": 1.2},
    "imagenet-512-edm2-xs": {"gpus_in_script": 4},
}
LARGER = {"imagenet-512-edm2-xxl": 8}  # micro-batches of whole loss groups, for less traffic: no number changes
NAMES = {"cifar10-32-uncond": "cifar10-uncond", "cifar10-32-cond": "cifar10-cond", "imagenet-64-cond": "imagenet-64"}


def recipe_of(run: str) -> str:
    benchmark, method = run.split("/")
    name = NAMES.get(benchmark, benchmark)
    return name if method == "sida" else f"{name}-{method}"


@pytest.mark.parametrize("run", RUNS)
def test_every_number_of_a_published_run_is_the_recipe_s(run: str) -> None:
    facts, name = RUNS[run], recipe_of(run)
    loaded = recipe.load(name)
    assert not set(facts) - set(NUMBERS) - set(ELSEWHERE)
    assert loaded.targets is not None and not loaded.in_another_precision
    assert loaded.targets.precision == ("float16" if facts["fp16"] else "float32")
    expected = {field: facts[field] for field in NUMBERS if field in facts} | REPAIRED.get(name, {})
    assert {field: NUMBERS[field](loaded) for field in expected} == expected
    assert ("is" in loaded.evaluation.extra_metrics) == ("is50k" in facts["metrics"])
    assert loaded.execution.checkpoint_every == facts["tick"] * facts["dump"] * 1000
    assert loaded.method.loss_group == facts["micro_batch_per_gpu"]
    assert loaded.execution.micro_batch == LARGER.get(facts["benchmark"], facts["micro_batch_per_gpu"])
    teacher = facts["teacher"] if "://" in facts["teacher"] else URLS["teachers_edm"][facts["benchmark"]]
    assert loaded.teacher.address == teacher


def test_a_script_s_error_is_repaired_in_words_too() -> None:
    for run, facts in RUNS.items():
        text = recipe.find(recipe_of(run)).read_text()
        if facts.get("script_errors") and run != "imagenet-512-edm2-xxl/sid2a":
            assert "# Repaired: " in text, run
    assert "lists as the XXL SiD generator" in recipe.find("imagenet-512-edm2-xxl-sid2a").read_text()
    for name in ("afhqv2-64", "afhqv2-64-sid", "afhqv2-64-sid2a"):
        assert recipe.load(name).dataset.source == "afhqv2"


def test_the_variants_of_another_alpha_change_nothing_else() -> None:
    for benchmark in ("cifar10-uncond", "cifar10-cond", "ffhq-64", "afhqv2-64", "imagenet-64"):
        one, other = recipe.load(f"{benchmark}-sid2a"), recipe.load(f"{benchmark}-sid2a-alpha12")
        assert other.method == one.method.model_copy(update={"alpha": 1.2})
        assert (other.generator, other.dataset, other.evaluation) == (one.generator, one.dataset, one.evaluation)
    script = recipe.load("ffhq-64-sid-alpha10")
    assert script.method == recipe.load("ffhq-64-sid").method.model_copy(update={"alpha": 1.0})


def test_every_float32_recipe_has_a_variant_in_tf32_that_changes_nothing_else() -> None:
    loaded = {name: recipe.load(name) for name in recipe.names()}
    published = {
        name: one for name, one in loaded.items() if one.group == "paper" and one.method.precision == "float32"
    }
    variants = {name: one for name, one in loaded.items() if one.method.precision == "tf32"}
    assert len(published) == 8 and set(variants) == {f"{name}-tf32" for name in published}
    for name, one in published.items():
        other = variants[f"{name}-tf32"]
        assert other.in_another_precision and other.released is None and "TF32" in other.description
        same = {"name": other.name, "description": other.description, "released": None, "method": other.method}
        assert other == one.model_copy(update=same)
        assert other.method == one.method.model_copy(update={"precision": "tf32"})


def test_a_precision_is_part_of_a_score_s_key_only_where_its_verdict_speaks_of_it() -> None:
    for name in map(recipe_of, RUNS):
        assert "precision" in unsaid(recipe.load(name))
    for name in ("cifar10-uncond-tf32", "cifar10-cond-sid-tf32"):
        assert "precision" not in unsaid(recipe.load(name))


def released(benchmark: str, method: str, alpha: float) -> Recipe:
    name = recipe_of(f"{benchmark}/{method}")
    return recipe.load(f"{name}-alpha12" if method == "sid2a" and alpha == 1.2 else name)


DATASETS = {
    "CIFAR10-Uncond": "cifar10-32-uncond",
    "CIFAR10-Cond": "cifar10-32-cond",
    "ImageNet 64x64": "imagenet-64-cond",
    "FFHQ64": "ffhq-64",
    "AFHQ64-v2": "afhqv2-64",
} | {f"EDM2-{size.upper()}": f"imagenet-512-edm2-{size}" for size in ("xs", "s", "m", "l", "xl", "xxl")}


@pytest.mark.parametrize("file", URLS["generators"], ids=lambda g: f"{g['dataset']}-{g['method']}-{g['alpha']}")
def test_every_released_generator_stands_in_its_run_s_recipe(file: dict[str, Any]) -> None:
    loaded = released(DATASETS[file["dataset"]], file["method"], file["alpha"])
    made = loaded.released
    assert made is not None
    assert made.address == file.get("corrected_url", file["url"])
    assert made.kimg == file.get("corrected_kimg", file["kimg"])
    assert made.sha256 == file.get("sha256")
    assert bool(made.note) == ("warning" in file)
    assert loaded.method.alpha == file.get("alpha_in_file", file["alpha"])


TABLE = {
    name: loaded
    for name in recipe.names()
    if "-sid" not in name and (loaded := recipe.load(name)).benchmark and not loaded.in_another_precision
}


@pytest.mark.parametrize("benchmark", PUBLISHED["benchmarks"])
def test_targets_sampler_data_and_detector_of_a_benchmark_are_the_published_ones(benchmark: str) -> None:
    facts, loaded = PUBLISHED["benchmarks"][benchmark], TABLE[NAMES.get(benchmark, benchmark)]
    targets, teacher = loaded.targets, facts["teacher_fid"]
    assert targets is not None
    paper = {"ffhq-64": 2.39, "afhqv2-64": 1.96}  # EDM's paper, table 2; the facts leave them open
    assert targets.teacher == (teacher["value"] or paper[benchmark])
    assert targets.best == facts["published_fid"]["best"]
    assert targets.sid == facts["published_fid"].get("sid")
    assert targets.teacher_guided == teacher.get("with_cfg")
    assert targets.teacher_autoguided == teacher.get("with_autoguidance")
    assert loaded.teacher.sampler.nfe == teacher["nfe"]
    assert loaded.evaluation.images == loaded.evaluation.selection_images == facts["fid_num_images"]
    assert loaded.evaluation.detector.address == URLS["detectors"]["inception_torchscript"]["url"]
    assert loaded.evaluation.detector.sha256 == URLS["detectors"]["inception_torchscript"]["sha256"]
    assert loaded.dataset.classes == facts["num_classes"]
    data = loaded.dataset
    assert (data.latents.image_resolution if data.latents else data.resolution) == facts["resolution"]
    assert loaded.teacher.licence.startswith("CC BY-NC-SA 4.0")


def test_the_algorithm_s_constants_are_the_recipes() -> None:
    constants = PUBLISHED["algorithm_constants"]
    for name in map(recipe_of, RUNS):
        method = recipe.load(name).method
        assert method.generator_from == constants["warmup"]["fake_score_only_until_kimg"] * 1000
        assert method.adversarial_from == constants["warmup"]["adversarial_term_from_kimg"] * 1000
        assert method.clip_fake_score == ("edm2" not in name)
