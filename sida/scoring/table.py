"""The step published_table: the published scores of the authors' generators beside ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from sida import progress
from sida.errors import UserError
from sida.failures import Failure
from sida.manifests import (
    Manifest,
    PaperRow,
    PublishedFailure,
    PublishedResult,
    PublishedRow,
    PublishedSecond,
    ScoresResult,
    input_of,
)
from sida.origin import store_of
from sida.recipe import Recipe, load
from sida.recipe import names as recipe_names
from sida.scoring import words
from sida.scoring.gates import target_of, versus_published
from sida.scoring.label_rule import EXACT
from sida.steps import From, Made, StepRun, step
from sida.steps.recipes import recipe_at, recipe_of

HEADING = ("benchmark", "generator", "metric", "published", "ours", "95% interval", "verdict", "cost")
LINES = {"sid": "SiD", "best": "best of SiDA, SiD2A"}  # the two numbers that the paper gives for each benchmark


def _repeats(made: Made[PublishedResult]) -> dict[str, Any]:
    result, parameters = made.result, made.about.parameters
    scores = [input_of(made.inputs, _input(number), ScoresResult) for number in range(parameters["rows"])]
    rows = [_row(manifest, recipe_of(made.store, manifest)) for manifest in scores]
    failed = tuple(PublishedFailure(**row) for row in parameters["failed"])
    # Of the paper's rows what was published, as it was known then, and of all what was scored.
    known = {(row["benchmark"], row["line"]): row for row in parameters["paper"]}
    named = ("metric", "published", "source")
    paper = [
        row.model_copy(
            update=_scored(row.recipes, rows, failed)
            | {name: known.get((row.benchmark, row.line), row.model_dump())[name] for name in named}
        )
        for row in result.paper
    ]
    return {"rows": tuple(rows), "failed": failed, "paper": tuple(paper)}


def _input(number: int) -> str:
    return f"scores_{number:02d}"


@step(
    version=2,
    sources=("sida/scoring/table.py", "sida/scoring/gates.py", "sida/scoring/words.py"),
    output="table",
    repeats=_repeats,
)
def published_table(
    run: StepRun, recipe: Recipe, scores: Annotated[list[Manifest[ScoresResult] | Failure], From("score")]
) -> PublishedResult:
    """Compare the released generators' scores with the published ones: ours, interval, verdict, cost.

    A generator that could not be scored is named in the table, and ends this step with a status of its own.

    Args:
        scores: The generators' scores.

    Returns:
        The table's manifest.
    """
    if not scores:
        raise UserError("there is no score to put into the table: name recipes with a released generator")
    good = [score for score in scores if isinstance(score, Manifest)]
    failures = [(score, recipe_at(score.recipe, run.store)) for score in scores if isinstance(score, Failure)]
    failed = [_failure(failure, its_recipe) for failure, its_recipe in failures]
    parameters = {
        "rows": len(good),
        "failed": [row.model_dump(mode="json") for row in failed],
        "paper": [row.model_dump(mode="json") for row in paper_rows([], [], {})],
    }
    run.claim(parameters, **{_input(number): manifest for number, manifest in enumerate(good)})
    rows, recipes = [], {its_recipe.name: its_recipe for _, its_recipe in failures}
    for manifest in good:
        scored = recipe_of(store_of(manifest), manifest)
        recipes[scored.name] = scored
        rows.append(_row(manifest, scored))
    return PublishedResult(rows=tuple(rows), paper=tuple(paper_rows(rows, failed, recipes)), failed=tuple(failed))


def _failure(failure: Failure, recipe: Recipe) -> PublishedFailure:
    return PublishedFailure(
        recipe=recipe.name,
        benchmark=recipe.benchmark or recipe.name,
        generator=_generator(recipe),
        step=failure.step,
        message=failure.message,
        exit_code=failure.exit_code,
    )


def _generator(recipe: Recipe) -> str:
    precision = f", {words.precision(recipe)}" if recipe.in_another_precision else ""
    return f"{recipe.method.name} (alpha {recipe.method.alpha:g}{precision})"


def paper_rows(
    rows: Sequence[PublishedRow], failed: Sequence[PublishedFailure], recipes: Mapping[str, Recipe]
) -> list[PaperRow]:
    """Return the rows of the paper's table and those of other ``recipes``, each with its best score here."""
    by_name = {name: load(name) for name in released_recipes()} | dict(recipes)
    groups: dict[tuple[str, str], list[Recipe]] = {}
    for recipe in by_name.values():
        if target_of(recipe) is not None:
            line = LINES["sid" if recipe.method.name == "sid" else "best"]
            groups.setdefault((recipe.benchmark or recipe.name, line), []).append(recipe)
    return [_paper_row(*group, members, rows, failed) for group, members in groups.items()]


