"""List the recipes that can be run: the paper's, those of others, and ours, each row with the scores that were published for it.

The scores are FIDs as published: the teacher's by the sampler of the recipe (network evaluations in brackets; for EDM2 also with
guidance, which costs two evaluations a step), SiD's, and the best of SiDA and SiD2A. Of our recipes from a published teacher the
teacher's score alone is there, because no generator's was published.

examples:
  sida list
  sida list --json | jq -r '.recipes[] | select(.group == "ours") | .name'
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from pipeline import output
from pipeline.arguments import Argument
from sida import recipe
from sida.recipe import Recipe

ARGUMENTS: tuple[Argument, ...] = ()
HEADINGS = ("benchmark", "teacher", "guided", "SiD", "best of SiDA, SiD2A", "recipe, and its variants")
GROUPS = {
    "paper": "the paper's (SiDA, arXiv 2410.14919)",
    "others": "others'",
    "ours": "ours: no generator's score is published",
}


def main(args: argparse.Namespace) -> int:
    """Print a table of each group's benchmarks, then our recipes without one."""
    recipes = [recipe.load(name) for name in recipe.names()]
    lines: list[str] = []
    for group, title in GROUPS.items():
        members = [loaded for loaded in recipes if loaded.group == group]
        if members:
            lines += [title, ""]
        for part in (_table(members), _others(members)):
            lines += [*part, ""] if part else []
    output.result(args, "\n".join(lines[:-1]), recipes=[_as_json(loaded) for loaded in recipes])
    return 0


def _table(members: Iterable[Recipe]) -> list[str]:
    """Return a line for each benchmark, with the recipes of this group that aim at it."""
    rows: dict[str, list[Recipe]] = {}
    for loaded in members:
        if loaded.benchmark:
            rows.setdefault(loaded.benchmark, []).append(loaded)
    table = [HEADINGS, *(_row(variants) for variants in sorted(rows.values(), key=_order))]
    return output.aligned(table, left=len(HEADINGS)) if rows else []


def _others(members: Iterable[Recipe]) -> list[str]:
    """Return a line for each recipe without a benchmark."""
    others = [(loaded.name, " ".join(loaded.description.split())) for loaded in members if not loaded.benchmark]
    return output.aligned(others, left=2) if others else []


def _as_json(loaded: Recipe) -> dict[str, object]:
    return {
        "name": loaded.name,
        "benchmark": loaded.benchmark,
        "description": " ".join(loaded.description.split()),
        "teacher_nfe": loaded.teacher.sampler.nfe,
        "targets": loaded.targets.model_dump(mode="json") | {"best": loaded.targets.best} if loaded.targets else None,
        "group": loaded.group,
    }


def _order(variants: list[Recipe]) -> tuple[bool, int, int]:
    """Return a sort key: pixels before latents, small before large."""
    network = variants[0].teacher.network
    return variants[0].dataset.latents is not None, network.resolution, network.model_channels


def _row(variants: list[Recipe]) -> tuple[str, ...]:
    base, *others = sorted(variants, key=lambda one: (len(one.name), one.name))
    targets, nfe = base.targets, base.teacher.sampler.nfe
    assert base.benchmark is not None
    names = " ".join([base.name, *(other.name.removeprefix(base.name) for other in others)])
    if targets is None:
        return base.benchmark, "", "", "", "", names
    generators = (None, None) if base.group == "ours" else (targets.sid, targets.best)
    teacher = _score(targets.teacher) + f" ({nfe})"
    return base.benchmark, teacher, *map(_score, (targets.teacher_guided, *generators)), names


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
