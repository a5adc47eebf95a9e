"""Score the generators that the authors released, against the numbers that they published.

Fetches each file, converts it without running anything in it, scores it as its recipe says and prints the rows of the paper:
published, ours, interval, verdict, cost; under a row that several files could be, each of them; for a row without a score, the
command that fills it. Without RECIPE: SiD's and the best generator of every benchmark in pixels. A generator that fails is named,
the others go on, and the exit status is not 0. What was scored before is reused; --repeat measures anew. On a cluster: `compile`,
`submit` or `schedule RECIPE --pipeline score_published`.

examples:
  sida score-published cifar10-uncond-sid cifar10-uncond-sid2a
  sida score-published --json
"""

from __future__ import annotations

import argparse
import os
from collections import Counter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipes, and how to run."""
    from pipeline import output
    from pipeline.commands.score import add_trust

    parser.add_argument(
        "recipes", metavar="RECIPE", nargs="*", help="names or paths of recipes (default: all, see above)"
    )
    parser.add_argument(
        "--store", metavar="ADDRESS", help="where results are kept (default: SIDA_STORE, or ./runs/store)"
    )
    parser.add_argument("--repeat", metavar="TEXT", default="", help="another text measures anew (default: reuse)")
    output.add_amount(parser)
    output.add_json(parser)
    add_trust(parser)


def main(args: argparse.Namespace) -> int:
    """Run the DAG, then print its table."""
    from pipeline import local, output, result, running
    from pipeline.commands.score import use_trust
    from pipeline.display import open_display
    from pipeline.plan import SCORE_PUBLISHED, Plan
    from sida import recipe as recipes
    from sida.errors import UserError
    from sida.manifests import PublishedResult, parse_manifest
    from sida.scoring.table import lines, released_recipes, verdict
    from sida.settings import settings
    from sida.steps.recipes import recipe_address
    from sida.stores import open_store, read_address

    chosen = [recipes.load(name) for name in released_recipes(args.recipes)]
    if twice := [name for name, times in Counter(recipe.name for recipe in chosen).items() if times > 1]:
        raise UserError(f"recipe {twice[0]} is named twice: results are told apart by recipes' names")
    use_trust(args)
    settings()
    if args.store:
        os.environ["SIDA_STORE"] = open_store(args.store).address
    addresses = tuple(recipe_address(recipe) for recipe in chosen)
    plan = Plan(
        SCORE_PUBLISHED.replace("_", "-"), addresses[0], "published_table", published=addresses, repeat=args.repeat
    )
    display = open_display(quiet=args.quiet, verbose=args.verbose)
    try:
        outcome = local.run(plan, display)
    finally:
        display.close()
    if not any(event["step"] == "published_table" for event in outcome.steps):
        return running.fail(outcome)
    address = outcome.manifest("published_table")
    table = parse_manifest(read_address(address), address).result
    assert isinstance(table, PublishedResult)
    ending = ["", verdict(table), "", f"table  {address}", f"done in {outcome.seconds:.1f} s"]
    fields = table.model_dump(mode="json", exclude={"kind"})
    output.result(args, "\n".join([*result.aligned(lines(table), left=2), *ending]), **fields, table=address)
    return running.fail(outcome) if outcome.status else 0
