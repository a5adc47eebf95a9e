"""The step published_table: the authors' generators as published and as they score here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.manifests import Manifest, PublishedResult, PublishedRow, ScoresResult, read_manifest
from sida.recipe import Recipe
from sida.recipe import names as recipe_names
from sida.scoring.gates import standing, target_of
from sida.scoring.verify import recipe_of
from sida.steps import Context, Published, step
from sida.stores import open_store

HEADING = ("benchmark", "generator", "metric", "published", "ours", "95% interval", "verdict", "cost")


@step("published_table", version=1, sources=("sida/scoring/table.py", "sida/scoring/gates.py"))
def published_table(context_of: Any, *, recipe: Recipe, scores: Sequence[str], attempt: str = "") -> Published:
    """Put the published number of every released generator beside ours."""
    inputs = {f"scores_{number:02d}": read_manifest(path, "scores") for number, path in enumerate(scores)}
    if not inputs:
        raise UserError("there is no score to put into the table: name recipes with a released generator")

    def produce(context: Context) -> PublishedResult:
        rows = []
        for manifest in inputs.values():
            rows.append(_row(manifest, recipe_of(open_store(manifest.about.store), manifest)))
        return PublishedResult(rows=tuple(rows))

    return context_of(parameters={"rows": len(inputs)}, inputs=inputs, produce=produce, attempt=attempt)


def _row(manifest: Manifest, recipe: Recipe) -> PublishedRow:
    result: ScoresResult = manifest.result  # type: ignore[assignment]
    score, published = result.rows[0], target_of(recipe)
    rate = float(manifest.about.notes.get("images_per_second", math.nan))
    return PublishedRow(
        benchmark=recipe.benchmark or recipe.name,
        recipe=recipe.name,
        generator=f"{recipe.method.name} (alpha {recipe.method.alpha:g})",
        metric=score.metric,
        published=published,
        source=recipe.targets.source if recipe.targets else None,
        ours=score.reported,
        interval=score.interval,
        protocol=score.protocol,
        ranges=len(score.values),
        n=score.n,
        verdict=standing(score, published) if published is not None else "nothing published",
        seconds=manifest.about.seconds,
        images_per_second=None if math.isnan(rate) else rate,
        checkpoint_sha256=score.checkpoint_sha256 or "",
    )


def lines(result: PublishedResult) -> list[tuple[str, ...]]:
    """The table as cells, its heading first. Cost: seconds and rate of the scoring."""
    found: list[tuple[str, ...]] = [HEADING]
    for row in result.rows:
        interval = "-" if row.interval is None else f"+- {row.interval:.3f}"
        ours = f"{row.ours:.3f}" + (f" (best of {row.ranges})" if row.protocol == "best" else "")
        rate = "" if row.images_per_second is None else f", {row.images_per_second:,.0f} images/s"
        published = "-" if row.published is None else f"{row.published:g}"
        cost = f"{row.seconds:,.0f} s{rate}"
        found.append((row.benchmark, row.generator, row.metric, published, ours, interval, row.verdict, cost))
    return found


def markdown(manifest: Manifest) -> str:
    """The table for KFP's page."""
    result: PublishedResult = manifest.result  # type: ignore[assignment]
    heading, *rows = lines(result)
    text = [
        "| " + " | ".join(heading) + " |",
        "|---" * len(heading) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join([*text, ""])


def released_recipes(wanted: Sequence[str] = ()) -> list[str]:
    """Recipes with a released generator: those named, else every row of the paper's EDM table.

    A row is a published number: SiD's, and the best of SiDA and SiD2A. Which of several files the best one is, the paper does
    not say, so that all that could be are there. Raises UserError for a recipe without a released generator.
    """
    from sida.recipe import load

    chosen = []
    for name in wanted or recipe_names():
        recipe = load(name)
        if recipe.released is None or target_of(recipe) is None:
            if wanted:
                raise UserError(f"recipe {name}: it has no released generator with a published score: see `list`")
        elif wanted or (recipe.dataset.latents is None and recipe.method.name in ("sid", "sid2a")):
            chosen.append(name)
    return chosen


def data_step(recipe: Recipe) -> Any:
    """What scoring needs of the training set: its images where statistics come from them, else its label distribution."""
    from sida.scoring.labels import label_distribution, needs_images

    if needs_images(recipe):
        from sida.data.prepare import prepare_data

        return prepare_data
    return label_distribution


def read_rows(path: Path) -> PublishedResult:
    """The table in a manifest's file."""
    result = read_manifest(path, "published").result
    assert isinstance(result, PublishedResult)
    return result
