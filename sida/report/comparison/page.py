"""The comparison as one self-contained web page: table, curves over each other, samples with a slider, differences."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sida.errors import NotFound
from sida.manifests import Score
from sida.report.charts import Chart, intervals, svg
from sida.report.comparison.entries import Benchmark, ComparedRun, differences, in_words
from sida.report.comparison.literature import HEADINGS, cells, literature
from sida.report.comparison.table import COLUMNS, rows_of
from sida.report.page import PICTURE_BYTES, discriminator_lead, series
from sida.report.render import TEMPLATES, png, render
from sida.scoring.gates import comparison, versus
from sida.scoring.interval import half_width
from sida.scoring.words import over_teacher, score_text, spread
from sida.stores import ObjectStore

GRIDS = 6  # runs of a benchmark whose curves, quantities and samples are shown
MEANING = {
    "sid": "SiD learns from the teacher's scores alone",
    "sida": "SiDA adds an adversarial loss, with real images",
    "sid2a": "SiD2A is SiDA that starts from SiD's generator",
    "uni": "Uni-Instruct weighs SiD's loss by the discriminator's ratio of densities",
}

Values = list[tuple[float | None, str]]  # value that decides which is best, text that is shown


def comparison_page(benchmarks: Sequence[Benchmark], store: ObjectStore) -> str:
    """Return the page as HTML."""
    from markupsafe import Markup

    script = Markup((TEMPLATES / "comparison.js").read_text(encoding="utf-8"))  # noqa: S704 (our own file)
    return render(
        "comparison.html",
        nonce=secrets.token_urlsafe(12),
        script=script,
        store=store.address,
        count=sum(len(benchmark.entries) for benchmark in benchmarks),
        columns=COLUMNS,
        rows=rows_of(benchmarks),
        headings=HEADINGS,
        literature=cells(literature(benchmark.title for benchmark in benchmarks)),
        parts=[_part(benchmark, store) for benchmark in benchmarks if benchmark.entries],
    )


def _part(benchmark: Benchmark, store: ObjectStore) -> dict[str, Any]:
    best, pictured = benchmark.entries[0], benchmark.entries[:GRIDS]
    chart, pictures = _chart(benchmark), _pictures(benchmark, store)
    scores = [(entry.title, entry.generator) for entry in pictured]
    scores.append((f"teacher of {best.recipe.name}, {best.teacher.nfe} NFE", best.teacher))
    bars = [(name, score.mean, half_width(score.values) or 0.0) for name, score in scores]
    return {
        "title": benchmark.title,
        "verdicts": [_verdict(*pair) for pair in benchmark.pairs] or [_alone(best)],
        "chart": "" if chart.empty else svg(chart, 7.6, 3.2),
        "chart_title": chart.title,
        "standings": intervals(bars, benchmark.metric) if len(benchmark.entries) > 1 else "",
        "standings_title": f"{benchmark.title}: {benchmark.metric} on held-out seeds ({_ns(scores)}), means with 95% intervals",
        "names": [entry.title for entry in pictured],
        "facts": _side_by_side(pictured, store),
        "pictures": pictures,
        "left": 0,
        "right": min(1, len(pictures) - 1),
        "pairs": [{"a": a.title, "b": b.title, "fields": differences(a, b)} for a, b in benchmark.pairs],
        "provenance": [line for entry in benchmark.entries for line in _provenance(entry)],
    }


def _verdict(best: ComparedRun, other: ComparedRun) -> dict[str, str]:
    """Return which of two runs is ahead and why, for the colored box."""
    relation, (headline, numbers) = comparison(best.generator, other.generator), in_words(best, other)
    names = [name for name, _, _ in differences(best, other)]
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    reason = f"They differ in {listed}." if names else "Their recipes do not differ in what decides a number."
    methods = [entry.recipe.method.name for entry in (best, other)]
    if methods[0] != methods[1]:
        reason += f" {MEANING[methods[0]]}; {MEANING[methods[1]]}."
    kind = "level" if relation is None else relation.kind
    return {"kind": kind, "headline": f"{headline}.", "text": f"{numbers} {reason}"}


def _alone(entry: ComparedRun) -> dict[str, str]:
    kind = versus(entry.generator, entry.teacher).kind
    return {"kind": kind, "headline": entry.title, "text": entry.result.verdict}


def _chart(benchmark: Benchmark) -> Chart:
    """Return the selection scores over training, beside the teacher's and the published ones."""
    best = benchmark.entries[0]
    lines = {
        f"{entry.title}, n = {entry.recipe.evaluation.selection_images:,}": series(entry.curve, "score")
        for entry in benchmark.entries[:GRIDS]
    }
    levels = {f"teacher of {best.recipe.name}, n = {best.teacher.n:,}": best.teacher.mean}
    if best.generator.metric == benchmark.metric:
        names = {"newest": f"{benchmark.newest} (newest)"}
        levels |= {names.get(key, f"paper, {key}"): score for key, score in benchmark.published.items() if score}
    positive = all(y > 0 for points in lines.values() for _, y in points)
    title = f"{benchmark.title}: {benchmark.metric} over training, selection scores"
    return Chart(title, f"{benchmark.metric}, selection", lines, levels, positive)


