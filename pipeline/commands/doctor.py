"""Check this machine: what works, what a failure prevents, and how to mend it.

Python, torch and its GPUs, packages, the store (a small object is written, read and deleted), MLflow, disk. With --profile store
and MLflow are the profile's, and its cluster is looked at: Kubernetes, Kubeflow Trainer and the runtime, Kubeflow Pipelines or Argo
Workflows, images by digest, namespaces, service accounts, Secrets with their keys, claims, and quota and nodes for the largest
step's pods: of --recipe, whose processes and threads they have to hold, or of digits. Exit status: 0 nothing is bad, 1 something
is. What is "off" is not there, and not needed for runs on this machine; what is "unseen" could not be looked at from here or with
your rights.

examples:
  sida doctor
  sida doctor --profile ./mine.yaml
  sida doctor --profile ./mine.yaml --recipe imagenet-64
  sida doctor --json | jq '.checks[] | select(.state == "bad")'
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pipeline import doctor, output, profile
from pipeline.arguments import argument
from sida import recipe
from sida.errors import UserError

ARGUMENTS = (
    argument("--profile", "PROFILE", "check this cluster too: a name, or path of a YAML file"),
    argument("--recipe", "RECIPE", "with --profile: the recipe that it is to have room for (default digits)"),
)


def main(args: argparse.Namespace) -> int:
    """Print a line for each check, and below how to fix what failed."""
    if args.recipe and not args.profile:
        raise UserError("--recipe: its pods are looked for on a cluster: give --profile too")
    given = recipe.load(args.recipe) if args.recipe else None
    checks = doctor.examine(profile.load(args.profile) if args.profile else None, given)
    bad = [check for check in checks if check.state == "bad"]
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8}{check.name:<12}{check.found}")
        if check.state != "ok":
            fields = {"prevents": check.prevents, "mend": check.mend}
            lines += [f"{'':<20}{name}: {text}" for name, text in fields.items() if text]
    end = doctor.summary(checks, args.profile)
    output.result(args, "\n".join([*lines, "", end]), healthy=not bad, checks=[asdict(check) for check in checks])
    return 1 if bad else 0
