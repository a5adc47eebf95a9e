"""Compare runs with each other, with the paper's table and with the newest published results.

Prints a table and writes a page (curves over each other, samples from the same seeds with a slider, what differs between recipes),
comparison.csv and comparison.json. The rows of the paper are always there; those without a run say which command fills them.

examples:
  sida compare                          everything in the store
  sida compare digits digits-sid        these recipes
  sida compare --runs 20261125-004815-digits-c596 20261125-014902-digits-sid-0a11
  sida compare --json | jq '.benchmarks[] | select(.score)'
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE ..., --runs and the output options."""
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
    from pipeline.result import aligned
    from sida import records
    from sida.errors import UserError
    from sida.report.comparison.entries import benchmarks, finished_runs, in_words
    from sida.report.comparison.table import COLUMNS, as_cells, as_csv, rows_of
    from sida.settings import settings
    from sida.stores import open_store

    if args.store:
        os.environ["SIDA_STORE"] = open_store(args.store).address
    here = settings()
    store = open_store(here.store)
    for run in args.runs:
        if not records.calls(store, run):
            raise UserError(f"no run {run!r} in {store.address}: check the id and the store")
    ours, left_out = finished_runs(store, args.runs or records.runs(store), args.recipes)
    for line in left_out:
        print(line, file=sys.stderr)
    _check_names(args.recipes, {entry.recipe.name for entry in ours})
    shown = benchmarks(ours, args.recipes)
    rows = rows_of(shown)
    table = [row.record() for row in rows]

    from sida.report.comparison.page import comparison_page  # matplotlib, jinja2

    folder = Path(args.output) if args.output else here.runs / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("comparison.html", comparison_page(shown, store)),
        ("comparison.csv", as_csv(rows)),
        ("comparison.json", json.dumps(table, indent=1) + "\n"),
    ):
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(folder / name)
    page = (folder / "comparison.html").absolute().as_uri()
    lines = aligned(as_cells(rows), left=len(COLUMNS))
    for benchmark in shown:
        sentences = [": ".join(in_words(*pair)) for pair in benchmark.pairs]
        lines += ["", *sentences] if sentences else []
    output.result(args, "\n".join([*lines, "", f"page  {page}"]), benchmarks=table, page=page)
    return 0


def _check_names(names: Sequence[str], with_runs: set[str]) -> None:
    """Refuse a name that is no recipe and has no run."""
    from sida import recipe

    for name in names:
        if name not in with_runs:
            recipe.find(name)  # raises with the nearest name
