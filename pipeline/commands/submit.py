"""Submit a recipe to Kubeflow Pipelines: upload a version if something changed, and start a run.

The link to the run goes to stdout. With --wait the states of the steps are shown until it ends: why one waits (image, room,
quota, Secret ...) or failed, and in the last line how the run ended and why. Ctrl-C stops watching, not the run. Exit status with
--wait: 0 the run succeeded, 1 it failed, timed out or was cancelled, 3 a step waited --stuck minutes for what does not come by
itself.

examples:
  sida submit digits --profile ./mine.yaml --wait
  sida submit digits --profile ./mine.yaml --wait --stuck 60   where nodes take long to come
  sida submit digits --profile ./mine.yaml --repeat monday    measure the scores anew
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.client import Client
    from pipeline.profile import Profile
    from pipeline.standing import Standing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE, the cluster, the run's parameters."""
    from pipeline import output, remote

    remote.add_recipe(parser)
    remote.add_profile(parser)
    parser.add_argument(
        "--repeat", metavar="TEXT", default="", help="another text measures the scores anew (default: reuse)"
    )
    parser.add_argument("--name", metavar="NAME", help="name of the run in the UI (default: recipe and time)")
    parser.add_argument("--wait", action="store_true", help="show the steps until the run has ended")
    parser.add_argument(
        "--stuck",
        metavar="MINUTES",
        type=_minutes,
        default=15.0,
        help="with --wait: how long to wait for what does not come by itself before giving up (default 15; 0: never)",
    )
    output.add_amount(parser, logs=False)
    output.add_json(parser)


def main(args: argparse.Namespace) -> int:
    """Upload and start; with --wait, follow."""
    import time

    from pipeline import output, profile, remote, trainjobs
    from pipeline.client import Client
    from pipeline.guard import refuse_secret
    from pipeline.plan import Plan
    from sida.steps.execute import REUSE

    cluster = profile.load(args.profile)
    refuse_secret("--repeat", "", args.repeat, "give another text")
    recipe, compiled = remote.compile_for(args, cluster)
    trainjobs.check_cluster(cluster, Plan.of(recipe, "").tasks())
    client = Client(cluster)
    parameters = {"recipe": remote.publish_recipe(args, recipe, cluster), "repeat": args.repeat or REUSE}
    version = client.upload(compiled, " ".join(recipe.description.split()))
    output.note(args, f"{version.name}: {'uploaded' if version.new else 'already there'}")
    name = args.name or f"{recipe.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    run_id = client.start(name, version.pipeline_id, version.version_id, parameters)
    output.note(args, f"run {run_id}")
    link = client.link(run_id)
    fields = {"run": run_id, "name": name, "version": version.name, "uploaded": version.new, "link": link}
    if not args.wait:
        output.result(args, link, **fields)
        return 0
    output.part(args, link)  # it is what one watches
    status, end = follow(client, run_id, args, cluster)
    output.result(args, "", **fields, state=end.state if end else None, error=end.message if end else "")
    return status


def follow(client: Client, run_id: str, args: argparse.Namespace, where: Profile) -> tuple[int, Standing | None]:
    """Show each change of a step's state until the run has ended; return the exit status and the last standing."""
    from pipeline import output
    from pipeline.observing import Observer
    from pipeline.run_watch import Stuck, Watch

    observer = Observer(where, run_id)
    watch = Watch(observer, lambda line: output.note(args, line), args.stuck)
    goes_on = f"the run goes on; `sida cancel {run_id} --profile {args.profile}` ends it"
    try:
        client.follow(run_id, watch.show)
    except KeyboardInterrupt:
        print(goes_on, file=sys.stderr)
        return 130, None
    except Stuck as stuck:
        print(f"error: {stuck}; {goes_on}", file=sys.stderr)
        return 3, watch.last and replace(watch.last, message=str(stuck))
    end = watch.last
    assert end is not None  # a run that has ended was shown
    observer.settle(end)
    print(f"run {run_id}: {end.state}{f': {end.message}' if end.message else ''}", file=sys.stderr)
    return (0 if end.state == "SUCCEEDED" else 1), end


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of minutes, found {text!r}")
    return value
