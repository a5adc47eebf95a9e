"""Of what type the fields of Kubernetes' objects are, as far as we read them: an answer in which one is another is no API server's.

A field that is missing or null is as the API leaves it out. Fields are called alike in objects of all kinds, so one table does.
"""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9:._@-]{1,253}")  # or uid, or another id
_AMOUNTS = {"*": (str, int, float)}
_CONDITIONS = [{"type": str, "status": str, "reason": str, "message": str, "lastTransitionTime": str}]
_RESOURCES = {"requests": _AMOUNTS, "limits": _AMOUNTS}
_STATE = {
    "waiting": {"reason": str, "message": str},
    "running": {},
    "terminated": {"exitCode": int, "reason": str, "message": str},
}
_CONTAINERS = [{"name": str, "image": str, "state": _STATE, "resources": _RESOURCES}]
_TEMPLATES = [{"name": str}]
_WORKFLOW = {
    "arguments": {"parameters": [{"name": str}]},
    "templates": _TEMPLATES,
    "workflowTemplateRef": {"name": str},
}
NODES = {  # of a Workflow
    "*": dict.fromkeys(("name", "templateName", "type", "phase", "message", "startedAt", "finishedAt"), str)
}
_ABOUT = {"kind": str, "name": str, "uid": str}
OBJECT = {
    "metadata": {
        **dict.fromkeys(("name", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"), str),
        "labels": {"*": str},
        "annotations": {"*": str},
        "ownerReferences": [_ABOUT],
    },
    "spec": {
        "nodeName": str,
        "containers": _CONTAINERS,
        "activeDeadlineSeconds": int,
        "trainer": {"numNodes": int},
        "runtimePatches": [{"manager": str}],
        "queueName": str,
        "active": bool,
        "priority": int,
        **_WORKFLOW,
        "shutdown": str,
        "schedules": [str],
        "workflowSpec": _WORKFLOW,
        "taints": [{"key": str, "effect": str, "value": str}],
        "hard": _AMOUNTS,
        "limits": [{"type": str, "default": _AMOUNTS}],
        "accessModes": [str],
    },
    "status": {
        **dict.fromkeys(("phase", "reason", "message", "finishedAt", "compressedNodes"), str),
        "conditions": _CONDITIONS,
        "containerStatuses": _CONTAINERS,
        "initContainerStatuses": _CONTAINERS,
        "jobsStatus": [{"ready": int}],
        "admissionChecks": [{"name": str, "state": str, "message": str}],
        "nodes": NODES,
        "storedWorkflowTemplateSpec": {"templates": _TEMPLATES},
        "allocatable": _AMOUNTS,
        "used": _AMOUNTS,
        "accessModes": [str],
    },
    # events
    "involvedObject": _ABOUT,
    **dict.fromkeys(("reason", "message", "lastTimestamp", "eventTime"), str),
    "series": {"lastObservedTime": str},
    # EndpointSlices
    "endpoints": [{"conditions": {}}],
}
