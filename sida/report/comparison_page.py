"""The comparison as one web page that needs nothing else: table, curves over each other, samples with a slider, what differs."""

from __future__ import annotations

import secrets
from typing import Any

from sida.report.charts import Chart, intervals, svg
from sida.report.comparison import MEANING, Benchmark, Entry, differences, in_words, standing
from sida.report.comparison_facts import side_by_side
from sida.report.page import PICTURE_BYTES, series
from sida.report.render import TEMPLATES, png, render
from sida.scoring import words
from sida.scoring.gates import versus
from sida.scoring.interval import half_width
from sida.stores import ObjectStore

COLUMNS = (
    ("benchmark", "text"),
    ("ours", "text"),
    ("score", "number"),
    ("teacher", "number"),
    ("paper: teacher", "number"),
    ("paper: SiD", "number"),
    ("paper: SiDA, SiD2A", "number"),
    ("newest published", "number"),
    ("kimg", "number"),
    ("device hours", "number"),
)
GRIDS = 6  # runs whose samples are shown for a benchmark
PAIRS = 3  # runs whose recipes are compared with the best one's


def page_of(rows: list[Benchmark], store: ObjectStore) -> str:
    """HTML for the benchmarks."""
    from markupsafe import Markup

    script = Markup((TEMPLATES / "comparison.js").read_text(encoding="utf-8"))  # noqa: S704 (our own file)
    return render(
        "comparison.html",
        nonce=secrets.token_urlsafe(12),
        script=script,
        store=store.address,
        count=sum(len(row.entries) for row in rows),
        columns=COLUMNS,
        rows=[line for row in rows for line in _lines(row)],
        parts=[_part(row, store) for row in rows if row.entries],
    )


def _cell(text: str, value: float | None = None, code: bool = False, link: str = "") -> dict[str, Any]:
    return {"text": text, "value": value, "code": code, "link": link}


def _number(value: float | None, note: str = "") -> dict[str, Any]:
    return _cell("-" if value is None else f"{value:.4g}{note}", value)


def _lines(row: Benchmark) -> list[dict[str, Any]]:
    published = [_number(row.published.get(name)) for name in ("teacher", "SiD", "SiDA, SiD2A")]
    newest = _number(row.published.get("newest"), f" ({row.newest})" if row.newest else "")
    none = _number(None)
    if not row.entries:
        cells = [_cell(row.title), _cell(row.command, code=True), none, none, *published, newest, none, none]
        return [{"ours": False, "cells": cells}]
    return [
        {
            "ours": True,
            "cells": [
                _cell(row.title),
                _cell(entry.title),
                _cell(_score(entry), entry.generator.mean),
                _cell(f"{entry.teacher.mean:.3f} ({entry.teacher.nfe} NFE)", entry.teacher.mean),
                *published,
                newest,
                _number(entry.kimg),
                _number(entry.device_hours),
            ],
        }
        for entry in row.entries
    ]


def _score(entry: Entry) -> str:
    return words.score_text(entry.generator.mean, half_width(entry.generator.values), "±")


def _part(row: Benchmark, store: ObjectStore) -> dict[str, Any]:
    best, *others = row.entries
    lines = {entry.title: series(entry.curve, "score") for entry in row.entries[:GRIDS]}
    levels = {f"teacher of {best.recipe.name}": best.teacher.mean}
    levels |= {f"paper, {name}": v for name, v in row.published.items() if v and best.generator.metric == row.metric}
    chart = Chart(
        f"{row.title}: {row.metric} over training",
        row.metric,
        lines,
        levels,
        all(y > 0 for p in lines.values() for _, y in p),
    )
    pictures = _pictures(row, store)
    standings = [(e.title, e.generator.mean, half_width(e.generator.values) or 0.0) for e in row.entries[:GRIDS]]
    standings.append(
        (
            f"teacher of {best.recipe.name}, {best.teacher.nfe} NFE",
            best.teacher.mean,
            half_width(best.teacher.values) or 0.0,
        )
    )
    return {
        "title": row.title,
        "sentences": [_sentence(best, other) for other in others[:PAIRS]] or [_alone(best)],
        "chart": "" if chart.empty else svg(chart, 7.6, 3.2),
        "chart_title": chart.title,
        "standings": intervals(standings, row.metric) if len(row.entries) > 1 else "",
        "standings_title": f"{row.title}: {row.metric} on held-out seeds, with 95% intervals",
        "names": [entry.title for entry in row.entries[:GRIDS]],
        "facts": side_by_side(row.entries[:GRIDS], store),
        "pictures": pictures,
        "left": 0,
        "right": min(1, len(pictures) - 1),
        "pairs": [{"a": best.title, "b": other.title, "fields": differences(best, other)} for other in others[:PAIRS]],
        "provenance": [line for entry in row.entries for line in _provenance(entry)],
    }


def _sentence(best: Entry, other: Entry) -> dict[str, str]:
    headline, numbers = in_words(best, other)
    relation = standing(best, other)
    fields = [name for name, _, _ in differences(best, other)]
    named = ", ".join(fields[:6]) + (f" and {len(fields) - 6} more" if len(fields) > 6 else "")
    css = "level" if relation is None else relation.kind
    why = f" They differ in {named}." if fields else " Their recipes do not differ in what decides a number."
    methods = [entry.recipe.method.name for entry in (best, other)]
    if methods[0] != methods[1]:
        why += f" {MEANING[methods[0]]}; {MEANING[methods[1]]}."
    return {"css": css, "words": f"{headline}.", "why": numbers + why}


def _alone(entry: Entry) -> dict[str, str]:
    return {"css": versus(entry.generator, entry.teacher).kind, "words": entry.title, "why": entry.result.verdict}


def _pictures(row: Benchmark, store: ObjectStore) -> list[dict[str, str]]:
    """The generators' grids, then the best one's teacher and the real images."""
    best = row.entries[0]
    wanted = [
        (entry.title, panel)
        for entry in row.entries[:GRIDS]
        for panel in entry.result.panels
        if panel.model == "generator"
    ]
    wanted += [(panel.title, panel) for panel in best.result.panels if panel.model != "generator"]
    return [
        {"title": title, "data": png(store.read(panel.image.key))}
        for title, panel in wanted
        if panel.image.size <= PICTURE_BYTES
    ]


def _provenance(entry: Entry) -> list[tuple[str, str, str]]:
    facts = [(f"{entry.title}: run", entry.run), *((f"{entry.title}: {n}", a) for n, a in entry.addresses.items())]
    facts.append((f"{entry.title}: recipe, sha256", entry.result.recipe_sha256))
    return [(name, value, value if value.startswith("file://") else "") for name, value in facts]
