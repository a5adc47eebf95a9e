"""What is sent to Kubeflow Trainer: TrainJob, and the TrainingRuntime that it refers to. The only file that knows their fields.

Written for trainer.kubeflow.org/v1alpha1 as of Kubeflow Trainer 2.2 and 2.3 (``runtimePatches``; before: podTemplateOverrides),
whose runtime is a JobSet of the replicated job ``node`` with a container ``node``.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sida.launch import grace
from sida.launch.pod import NO_SIDECAR, PLACES, RESTRICTED, THREAD_VARIABLES, Variables, environment, security
from sida.launch.target import Target

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
API_VERSION = f"{GROUP}/{VERSION}"
NODE = "node"  # of the replicated job and of its container
INIT = ("python", "-m", "sida.process.init")  # is told to end, also before torchrun listens
MANAGER = "sida.dev/launcher"
# Annotations: digests of the spec, and of the spec without how the work is divided among nodes
SPEC, TASK, JOB = "sida/spec-sha256", "sida/task-sha256", "sida/job"
RUN, STEP = "sida/run", "sida/step"  # labels
QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"  # labels, of Kueue
RESTART = "jobset.sigs.k8s.io/restart-attempt"  # label of pods
DIVISION = ("numNodes", "numProcPerNode", "resourcesPerNode")  # fields of a trainer
PART = {"app.kubernetes.io/part-of": "sida"}
RBAC, ROLE = "rbac.authorization.k8s.io", "sida-launcher"


def job_name(step: str, folder: str, store: str) -> str:
    """The TrainJob of a job's folder in a store: who starts the same attempt of the same key again finds it by this name."""
    digest = hashlib.sha256(f"{store}\n{folder}".encode()).hexdigest()
    return f"sida-{step.replace('_', '-')}-{digest[:16]}"


def train_job(
    target: Target,
    *,
    name: str,
    step: str,
    run: str,
    folder: str,
    processes: int,
    threads: int,
    grace_seconds: int = grace.FLOOR_SECONDS,
) -> dict[str, Any]:
    """The TrainJob that runs ``sida.worker`` on the job in ``folder``.

    ``processes`` is the number over all nodes. Its pods have ``grace_seconds`` to end. Raises UserError when the processes cannot
    be shared out evenly.
    """
    per_node = target.per_node(processes)
    pod = target.pod.model_copy(update={"processes": per_node, "threads": threads})
    restart: Variables = {"SIDA_RESTART": {"fieldRef": {"fieldPath": f"metadata.labels['{RESTART}']"}}}
    own = {"SIDA_IMAGE": pod.image, "SIDA_EVENTS": "-", "PYTHONUNBUFFERED": "1"} | PLACES
    seconds = str(grace.of_workers(grace_seconds))
    # torchrun by itself kills its workers 30 seconds after SIGTERM.
    end = {"SIDA_GRACE": seconds, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": seconds}
    env = restart | end | pod.env | own | dict.fromkeys(THREAD_VARIABLES, str(threads))
    # Kueue (0.19, with Trainer 2.2's types) drops this field when it admits a job, and JobSet then refuses the changed pod: the
    # runtime's grace has to do in a queue.
    patch = ({} if target.queue else {"terminationGracePeriodSeconds": grace_seconds}) | pod.around({"name": NODE})
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": GROUP, "kind": target.runtime_kind, "name": target.runtime},
        "trainer": {
            "image": pod.image,
            "numNodes": target.nodes,
            "numProcPerNode": per_node,
            "command": [*INIT, "torchrun", "-m", "sida.worker"],
            "args": ["--job", f"{folder}/spec.json"],
            "env": environment(env),
            "resourcesPerNode": pod.resources(),
        },
        "runtimePatches": [
            {
                "manager": MANAGER,
                "trainingRuntimeSpec": {
                    "template": {
                        "spec": {
                            "replicatedJobs": [{"name": NODE, "template": {"spec": {"template": {"spec": patch}}}}]
                        }
                    }
                },
            }
        ],
    }
    if pod.timeout_seconds:
        spec["activeDeadlineSeconds"] = pod.timeout_seconds
    labels = PART | {STEP: step} | queue_labels(target.queue, target.priority_class)
    if target.queue:  # Kueue starts it
        spec["suspend"] = True
    task = spec | {"trainer": {name: value for name, value in spec["trainer"].items() if name not in DIVISION}}
    digests = {name: _digest([what, target.queue]) for name, what in ((SPEC, spec), (TASK, task))}
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": target.namespace,
            "labels": labels | ({RUN: label(run)} if run else {}),
            "annotations": digests | {JOB: folder},
        },
        "spec": spec,
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def queue_labels(queue: str, priority_class: str) -> dict[str, str]:
    """Return the labels by which Kueue takes a TrainJob or Job; none without a queue."""
    if not queue:
        return {}
    return {QUEUE: queue} | ({PRIORITY: priority_class} if priority_class else {})


def grace_of(job: dict[str, Any]) -> int | None:
    """Return the seconds that a TrainJob's pods have to end, as our manifest says; in a queue that is the runtime's."""
    for patch in (job.get("spec") or {}).get("runtimePatches") or ():
        if patch.get("manager") == MANAGER:
            try:
                (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
                return int(node["template"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])
            except (LookupError, TypeError, ValueError):
                return None  # somebody changed it
    return None


def label(text: str) -> str:
    """A label's value: at most 63 characters that end with a letter or digit."""
    return text[:63].rstrip("-_.")


# -- what the namespace needs: `sida runtime` prints it, manifests/base installs it, a test compares the two


def training_runtime(
    name: str,
    namespace: str,
    image: str,
    *,
    service_account: str = "",
    run_as_user: int = 1000,
    max_restarts: int = 3,
    grace_seconds: int = grace.FLOOR_SECONDS,
) -> dict[str, Any]:
    """Our runtime: the gang restarts as a whole, a failure counts, the loss of a node does not.

    The stock ``torch-distributed`` has no failure policy, and its pods restart one by one. Network policies know ours by labels.
    """
    disruption = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": security(run_as_user),
        "containers": [{"name": NODE, "image": image, "securityContext": RESTRICTED}],
    }
    if service_account:
        pod["serviceAccountName"] = service_account
    job = {
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [disruption]},
        "template": {
            "metadata": {"labels": PART | {"app.kubernetes.io/component": "trainer"} | NO_SIDECAR},
            "spec": pod,
        },
    }
    ignored = {
        "name": "disruption",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    ancestor = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    # The two defaults are said, or kubectl would take the list for a changed one at each apply.
    node = {"name": NODE, "groupName": "default", "replicas": 1, "template": {"metadata": ancestor, "spec": job}}
    labels = PART | {"trainer.kubeflow.org/framework": "torch"}
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainingRuntime",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {
                "spec": {
                    "failurePolicy": {"maxRestarts": max_restarts, "rules": [ignored]},
                    "replicatedJobs": [node],
                }
            },
        },
    }


def role(namespace: str) -> dict[str, Any]:
    """Return the Role of launching steps, no more than they need: docs/permissions.md names the call behind each verb."""
    rules = [
        {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["create", "get", "list", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
        {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list"]},
    ]
    metadata = {"name": ROLE, "namespace": namespace, "labels": PART}
    return {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules}


def binding(name: str, namespace: str, account: str, its_namespace: str) -> dict[str, Any]:
    """Gives that Role to a service account."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace, "labels": PART},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": its_namespace}],
    }
