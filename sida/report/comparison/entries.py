"""Finished runs and the benchmarks they belong to, beside the paper's table and the newest published results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sida import recipe as recipes
from sida import records
from sida.errors import Corrupt, NotFound, SidaError
from sida.manifests import GeneratorResult, RunResult, Score, digest_of
from sida.recipe import Recipe
from sida.records import StepCall
from sida.report.comparison.literature import newest
from sida.report.page import Curve, curve_of
from sida.scoring import words
from sida.steps.recipes import recipe_at
from sida.stores.base import ObjectStore

PAIRS = 3  # runs of a benchmark that are compared with its best one
_DECIDE_NO_NUMBER = (
    *("name", "expected", "description", "version", "targets"),
    *("released", "execution", "gate", "benchmark"),
)


@dataclass(frozen=True)
class ComparedRun:
    """One finished run of ours."""

    run: str
    recipe: Recipe
    result: RunResult
    generator: Score
    teacher: Score
    kimg: float
    device_hours: float  # of distilling, all processes together
    curve: Curve
    addresses: dict[str, str]  # generator, manifest, report (its page)
    mark: str = ""  # tells it from others of the same name

    @property
    def method(self) -> str:
        """The paper's name of the method."""
        return self.recipe.method.title

    @property
    def title(self) -> str:
        """The run's name in tables and sentences."""
        return f"{self.recipe.name} ({self.method}){self.mark}"


@dataclass
class Benchmark:
    """A row of the paper's table or from a better teacher, or a data set of our own: its published scores and our runs."""

    title: str
    metric: str
    published: dict[str, float | None] = field(default_factory=dict)  # teacher, SiD, SiDA or SiD2A, newest
    newest: str = ""  # name of the newest method
    recipe: str = ""  # of the row; empty for a data set of our own
    entries: list[ComparedRun] = field(default_factory=list)  # largest n first, then best first

    @property
    def command(self) -> str:
        """The command that fills the row."""
        return f"sida run {self.recipe}"

    @property
    def pairs(self) -> list[tuple[ComparedRun, ComparedRun]]:
        """The best run with each of the next ones."""
        return [(self.entries[0], other) for other in self.entries[1 : 1 + PAIRS]]


def benchmark_of(recipe: Recipe) -> str:
    """Return the paper's row, or the data set at its resolution."""
    if recipe.benchmark:
        return recipe.benchmark
    data = recipe.dataset
    kind = "" if recipe.teacher.network.label_dim else "-unconditional"
    return f"{data.source}-{data.resolution}x{data.resolution}{kind}"


def identity_of(recipe: Recipe, calls: Mapping[str, StepCall]) -> tuple[str, str]:
    """Return (repeat, identity) of a run; runs that mean to measure the same have the same identity."""
    repeat = next((call.parameters["repeat"] for call in calls.values() if call.parameters.get("repeat")), "")
    return repeat, digest_of([recipe.model_dump(mode="json"), repeat])


def finished_runs(
    store: ObjectStore, runs: Iterable[str], names: Iterable[str] = (), *, each: bool = False
) -> tuple[list[ComparedRun], list[str]]:
    """Return the newest finished run of each recipe and repeat, and a line about each run that cannot be read.

    ``names``: of recipes, when only those are of interest. ``each``: a line about every run that is left out, whatever the reason.
    """
    newest: dict[str, ComparedRun] = {}
    left_out, passed_over, names = [], [], set(names)
    for run in runs:
        try:
            calls = records.calls(store, run)
            if "compare" not in calls or not calls["compare"].manifest:
                passed_over.append(f"run {run} left out: it has no result to compare (`status {run}`)")
                continue
            recipe = recipe_at(calls["compare"].recipe, store)
            if names and recipe.name not in names:
                passed_over.append(f"run {run} left out: it is of the recipe {recipe.name}")
                continue
            identity = identity_of(recipe, calls)[1]
            if identity in newest and newest[identity].run != run:
                older = newest[identity].run
                passed_over.append(
                    f"run {older} left out: {run} is of the same recipe and repeat, and counts in its place"
                )
            newest[identity] = _entry(store, run, recipe, calls)
        except (NotFound, Corrupt, SidaError) as error:
            left_out.append(f"run {run} left out: {error}")
    titles = Counter(entry.title for entry in newest.values())
    return [
        replace(e, mark=f" {e.run}") if titles[e.title] > 1 else e for e in newest.values()
    ], left_out + passed_over * each


