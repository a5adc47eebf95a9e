"""The tables of docs/benchmarks.md, from recipes and `plan`; the prose between is by hand. ``python -m scripts.benchmarks``.

``--count`` counts iterations anew (minutes) and keeps the counts in costs.json; everything else is computed at once. Tests compare
the page with this, and the counts with the networks.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from scripts.reference import table
from sida import planning, recipe
from sida.gpus import GPUS, Machines
from sida.recipe import Recipe
from sida.training.cost import Blocks, IterationCost, PhaseCost, iteration_cost

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
COSTS = Path(__file__).with_name("costs.json")
MACHINE = Machines(nodes=1, gpus=8, gpu=GPUS["h100"])
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@cache
def targeted() -> tuple[Recipe, ...]:
    """Every recipe with published scores, of generators or of the teacher alone, in the precision that these have.

    Small images before large, small networks before large, the row's own name first.
    """
    loaded = [recipe.load(name) for name in recipe.names()]
    found = [one for one in loaded if one.targets is not None and not one.in_another_precision]
    width = {loaded.name: loaded.teacher.network.model_channels for loaded in found}
    return tuple(
        sorted(found, key=lambda one: (one.dataset.latents is not None, one.dataset.resolution, width[one.name]))
    )


def published() -> list[Recipe]:
    """Those of the paper's table."""
    return [loaded for loaded in targeted() if loaded.group == "paper"]


def rows() -> list[Recipe]:
    """The recipe that names a row of it."""
    return [loaded for loaded in published() if loaded.method.name == "sida"]


def better_rows() -> list[Recipe]:
    """The recipe that names a row of ours, from another's better teacher."""
    return [loaded for loaded in targeted() if loaded.group == "ours" and loaded.method.name == "sida"]


def kind(loaded: Recipe) -> str:
    """Networks of one kind cost the same: named after the first row that has them."""

    def shape(one: Recipe) -> object:
        small = {"logvar_channels": None}  # a few multiplications an image, which one SiD recipe goes without
        return one.teacher.network.model_copy(update=small), one.method.precision

    return next(row.name for row in [*rows(), *better_rows()] if shape(row) == shape(loaded))


def counted(loaded: Recipe) -> IterationCost:
    """From costs.json. SiD does without the discriminator, which is the encoder's forward and backward pass."""
    told = json.loads(COSTS.read_text(encoding="utf-8"))[kind(loaded)]
    phases, blocks = {phase: PhaseCost(**told.pop(phase)) for phase in ("A", "B")}, Blocks(**told.pop("blocks"))
    cost = IterationCost(**told, **phases, blocks=blocks)
    if loaded.method.adversarial:
        return cost
    return replace(cost, A=replace(cost.A, flops=cost.A.flops - 3 * cost.encoder_flops, masks=cost.B.masks))


def count() -> None:
    """Into costs.json, one kind after the other; those that are there stay."""
    costs = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.exists() else {}
    for loaded in [*rows(), *better_rows()]:
        if (name := kind(loaded)) not in costs:
            costs[name] = asdict(iteration_cost(loaded.teacher.network, loaded.method, loaded.execution))
            del costs[name]["teaching"]  # theirs are fetched
            COSTS.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")


# -- tables

_HOURS = tuple(f"{method}: images, GPU hours" for method in ("SiDA", "SiD", "SiD2A"))


def variants(row: Recipe) -> dict[str, Recipe]:
    """Method -> the recipe of the row that is named after it, where there is one."""
    found = {one.name: one for one in targeted() if one.benchmark == row.benchmark}
    suffixes = {"SiDA": "", "SiD": "-sid", "SiD2A": "-sid2a"}
    return {method: found[row.name + suffix] for method, suffix in suffixes.items() if row.name + suffix in found}


def scores() -> list[str]:
    """What was published."""
    lines: list[tuple[str, ...]] = []
    for row in rows():
        targets = row.targets
        assert targets is not None
        teacher = f"{targets.teacher} ({row.teacher.sampler.nfe})"
        shown = (f"{value:g}" if value is not None else "-" for value in (targets.sid, targets.best))
        lines.append((f"`{row.name}`", teacher, *shown, f"{row.gate.teacher_at_most:g}"))
    return table(("recipe", "teacher (evaluations)", "SiD", "best of SiDA, SiD2A", "gate: teacher at most"), lines)


