"""Check this machine: what works, what a failure prevents, and how to mend it.

Python, torch and its GPUs, packages, the store (a small object is written, read and deleted), MLflow, disk; with --profile also
the cluster: Kubernetes, Kubeflow Trainer, Kubeflow Pipelines. Exit status: 0 nothing is bad, 1 something is. What is "off" is not
there, and not needed for runs on this machine.

examples:
  python -m pipeline doctor
  python -m pipeline doctor --profile ./mine.yaml
  python -m pipeline doctor --json | jq '.checks[] | select(.state == "bad")'
"""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--profile, --json."""
    parser.add_argument("--profile", metavar="PROFILE", help="check this cluster too: a name, or path of a YAML file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace) -> int:
    """A line each, and below what to do."""
    from pipeline import doctor, profile

    checks = doctor.examine(profile.load(args.profile) if args.profile else None)
    bad = [check for check in checks if check.state == "bad"]
    if args.json:
        print(json.dumps({"healthy": not bad, "checks": [check.as_json() for check in checks]}, indent=1))
        return 1 if bad else 0
    for check in checks:
        print(f"{check.state:<4}{check.name:<12}{check.found}")
        if check.prevents and check.state != "ok":
            print(f"{'':<16}prevents: {check.prevents}\n{'':<16}mend: {check.mend}")
    print(f"\n{len(bad)} of {len(checks)} checks are bad" if bad else "\nready for runs on this machine")
    return 1 if bad else 0
