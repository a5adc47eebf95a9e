"""Runs the toy steps as ``sida teach`` runs the real ones: drive.py WHAT_TO_DO [STEP_TO_FORCE] [-q | -v]."""

import json
import sys

from pipeline import local, running
from pipeline.display import open_display
from pipeline.plan import Plan

options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
what, *force = [argument for argument in sys.argv[1:] if argument not in options]
plan = Plan("toy", what, goal="teach", train_teacher=True, force=tuple(force))
display = open_display(quiet="-q" in options, verbose="-v" in options)
try:
    outcome = local.run(plan, display, components="toy_steps")
finally:
    display.close()
if outcome.status:
    sys.exit(running.fail(outcome))
print(json.dumps(outcome.steps))
