"""Submit a recipe to the profile's engine: upload a version if something changed, and start a run.

The run's id goes to stdout, alone; all else to stderr: the run's page, or the command that shows it. With --wait the states of the
steps are shown until it ends: why one waits (image, room, quota, Secret ...) or failed, then what `run` prints at its end (scores,
verdict, where generator and report are), and in the last line how the run ended and why. Ctrl-C stops watching, not the run. Exit
status with --wait: 0 the run succeeded, 1 it failed, timed out or was cancelled, 3 a step waited --stuck minutes for what does not
come by itself.

examples:
  sida submit digits --profile ./mine.yaml --wait
  sida submit digits --profile ./mine.yaml --wait --stuck 60   where nodes take long to come
  RUN=$(sida submit digits --profile ./mine.yaml --quiet) && sida status "$RUN" --profile ./mine.yaml
  sida submit digits --profile ./mine.yaml --repeat monday    measure the scores anew
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from pipeline import output, profile, remote
from pipeline.arguments import PROFILE, QUIET, RECIPE, REPEAT, amount_of, argument, flag
from pipeline.engines.base import Engine
from pipeline.observing import Observer
from pipeline.profile import Profile
from pipeline.run_watch import Stuck, Watch
from pipeline.standing import Standing
from sida.recipe.texts import check_texts
from sida.steps.execute import REUSE

ARGUMENTS = (
    RECIPE,
    *remote.TO_COMPILE,
    PROFILE,
    REPEAT,
    argument("--name", "NAME", "name of the run in the UI (default: recipe and time)"),
    flag("--wait", "show the steps until the run has ended"),
    argument(
        "--stuck",
        "MINUTES",
        "with --wait: how long to wait for what does not come by itself before giving up (default 15; 0: never)",
        type=amount_of("minutes"),
        default=15.0,
    ),
    QUIET,
)


def main(args: argparse.Namespace) -> int:
    """Upload and start; with --wait, follow."""
    cluster = profile.load(args.profile)
    check_texts({"--repeat": args.repeat, "--name": args.name})
    uploaded = remote.upload(args, cluster, args.repeat or REUSE)
    engine, version = uploaded.engine, uploaded.version
    output.note(args, f"{version.name}: {'uploaded' if version.new else 'already there'}")
    name = args.name or f"{uploaded.recipe.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    run_id = engine.start(name, version, uploaded.parameters)
    link = engine.link(run_id)
    fields = {"run": run_id, "name": name, "version": version.name, "uploaded": version.new, "link": link}
    output.note(args, link)
    if not args.wait:
        output.result(args, run_id, **fields)
        return 0
    output.part(args, run_id)  # now: it is of use while the run goes on
    status, end = follow(engine, run_id, args, cluster)
    output.result(args, "", **fields, state=end.state if end else None, error=end.message if end else "")
    return status


def follow(engine: Engine, run_id: str, args: argparse.Namespace, cluster: Profile) -> tuple[int, Standing | None]:
    """Show each change of a step's state until the run has ended, then its result; return exit status and last standing."""
    started, observer = time.monotonic(), Observer(cluster, run_id)
    watch = Watch(observer, lambda line: output.note(args, line), args.stuck)
    goes_on = f"the run goes on; `sida cancel {run_id} --profile {args.profile}` ends it"
    try:
        engine.follow(run_id, watch.show)
    except KeyboardInterrupt:
        print(goes_on, file=sys.stderr)
        return 130, None
    except Stuck as stuck:
        print(f"error: {stuck}; {goes_on}", file=sys.stderr)
        return 3, watch.last and replace(watch.last, message=str(stuck))
    end = watch.last
    assert end is not None  # a run that has ended was shown
    observer.settle(end)
    if end.state == "SUCCEEDED" and not args.json:
        _show_result(observer, watch, time.monotonic() - started)
    print(f"run {run_id}: {end.state}{f': {end.message}' if end.message else ''}", file=sys.stderr)
    return (0 if end.state == "SUCCEEDED" else 1), end


def _show_result(observer: Observer, watch: Watch, seconds: float) -> None:
    """Print what ``run`` prints at its end."""
    summary = observer.summary()
    if summary is not None:
        print(summary.as_text(seconds), file=sys.stderr)
    elif observer.missing:
        watch.tell_unseen()
        print("scores and verdict are not shown: they could not be read from the store", file=sys.stderr)
