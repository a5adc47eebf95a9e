"""Run one step of a recorded run again: print a Kubernetes Job, start it on the profile's engine, or run it here.

Under the same key rules as ever: what is there is reused, --force makes a new attempt. Inputs are the very manifests that the run
read, checked by digest. The Job's command is a template, its image one that the profile allows.

examples:
  sida rerun 0f3c5a3e-... score --profile ./mine.yaml | kubectl create -f -
  sida rerun 0f3c5a3e-... score --profile ./mine.yaml --submit
  sida rerun 20261102-093000-digits-1a2b score --local --force
  sida rerun --cronjobs digits --profile ./mine.yaml | kubectl apply -f -
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from pipeline import profile, remote, rerun
from pipeline.arguments import ANY_PROFILE, argument, flag, one_of
from pipeline.compile import OnCluster
from pipeline.engines.base import engine_of
from pipeline.local import ROOT
from pipeline.plan import Plan
from pipeline.profile import Profile
from pipeline.running import divide_work
from sida import recipe, records
from sida.errors import UserError
from sida.records import StepCall
from sida.registry import STEPS
from sida.settings import environment, settings
from sida.steps.recipes import recipe_at
from sida.stores import open_own_store

CRON_JOBS = "print a suspended CronJob for each step of RECIPE, to be started by `kubectl create job --from`"
ARGUMENTS = (
    # A CronJob's pod has it from a ConfigMap, where it may be empty: main says how to fill it.
    argument("run", "RUN", "id of the run; here: name of its folder in ./runs", nargs="?", may_be_empty=True),
    argument("step", "STEP", "the step, as `status RUN` shows it", nargs="?"),
    ANY_PROFILE,
    flag("--force", "make a new attempt"),
    flag("--current-image", "the profile's present image in place of the one that the run used"),
    one_of(
        flag("--submit", "start it as a run of one step on the profile's engine; prints its id"),
        flag("--local", "run it on this machine"),
        argument("--cronjobs", "RECIPE", CRON_JOBS),
    ),
)


def main(args: argparse.Namespace) -> int:
    """Read the record, then print, start or run the step."""
    if args.cronjobs:
        return _cron_jobs(args)
    if args.run is not None and not args.run.strip() and args.local:  # a CronJob's pod, whose ConfigMap is empty
        raise UserError(
            "the ConfigMap sida-rerun names no run: `kubectl -n sida patch configmap sida-rerun --type merge "
            """-p '{"data":{"run":"RUN"}}'` with a run's id in place of RUN, then create the Job again"""
        )
    if args.run is None or args.step is None:
        raise UserError("which step of which run? `rerun RUN STEP`; `status RUN` shows them")
    if args.run.replace("-", "_") in STEPS:
        raise UserError(f"{args.run} is a step, and the run comes first: `rerun {args.step} {args.run}`")
    if not args.local and not args.profile:
        raise UserError("where? give --profile for a cluster, or --local for this machine")
    cluster = profile.load(args.profile) if args.profile else None
    if cluster is not None:
        remote.use_store(cluster)
    store = open_own_store(settings().store)
    step, dot, item = args.step.partition(".")  # of many: score.cifar10-uncond-sid
    call = records.call_of(store, args.run, step.replace("-", "_") + dot + item)
    if cluster is None or args.local:
        return _here(call, args.force)
    return _there(args, call, cluster)


def _here(call: StepCall, force: bool) -> int:
    """Run ``sida step`` with the record's flags."""
    rerun.check_inputs(call)
    if call.step == "distill":
        divide_work(recipe_at(call.recipe))
    here = settings()
    variables = environment() | {"SIDA_STORE": here.store, "SIDA_RUNS": str(here.runs)}
    command = [sys.executable, "-m", "components", call.step, *rerun.arguments(call, force=force)]
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode


def _there(args: argparse.Namespace, call: StepCall, cluster: Profile) -> int:
    image = rerun.image_for(call, cluster, args.profile, current=args.current_image)
    loaded = recipe_at(call.recipe)
    rerun.check_inputs(call)
    if not args.submit:
        print(rerun.to_yaml([rerun.job(call, loaded, cluster, image, force=args.force)]), end="")
        return 0
    engine = engine_of(cluster)
    on_cluster = OnCluster(loaded, cluster, args.profile, image=image)
    run_id = engine.start_step(call, rerun.title(call), rerun.arguments(call, force=args.force), on_cluster)
    print(engine.link(run_id), file=sys.stderr)
    print(run_id)
    return 0


def _cron_jobs(args: argparse.Namespace) -> int:
    if not args.profile:
        raise UserError("--cronjobs needs --profile: images and secrets are the cluster's")
    cluster, loaded = profile.load(args.profile), recipe.load(args.cronjobs)
    steps = Plan.of(loaded, "").tasks()
    print(rerun.to_yaml([rerun.cron_job(step, loaded, cluster, args.profile) for step in steps]), end="")
    return 0
