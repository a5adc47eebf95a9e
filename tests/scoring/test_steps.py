"""Generators of several steps, from a recipe to the page: what each step's images score, and files under another recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sida.errors import UserError
from sida.export.generator import open_generator
from sida.export.sample import authors_noise, sample
from sida.manifests import GeneratorResult, Manifest, Score
from sida.numerics.draws import Draws
from sida.numerics.quantize import to_uint8
from sida.recipe import Recipe, parse
from sida.registry import EVERY_STEP
from sida.scoring.adopt import fetch_released
from sida.scoring.words import against_teacher, target_gate
from sida.teachers.files import save_network
from sida.verify import recompute, verify
from tests.scoring.conftest import ASSET, METHOD, SMALL, manifest, tiny
from tests.scoring.files import runner, whole_run
from tests.scoring.test_verify_results import problems, reseal


def recipe_of(steps: int, **method: Any) -> Recipe:
    """A whole run of seconds."""
    execution = {"checkpoint_every": 256, "processes": 1}
    return tiny(method=METHOD | {"steps": steps} | method, evaluation=SMALL, execution=execution)


def file_of(folder: Path, **header: Any) -> Path:
    """The digits' teacher as a generator's file with such a header."""
    network = recipe_of(1).teacher.network.of_generator().model_dump(mode="json")
    path = folder / "generator.safetensors"
    save_network(path, load_file(ASSET), network, **header)
    return path


def test_a_run_of_two_steps_scores_each_and_its_first_as_a_one_step_generator_of_those_weights_scores(
    here: Path,
) -> None:
    whole, steps = whole_run(here, recipe_of(2)), EVERY_STEP
    reference, scores, described = (whole[name] for name in ("reference_statistics", "score", "compare"))
    report = manifest(whole["report"])

    made: Manifest[Any] = manifest(whole["distill"])
    assert (made.result.steps, made.result.method) == (2, "SiDA in 2 steps")
    scored = manifest(scores)
    result: Any = scored.result
    (row,), (first,) = result.rows, result.by_steps
    assert (row.nfe, row.sampler, first.nfe, first.sampler) == (2, "2 steps", 1, "one step")
    assert first.label == "generator, SiDA in 2 steps, after step 1"
    assert (first.n, first.first_seeds) == (row.n, row.first_seeds) and first.values != row.values

    # The same weights as a generator of one step, on the same seeds: the same images, the same bits.
    store = here / "store"
    path = here / "one.safetensors"
    save_network(path, load_file(store / made.result.weights.key), made.result.network, sigma_init=2.5)
    alone = runner(here, recipe_of(1))
    released = alone(steps["fetch_released"], address=path.as_uri(), method="one step")
    once: Any = manifest(alone(steps["score"], generator=released, reference=reference)).result
    assert once.rows[0].values == first.values and once.rows[0].nfe == 1 and once.by_steps == ()
    assert "by_steps" not in once.model_dump() and "steps" not in manifest(released).result.model_dump()

    # Everything says so, and verify believes it.
    verdict = manifest(described).result.verdict  # type: ignore[union-attr]
    assert verdict.startswith("The two-step generator ")
    page = (store / report.result.page.key).read_text()  # type: ignore[union-attr]
    for row_of in (first, row):
        assert f"{row_of.mean:.3f} \u00b1 {row_of.sd:.3f} (sd)" in page
    assert "Score against steps" in page and "2 held-out ranges of 100 images" in page
    published = store / "steps" / "score" / scored.about.key / "1.json"
    chain = verify(f"file://{published}", hashing=False)
    assert not chain.problems
    again = recompute(chain)
    assert [(one.published.nfe, one.agrees) for one in again] == [(2, True), (1, True)]
    reseal(published, lambda fields: fields["result"]["by_steps"][0].update(mean=0.001))
    assert any("mean is not that of its values" in problem for problem in problems(published))


def test_samples_of_two_steps_are_the_network_s_on_noise_of_their_seed_and_step_in_any_batch(tmp_path: Path) -> None:
    generator = open_generator(str(file_of(tmp_path, sigma_init=2.5, steps=2)))
    assert generator.steps == 2
    seeds, labels = [7, 100, 3, 8, 9], torch.tensor([0, 1, 2, 3, 4])
    (whole,) = sample(generator, seeds, labels)
    in_batches = torch.cat([*sample(generator, seeds, labels, batch=2)])
    assert (whole.int() - in_batches.int()).abs().max() <= 1  # a batch may round otherwise
    one_hot = torch.nn.functional.one_hot(labels, 10).float()
    draws, indices, second = Draws(0), torch.tensor(seeds), 0.16899756  # halfway from 2.5 to 0.002 in sigma^(1/7)
    with torch.no_grad():
        x = generator.denoiser(2.5 * draws.normal("sample", indices, (1, 8, 8)), 2.5, one_hot)
        x = generator.denoiser(x + second * draws.normal("sample 2", indices, (1, 8, 8)), second, one_hot)
    assert (whole.int() - to_uint8(x).int()).abs().max() <= 1
    (one,) = sample(open_generator(str(file_of(tmp_path, sigma_init=2.5))), seeds, labels)
    assert (whole.int() - one.int()).abs().max() > 20
    with pytest.raises(UserError, match="--draws authors: is known for one step"):
        next(sample(generator, seeds, labels, noise=authors_noise))


@pytest.mark.parametrize(
    ("header", "steps", "said"),
    [
        ({"sigma_init": 2.5, "steps": 2}, 1, "takes 2 steps; the recipe's method.steps is 1: set that to 2"),
        ({"sigma_init": 2.5}, 2, "takes 1 step; the recipe's method.steps is 2: set that to 1"),
        ({}, 2, "does not say its steps, and so takes 1; the recipe's method.steps is 2: set that to 1"),
        ({"sigma_init": 1.5}, 1, "begins at sigma_init 1.5, the recipe's method.sigma_init is 2.5"),
        ({"sigma_init": 2.5, "steps": 5}, 2, "says that it takes 5 steps: a generator takes 1 to 4"),
        ({"sigma_init": 2.5, "steps": True}, 1, "says that it takes True steps"),
        ({"sigma_init": 2.5, "steps": "2"}, 2, "says that it takes '2' steps"),
    ],
)
def test_a_file_under_a_recipe_of_other_steps_is_refused_by_both(
    place: Path, tmp_path: Path, header: dict[str, Any], steps: int, said: str
) -> None:
    path, recipe = file_of(tmp_path, **header), recipe_of(steps)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        fetch_released(recipe=recipe, address=path.as_uri(), method="a file")
    assert str(path) in str(refused.value)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        open_generator(str(path), recipe)
    assert str(path) in str(refused.value)


def test_a_file_of_two_steps_is_taken_as_such_under_its_recipe(place: Path, tmp_path: Path) -> None:
    path = file_of(tmp_path, sigma_init=2.5, steps=2)
    made = fetch_released(recipe=recipe_of(2), address=path.as_uri(), method="a file").manifest
    assert isinstance(made.result, GeneratorResult) and made.result.steps == 2
    assert made.about.parameters["steps"] == 2
    assert open_generator(str(path), recipe_of(2)).steps == 2


def test_a_released_generator_takes_one_step(place: Path) -> None:
    released = {"address": "https://example.com/net.pkl", "kimg": 1}
    recipe = parse(recipe_of(2).model_dump(mode="json") | {"released": released}, "test")
    with pytest.raises(UserError, match=r"method\.steps is 2, and its released generator takes 1"):
        fetch_released(recipe=recipe)


def test_a_published_score_of_one_step_is_told_from_that_of_more() -> None:
    targets = {"metric": "fd_digits", "source": "a paper", "sida": 1.0}
    recipe = parse(recipe_of(3).model_dump(mode="json") | {"targets": targets}, "test")
    assert recipe.group == "ours"
    values = {"metric": "fd_digits", "values": (0.5, 0.6), "first_seeds": (1, 2), "n": 50_000, "mean": 0.55, "sd": 0.07}
    about = {"label": "-", "sampler": "-", "checkpoint_sha256": None, "interval": 0.1}
    one, three = (Score(model="generator", nfe=steps, **values, **about) for steps in (1, 3))  # type: ignore[arg-type]
    assert str(target_gate(recipe, three)).endswith("published 1 (a paper); published for one step, this took 3")
    assert str(target_gate(recipe, one)).endswith("published 1 (a paper)")
    teacher = one.model_copy(update={"model": "teacher", "nfe": 35})
    assert against_teacher(recipe, three, teacher).startswith("three-step generator is level with its teacher")
    assert against_teacher(recipe, one, teacher).startswith("one-step generator ")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"steps": 5}, "method.steps"),
        ({"steps": 0}, "method.steps"),
        ({"steps": 2, "sigma_init": 0.002}, "steps 2 go from sigma_init down to 0.002"),
    ],
)
def test_steps_that_cannot_be_are_refused_at_the_door(method: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe_of(**{"steps": 1} | method)


def test_one_step_is_not_said_so_that_digests_stay() -> None:
    assert "steps" not in recipe_of(1).model_dump(mode="json")["method"]
    assert recipe_of(2).model_dump(mode="json")["method"]["steps"] == 2
