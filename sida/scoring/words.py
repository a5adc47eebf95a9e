"""Verdicts and comparisons in words. ``gates`` decides them as values; every sentence stands here.

The module stands below the pages because scores and the records of runs keep some of these sentences.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from sida.manifests import Regression, Score
from sida.recipe import Recipe
from sida.scoring.gates import ONE_RANGE, Standing, comparison, is_best_of_two, target_of, versus, versus_published

TO_ANOTHER = {"ahead": "is ahead of", "level": "is level with", "behind": "is behind"}
TO_ITS_TEACHER = TO_ANOTHER | {"ahead": "surpasses"}
_STEPS = {1: "one", 2: "two", 3: "three", 4: "four"}
PUBLISHED_IMAGES = 50_000  # of a range, in all the publications whose scores recipes name
TO_THE_PUBLISHED = {"better": "better than", "within": "within the interval of", "worse": "worse than"}


def score_text(mean: float, sd: float | None, sign: str = "+-") -> str:
    """Return ``0.066 +- 0.008 (sd)``, the mean alone of a single range; intervals, as (95%), stand where a comparison is judged."""
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} {sign} {sd:.3f} (sd)"


def measured_text(score: Score, sign: str = "+-", digits: int = 3) -> str:
    """Return mean and spread; of a score by the protocol ``best`` the lowest range, by its name, and the mean by its own."""
    sd = spread(score)
    mean = f"{score.mean:.{digits}f}" + ("" if sd is None else f" {sign} {sd:.{digits}f}")
    if score.protocol == "mean" or len(score.values) == 1:
        return mean
    return f"best of {len(score.values)}: {score.reported:.{digits}f}; mean {mean}"


def label_of(score: Score) -> str:
    """Return a row's label; ``best of 3 ranges`` stands in that of a model, whose further metrics are means."""
    return score.label if score.protocol == "best" else re.sub(r", best of \d+ ranges$", "", score.label)


def steps_taken(steps: int) -> str:
    """Return how a generator samples, as its rows name it."""
    return "one step" if steps == 1 else f"{steps} steps"


def series_name(metric: str, n: int) -> str:
    """Return the name of a number among others': ``fid_n50000``; scores of other numbers of images are other scores."""
    return f"{metric}_n{n}"


def spread(score: Score) -> float | None:
    """Return the standard deviation over the seed ranges; None of a single range."""
    return score.sd if len(score.values) > 1 else None


def held_out_ranges(rows: Sequence[Score]) -> str:
    """Say over how many seed ranges the models of a table were scored."""
    ranges = {row.model: len(row.values) for row in rows if row.model in ("teacher", "generator")}
    if len(set(ranges.values())) < 2:
        return f"{len(rows[0].values)} held-out seed ranges"
    return f"{ranges['generator']} held-out seed ranges, the teacher's {ranges['teacher']}"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; its heading is the first row."""
    heading, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([heading, "|---" * len(rows[0]) + "|", *body])


def verdict(recipe: Recipe, rows: Sequence[Score]) -> str:
    """Return who is ahead, by how much, and whether the targets are met."""
    score = {row.model: row for row in rows}
    teacher, generator = score["teacher"], score["generator"]
    ratio, limit = over_teacher(generator, teacher), recipe.gate.generator_within
    side = "within" if ratio <= limit else "outside"
    published = target_gate(recipe, generator)
    return (
        f"The {against_teacher(recipe, generator, teacher)}, ratio {ratio:.2f}; "
        f"{side} the recipe's limit of {limit:g} times the teacher."
        f"{'' if published is None else f' Published: {published}.'}{_as_expected(recipe, teacher, generator)}"
    )


def over_teacher(generator: Score, teacher: Score) -> float:
    """Return the ratio of their scores; infinite to a teacher of score 0."""
    return generator.mean / teacher.mean if teacher.mean else math.inf


def headline(standing: Standing) -> str:
    """Return the generator's standing to its teacher, without numbers."""
    return f"The generator {TO_ITS_TEACHER[standing.kind]} its teacher."


