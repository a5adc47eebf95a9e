"""The words for work that waits or has failed: each a line, for a person who did not build the cluster."""

from __future__ import annotations

import signal

from sida.launch.pod_state import Failure, Kind, Waiting

WAITS: dict[Kind, tuple[str, str]] = {  # what it waits for, and what to do about it
    "image": ("the image cannot be pulled", "check `images` and `image_pull_secrets` of the profile, and the registry"),
    "room": ("no node has room", "ask for less in the profile, wait for others to end, or add a node"),
    "quota": ("the namespace's quota is used up", "wait for others to end, ask for less, or have the quota raised"),
    "config": ("a Secret or ConfigMap is missing, or a key in it", "make it: docs/secrets.md"),
    "volume": ("a volume cannot be mounted", "check `volumes` of the profile, and the claim in this namespace"),
    "policy": ("an admission policy refuses the pod", "docs/troubleshooting.md says which namespaces are meant"),
    "runtime": ("what it consists of cannot be created", "check runtime and resources of the profile"),
    "container": ("the container does not start", "`kubectl describe pod` shows more"),
    "queue": ("it waits in a queue", "it begins when its turn has come"),
    "preempted": ("it had to give its place back", "it goes on from its checkpoint when its turn has come"),
    "unqueued": ("its queue will not take it", "correct trainjob.queue or the step's resources, or ask who runs Kueue"),
    "starting": ("it is starting", "pulling a large image takes minutes"),
}


def waiting_in_words(waiting: Waiting) -> str:
    """``the image cannot be pulled: registry/sida@sha256:...: not found (pod x)``."""
    pod = f" ({waiting.what})" if waiting.what else ""
    reason = f"{WAITS[waiting.kind][0]}{f': {waiting.detail}' if waiting.detail else ''}{pod}"
    return f"{waiting.among}; {reason}" if waiting.among else reason


def remedy(waiting: Waiting) -> str:
    """Say what to do about it."""
    return WAITS[waiting.kind][1]


def failure_in_words(failure: Failure) -> str:
    """``killed for memory: the limit is 2Gi (x)``."""
    if failure.said:
        return failure.said
    pod = f" ({failure.what})" if failure.what else ""
    match failure.cause:
        case "memory":
            limit = f": the limit is {failure.limit}" if failure.limit else ""
            return f"killed for memory (OOMKilled){limit}{pod}: raise `memory` of the step in the profile"
        case "deadline":
            limit = f" than {failure.detail}" if failure.detail else " than it was allowed to"
            return f"ran longer{limit} (timeout_seconds of the profile){pod}"
        case "evicted":
            return f"its pod was taken off the node: {failure.detail}{pod}"
        case "deleted":
            return f"its pod was deleted while it ran{pod}"
        case "never":
            return f"it never began: {failure.detail}{pod}"
        case "unknown":
            return "its pod is gone, and nothing says why it failed"
        case "driver":
            return f"Kubeflow's driver of the step failed: {failure.detail or 'its log is gone'}{pod}"
        case "exit":
            how = f"ended with {_status(failure.exit_code)}" if failure.exit_code else "failed"
            return f"{how}{f': {failure.detail}' if failure.detail else ''}{pod}"
    return failure.detail


def _status(code: int) -> str:
    """``exit status 137 (SIGKILL)``."""
    try:
        name = f" ({signal.Signals(code - 128).name})" if code > 128 else ""
    except ValueError:
        name = ""
    return f"exit status {code}{name}"
