"""Runs side by side: ours, the paper's table, and the newest published results; who is ahead, and what differs."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sida import recipe as recipes
from sida import records
from sida.errors import Corrupt, NotFound, SidaError
from sida.manifests import GeneratorResult, Manifest, RunResult, Score, digest_of
from sida.recipe import Recipe
from sida.records import StepCall
from sida.report.published import NEWEST
from sida.scoring import words
from sida.scoring.gates import Standing, versus
from sida.scoring.interval import half_width
from sida.steps import recipe_at
from sida.stores.base import ObjectStore

MEANING = {  # how they differ, for who sees two of them side by side
    "sid": "SiD learns from the teacher's scores alone",
    "sida": "SiDA adds an adversarial loss, with real images",
    "sid2a": "SiD2A is SiDA that starts from SiD's generator",
}
_NOT_TOLD = (
    "name",
    "expected",
    "description",
    "version",
    "targets",
    "released",
    "execution",
    "gate",
    "benchmark",
)  # decide no number


@dataclass(frozen=True)
class Entry:
    """One finished run of ours."""

    run: str
    recipe: Recipe
    result: RunResult
    generator: Score
    teacher: Score
    kimg: float
    device_hours: float  # of distilling, all processes together
    curve: list[dict[str, float]]
    addresses: dict[str, str]  # generator, manifest, report (its page)
    mark: str = ""  # tells it from others of the same name

    @property
    def method(self) -> str:
        """As the paper calls it."""
        return self.recipe.method.title

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.recipe.name} ({self.method}){self.mark}"


@dataclass
class Benchmark:
    """A row of the paper's table, or a data set of our own: what was published, and what we have."""

    title: str
    metric: str
    published: dict[str, float | None] = field(default_factory=dict)  # teacher, SiD, SiDA or SiD2A, newest
    newest: str = ""  # who
    command: str = ""  # that fills it
    entries: list[Entry] = field(default_factory=list)  # largest n first, then best first


def benchmark_of(recipe: Recipe) -> str:
    """The paper's row, or the data set at its resolution."""
    if recipe.benchmark:
        return recipe.benchmark
    data = recipe.dataset
    kind = "" if recipe.teacher.network.label_dim else "-unconditional"
    return f"{data.source}-{data.resolution}x{data.resolution}{kind}"


def identity_of(recipe: Recipe, calls: Mapping[str, StepCall]) -> tuple[str, str]:
    """(repeat, identity) of a run: equal for runs that mean to measure the same."""
    repeat = next((call.parameters["repeat"] for call in calls.values() if call.parameters.get("repeat")), "")
    return repeat, digest_of([recipe.model_dump(mode="json"), repeat])


def entries(store: ObjectStore, runs: Iterable[str], names: Iterable[str] = ()) -> tuple[list[Entry], list[str]]:
    """The finished runs, the newest of each recipe and repeat; and a line about each that cannot be read."""
    found: dict[str, Entry] = {}
    left_out = []
    wanted = set(names)
    for run in runs:
        try:
            calls = records.calls(store, run)
            if "compare" not in calls or not calls["compare"].manifest:
                continue
            recipe = recipe_at(calls["compare"].recipe)
            if wanted and recipe.name not in wanted:
                continue
            found[identity_of(recipe, calls)[1]] = _entry(store, run, recipe, calls)
        except (NotFound, Corrupt, SidaError) as error:
            left_out.append(f"run {run} left out: {error}")
    titles = Counter(entry.title for entry in found.values())
    return [replace(e, mark=f" {e.run}") if titles[e.title] > 1 else e for e in found.values()], left_out


def _entry(store: ObjectStore, run: str, recipe: Recipe, calls: Mapping[str, StepCall]) -> Entry:
    made: dict[str, Manifest] = records.manifests(store, calls)
    result, generator = made["compare"].result, made["distill"].result
    assert isinstance(result, RunResult) and isinstance(generator, GeneratorResult)
    rows = {row.model: row for row in result.rows}
    seconds = float(made["distill"].about.seconds)
    addresses = {"generator": store.address_of(generator.weights.key)}
    addresses["manifest"] = store.address_of(records.manifest_key(calls["compare"]))
    if "report" in made:
        addresses["report"] = store.address_of(made["report"].result.page.key)  # type: ignore[union-attr]
    return Entry(
        run=run,
        recipe=recipe,
        result=result,
        generator=rows["generator"],
        teacher=rows["teacher"],
        kimg=recipe.method.images / 1000,
        device_hours=seconds * recipe.execution.processes / 3600,
        curve=json.loads(store.read(generator.curve.key)) if generator.curve else [],
        addresses=addresses,
    )


