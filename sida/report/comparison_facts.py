"""Why one run is ahead of another: the same quantities of each side by side, the best marked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sida.errors import NotFound
from sida.report.comparison import Entry, standing
from sida.report.page import series
from sida.scoring import words
from sida.scoring.interval import half_width
from sida.stores import ObjectStore

Values = list[tuple[float | None, str]]  # what decides which is best, what is shown


def side_by_side(entries: Sequence[Entry], store: ObjectStore) -> list[dict[str, Any]]:
    """Rows of (name, cells with text and whether it is the best); empty for a single run. ``entries``: the best first.

    A score is the best when the first entry's is ahead of all others by more than the interval.
    """
    if len(entries) < 2:
        return []
    standings = [standing(entries[0], other) for other in entries[1:]]
    better = "less" if all(s is not None and s.kind == "ahead" for s in standings) else ""
    evidence = [_evidence(entry, store) for entry in entries]
    coverage = [100 * fmean(found["coverage"]) if found.get("coverage") else None for found in evidence]
    rows: list[tuple[str, str, Values]] = [
        (
            f"{entries[0].generator.metric}, held out",
            better,
            [(e.generator.mean, _score(e)) for e in entries],
        ),
        ("times its teacher's", better, [_shown(e.generator.mean / e.teacher.mean, "{:.2f}") for e in entries]),
        ("samples in their class's region", "more", [_shown(share, "{:.1f}%") for share in coverage]),
        ("distance to the nearest training image", "", [_shown(f.get("median_distance"), "{:.3g}") for f in evidence]),
        ("kimg in all", "less", [_shown(e.kimg, "{:g}") for e in entries]),
        ("device hours", "less", [_shown(e.device_hours, "{:.3g}") for e in entries]),
        ("discriminator's lead at the end", "", [_shown(_lead(e), "{:.3f}") for e in entries]),
        ("skipped samples", "less", [_shown(_skipped(e), "{:.0f}") for e in entries]),
    ]
    return [_row(*row) for row in rows if any(value is not None for value, _ in row[2])]


def _row(name: str, better: str, values: Values) -> dict[str, Any]:
    known = [value for value, _ in values if value is not None]
    best = min(known) if better == "less" else max(known)
    marked = bool(better) and len(set(known)) > 1
    return {"name": name, "cells": [{"text": text, "best": marked and value == best} for value, text in values]}


def _shown(value: float | None, form: str) -> tuple[float | None, str]:
    return value, "-" if value is None else form.format(value)


def _score(entry: Entry) -> str:
    return words.score_text(entry.generator.mean, half_width(entry.generator.values), "±")


def _evidence(entry: Entry, store: ObjectStore) -> dict[str, Any]:
    try:
        return dict(json.loads(store.read(entry.result.evidence.key)))
    except NotFound:
        return {}


def _lead(entry: Entry) -> float | None:
    real, fake = series(entry.curve, "D_real"), series(entry.curve, "D_fake")
    return round(real[-1][1] - fake[-1][1], 3) + 0.0 if real and fake else None  # no -0.000


def _skipped(entry: Entry) -> float | None:
    dropped = [y for _, y in series(entry.curve, "dropped")]
    return sum(dropped) if dropped else None
