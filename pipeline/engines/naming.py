"""A run's pods and nodes as Argo Workflows makes them: the step of each, and its messages.

For Kubeflow Pipelines 2 a step has two: its driver, which prepares it, and its executor, which is our container. On Kubeflow
Pipelines 2.17 with Argo 4.0 pods carry the label ``pipeline/runid`` and their place in the DAG as an annotation:
``sida-x-j6xsj(0).root(0).exit-handler-1(0).fetch-teacher(0).executor(0)``, or ``...fetch-teacher-driver(0)``. For a Workflow of
our own a pod carries the step as a label, a node its template. The container is ``main``.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engines.argo_template import COMPONENT
from sida.launch.shapes import NODES
from sida.shapes import misshapen

RUN_LABEL, WORKFLOW = "pipeline/runid", "workflows.argoproj.io/workflow"
NODE_NAME = "workflows.argoproj.io/node-name"
CONTAINER = "main"
NODES_BYTES = 64 << 20  # of a Workflow's nodes unpacked: packed they are less than the 1.5 MB of an object


@dataclass(frozen=True)
class Place:
    """Place of a pod or node in the DAG: the task as its engine calls it, and whether it is its driver."""

    task: str
    driver: bool


@dataclass(frozen=True)
class Node:
    """Node of the workflow that is, or should be, a pod."""

    place: Place
    phase: str
    message: str


class Naming(ABC):
    """How an engine names what it makes of a run."""

    @abstractmethod
    def pods(self, run_id: str) -> str:
        """Return the label selector of a run's pods."""

    @abstractmethod
    def place(self, pod: Mapping[str, Any]) -> Place | None:
        """Return the place of a run's pod; None for one that belongs to no step."""

    @abstractmethod
    def place_of_node(self, node: Mapping[str, Any]) -> Place | None:
        """Return the place of a Workflow's node; None if it belongs to no step."""

    def newest_pods(self, pods: Iterable[dict[str, Any]]) -> dict[Place, dict[str, Any]]:
        """Return the newest pod of each place."""
        by_age = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        return {at: pod for pod in by_age if (at := self.place(pod)) is not None}

    def nodes(self, workflows: Sequence[Mapping[str, Any]]) -> list[Node]:
        """Return the nodes of type Pod, in the order in which they began."""
        pods = [node for workflow in workflows for node in nodes_of(workflow) if node.get("type") == "Pod"]
        return [
            Node(place, str(node.get("phase", "")), " ".join(str(node.get("message", "")).split()))
            for node in pods
            if (place := self.place_of_node(node)) is not None
        ]


class OfKubeflow(Naming):
    """Kubeflow Pipelines' names."""

    def pods(self, run_id: str) -> str:
        """Return the label selector of a run's pods, and of its Workflow."""
        return f"{RUN_LABEL}={run_id}"

    def place(self, pod: Mapping[str, Any]) -> Place | None:
        """Return the place that the annotation says."""
        return self._place((pod["metadata"].get("annotations") or {}).get(NODE_NAME, ""))

    def place_of_node(self, node: Mapping[str, Any]) -> Place | None:
        """Return the place that the node's name says."""
        return self._place(str(node.get("name", "")))

    @staticmethod
    def _place(node_name: str) -> Place | None:
        parts = re.sub(r"\([^()]*\)", "", node_name).split(".")
        last = parts[-1]
        if last == "executor" and len(parts) > 1:
            return Place(parts[-2], driver=False)
        return Place(last.removesuffix("-driver"), driver=True) if last.endswith("-driver") else None


class OfArgo(Naming):
    """Names in a Workflow of our own, which is called as the run is."""

    def pods(self, run_id: str) -> str:
        """Return the label selector of a run's pods."""
        return f"{WORKFLOW}={run_id}"

    def place(self, pod: Mapping[str, Any]) -> Place | None:
        """Return the step that the label says."""
        step = (pod["metadata"].get("labels") or {}).get(COMPONENT)
        return Place(step, driver=False) if step else None

    def place_of_node(self, node: Mapping[str, Any]) -> Place | None:
        """Return the step whose template it is."""
        name = str(node.get("templateName", ""))
        return Place(name, driver=False) if name else None


NAMINGS: dict[str, Naming] = {"kubeflow": OfKubeflow(), "argo": OfArgo()}


def nodes_of(workflow: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all nodes of a Workflow, in the order in which they began."""
    status = workflow.get("status") or {}
    entries = status.get("nodes") or {}
    if packed := status.get("compressedNodes"):
        entries = _unpacked(packed)
    return sorted(entries.values(), key=lambda node: str(node.get("startedAt")))


def _unpacked(packed: str) -> dict[str, Any]:
    """Return the nodes of a Workflow that has many. Raises ValueError for what is none."""
    try:
        unzip = zlib.decompressobj(wbits=31)  # gzip
        text = unzip.decompress(base64.b64decode(packed), NODES_BYTES)
        if not unzip.eof:
            raise ValueError(f"cut off, or more than {NODES_BYTES:,} bytes")
        nodes = json.loads(text)
    except (ValueError, RecursionError, zlib.error) as error:
        raise ValueError(f"status.compressedNodes: {error}") from error
    if not isinstance(nodes, dict) or (fault := misshapen(nodes, NODES)):
        raise ValueError(f"status.compressedNodes: {fault if isinstance(nodes, dict) else 'no object'}")
    return nodes


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
