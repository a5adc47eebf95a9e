"""Show, and with --delete remove, what the store holds and no run needs.

Kept are: what any recorded run names, each step's latest result, unfinished jobs, recipes of schedules and of submissions of the
last 30 days, and every object that these name. Removed are superseded attempts, checkpoints of finished training, and objects that
nothing names any more, at two looks ten seconds apart; never while a step runs. Temporary folders that killed steps and runs left
on this machine go too.

examples:
  sida gc                     what could go: nothing is changed
  sida gc --delete            remove it
  sida gc --forget RUN        as if RUN had never been: also what only it needs
"""

from __future__ import annotations

import argparse

from pipeline import output
from pipeline.arguments import STORE, argument, flag
from sida.process.scratch import remove_abandoned
from sida.settings import settings
from sida.steps.garbage import find_garbage, remove_garbage, summary
from sida.stores import open_own_store

ARGUMENTS = (
    flag("--delete", "remove it; without this nothing is changed"),
    argument("--forget", "RUN", "forget a run (may be repeated)", action="append", default=[]),
    STORE,
)


def main(args: argparse.Namespace) -> int:
    """Print one line, or JSON with every key."""
    store = open_own_store(args.store or settings().store)
    garbage = (remove_garbage if args.delete else find_garbage)(store, args.forget)
    abandoned = remove_abandoned(dry_run=not args.delete)
    hint = "" if args.delete or not (garbage.all_keys() or abandoned) else "; nothing was changed: --delete removes it"
    left = f"; {len(abandoned)} temporary folders of killed steps and runs" if abandoned else ""
    line = f"{store.address}: {'removed' if args.delete else 'not needed'}: {summary(garbage)}{left}{hint}"
    output.result(args, line, removed=args.delete, folders=[str(folder) for folder in abandoned], **vars(garbage))
    return 0