def _paper_row(
    benchmark: str,
    line: str,
    members: list[Recipe],
    rows: Sequence[PublishedRow],
    failed: Sequence[PublishedFailure],
) -> PaperRow:
    names = tuple(recipe.name for recipe in members)
    targets, published = members[0].targets, target_of(members[0])
    assert targets is not None and published is not None
    return PaperRow(
        benchmark=benchmark,
        line=line,
        metric=targets.metric,
        published=published,
        source=targets.source,
        recipes=names,
        **_scored(names, rows, failed),
    )


def _scored(names: Sequence[str], rows: Sequence[PublishedRow], failed: Sequence[PublishedFailure]) -> dict[str, Any]:
    """Return the fields of a row of the paper that its best score decides."""
    best = min((row for row in rows if row.recipe in names), key=lambda row: row.ours, default=None)
    unscored = "failed" if any(row.recipe in names for row in failed) else "not scored"
    return {
        "best": best.recipe if best else None,
        "ours": best.ours if best else None,
        "interval": best.interval if best else None,
        "verdict": best.verdict if best else unscored,
    }


def _row(manifest: Manifest[ScoresResult], recipe: Recipe) -> PublishedRow:
    score, published = manifest.result.rows[0], target_of(recipe)
    second = next(iter(manifest.result.second_rows), None)
    rate = float(manifest.about.notes.get("images_per_second", math.nan))
    return PublishedRow(
        benchmark=recipe.benchmark or recipe.name,
        recipe=recipe.name,
        generator=_generator(recipe),
        metric=score.metric,
        published=published,
        source=recipe.targets.source if recipe.targets else None,
        ours=score.reported,
        interval=score.interval,
        protocol=score.protocol,
        ranges=len(score.values),
        n=score.n,
        verdict=versus_published(score, published) if published is not None else "nothing published",
        seconds=manifest.about.seconds,
        images_per_second=None if math.isnan(rate) else rate,
        checkpoint_sha256=score.checkpoint_sha256 or "",
        second=PublishedSecond(metric=second.metric, ours=second.reported, interval=second.interval)
        if second
        else None,
    )


def lines(result: PublishedResult) -> list[tuple[str, ...]]:
    """Return the table as cells, heading first: the paper's rows, each followed by its files where there are several.

    The cost is the scoring's seconds and rate; for a row without a score, the command that fills it.
    """
    cells: list[tuple[str, ...]] = [HEADING]
    rows, failed = {row.recipe: row for row in result.rows}, {row.recipe: row for row in result.failed}
    for paper in result.paper:
        files = [rows.get(name) or failed[name] for name in paper.recipes if name in rows or name in failed]
        best = rows.get(paper.best or "")
        cost = _cost(best) if best else "sida score-published " + " ".join(paper.recipes)
        line = f"{paper.line}: {best.generator}" if best and len(paper.recipes) > 1 else paper.line
        ours = _ours(best) if best else ("-", "-")
        cells.append((paper.benchmark, line, paper.metric, f"{paper.published:g}", *ours, paper.verdict, cost))
        if len(files) > 1 or (failed and best and len(paper.recipes) > 1):
            for file in files:
                cells += [_file(file), *_second(rows.get(file.recipe))]
        else:
            cells += _second(best)
    listed = {name for paper in result.paper for name in paper.recipes}
    for name, row in rows.items():
        if name not in listed:
            cells.append((row.benchmark, row.generator, row.metric, "-", *_ours(row), row.verdict, _cost(row)))
            cells += _second(row)
    return cells


