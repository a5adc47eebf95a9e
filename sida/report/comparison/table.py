"""The comparison as a table. A row is described once, for the terminal, the page, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sida.report.comparison.entries import Benchmark, Entry
from sida.scoring.interval import half_width
from sida.scoring.words import score_text


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run, or a row of the paper without one. Names and order of the fields are those of CSV and JSON, and stay."""

    benchmark: str
    recipe: str | None = None
    method: str | None = None
    run: str | None = None
    metric: str
    score: float | None = None
    interval95: float | None = None  # half of it
    n: int | None = None
    kimg: float | None = None
    device_hours: float | None = None
    teacher: float | None = None
    teacher_nfe: int | None = None
    paper_teacher: float | None = None
    paper_sid: float | None = None
    paper_best: float | None = None
    newest: float | None = None
    newest_by: str | None = None
    verdict: str | None = None
    generator: str | None = None
    manifest: str | None = None
    command: str | None = None  # that fills it
    ours: str  # what the tables call it; neither in CSV nor in JSON

    def text(self, name: str, *, page: bool = False) -> str:
        """Return a field as a cell of the tables. The page has room for the teacher's evaluations."""
        value = getattr(self, name)
        if value is None or isinstance(value, str):
            return value or "-"
        if name == "score":
            return score_text(value, self.interval95, "±" if page else "+-")
        if name == "teacher":
            return f"{value:.3f}" + (f" ({self.teacher_nfe} NFE)" if page else "")
        return f"{value:.4g}" + (f" ({self.newest_by})" if name == "newest" else "")

    def record(self) -> dict[str, Any]:
        """Return the fields of CSV and JSON."""
        hours = self.device_hours
        values = asdict(self) | {"device_hours": None if hours is None else round(hours, 4)}
        return {name: values[name] for name in FIELDS}


FIELDS = tuple(field.name for field in fields(Row) if field.name != "ours")


@dataclass(frozen=True)
class Column:
    """A field of the rows that the tables show."""

    name: str
    heading: str  # on the page
    short: str = ""  # heading in the terminal; empty: only the page shows it
    number: bool = True


COLUMNS = (
    Column("benchmark", "benchmark", "benchmark", number=False),
    Column("ours", "ours", "ours", number=False),
    Column("score", "score", "score"),
    Column("teacher", "teacher", "teacher"),
    Column("paper_teacher", "paper: teacher", "paper: teacher"),
    Column("paper_sid", "paper: SiD", "SiD"),
    Column("paper_best", "paper: SiDA, SiD2A", "SiDA, SiD2A"),
    Column("newest", "newest published", "newest"),
    Column("kimg", "kimg"),
    Column("device_hours", "device hours"),
)


def rows_of(benchmarks: Iterable[Benchmark]) -> list[Row]:
    """Return a row for each run, and one for each benchmark without a run."""
    rows: list[Row] = []
    for benchmark in benchmarks:
        published = benchmark.published
        empty = Row(
            benchmark=benchmark.title,
            metric=benchmark.metric,
            paper_teacher=published.get("teacher"),
            paper_sid=published.get("SiD"),
            paper_best=published.get("SiDA, SiD2A"),
            newest=published.get("newest"),
            newest_by=benchmark.newest or None,
            command=benchmark.command,
            ours=benchmark.command,
        )
        rows += [_filled(empty, entry) for entry in benchmark.entries] or [empty]
    return rows


def _filled(row: Row, entry: Entry) -> Row:
    return replace(
        row,
        recipe=entry.recipe.name,
        method=entry.method,
        run=entry.run,
        metric=entry.generator.metric,
        score=entry.generator.mean,
        interval95=half_width(entry.generator.values),
        n=entry.generator.n,
        kimg=entry.kimg,
        device_hours=entry.device_hours,
        teacher=entry.teacher.mean,
        teacher_nfe=entry.teacher.nfe,
        verdict=entry.result.verdict,
        generator=entry.addresses["generator"],
        manifest=entry.addresses["manifest"],
        command=None,
        ours=entry.title,
    )


def as_cells(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """Return the terminal's table, its heading first."""
    shown = [column for column in COLUMNS if column.short]
    return [
        tuple(column.short for column in shown),
        *(tuple(row.text(column.name) for column in shown) for row in rows),
    ]


def as_csv(rows: Iterable[Row]) -> str:
    """Return the records as CSV. A text that a spreadsheet would take for a formula gets a quote in front."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" else v for k, v in row.record().items()})
    return buffer.getvalue()
