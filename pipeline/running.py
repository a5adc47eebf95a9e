"""Parts common to the verbs that run steps here: preparation, and the line that ends a failure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pipeline import local
from pipeline.display import open_display
from pipeline.local import Outcome
from pipeline.plan import Plan
from sida import recipe
from sida.data.latents import check_vae
from sida.data.places import is_remote, path_of
from sida.errors import UserError
from sida.foreign.fetch import fetch_file
from sida.gpus import GPUS, Machines
from sida.launch import gpus_here
from sida.launch.nodes import Nodes
from sida.planning import check_division
from sida.printing import one_line
from sida.recipe import Recipe
from sida.settings import check_places, settings
from sida.steps.recipes import recipe_address
from sida.stores import open_own_store
from sida.training.teach_step import check_training


def share(*, store: str | None = None, trusted: Sequence[str] = ()) -> None:
    """Use the store and trust the detectors, here and in all that this process starts. Raises UserError for unusable settings."""
    check_places()
    if trusted:
        os.environ["SIDA_TRUST_DETECTOR"] = ",".join([*settings().trusted_detectors, *trusted])
    opened = open_own_store(store or settings().store)
    if store:
        os.environ["SIDA_STORE"] = opened.address


def run(args: argparse.Namespace, *, goal: str, force: list[str]) -> tuple[Recipe, Outcome]:
    """Check everything that can be checked, then run. Raises SidaError before anything is written."""
    loaded = recipe.load(args.recipe)
    Plan.of(loaded, "", goal, force)  # refuses unknown steps
    if goal == "teach":
        check_training(loaded)  # before the data, which may take hours
    else:
        divide_work(loaded)
        _find_files(loaded)
    look_at_gpus(loaded, quiet=args.quiet)
    share(store=args.store)
    return loaded, run_plan(args, Plan.of(loaded, recipe_address(loaded), goal, force), wait=args.wait)


def run_plan(args: argparse.Namespace, plan: Plan, *, wait: float | None = None) -> Outcome:
    """Run a plan, drawn as --quiet and --verbose say."""
    display = open_display(quiet=args.quiet, verbose=args.verbose)
    try:
        return local.run(plan, display, wait=wait)
    finally:
        display.close()


def divide_work(recipe: Recipe) -> None:
    """Fail early unless the batch divides among the processes that SIDA_WORKERS and --nodes make of the recipe's."""
    machines = Nodes.parse(settings().nodes)
    check_division(recipe, Machines(machines.count if machines else 1, _workers(recipe, machines), GPUS["h100"]))


def _workers(recipe: Recipe, machines: Nodes | None) -> int:
    """Return how many processes there will be on this machine."""
    processes = recipe.execution.processes
    return settings().workers or (machines.share(processes) if machines else processes)


def look_at_gpus(recipe: Recipe, *, quiet: bool) -> None:
    """Raise UserError for fewer GPUs here than processes, which a worker would find too, but late; tell of GPUs left over."""
    here, machines = settings(), Nodes.parse(settings().nodes)
    if here.launcher != "local" or not gpus_here.torch_takes_them():
        return
    there, workers = gpus_here.count(), _workers(recipe, machines)
    gpus_here.check_enough(workers, there)
    if quiet or machines is not None or here.workers is not None:
        return
    more = next((number for number in range(there, workers, -1) if _divides(recipe, number)), None)
    if more is not None:
        takes = f"the run takes {workers} (execution.processes): SIDA_WORKERS={more} takes {more}"
        print(f"note: of this machine's {there} GPUs {takes}", file=sys.stderr)


def _divides(recipe: Recipe, workers: int) -> bool:
    try:
        check_division(recipe, Machines(1, workers, GPUS["h100"]))
    except UserError:
        return False
    return True


def _find_files(recipe: Recipe) -> None:
    """Fail early unless every file that the recipe names on this machine exists, with its digest, and a VAE can be loaded."""
    evaluation = recipe.evaluation
    sections = {"teacher": recipe.teacher, "generator": recipe.generator, "detector": evaluation.detector}
    sections |= {"second detector": evaluation.second.detector} if evaluation.second else {}
    for kind, section in sections.items():
        if section is not None and section.address is not None and section.address.startswith("file://"):
            fetch_file(section.address, kind, section.sha256)
    if not is_remote(recipe.dataset):
        path_of(recipe.dataset)
    if recipe.dataset.latents is not None:
        check_vae(recipe.dataset.latents)


def fail(outcome: Outcome) -> int:
    """Print the error in one line; return the exit status."""
    stopped = outcome.status > 128
    print(one_line(outcome.message if stopped else f"error: {outcome.message}"), file=sys.stderr)
    return outcome.status
