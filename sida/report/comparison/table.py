"""The comparison as a table. A row is described once, for the terminal, the page, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sida.printing import printable
from sida.report.comparison.entries import Benchmark, ComparedRun
from sida.scoring.interval import half_width
from sida.scoring.words import score_text, spread


@dataclass(frozen=True)
class Row:
    """A run, or a row of the paper without one."""

    ours: str  # title of the run, or the command that fills the row
    values: dict[str, Any]  # by field of CSV and JSON

    def text(self, name: str, *, page: bool = False) -> str:
        """Return a cell of the tables. The page has room for the teacher's evaluations."""
        value = self.ours if name == "ours" else self.values[name]
        if value is None or isinstance(value, str):
            return value or "-"
        if name == "score":
            return score_text(value, self.values["sd"], "±" if page else "+-")
        if name == "teacher":
            return f"{value:.3f}" + (f" ({self.values['teacher_nfe']} NFE)" if page else "")
        if name == "n":
            return f"{value:,}"
        return f"{value:.4g}" + (f" ({self.values['newest_by']})" if name == "newest" else "")

    def record(self) -> dict[str, Any]:
        """Return the row for CSV and JSON."""
        hours = self.values["device_hours"]
        return self.values | {"device_hours": hours and round(hours, 4)}


def rows_of(benchmarks: Iterable[Benchmark]) -> list[Row]:
    """Return a row for each run, and one for each benchmark without a run."""
    return [
        Row(entry.title if entry else benchmark.command, _values(benchmark, entry))
        for benchmark in benchmarks
        for entry in tuple(benchmark.entries) or (None,)
    ]


def _values(benchmark: Benchmark, entry: ComparedRun | None) -> dict[str, Any]:
    """Return the fields of CSV and JSON; names, order and meanings stay, new ones come last."""
    return {
        "benchmark": benchmark.title,
        "recipe": entry and entry.recipe.name,
        "method": entry and entry.method,
        "run": entry and entry.run,
        "metric": entry.generator.metric if entry else benchmark.metric,
        "score": entry and entry.generator.mean,
        "interval95": entry and half_width(entry.generator.values),
        "n": entry and entry.generator.n,
        "kimg": entry and entry.kimg,
        "device_hours": entry and entry.device_hours,
        "teacher": entry and entry.teacher.mean,
        "teacher_nfe": entry and entry.teacher.nfe,
        "paper_teacher": benchmark.published.get("teacher"),
        "paper_sid": benchmark.published.get("SiD"),
        "paper_best": benchmark.published.get("SiDA, SiD2A"),
        "newest": benchmark.published.get("newest"),
        "newest_by": benchmark.newest or None,
        "verdict": entry and entry.result.verdict,
        "generator": entry and entry.addresses["generator"],
        "manifest": entry and entry.addresses["manifest"],
        "command": None if entry else benchmark.command,
        "sd": entry and spread(entry.generator),
    }


FIELDS = tuple(_values(Benchmark("", ""), None))
COLUMNS = (  # of the tables: field, heading on the page and in the terminal, which has no room for the last two
    ("benchmark", "benchmark", "benchmark"),
    ("ours", "ours", "ours"),
    ("score", "score", "score"),
    ("n", "n", "n"),
    ("teacher", "teacher", "teacher"),
    ("paper_teacher", "paper: teacher", "paper: teacher"),
    ("paper_sid", "paper: SiD", "SiD"),
    ("paper_best", "paper: SiDA, SiD2A", "SiDA, SiD2A"),
    ("newest", "newest published", "newest"),
    ("kimg", "kimg", ""),
    ("device_hours", "device hours", ""),
)


def as_cells(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """Return the terminal's table, its heading first."""
    names, headings = zip(*((name, heading) for name, _, heading in COLUMNS if heading), strict=True)
    return [headings, *(tuple(row.text(name) for name in names) for row in rows)]


def as_csv(rows: Iterable[Row]) -> str:
    """Return the records as printable CSV. A text that a spreadsheet would take for a formula gets a quote in front."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.record().items()})
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text
