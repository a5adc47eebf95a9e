"""Show the log of a run's step.

With --profile that of its TrainJob: of the pod that runs now, else the one that was kept in the store when the job ended. Without,
that of the workers of a run on this machine. A step without workers of its own writes to the log of its run.

examples:
  python -m pipeline logs 0f3c5a3e-... distill --profile ./mine.yaml --follow
  python -m pipeline logs 20261102-093000-digits-1a2b distill
"""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, STEP and where."""
    from pipeline import remote

    parser.add_argument("run", metavar="RUN", help="id of the run; here: name of its folder in ./runs")
    parser.add_argument("step", metavar="STEP", help="the step (see `status RUN`)")
    remote.add_profile(parser, required=False)
    parser.add_argument("--follow", action="store_true", help="with --profile: show new lines until the pod ends")


def main(args: argparse.Namespace) -> int:
    """Print it."""
    step = args.step.replace("-", "_")
    return _on_kubernetes(args, step) if args.profile else _here(args.run, step)


def _on_kubernetes(args: argparse.Namespace, step: str) -> int:
    from pipeline import profile, remote, trainjobs
    from sida.errors import UserError
    from sida.stores import open_store

    where = profile.load(args.profile)
    cluster = trainjobs.cluster_of(where)
    job = trainjobs.jobs_of(cluster, args.run).get(step) if cluster is not None else None
    if cluster is not None and job is not None:
        for line in trainjobs.log_of(cluster, job, follow=args.follow):
            print(line, flush=args.follow)
        return 0
    remote.use_store(where)
    text = trainjobs.kept_log(open_store(where.store), args.run, step)
    if text is None:
        raise UserError(
            f"run {args.run} has no TrainJob of {step} and no log of one is kept in {where.store}: "
            f"KFP's UI shows the logs of the steps' own pods"
        )
    print(text, end="")
    return 0


def _here(run: str, step: str) -> int:
    from sida import records
    from sida.errors import UserError
    from sida.settings import settings
    from sida.stores import open_store

    here = settings()
    store = open_store(here.store)
    call = records.call_of(store, run, step)
    parts = call.manifest.rsplit("/", 3)  # .../steps/<step>/<key>/<attempt>.json, once it has ended
    found = []
    if len(parts) == 4:
        name = f"{step}-{parts[2][:12]}-{parts[3].removesuffix('.json')}.log"
        found = [here.runs / "logs" / name]
    else:
        found = sorted((here.runs / "logs").glob(f"{step}-*.log"), key=lambda path: path.stat().st_mtime)[-1:]
    found = [path for path in found if path.is_file()] or [here.runs / records.check_run_id(run) / "log.txt"]
    if not found[0].is_file():
        raise UserError(
            f"run {run}, {step}: no log at {found[0]}: was it another machine, or SIDA_RUNS another folder?"
        )
    sys.stdout.write(found[0].read_text(encoding="utf-8", errors="replace"))
    return 0