def _ns(scores: Sequence[tuple[str, Score]]) -> str:
    """Return the numbers of images that scores are of: ``n = 10,000`` or ``n = 2,000 and 10,000``."""
    return "n = " + " and ".join(f"{n:,}" for n in sorted({score.n for _, score in scores}))


def _side_by_side(entries: Sequence[ComparedRun], store: ObjectStore) -> list[dict[str, Any]]:
    """Return rows of (name, cells with text and whether it is best); none for a single run. ``entries``: best first.

    A score is the best when the first entry's is ahead of all others by more than the interval.
    """
    if len(entries) < 2:
        return []
    standings = [comparison(entries[0].generator, other.generator) for other in entries[1:]]
    better = "less" if all(s is not None and s.kind == "ahead" for s in standings) else ""
    evidence = [_evidence(entry, store) for entry in entries]
    coverage = [100 * fmean(facts["coverage"]) if facts.get("coverage") else None for facts in evidence]
    rows: list[tuple[str, str, Values]] = [
        (
            f"{entries[0].generator.metric}, held out, mean",
            better,
            [(s.mean, f"{score_text(s.mean, spread(s), '±')}, n = {s.n:,}") for s in (e.generator for e in entries)],
        ),
        ("times its teacher's", better, [_cell(over_teacher(e.generator, e.teacher), "{:.2f}") for e in entries]),
        ("samples in their class's region", "more", [_cell(share, "{:.1f}%") for share in coverage]),
        ("distance to the nearest training image", "", [_cell(f.get("median_distance"), "{:.3g}") for f in evidence]),
        ("kimg in all", "less", [_cell(e.kimg, "{:g}") for e in entries]),
        ("device hours", "less", [_cell(e.device_hours, "{:.3g}") for e in entries]),
        ("discriminator's lead at the end", "", [_cell(_lead(e), "{:.3f}") for e in entries]),
        ("skipped samples", "less", [_cell(_skipped(e), "{:.0f}") for e in entries]),
    ]
    return [_row(*row) for row in rows if any(value is not None for value, _ in row[2])]


def _row(name: str, better: str, values: Values) -> dict[str, Any]:
    numbers = {value for value, _ in values if value is not None}
    best = min(numbers) if better == "less" else max(numbers)
    marked = bool(better) and len(numbers) > 1
    return {"name": name, "cells": [{"text": text, "best": marked and value == best} for value, text in values]}


def _cell(value: float | None, form: str) -> tuple[float | None, str]:
    return value, "-" if value is None else form.format(value)


def _evidence(entry: ComparedRun, store: ObjectStore) -> dict[str, Any]:
    try:
        return dict(json.loads(store.read(entry.result.evidence.key)))
    except NotFound:
        return {}


def _lead(entry: ComparedRun) -> float | None:
    lead = discriminator_lead(entry.curve)
    return None if lead is None else round(lead, 3) + 0.0  # no -0.000


def _skipped(entry: ComparedRun) -> float | None:
    dropped = [y for _, y in series(entry.curve, "dropped")]
    return sum(dropped) if dropped else None


def _pictures(benchmark: Benchmark, store: ObjectStore) -> list[dict[str, str]]:
    """Return the generators' grids, then the best one's teacher and the real images."""
    best = benchmark.entries[0]
    grids = [
        (entry.title, panel)
        for entry in benchmark.entries[:GRIDS]
        for panel in entry.result.panels
        if panel.model == "generator"
    ]
    grids += [(panel.title, panel) for panel in best.result.panels if panel.model != "generator"]
    return [
        {"title": title, "data": png(store.read(panel.image.key))}
        for title, panel in grids
        if panel.image.size <= PICTURE_BYTES
    ]


def _provenance(entry: ComparedRun) -> list[tuple[str, str, str]]:
    facts = [(f"{entry.title}: run", entry.run), *((f"{entry.title}: {n}", a) for n, a in entry.addresses.items())]
    facts.append((f"{entry.title}: recipe, sha256", entry.result.recipe_sha256))
    return [(name, value, value if value.startswith("file://") else "") for name, value in facts]