def benchmarks(ours: list[Entry], names: Iterable[str] = ()) -> list[Benchmark]:
    """The paper's table in its order, with or without runs, then our other data sets. ``names``: of recipes, to narrow it."""
    wanted, rows = set(names), {}
    for base in paper():
        assert base.benchmark is not None
        if base.benchmark in rows:
            continue
        targets: Any = base.targets
        who, newest = NEWEST.get(base.benchmark, ("", None))
        published = {
            "teacher": targets and targets.teacher,
            "SiD": targets and targets.sid,
            "SiDA, SiD2A": targets and targets.best,
            "newest": newest,
        }
        command = f"python -m pipeline run {base.name}"
        rows[base.benchmark] = Benchmark(base.benchmark, base.evaluation.metric, published, who, command)
    for entry in ours:
        title = benchmark_of(entry.recipe)
        rows.setdefault(title, Benchmark(title, entry.generator.metric)).entries.append(entry)
    for row in rows.values():
        row.entries.sort(key=lambda entry: (-entry.generator.n, entry.generator.mean))  # comparable ones together
    kept = [row for row in rows.values() if not wanted or row.entries or row.command.rpartition(" ")[2] in wanted]
    return sorted(kept, key=lambda row: not row.entries)


def paper() -> list[Recipe]:
    """The recipes of the paper's table: pixels before latents, small before large, the row's base before its variants."""
    known = [loaded for loaded in map(recipes.load, recipes.names()) if loaded.benchmark]
    return sorted(
        known,
        key=lambda r: (
            r.dataset.latents is not None,
            r.teacher.network.resolution,
            r.teacher.network.model_channels,
            len(r.name),
            r.name,
        ),
    )


def standing(entry: Entry, other: Entry) -> Standing | None:
    """Return how one run stands to another; None where their scores cannot be compared."""
    a, b = entry.generator, other.generator
    return versus(a, b) if (a.metric, a.n) == (b.metric, b.n) else None


def in_words(entry: Entry, other: Entry) -> tuple[str, str]:
    """Return a headline, which of two runs is ahead, and the numbers behind it."""
    return words.two_runs(entry.title, entry.generator, other.title, other.generator, standing(entry, other))


def differences(a: Entry, b: Entry) -> list[tuple[str, str, str]]:
    """(field, its value in a, in b) for every field of the recipes that differs and can decide a number."""
    left, right = (flat(entry.recipe.model_dump(mode="json")) for entry in (a, b))
    return [
        (name, left.get(name, "-"), right.get(name, "-"))
        for name in sorted({*left, *right}, key=lambda name: (not name.startswith("method."), name))
        if left.get(name) != right.get(name) and name.split(".")[0] not in _NOT_TOLD
    ]


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Nested fields as ``method.alpha: "1.0"``."""
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for name, item in value.items():
            found |= flat(item, f"{path}.{name}" if path else name)
        return found
    return {path: json.dumps(value) if isinstance(value, list) else str(value)}


# -- out


FIELDS = (
    *("benchmark", "recipe", "method", "run", "metric", "score", "interval95", "n", "kimg", "device_hours"),
    *("teacher", "teacher_nfe", "paper_teacher", "paper_sid", "paper_best", "newest", "newest_by", "verdict"),
    *("generator", "manifest", "command"),
)


def records_of(rows: list[Benchmark]) -> list[dict[str, Any]]:
    """One flat record for each run, and one for each row of the paper without a run; names and meanings stay as they are."""
    found = []
    for row in rows:
        published = {
            "paper_teacher": row.published.get("teacher"),
            "paper_sid": row.published.get("SiD"),
            "paper_best": row.published.get("SiDA, SiD2A"),
            "newest": row.published.get("newest"),
            "newest_by": row.newest or None,
        }
        ours: list[dict[str, Any]] = [_record(entry) for entry in row.entries]
        for record in ours or [{"command": row.command, "metric": row.metric}]:
            full = {"benchmark": row.title} | published | record
            found.append({name: full.get(name) for name in FIELDS})
    return found


def _record(entry: Entry) -> dict[str, Any]:
    return {
        "recipe": entry.recipe.name,
        "method": entry.method,
        "run": entry.run,
        "metric": entry.generator.metric,
        "score": entry.generator.mean,
        "interval95": half_width(entry.generator.values),
        "n": entry.generator.n,
        "kimg": entry.kimg,
        "device_hours": round(entry.device_hours, 4),
        "teacher": entry.teacher.mean,
        "teacher_nfe": entry.teacher.nfe,
        "verdict": entry.result.verdict,
        "generator": entry.addresses["generator"],
        "manifest": entry.addresses["manifest"],
    }


def as_csv(rows: list[Benchmark]) -> str:
    """The records as CSV. A text that a spreadsheet would take for a formula gets a quote in front."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for record in records_of(rows):
        writer.writerow({k: f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" else v for k, v in record.items()})
    return buffer.getvalue()
