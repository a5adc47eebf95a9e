"""Print what a profile's TrainJobs need in their namespace: our TrainingRuntime, and a Role for the launching steps.

The runtime restarts all pods of a job together when one fails, and does not count the loss of a node as a failure. The Role lets
the steps' service account make, follow and delete TrainJobs, and read pods, logs and events; nothing else.

examples:
  python -m pipeline runtime --profile ./mine.yaml | kubectl apply -f -
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The cluster."""
    from pipeline import remote

    remote.add_profile(parser)
    parser.add_argument(
        "--max-restarts", metavar="N", type=int, default=3, help="failures after which a job has failed (default 3)"
    )


def main(args: argparse.Namespace) -> int:
    """Three objects for kubectl."""
    from pipeline import profile, rerun
    from sida.errors import UserError
    from sida.launch.manifest import permissions, training_runtime

    where = profile.load(args.profile)
    jobs = where.trainjob
    if jobs is None:
        raise UserError(f"{args.profile} has no section trainjob: add one, with a namespace at least")
    if args.max_restarts < 0:
        raise UserError(f"--max-restarts {args.max_restarts}: give 0 or more")
    image = where.images.cuda or where.images.cpu  # every TrainJob names its own
    account = where.kfp.service_account or where.job_service_account or "pipeline-runner"
    owner = where.kfp.namespace or "kubeflow"
    made = [training_runtime(jobs.runtime, jobs.namespace, image, args.max_restarts)]
    if jobs.runtime_kind == "ClusterTrainingRuntime":
        made = []  # the administrator's
    print(rerun.to_yaml([*made, *permissions(jobs.namespace, account, owner)]), end="")
    return 0
