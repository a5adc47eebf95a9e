"""The state of a run from its Workflow on Argo."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from components.around import STOPPED
from pipeline.engines import naming
from pipeline.engines.argo_template import ENTRY
from pipeline.engines.run_state import ENDED, RunState, Task

TITLE, CANCELLED = "workflows.argoproj.io/title", "sida/cancelled"  # annotations
STATES = {"": "PENDING", "Pending": "PENDING", "Running": "RUNNING", "Succeeded": "SUCCEEDED"}
STATES |= {"Failed": "FAILED", "Error": "FAILED"}
# Omitted: it needs one that failed.
TASK_STATES = STATES | {"Skipped": "SUCCEEDED", "Omitted": ""}


def run_state(workflow: dict[str, Any]) -> RunState:
    """Build the state of a run from its Workflow."""
    metadata, status = workflow["metadata"], workflow.get("status") or {}
    annotations = metadata.get("annotations") or {}
    if (state := STATES.get(status.get("phase") or "")) is None:
        raise ValueError(f"a Workflow in phase {status['phase']}")
    cancelled = str(annotations.get(CANCELLED) or "")
    if workflow["spec"].get("shutdown"):
        cancelled = cancelled or _stopped(workflow)
        state = state if state in ENDED else "CANCELING"
    return RunState(
        metadata["name"],
        str(annotations.get(TITLE) or metadata["name"]),
        state,
        str(status.get("message") or ""),
        tuple(_tasks(workflow)),
        _iso(cancelled),
        _iso(str(metadata.get("creationTimestamp") or "")),
    )


def _tasks(workflow: dict[str, Any]) -> list[Task]:
    """Return the steps, in the order of the DAG; of one that is tried again its last standing."""
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in _templates(workflow)}
    tries: dict[str, dict[str, Any]] = {}  # the last of each
    for node in naming.nodes_of(workflow):
        name, whole = str(node.get("templateName", "")), re.fullmatch(r"(.*)\(\d+\)", str(node.get("name", "")))
        if whole is not None:
            tries[whole[1]] = node
        elif name in steps:
            steps[name].append(node)
    over = (workflow.get("status") or {}).get("finishedAt")
    tasks = []
    for name, nodes in steps.items():
        tasks += [_task(name, node, tries.get(node["name"]), str(over or "")) for node in nodes] or [Task(name, "")]
    return tasks


def _task(name: str, node: dict[str, Any], last: dict[str, Any] | None, over: str) -> Task:
    """Return one standing; of a Workflow that was stopped Argo leaves nodes Running whose tries have ended."""
    state, ended = TASK_STATES.get(str(node.get("phase")), ""), str(node.get("finishedAt") or "")
    if over and state in ("RUNNING", "PENDING"):
        state, ended = "FAILED", str((last or {}).get("finishedAt") or over)
    return Task(name, state, "", _iso(ended))


def _stopped(workflow: dict[str, Any]) -> str:
    """Return when somebody stopped the Workflow by another command than ours, as well as its nodes tell."""
    nodes = [node for node in naming.nodes_of(workflow) if node.get("finishedAt")]
    torn = [node for node in nodes if any(words in str(node.get("message")).lower() for words in STOPPED)]
    whole = [node for node in nodes if node.get("name") == workflow["metadata"]["name"]]
    return min((str(node["finishedAt"]) for node in torn or whole), default="") or now()


def _templates(workflow: dict[str, Any]) -> list[str]:
    status = workflow.get("status") or {}
    spec = status.get("storedWorkflowTemplateSpec") or workflow["spec"]
    return [template["name"] for template in spec.get("templates") or () if template["name"] != ENTRY]


def _iso(text: str) -> str:
    """Return a time of Kubernetes' as ours are written; empty for none."""
    return text.replace("Z", "+00:00") if text else ""


def now() -> str:
    """Return UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
