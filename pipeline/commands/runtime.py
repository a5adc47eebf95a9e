"""Print what a profile's TrainJobs need in their namespace: our TrainingRuntime, and the Role of launching steps with its bindings.

The runtime restarts all pods of a job together when one fails, and does not count the loss of a node as a failure. The Role lets
launching steps make, follow and delete TrainJobs, list pods and events, and read logs; nothing else. It is bound to the account
of rerun's Jobs and, on Kubeflow Pipelines, to the one that all pods of a run have. Where manifests/ are installed all this is there
already, and applying it changes nothing. The accounts themselves are not made.

examples:
  sida runtime --profile ./mine.yaml | kubectl apply -f -
"""

from __future__ import annotations

import argparse
from typing import Any

from pipeline import profile, rerun
from pipeline.arguments import PROFILE, argument, whole
from pipeline.cluster_checks import runs_as
from pipeline.profile import Profile, check_image
from sida.errors import UserError
from sida.launch import grace, trainjob_manifest

ARGUMENTS = (
    PROFILE,
    argument(
        "--max-restarts", "N", "failures after which a job has failed (default 3)", type=whole(0, 2**31 - 1), default=3
    ),
)


def main(args: argparse.Namespace) -> int:
    """Print objects for kubectl."""
    cluster = profile.load(args.profile)
    if cluster.trainjob is None:
        raise UserError(f"{args.profile} has no section trainjob: add one, with a namespace at least")
    print(rerun.to_yaml(objects(cluster, args.profile, args.max_restarts)), end="")
    return 0


def objects(profile: Profile, name: str, max_restarts: int = 3) -> list[dict[str, Any]]:
    """Return TrainingRuntime, Role, RoleBindings. Raises UserError for an image that is missing or has no digest."""
    jobs = profile.trainjob
    assert jobs is not None  # the caller has looked
    manifests = []
    if jobs.runtime_kind == "TrainingRuntime":  # the cluster's is its administrator's
        manifests.append(
            trainjob_manifest.training_runtime(
                jobs.runtime,
                jobs.namespace,
                check_image("images.cpu", profile.images.cpu, name),  # a placeholder: every TrainJob names its own
                service_account=jobs.service_account or "",
                grace_seconds=jobs.grace_seconds or grace.FLOOR_SECONDS,
                run_as_user=profile.run_as_user,
                max_restarts=max_restarts,
            )
        )
    manifests.append(trainjob_manifest.role(jobs.namespace))
    account, its_namespace = (
        jobs.launcher_account or profile.job_service_account,
        profile.job_namespace or jobs.namespace,
    )
    if account:
        manifests.append(trainjob_manifest.binding(trainjob_manifest.ROLE, jobs.namespace, account, its_namespace))
    if profile.engine == "kubeflow":
        manifests.append(_binding("kubeflow", jobs.namespace, *runs_as(profile)))
    elif account and profile.namespace != its_namespace:
        manifests.append(_binding("argo", jobs.namespace, profile.namespace, account))
    return manifests


def _binding(engine: str, namespace: str, its_namespace: str, account: str) -> dict[str, Any]:
    """Return the Role's binding to the account of an engine's launching pods."""
    return trainjob_manifest.binding(f"{trainjob_manifest.ROLE}-{engine}", namespace, account, its_namespace)
