"""List the recipes that can be run: the paper's table with its targets, and the variants of each row.

The scores are FIDs as published: the teacher's by the sampler of the recipe (network evaluations in brackets; for EDM2 also with
classifier-free guidance, which costs two evaluations a step), SiD's, and the best of SiDA and SiD2A.

examples:
  sida list
"""

from __future__ import annotations

import argparse

from pipeline import output
from pipeline.arguments import Argument
from sida import recipe
from sida.recipe import Recipe

ARGUMENTS: tuple[Argument, ...] = ()
HEADINGS = ("benchmark", "teacher", "guided", "SiD", "best of SiDA, SiD2A", "recipe, and its variants")


def main(args: argparse.Namespace) -> int:
    """Print the paper's table, then the other recipes."""
    recipes = {name: recipe.load(name) for name in recipe.names()}
    rows: dict[str, list[Recipe]] = {}
    for loaded in recipes.values():
        if loaded.benchmark:
            rows.setdefault(loaded.benchmark, []).append(loaded)
    table = [HEADINGS, *(_row(*variants) for variants in sorted(rows.values(), key=_order))]
    others = [loaded for loaded in recipes.values() if not loaded.benchmark]
    lines = [*output.aligned(table, left=len(HEADINGS)), "", "others"]
    lines += output.aligned([(loaded.name, " ".join(loaded.description.split())) for loaded in others], left=2)
    output.result(args, "\n".join(lines), recipes=[_as_json(loaded) for loaded in recipes.values()])
    return 0


def _as_json(loaded: Recipe) -> dict[str, object]:
    return {
        "name": loaded.name,
        "benchmark": loaded.benchmark,
        "description": " ".join(loaded.description.split()),
        "teacher_nfe": loaded.teacher.sampler.nfe,
        "targets": loaded.targets.model_dump(mode="json") | {"best": loaded.targets.best} if loaded.targets else None,
    }


def _order(variants: list[Recipe]) -> tuple[bool, int, int]:
    """Return a sort key: pixels before latents, small before large."""
    network = variants[0].teacher.network
    return variants[0].dataset.latents is not None, network.resolution, network.model_channels


def _row(base: Recipe, *variants: Recipe) -> tuple[str, ...]:
    targets, nfe = base.targets, base.teacher.sampler.nfe
    assert base.benchmark is not None
    if targets is None:
        return base.benchmark, "", "", "", "", base.name
    scores = (_score(targets.teacher) + f" ({nfe})", _score(targets.teacher_guided), _score(targets.sid))
    suffixes = " ".join(variant.name.removeprefix(base.name) for variant in variants)
    return base.benchmark, *scores, _score(targets.best), f"{base.name} {suffixes}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
