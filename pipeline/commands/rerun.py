"""Run one step of a recorded run again: print a Kubernetes Job, start it on Kubeflow, or run it here.

Under the same key rules as ever: what is there is reused, --force makes a new attempt. Inputs are the very manifests that the run
read, checked by digest. The Job's command is a template, its image one that the profile allows.

examples:
  sida rerun 0f3c5a3e-... score --profile ./mine.yaml | kubectl create -f -
  sida rerun 0f3c5a3e-... score --profile ./mine.yaml --kfp
  sida rerun 20261102-093000-digits-1a2b score --local --force
  sida rerun --cronjobs digits --profile ./mine.yaml | kubectl apply -f -
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.profile import Profile
    from sida.records import StepCall


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUN, STEP and the options for their place."""
    from pipeline import remote

    parser.add_argument("run", metavar="RUN", nargs="?", help="id of the run; here: name of its folder in ./runs")
    parser.add_argument("step", metavar="STEP", nargs="?", help="the step, as `status RUN` shows it")
    remote.add_profile(parser, required=False)
    parser.add_argument("--force", action="store_true", help="make a new attempt")
    parser.add_argument(
        "--current-image", action="store_true", help="the profile's present image in place of the one that the run used"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--kfp", action="store_true", help="start it as a run of one step on Kubeflow Pipelines")
    group.add_argument("--local", action="store_true", help="run it on this machine")
    group.add_argument(
        "--cronjobs",
        metavar="RECIPE",
        help="print a suspended CronJob for each step of RECIPE, to be started by `kubectl create job --from`",
    )


def main(args: argparse.Namespace) -> int:
    """Read the record, then print, start or run the step."""
    from pipeline import profile, remote
    from sida import records
    from sida.errors import UserError
    from sida.settings import settings
    from sida.stores import open_store

    if args.cronjobs:
        return _cron_jobs(args)
    if args.run is not None and not args.run.strip() and args.local:  # a CronJob's pod, whose ConfigMap is empty
        raise UserError(
            "the ConfigMap sida-rerun names no run: `kubectl -n sida patch configmap sida-rerun --type merge "
            """-p '{"data":{"run":"RUN"}}'` with a run's id in place of RUN, then create the Job again"""
        )
    if args.run is None or args.step is None:
        raise UserError("which step of which run? `rerun RUN STEP`; `status RUN` shows them")
    if not args.local and not args.profile:
        raise UserError("where? give --profile for a cluster, or --local for this machine")
    cluster = profile.load(args.profile) if args.profile else None
    if cluster is not None:
        remote.use_store(cluster)
    store = open_store(settings().store)
    step, dot, item = args.step.partition(".")  # of many: score.cifar10-uncond-sid
    call = records.call_of(store, args.run, step.replace("-", "_") + dot + item)
    if cluster is None or args.local:
        return _here(call, args.force)
    return _there(args, call, cluster)


def _here(call: StepCall, force: bool) -> int:
    """Run ``sida step`` with the record's flags."""
    import subprocess

    from pipeline import rerun
    from pipeline.local import ROOT
    from sida.settings import environment, settings

    rerun.check_inputs(call)
    here = settings()
    variables = environment() | {"SIDA_STORE": here.store, "SIDA_RUNS": str(here.runs)}
    command = [sys.executable, "-m", "components", call.step, *rerun.arguments(call, force=force)]
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode


def _there(args: argparse.Namespace, call: StepCall, where: Profile) -> int:
    from pipeline import rerun
    from pipeline.compile import compiled_pipeline
    from sida.steps.recipes import recipe_at

    image = rerun.image_for(call, where, args.profile, current=args.current_image)
    recipe = recipe_at(call.recipe)
    rerun.check_inputs(call)
    if not args.kfp:
        print(rerun.to_yaml([rerun.job(call, recipe, where, image, force=args.force)]), end="")
        return 0
    from pipeline.client import Client

    pipeline = rerun.one_step(call, recipe, where, image, args.profile, force=args.force)
    client = Client(where)
    run_id = client.start_once(rerun.title(call), compiled_pipeline(pipeline.name, pipeline))
    print(client.link(run_id))
    return 0


def _cron_jobs(args: argparse.Namespace) -> int:
    from pipeline import profile, rerun
    from pipeline.plan import Plan
    from sida import recipe
    from sida.errors import UserError

    if not args.profile:
        raise UserError("--cronjobs needs --profile: images and secrets are the cluster's")
    where, loaded = profile.load(args.profile), recipe.load(args.cronjobs)
    steps = Plan.of(loaded, "").tasks()
    print(rerun.to_yaml([rerun.cron_job(step, loaded, where, args.profile) for step in steps]), end="")
    return 0
