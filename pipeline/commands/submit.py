"""Submit a recipe to Kubeflow Pipelines: upload a version if something changed, and start a run.

The link to the run goes to stdout. With --wait the states of the steps are shown until it ends; Ctrl-C stops watching, not the run.
Exit status with --wait: 0 the run succeeded, 1 it failed or was cancelled.

examples:
  python -m pipeline submit digits --profile ./mine.yaml --wait
  python -m pipeline submit digits --profile ./mine.yaml --repeat monday    measure the scores anew
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.client import Client, RunState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, the cluster, the run's parameters."""
    from pipeline import output, remote

    remote.add_recipe(parser)
    remote.add_profile(parser)
    parser.add_argument(
        "--repeat", metavar="TEXT", default="", help="another text measures the scores anew (default: reuse)"
    )
    parser.add_argument("--name", metavar="NAME", help="name of the run in the UI (default: recipe and time)")
    parser.add_argument("--wait", action="store_true", help="show the steps until the run has ended")
    output.add_amount(parser, logs=False)
    output.add_json(parser)


def main(args: argparse.Namespace) -> int:
    """Upload, start, perhaps follow."""
    import time

    from pipeline import launching, output, profile, remote
    from pipeline.client import Client
    from pipeline.dag import Plan
    from pipeline.guard import refuse_secret
    from sida.steps import REUSE

    where = profile.load(args.profile)
    refuse_secret("--repeat", "", args.repeat, "give another text")
    recipe, made = remote.compile_for(args, where)
    launching.check_cluster(where, Plan.of(recipe, "").tasks())
    client = Client(where)
    parameters = {"recipe": remote.publish_recipe(args, recipe, where), "repeat": args.repeat or REUSE}
    version = client.upload(made, " ".join(recipe.description.split()))
    output.note(args, f"{version.name}: {'uploaded' if version.new else 'already there'}")
    name = args.name or f"{recipe.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    run_id = client.start(name, version.pipeline_id, version.version_id, parameters)
    output.note(args, f"run {run_id}")
    link = client.link(run_id)
    told = {"run": run_id, "name": name, "version": version.name, "uploaded": version.new, "link": link}
    if not args.wait:
        output.result(args, link, **told)
        return 0
    output.part(args, link)  # it is what one watches
    status, end = follow(client, run_id, args)
    output.result(args, "", **told, state=end.state if end else None, error=end.error if end else "")
    return status


def follow(client: Client, run_id: str, args: argparse.Namespace) -> tuple[int, RunState | None]:
    """Show each change of a step's state until the run has ended; the exit status, and how it ended."""
    from pipeline import client as clients
    from pipeline import output, remote

    seen: dict[str, str] = {}

    def show(state: RunState) -> None:
        for step, (task, error) in remote.ours(state).items():
            if seen.get(step) != task:
                seen[step] = task
                output.note(args, remote.task_line(step, task, error))

    try:
        end = client.follow(run_id, show, clients.POLL_SECONDS)
    except KeyboardInterrupt:
        print(
            f"the run goes on; `python -m pipeline cancel {run_id} --profile {args.profile}` ends it", file=sys.stderr
        )
        return 130, None
    print(f"run {run_id}: {end.state}{f': {end.error}' if end.error else ''}", file=sys.stderr)
    return (0 if end.state == "SUCCEEDED" else 1), end