def against_teacher(recipe: Recipe, generator: Score, teacher: Score) -> str:
    """Return the generator's standing to its teacher: which sampler, how many evaluations, how guided."""
    standing, guidance = versus(generator, teacher), recipe.teacher.sampler.guidance
    guided = "without guidance" if guidance == 1 else f"guidance {guidance:g}"
    return (
        f"{_STEPS.get(generator.nfe or 1, str(generator.nfe))}-step generator {TO_ITS_TEACHER[standing.kind]} its teacher "
        f"({teacher.sampler}, {teacher.nfe} evaluations, {guided}): "
        f"{generator.metric} {generator.mean:.3f} against {teacher.mean:.3f}, {difference(standing)}"
    )


def difference(standing: Standing, sign: str = "+-") -> str:
    """Return the difference with half of its interval."""
    return f"difference {standing.difference:+.3f} {sign} {standing.half:.3f} (95%)"


def target_gate(recipe: Recipe, score: Score) -> str | None:
    """Return the generator's standing to its publication; None where nothing was published."""
    published = target_of(recipe)
    if published is None or recipe.targets is None or recipe.targets.metric != score.metric:
        return None
    if score.protocol == "best":
        found = f"the best of {len(score.values)} ranges, as publications report it; not a mean"
    elif score.interval is None:
        found = f"one range, no interval: taken as equal within {ONE_RANGE:.0%}"
    else:
        found = f"+- {score.interval:.3f} (95%) over {len(score.values)} ranges"
    source = recipe.targets.source
    remark = ""
    if is_best_of_two(recipe):
        remark += f", the best of SiDA and SiD2A; none is known for {recipe.method.title} alone"
    if (score.nfe or 1) > 1:
        remark += f"; published for one step, this took {score.nfe}"
    if score.n != PUBLISHED_IMAGES:
        remark += f"; published for {PUBLISHED_IMAGES:,} images, this is of {score.n:,}: fewer score higher"
    if recipe.in_another_precision:
        remark += f"; published in {recipe.targets.precision}, this was {precision(recipe)}"
    relation = TO_THE_PUBLISHED[versus_published(score, published)]
    return f"{score.metric} {score.reported:.3f} ({found}) is {relation} the published {published:g} ({source}){remark}"


def precision(recipe: Recipe) -> str:
    """Return ``distilled and scored in tf32``, or both precisions where they differ."""
    distilled, scored = recipe.method.precision, recipe.score_precision
    return f"distilled {'and' if distilled == scored else f'in {distilled} and'} scored in {scored}"


def _as_expected(recipe: Recipe, teacher: Score, generator: Score) -> str:
    """Return whether the numbers are those that the recipe was recorded with."""
    if recipe.expected is None:
        return ""
    ranges = ((teacher, recipe.expected.teacher), (generator, recipe.expected.generator))
    wrong = [
        f"{score.model} {score.mean:.3f} is outside of {low:g} to {high:g}"
        for score, (low, high) in ranges
        if not low <= score.mean <= high
    ]
    return f" Not what the recipe records: {', '.join(wrong)}." if wrong else " Both as the recipe records."


def two_runs(name: str, score: Score, other_name: str, other: Score) -> tuple[str, str]:
    """Return which of two runs is ahead, and the numbers behind it."""
    standing = comparison(score, other)
    if standing is None:
        protocols = f"{score.metric} at n = {score.n:,} and {other.metric} at n = {other.n:,}."
        return f"{name} and {other_name} cannot be compared", protocols
    numbers = f"{score.metric} {score.mean:.3f} against {other.mean:.3f}, {difference(standing, '±')}."
    return f"{name} {TO_ANOTHER[standing.kind]} {other_name}", numbers


def regression(change: Regression) -> str:
    """Return a sentence on a score against the last one of its recipe, for terminal, page, record and webhook."""
    values = f"{change.metric} {change.now:.3f} now, {change.before:.3f} the last time"
    if change.half_width is None:
        return f"Whether the score changed cannot be told from a single seed range: {values}."
    half = f"{change.half_width:.3f} (95%)"
    if change.regressed:
        return (
            f"REGRESSED: worse than the last score of this recipe by {change.worse_by:.3f}, more than {half}: {values}."
        )
    moved = change.now - change.before
    return f"No regression: the last score of this recipe differs by {moved:+.3f}, interval {half}: {values}."
