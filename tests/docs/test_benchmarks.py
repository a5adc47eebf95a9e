"""The page of published benchmarks says what recipes and `plan` say, and its counts are the networks' own."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from scripts import benchmarks
from sida import recipe
from sida.training.cost import iteration_cost


def test_the_tables_are_what_recipes_and_plan_say() -> None:
    same = benchmarks.PAGE.read_text(encoding="utf-8") == benchmarks.page()
    assert same, "run `python -m scripts.benchmarks`, and look at what changed"


def test_every_row_of_the_paper_is_in_every_table_but_that_of_differences() -> None:
    names = {loaded.name for loaded in benchmarks.rows()}
    assert len(names) == 11
    assert len(benchmarks.tf32()) == 2 + 2 + 1
    assert len(benchmarks.better()) == 2 + 4 + 1 and "`imagenet-64-edm2-s-ddo`" in "".join(benchmarks.better())
    for made in (benchmarks.scores, benchmarks.cost, benchmarks.downloads):
        assert {line.split("`")[1] for line in made()[2:-1]} == names


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "cifar10-uncond" else pytest.mark.slow)
        for name in sorted({benchmarks.kind(loaded) for loaded in [*benchmarks.rows(), *benchmarks.better_rows()]})
    ],
)
def test_the_counts_behind_the_hours_are_those_of_the_networks(name: str) -> None:
    loaded = recipe.load(name)
    counted = iteration_cost(loaded.teacher.network, loaded.method, loaded.execution)
    assert asdict(benchmarks.counted(loaded)) == asdict(counted), "run `python -m scripts.benchmarks --count`"


@pytest.mark.slow
def test_a_sid_recipe_costs_what_is_computed_from_its_row() -> None:
    loaded = recipe.load("cifar10-uncond-sid")
    counted = iteration_cost(loaded.teacher.network, loaded.method, loaded.execution)
    assert benchmarks.counted(loaded).forwards == pytest.approx(counted.forwards, rel=0.01)