def cost() -> list[str]:
    """GPU hours of all steps, memory and storage."""
    lines = []
    for row in rows():
        plans = {method: planning.plan(one, counted(one), MACHINE) for method, one in variants(row).items()}
        hours = (f"{made.recipe.method.images / 1e6:g} M, {made.work.total:,.0f}" for made in plans.values())
        main = plans["SiDA"]
        memory = f"{main.memory_bytes / planning.GIB:.0f} GiB{'' if main.fits else ' (does not fit)'}"
        stored = f"{sum(main.storage.values()) / planning.GIB:,.0f} GiB"
        groups = row.method.batch // row.method.loss_group
        lines.append((f"`{row.name}`", *hours, f"{main.hours / 24:.1f}", memory, stored, f"{groups:,}"))
    return table(("recipe", *_HOURS, "SiDA on 8: days", "memory per GPU", "store", "loss groups"), lines)


def tf32() -> list[str]:
    """GPU hours of the variants in TF32, which take as many operations."""
    lines = []
    for row in rows():
        hours = []
        for one in variants(row).values():
            if (name := f"{one.name}-tf32") in recipe.names():
                made = planning.plan(recipe.load(name), counted(one), MACHINE)
                hours.append(f"{made.work.total:,.0f}")
        if hours:
            lines.append((f"`{row.name}-tf32`", *hours))
    return table(("recipe", *(f"{method}: GPU hours" for method in variants(rows()[0]))), lines)


def link(address: str | None) -> str:
    """A file's name that leads to it."""
    return f"[{Path(urlsplit(address).path).name}]({address})" if address else "get it yourself"


def better() -> list[str]:
    """Better teachers: what was published of them, and what distilling them costs."""
    lines = []
    for row in better_rows():
        made = {method: planning.plan(one, counted(one), MACHINE) for method, one in variants(row).items()}
        targets, reference = row.targets, row.evaluation.reference
        assert targets is not None and reference is not None
        hours = (
            f"{plan.recipe.method.images / 1e6:g} M, {plan.work.total:,.0f}" if plan else "-"
            for plan in map(made.get, ("SiDA", "SiD", "SiD2A"))
        )
        files = (link(row.teacher.address), link(reference.address))
        memory = f"{made['SiDA'].memory_bytes / planning.GIB:.0f} GiB"
        teacher = f"{targets.teacher:.2f} ({row.teacher.sampler.nfe})"
        lines.append((f"`{row.name}`", teacher, f"{row.gate.teacher_at_most:.2f}", *hours, memory, *files))
    heads = (*("recipe", "teacher (evaluations)", "gate: teacher at most"), *_HOURS, "memory per GPU")
    return table((*heads, "teacher", "reference statistics"), lines)


def downloads() -> list[str]:
    """The files of every row, as links, and their licences."""
    lines = []
    for row in rows():
        start, reference = variants(row)["SiD2A"].generator, row.evaluation.reference
        assert start is not None
        assert reference is not None
        count = f", {row.dataset.images:,} images" if row.dataset.images else ""
        data = f"{link(row.dataset.address)}{count}: {row.dataset.licence}"
        lines.append((f"`{row.name}`", link(row.teacher.address), link(start.address), data, link(reference.address)))
    return table(("recipe", "teacher", "generator that SiD2A starts from", "data", "reference statistics"), lines)


def differences() -> list[str]:
    """Comments of recipes that begin with "Repaired", and those that say how long a released generator was trained."""
    lines = []
    for one in published():
        head = recipe.find(one.name).read_text(encoding="utf-8").partition("extends:")[0]
        said = " ".join(line.lstrip("# ") for line in head.splitlines()[1:])
        lines += [(f"`{one.name}`", said)] if said else []
    return table(("recipe", "what differs, and what to know"), lines)


TABLES = {
    "scores": scores,
    "cost": cost,
    "tf32": tf32,
    "better": better,
    "downloads": downloads,
    "differences": differences,
}


def page() -> str:
    """The file with its tables made anew."""

    def made(block: re.Match[str]) -> str:
        return block[1] + "\n" + "\n".join(TABLES[block[2]]()) + "\n" + block[3]

    return BLOCK.sub(made, PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", action="store_true", help="count iterations anew: minutes")
    if parser.parse_args().count:
        COSTS.unlink(missing_ok=True)
        count()
    PAGE.write_text(page(), encoding="utf-8")
