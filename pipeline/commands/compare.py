"""Compare runs with each other, with the paper's table and with what others published.

Prints a table and writes a page (curves over each other, samples from the same seeds with a slider, what differs between recipes),
comparison.csv and comparison.json. The rows of the paper and of better teachers are always there; those without a run say which
command fills them. A second table has the results of others: steps, teacher, protocol, source and date, none measured here.

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

from pipeline import output
from pipeline.arguments import STORE, argument, output_folder
from sida import recipe, records
from sida.disk import writing, writing_whole
from sida.errors import UserError
from sida.report.comparison.entries import benchmarks, finished_runs, in_words
from sida.report.comparison.literature import HEADINGS, cells, literature
from sida.report.comparison.literature import records as literature_records
from sida.report.comparison.page import comparison_page
from sida.report.comparison.table import COLUMNS, as_cells, as_csv, rows_of
from sida.settings import settings
from sida.stores import open_own_store

ARGUMENTS = (
    argument("recipes", "RECIPE", "names of recipes (default: all that have a run, and the paper's)", nargs="*"),
    argument("--runs", "RUN", "ids of runs (default: all in the store)", nargs="+", default=[]),
    STORE,
    argument(
        "--output", "FOLDER", "where the page, CSV and JSON go (default: <SIDA_RUNS>/comparison)", type=output_folder
    ),
)


def main(args: argparse.Namespace) -> int:
    """Read the store, print, write the files."""
    store = open_own_store(args.store or settings().store)
    for run in args.runs:
        if not records.calls(store, run):
            raise UserError(f"no run {run!r} in {store.address}: check the id and the store")
    ours, left_out = finished_runs(store, args.runs or records.runs(store), args.recipes, each=bool(args.runs))
    if args.runs and not ours:
        raise UserError("no run to compare: " + "; ".join(left_out))
    for line in left_out:
        print(line, file=sys.stderr)
    _check_names(args.recipes, {entry.recipe.name for entry in ours})
    compared = benchmarks(ours, args.recipes)
    rows = rows_of(compared)
    table = [row.record() for row in rows]
    folder = args.output or settings().runs / "comparison"
    with writing(folder, "--output"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("comparison.html", comparison_page(compared, store)),
        ("comparison.csv", as_csv(rows)),
        ("comparison.json", json.dumps(table, indent=1) + "\n"),
    ):
        with writing_whole(folder / name, "--output") as draft:
            draft.write_text(content, encoding="utf-8")
    page = (folder / "comparison.html").absolute().as_uri()
    lines = output.aligned(as_cells(rows), left=len(COLUMNS))
    for benchmark in compared:
        sentences = [": ".join(in_words(*pair)) for pair in benchmark.pairs]
        lines += ["", *sentences] if sentences else []
    others = literature(benchmark.title for benchmark in compared)
    if others:
        lines += ["", "others, as they report it", *output.aligned([HEADINGS, *cells(others)], left=len(HEADINGS))]
    shown = "\n".join([*lines, "", f"page  {page}"])
    output.result(args, shown, benchmarks=table, literature=literature_records(others), page=page)
    return 0


def _check_names(names: Sequence[str], with_runs: set[str]) -> None:
    """Refuse a name that is no recipe and has no run."""
    for name in names:
        if name not in with_runs:
            recipe.find(name)  # raises with the nearest name
