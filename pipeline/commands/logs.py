"""Show the log of a run's step.

With --profile that of its pod while it is there, of a step with a TrainJob that of the first node; else the copy that every step
keeps in the store when it ends, the last MiB. Without, that of a run on this machine, or of any run in the store.

examples:
  sida logs 0f3c5a3e-... distill --profile ./mine.yaml --follow
  sida logs 0f3c5a3e-... fetch_teacher --profile ./mine.yaml
  sida logs 20261102-093000-digits-1a2b distill
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pipeline import profile
from pipeline.arguments import ANY_PROFILE, argument, flag
from pipeline.step_logs import step_log
from sida import records
from sida.errors import UserError
from sida.launch.local import LocalLauncher
from sida.layout import check_run_id
from sida.printing import plain
from sida.settings import settings
from sida.steps.log import read_log
from sida.stores import open_own_store

ARGUMENTS = (
    argument("run", "RUN", "id of the run; here: name of its folder in ./runs"),
    argument("step", "STEP", "the step (see `status RUN`)"),
    ANY_PROFILE,
    flag("--follow", "with --profile: show new lines until the pod ends"),
)


def main(args: argparse.Namespace) -> int:
    """Print the log."""
    step = args.step.replace("-", "_")
    cluster = profile.load(args.profile) if args.profile else None
    for line in step_log(cluster, args.run, step, follow=args.follow) if cluster else _here(args.run, step):
        print(plain(line), flush=args.follow)
    return 0


def _here(run: str, step: str) -> Iterator[str]:
    """Return the log of the step's workers if it has some; else the step's own; of one at work, the log of its run."""
    folder, store = settings().runs, open_own_store(settings().store)
    call = records.call_of(store, run, step)
    parts = call.manifest.rsplit("/", 3)  # .../steps/<step>/<key>/<attempt>.json, once it has ended
    if len(parts) == 4:
        logs = [folder / "logs" / f"{step}-{parts[2][:12]}-{parts[3].removesuffix('.json')}.log"]
    else:
        logs = sorted((folder / "logs").glob(f"{step}-*.log"), key=lambda path: path.stat().st_mtime)[-1:]
    for log in logs:
        if (lines := LocalLauncher(log).log()) is not None:
            return lines
    text = read_log(store, run, step)
    lines = iter(text.splitlines()) if text else LocalLauncher(folder / check_run_id(run) / "log.txt").log()
    if lines is None and text is None:
        raise UserError(f"run {run}, {step}: no log in {store.address} or {folder}: is it at work on another machine?")
    return lines or iter(())