def _second(row: PublishedRow | None) -> list[tuple[str, ...]]:
    """Return the line of a row's second metric, if it has one."""
    if row is None or row.second is None:
        return []
    second = row.model_copy(update=row.second.model_dump())
    return [("", f"  {row.generator}", second.metric, "-", *_ours(second), "nothing published", "")]


def _file(row: PublishedRow | PublishedFailure) -> tuple[str, ...]:
    if isinstance(row, PublishedFailure):
        return ("", f"  {row.generator}", "", "", "-", "-", "failed", f"in {row.step}")
    return ("", f"  {row.generator}", row.metric, "", *_ours(row), row.verdict, _cost(row))


def _ours(row: PublishedRow) -> tuple[str, str]:
    best = f"best of {row.ranges}, " if row.protocol == "best" else ""
    ours = f"{row.ours:.3f} ({best}n = {row.n:,})"
    return ours, "-" if row.interval is None else f"+- {row.interval:.3f}"


def _cost(row: PublishedRow) -> str:
    rate = "" if row.images_per_second is None else f", {row.images_per_second:,.0f} images/s"
    return f"{row.seconds:,.0f} s{rate}"


def verdict(result: PublishedResult) -> str:
    """Return a line that counts the rows by verdict, and a line for each generator that failed."""
    total = len(result.paper)
    filled = [row for row in result.paper if row.best]
    counts = {word: sum(row.verdict == word for row in filled) for word in ("better", "within", "worse")}
    text = [f"{len(filled)} of {total} rows scored: " + ", ".join(f"{n} {word}" for word, n in counts.items())]
    text += [f"labels: {EXACT}"] if result.rows else []  # the rule of the step score
    text += [f"failed: {row.recipe}: {row.step}: {row.message}" for row in result.failed]
    return "\n".join(text)


def refuse_failures(manifest: Manifest[PublishedResult]) -> None:
    """Exit with an error when a generator could not be scored. The table is published by then."""
    result = manifest.result
    if not result.failed:
        return
    first, total = result.failed[0], len(result.failed) + len(result.rows)
    status = 2 if all(row.exit_code == 2 for row in result.failed) else 1
    more = "" if len(result.failed) == 1 else f" (and {len(result.failed) - 1} more, see the table)"
    message = f"{len(result.failed)} of {total} generators could not be scored: {first.recipe}: {first.step}: "
    progress.error("published_table", f"{message}{first.message}{more}", status)
    raise SystemExit(status)


def markdown(manifest: Manifest[PublishedResult]) -> str:
    """Return the table for KFP's page."""
    result = manifest.result
    verdicts = [f"{line}  " for line in verdict(result).splitlines()]
    return "\n".join([words.markdown_table(lines(result)), "", *verdicts, ""])


def released_recipes(names: Sequence[str] = ()) -> list[str]:
    """Return recipes with a released generator: those named, else those of the paper's EDM table.

    A row of that table is a published number: SiD's, or the best of SiDA and SiD2A. The paper does not say which file
    the best one is, so every candidate is included. Raises UserError for a recipe without a released generator.
    """
    chosen = []
    for name in names or recipe_names():
        recipe = load(name)
        if recipe.released is None or target_of(recipe) is None:
            if names:
                raise UserError(f"recipe {name}: it has no released generator with a published score: see `list`")
        elif names or (recipe.dataset.latents is None and recipe.method.name in ("sid", "sid2a")):
            chosen.append(name)
    return chosen
