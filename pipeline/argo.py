"""A run's pods and nodes as Argo Workflows makes them for Kubeflow Pipelines 2: the step of each, and its messages.

A step has two: its driver, which prepares it, and its executor, which is our container. On Kubeflow Pipelines 2.17 with Argo 4.0
pods carry the label ``pipeline/runid`` and their place in the DAG as an annotation:
``sida-x-j6xsj(0).root(0).exit-handler-1(0).fetch-teacher(0).executor(0)``, or ``...fetch-teacher-driver(0)``. The container is
``main``.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RUN_LABEL = "pipeline/runid"
NODE_NAME = "workflows.argoproj.io/node-name"
CONTAINER = "main"


@dataclass(frozen=True)
class Place:
    """Place of a pod or node in the DAG: the task as KFP calls it, and whether it is its driver."""

    task: str
    driver: bool


@dataclass(frozen=True)
class Node:
    """Node of the workflow that is, or should be, a pod."""

    place: Place
    phase: str
    message: str


def selector(run_id: str) -> str:
    """Return the label selector of a run's pods, and of its Workflow."""
    return f"{RUN_LABEL}={run_id}"


def place_of(node_name: str) -> Place | None:
    """Return the place that a node's name stands for; None if it belongs to no step."""
    parts = re.sub(r"\([^()]*\)", "", node_name).split(".")
    last = parts[-1]
    if last == "executor" and len(parts) > 1:
        return Place(parts[-2], driver=False)
    return Place(last.removesuffix("-driver"), driver=True) if last.endswith("-driver") else None


def place(pod: Mapping[str, Any]) -> Place | None:
    """Return the place of a run's pod; None for one of Argo's own."""
    return place_of((pod["metadata"].get("annotations") or {}).get(NODE_NAME, ""))


def newest_pods(pods: Iterable[dict[str, Any]]) -> dict[Place, dict[str, Any]]:
    """Return the newest pod of each place."""
    by_age = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    return {at: pod for pod in by_age if (at := place(pod)) is not None}


def nodes(workflows: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the nodes of type Pod, in the order in which they began."""
    pod_nodes = []
    for workflow in workflows:
        status = workflow.get("status") or {}
        entries = status.get("nodes") or {}
        if packed := status.get("compressedNodes"):
            entries = json.loads(gzip.decompress(base64.b64decode(packed)))
        for node in sorted(entries.values(), key=lambda node: str(node.get("startedAt"))):
            if node.get("type") == "Pod" and (place := place_of(str(node.get("name", "")))) is not None:
                pod_nodes.append(
                    Node(place, str(node.get("phase", "")), " ".join(str(node.get("message", "")).split()))
                )
    return pod_nodes


def without_argo(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines without those of Argo's own program in the same container."""
    return (line for line in lines if not (line.startswith("time=") and " argo=true" in line))


def driver_error(lines: Iterable[str]) -> str:
    """Return the error at the end of a driver's log: glog's fatal line, else its last error, else its last line."""
    messages = [
        re.sub(r"^([A-Z])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^]]*\] ?", r"\1 ", line).strip()
        for line in without_argo(lines)
    ]
    messages = [line for line in messages if line]
    for mark in ("F ", "E "):
        marked = [line.removeprefix(mark) for line in messages if line.startswith(mark)]
        if marked:
            return re.sub(r"^KFP driver: (driver\.\w+\(.*\) failed: )?", "", marked[-1])[:400]
    return messages[-1][:400] if messages else ""
