"""Runs the toy steps as ``python -m pipeline teach`` runs the real ones: python drive.py WHAT_TO_DO [STEP_TO_FORCE]."""

import json
import sys

from pipeline import local, running
from pipeline.dag import Plan
from pipeline.display import open_display

plan = Plan("toy", sys.argv[1], goal="teach", train_teacher=True, force=tuple(sys.argv[2:]))
display = open_display()
try:
    outcome = local.run(plan, display, components="toy_steps")
finally:
    display.close()
if outcome.status:
    sys.exit(running.fail(outcome))
print(json.dumps(outcome.steps))