def _entry(store: ObjectStore, run: str, recipe: Recipe, calls: Mapping[str, StepCall]) -> ComparedRun:
    manifests = records.manifests(store, calls)
    result, generator = manifests["compare"].result, manifests["distill"].result
    assert isinstance(result, RunResult) and isinstance(generator, GeneratorResult)
    rows = {row.model: row for row in result.rows}
    addresses = {"generator": store.address_of(generator.weights.key)}
    addresses["manifest"] = store.address_of(records.made_key(calls["compare"]))
    if "report" in manifests:
        addresses["report"] = store.address_of(manifests["report"].result.page.key)  # type: ignore[union-attr]
    return ComparedRun(
        run=run,
        recipe=recipe,
        result=result,
        generator=rows["generator"],
        teacher=rows["teacher"],
        kimg=recipe.method.images / 1000,
        device_hours=manifests["distill"].about.seconds * recipe.execution.processes / 3600,
        curve=curve_of(store, generator),
        addresses=addresses,
    )


def benchmarks(ours: Iterable[ComparedRun], names: Iterable[str] = ()) -> list[Benchmark]:
    """Return the rows of the paper and of better teachers, with or without runs, then our other data sets.

    ``names``: of recipes, to narrow it.
    """
    names, rows = set(names), {}
    for base in with_rows():
        assert base.benchmark is not None
        if base.benchmark in rows:
            continue
        targets: Any = base.targets
        newest_by, best = newest(base.benchmark)
        published = {
            "teacher": targets and targets.teacher,
            "SiD": targets and targets.sid,
            "SiDA, SiD2A": targets and targets.best,
            "newest": best,
        }
        rows[base.benchmark] = Benchmark(base.benchmark, base.evaluation.metric, published, newest_by, base.name)
    for entry in ours:
        title = benchmark_of(entry.recipe)
        rows.setdefault(title, Benchmark(title, entry.generator.metric)).entries.append(entry)
    for row in rows.values():
        row.entries.sort(key=lambda entry: (-entry.generator.n, entry.generator.mean))  # comparable ones together
    chosen = [row for row in rows.values() if not names or row.entries or row.recipe in names]
    return sorted(chosen, key=lambda row: not row.entries)


def with_rows() -> list[Recipe]:
    """Return the recipes with a row: pixels before latents, small before large, the row's base before its variants."""
    return sorted(
        (recipe for recipe in map(recipes.load, recipes.names()) if recipe.benchmark),
        key=lambda recipe: (
            recipe.dataset.latents is not None,
            recipe.teacher.network.resolution,
            recipe.teacher.network.model_channels,
            len(recipe.name),
            recipe.name,
        ),
    )


def in_words(entry: ComparedRun, other: ComparedRun) -> tuple[str, str]:
    """Return a headline, which of two runs is ahead, and the numbers behind it."""
    return words.two_runs(entry.title, entry.generator, other.title, other.generator)


def differences(entry: ComparedRun, other: ComparedRun) -> list[tuple[str, str, str]]:
    """Return (field, one value, other value) for every differing field of the recipes that can decide a number."""
    left, right = (flat(run.recipe.model_dump(mode="json")) for run in (entry, other))
    return [
        (name, left.get(name, "-"), right.get(name, "-"))
        for name in sorted({*left, *right}, key=lambda name: (not name.startswith("method."), name))
        if left.get(name) != right.get(name) and name.split(".")[0] not in _DECIDE_NO_NUMBER
    ]


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Return nested fields as ``method.alpha: "1.0"``."""
    if not isinstance(value, dict):
        return {path: json.dumps(value) if isinstance(value, list) else str(value)}
    fields: dict[str, str] = {}
    for name, item in value.items():
        fields |= flat(item, f"{path}.{name}" if path else name)
    return fields
