"""Real answers, put into the stand-ins."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tests.launch.kube_server import NAMESPACE, Kube

HERE = Path(__file__).resolve().parent
PODS: dict[str, Any] = json.loads((HERE / "pods.json").read_text(encoding="utf-8"))
TRAINJOBS: dict[str, Any] = json.loads((HERE / "trainjobs.json").read_text(encoding="utf-8"))
ARGO: dict[str, Any] = json.loads((HERE / "argo.json").read_text(encoding="utf-8"))
KFP = "kubeflow"  # the namespace of the run's own pods


def befall(kube: Kube, run: str, task: str, what: str, *, driver: bool = False) -> str:
    """Let ``task`` have the pod, and the warnings, of a step that this befell; the pod's name."""
    pod = copy.deepcopy(PODS["pods"][what])
    node = f"sida-digits-j6xsj(0).root(0).exit-handler-1(0).{task}" + ("-driver(0)" if driver else "(0).executor(0)")
    pod["metadata"]["labels"]["pipeline/runid"] = run
    pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"] = node
    kube.record("pods", "ADDED", pod)
    for event in PODS["events"]:
        if event["involvedObject"]["uid"] == pod["metadata"]["uid"]:
            kube.record("events", "ADDED", copy.deepcopy(event))
    name = str(pod["metadata"]["name"])
    kube.logs[name] = [("", line) for line in (PODS["driver_log"] if driver else [])]
    return name


def play(kube: Kube, run: str, what: str) -> None:
    """Let the run's Workflow on Argo stand as one that this befell; if it was stopped, then now."""
    told = copy.deepcopy(ARGO[what])
    made = copy.deepcopy(kube.objects["workflows"][run])
    text = json.dumps(told["status"]).replace(f'"{told["metadata"]["name"]}', f'"{run}')
    made["status"] = json.loads(text)
    if "shutdown" in told["spec"]:
        made["spec"]["shutdown"] = told["spec"]["shutdown"]
    kube.record("workflows", "MODIFIED", made)


def befall_argo(kube: Kube, run: str, step: str, what: str) -> str:
    """Let a step of a run on Argo have the pod of one that this befell; the pod's name."""
    pod = copy.deepcopy(PODS["pods"][what])
    pod["metadata"] |= {"namespace": NAMESPACE, "annotations": {}}
    pod["metadata"]["labels"] = {"workflows.argoproj.io/workflow": run, "app.kubernetes.io/component": step}
    kube.record("pods", "ADDED", pod)
    name = str(pod["metadata"]["name"])
    kube.logs[name] = [("", "a line of the step"), ("", 'time="2026-11-29" level=INFO msg="exited" argo=true')]
    return name


def workflow(kube: Kube, run: str, **nodes: tuple[str, str]) -> None:
    """The run's Workflow with these nodes of type Pod: task (``a_b`` or ``a_b_driver``) -> phase, message."""
    made = {}
    for number, (name, (phase, message)) in enumerate(nodes.items()):
        task = name.replace("_", "-")
        full = f"x(0).root(0).{task}(0)" + ("" if task.endswith("-driver") else ".executor(0)")
        made[f"x-{number}"] = {
            "name": full,
            "type": "Pod",
            "phase": phase,
            "message": message,
            "startedAt": str(number),
        }
    metadata = {"name": "x", "namespace": KFP, "labels": {"pipeline/runid": run}}
    kube.record("workflows", "ADDED", {"metadata": metadata, "status": {"nodes": made}})


def train(kube: Kube, run: str, step: str, what: str) -> None:
    """A TrainJob of the step, as one that this befell stands, with its pods and warnings."""
    given = copy.deepcopy(TRAINJOBS[what])
    metadata = {"name": what, "uid": "uid", "labels": {"sida/run": run, "sida/step": step}, "namespace": NAMESPACE}
    kube.record("trainjobs", "ADDED", {"metadata": metadata, "spec": given["spec"], "status": given["status"]})
    for pod in given["pods"]:
        kube.record("pods", "ADDED", pod)
        kube.logs[pod["metadata"]["name"]] = [("", "a line of the worker")]
    for event in given["events"]:
        kube.record("events", "ADDED", event)
