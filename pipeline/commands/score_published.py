"""Score the generators that the authors released, against the numbers that they published.

Fetches each file, converts it without running anything in it, scores it as its recipe says and prints the rows of the paper:
published, ours, interval, verdict, cost; under a row that several files could be, each of them; for a row without a score, the
command that fills it. Without RECIPE: SiD's and the best generator of every benchmark in pixels. A generator that fails is named,
the others go on, and the exit status is not 0. What was scored before is reused; --repeat measures anew. On a cluster: `compile`,
`submit` or `schedule RECIPE --pipeline score_published`.

examples:
  sida score-published cifar10-uncond-sid cifar10-uncond-sid2a
  sida score-published imagenet-512-edm2-s --metric fd_dinov2
  sida score-published --json
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from pipeline import output, running
from pipeline.arguments import AMOUNT, REPEAT, STORE, TRUST, argument
from pipeline.plan import SCORE_PUBLISHED, Plan
from sida import recipe as recipes
from sida.errors import UserError
from sida.manifests import PublishedResult, of_kind, parse_manifest
from sida.recipe import Recipe
from sida.scoring.also import FD_DINOV2, also
from sida.scoring.table import lines, released_recipes, verdict
from sida.steps.recipes import recipe_address
from sida.stores import read_address

ARGUMENTS = (
    argument("recipes", "RECIPE", "names or paths of recipes (default: all, see above)", nargs="*"),
    argument("--metric", "NAME", f"also: {FD_DINOV2}, of the same images", action="append", choices=(FD_DINOV2,)),
    STORE,
    REPEAT,
    AMOUNT,
    TRUST,
)


def main(args: argparse.Namespace) -> int:
    """Run the DAG, then print its table."""
    chosen = [_measuring(recipes.load(name), args.metric or ()) for name in released_recipes(args.recipes)]
    if twice := [name for name, times in Counter(recipe.name for recipe in chosen).items() if times > 1]:
        raise UserError(f"recipe {twice[0]} is named twice: results are told apart by recipes' names")
    running.look_at_gpus(max(chosen, key=lambda recipe: recipe.execution.processes), quiet=args.quiet)
    running.share(store=args.store, trusted=args.trust_detector)
    addresses = tuple(recipe_address(recipe) for recipe in chosen)
    plan = Plan(
        SCORE_PUBLISHED.replace("_", "-"),
        addresses[0],
        "published_table",
        published=addresses,
        repeat=args.repeat or "",
    )
    outcome = running.run_plan(args, plan)
    if not any(event["step"] == "published_table" for event in outcome.steps):
        return running.fail(outcome)
    address = outcome.manifest("published_table")
    table = of_kind(parse_manifest(read_address(address), address), PublishedResult, address).result
    ending = ["", verdict(table), "", f"table  {address}", f"done in {outcome.seconds:.1f} s"]
    fields = table.model_dump(mode="json", exclude={"kind"})
    output.result(args, "\n".join([*output.aligned(lines(table), left=2), *ending]), **fields, table=address)
    return running.fail(outcome) if outcome.status else 0


def _measuring(recipe: Recipe, metrics: Sequence[str]) -> Recipe:
    """Return the recipe, which measures these too."""
    if not metrics:
        return recipe
    fields = recipe.model_dump(mode="json") | {"evaluation": also(recipe.evaluation, metrics)}
    return recipes.parse(fields, recipe.name)
