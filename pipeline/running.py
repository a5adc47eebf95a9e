"""Parts common to the verbs that run a plan: arguments, preparation, and the line that ends a failure."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.local import Outcome
    from sida.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE, --store, --wait and what is shown."""
    from pipeline import output

    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe (see `list`), or path of a YAML file")
    parser.add_argument(
        "--store",
        metavar="ADDRESS",
        help="where results are kept: file:///folder, a folder, or s3://bucket/prefix (default: SIDA_STORE, or ./runs/store)",
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        help="how long to wait for a result that another run is making (default 0: name that run, and stop)",
    )
    output.add_amount(parser)
    output.add_json(parser)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add --force."""
    parser.add_argument(
        "--force",
        metavar="STEP",
        action="append",
        default=[],
        help="make a new attempt of STEP and everything after it (may be given again)",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, found {text!r}")
    return value


def run(args: argparse.Namespace, *, goal: str, force: list[str]) -> tuple[Recipe, Outcome]:
    """Check everything that can be checked, then run. Raises SidaError before anything is written."""
    from pipeline import local
    from pipeline.display import open_display
    from pipeline.plan import Plan
    from sida import recipe
    from sida.steps.recipes import recipe_address
    from sida.stores import open_store

    loaded = recipe.load(args.recipe)
    Plan.of(loaded, "", goal, force)  # refuses unknown steps
    if goal != "teach":
        _divide_work(loaded)
        _find_files(loaded)
    if args.store:
        os.environ["SIDA_STORE"] = open_store(args.store).address  # for us and for all that we start
    plan = Plan.of(loaded, recipe_address(loaded), goal, force)
    display = open_display(quiet=args.quiet, verbose=args.verbose)
    try:
        return loaded, local.run(plan, display, wait=args.wait)
    finally:
        display.close()


def _divide_work(recipe: Recipe) -> None:
    """Fail early unless the batch divides among the processes that SIDA_WORKERS and --nodes make of the recipe's."""
    from sida.launch.nodes import Nodes
    from sida.planning import GPUS, Machines, check_division
    from sida.settings import settings

    here, machines = settings(), Nodes.parse(settings().nodes)
    processes = recipe.execution.processes
    workers = here.workers or (machines.share(processes) if machines else processes)
    check_division(recipe, Machines(machines.count if machines else 1, workers, GPUS["h100"]))


def _find_files(recipe: Recipe) -> None:
    """Fail early unless every file that the recipe names on this machine exists, with its digest."""
    from sida.data.sources import is_remote, path_of
    from sida.foreign.fetch import fetch_file

    sections = {"teacher": recipe.teacher, "generator": recipe.generator, "detector": recipe.evaluation.detector}
    for what, section in sections.items():
        if section is not None and section.address is not None and section.address.startswith("file://"):
            fetch_file(section.address, what, section.sha256)
    if not is_remote(recipe.dataset):
        path_of(recipe.dataset)


def fail(outcome: Outcome) -> int:
    """Print the error in one line; return the exit status."""
    stopped = outcome.status > 128
    print(outcome.message if stopped else f"error: {outcome.message}", file=sys.stderr)
    return outcome.status
