"""Compare runs with each other, with the paper's table and with the newest published results.

Prints a table and writes a page (curves over each other, samples from the same seeds with a slider, what differs between recipes),
comparison.csv and comparison.json. The rows of the paper are always there; those without a run say which command fills them.

examples:
  python -m pipeline compare                          everything in the store
  python -m pipeline compare digits digits-sid        these recipes
  python -m pipeline compare --runs 20261125-004815-digits-c596 20261125-014902-digits-sid-0a11
  python -m pipeline compare --json | jq '.benchmarks[] | select(.score)'
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sida.report.comparison import Benchmark


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE ..., --runs and where to."""
    from pipeline import output

    parser.add_argument(
        "recipes", metavar="RECIPE", nargs="*", help="names of recipes (default: all that have a run, and the paper's)"
    )
    parser.add_argument("--runs", metavar="RUN", nargs="+", default=[], help="ids of runs (default: all in the store)")
    parser.add_argument("--store", metavar="ADDRESS", help="where the runs are (default: SIDA_STORE, or ./runs/store)")
    parser.add_argument(
        "--output", metavar="FOLDER", help="where the page, CSV and JSON go (default: <SIDA_RUNS>/comparison)"
    )
    output.add_json(parser)


def main(args: argparse.Namespace) -> int:
    """Read the store, print, write the files."""
    import os
    from pathlib import Path

    from pipeline import output
    from sida import records
    from sida.errors import UserError
    from sida.report.comparison import as_csv, benchmarks, entries, records_of
    from sida.settings import settings
    from sida.stores import open_store

    if args.store:
        os.environ["SIDA_STORE"] = open_store(args.store).address
    here = settings()
    store = open_store(here.store)
    for run in args.runs:
        if not records.calls(store, run):
            raise UserError(f"no run {run!r} in {store.address}: check the id and the store")
    ours, left_out = entries(store, args.runs or records.runs(store), args.recipes)
    for line in left_out:
        print(line, file=sys.stderr)
    _check_names(args.recipes, {entry.recipe.name for entry in ours})
    rows = benchmarks(ours, args.recipes)
    found = records_of(rows)

    from sida.report.comparison_page import page_of  # matplotlib, jinja2

    folder = Path(args.output) if args.output else here.runs / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("comparison.html", page_of(rows, store)),
        ("comparison.csv", as_csv(rows)),
        ("comparison.json", json.dumps(found, indent=1) + "\n"),
    ):
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(folder / name)
    page = (folder / "comparison.html").absolute().as_uri()
    output.result(args, "\n".join([*_table(rows), "", f"page  {page}"]), benchmarks=found, page=page)
    return 0


def _check_names(names: Sequence[str], with_runs: set[str]) -> None:
    """A name that is no recipe and has no run is a slip."""
    from sida import recipe

    for name in names:
        if name not in with_runs:
            recipe.find(name)  # raises with the nearest name


def _table(rows: list[Benchmark]) -> list[str]:
    """Aligned columns, then who is ahead where there are several runs."""
    from sida.report.comparison import in_words
    from sida.scoring.interval import half_width
    from sida.scoring.words import score_text

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    table = [("benchmark", "ours", "score", "teacher", "paper: teacher", "SiD", "SiDA, SiD2A", "newest")]
    for row in rows:
        teacher, sid, best, newest = (
            number(row.published.get(name)) for name in ("teacher", "SiD", "SiDA, SiD2A", "newest")
        )
        newest = f"{newest} ({row.newest})" if row.newest else newest
        if not row.entries:
            table.append((row.title, row.command, "-", "-", teacher, sid, best, newest))
        for entry in row.entries:
            score = score_text(entry.generator.mean, half_width(entry.generator.values))
            table.append((row.title, entry.title, score, f"{entry.teacher.mean:.3f}", teacher, sid, best, newest))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table]
    for row in rows:
        sentences = [": ".join(in_words(row.entries[0], other)) for other in row.entries[1:4]]
        lines += ["", *sentences] if sentences else []
    return lines
