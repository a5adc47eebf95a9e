"""The DAG with its heavy steps as TrainJobs: the stand-in's kubelet runs each manifest's own command, with real workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sida.launch.trainjob_manifest import INIT
from sida.settings import settings
from tests.conftest import ROOT
from tests.launch.kube_server import NAMESPACE, Kube, serve

TINY = ROOT / "tests" / "recipes" / "tiny.yaml"


def kubelet(kube: Kube, job: dict[str, Any], fail_first: set[str]) -> None:
    """Run what the manifest says in one pod, restarted once when it fails; its lines are the pod's log."""
    trainer, step = job["spec"]["trainer"], job["metadata"]["labels"]["sida/step"]
    env = os.environ | {item["name"]: item["value"] for item in trainer["env"] if "value" in item}
    for name in ("SIDA_LAUNCHER", "SIDA_TRAINJOB", "SIDA_EVENTS", "KUBECONFIG"):
        env.pop(name, None)
    env |= {"SIDA_EVENTS": "-", "SIDA_RUNS": settings().runs.as_posix(), "SIDA_CACHE": settings().cache.as_posix()}
    env["PET_NPROC_PER_NODE"] = str(trainer["numProcPerNode"])
    *init, torchrun, flag, module = trainer["command"]
    assert (tuple(init), torchrun) == (INIT, "torchrun")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", flag, module, *trainer["args"]]
    command = [sys.executable, *init[1:], *run]
    for restart in range(2):
        kube.counts(active=1, ready=1)
        pod = kube.pod(restart)
        kube.say(pod, f"{step}, pod {pod}")
        if step in fail_first and restart == 0:
            status = 1
        else:
            with subprocess.Popen(
                command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    kube.say(pod, line.rstrip("\n"))
            status = process.returncode
        kube.end_pod(pod, "Failed" if status else "Succeeded")
        if status == 0:
            return kube.condition("Complete", "JobsCompleted")
    return kube.condition("Failed", "JobsFailed", "jobset failed")


@pytest.fixture
def kube(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    with serve(place) as (path, memory):
        monkeypatch.setenv("KUBECONFIG", path)
        yield memory


def run() -> dict[str, Any]:
    command = [sys.executable, "-m", "pipeline", "run", str(TINY), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_heavy_steps_run_as_trainjobs_through_restarts_with_the_numbers_of_local_processes(
    place: Path, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    def start(job: dict[str, Any]) -> None:
        made.append(job)
        threading.Thread(target=kubelet, args=(kube, job, {"distill"}), daemon=True).start()

    kube.on_create = start
    store = settings().store
    target = {
        "namespace": NAMESPACE,
        "runtime": "sida-torch",
        "pod": {"image": "sida@sha256:" + "1" * 64, "env": {"SIDA_STORE": store}},
    }
    monkeypatch.setenv("SIDA_LAUNCHER", "trainjob")
    monkeypatch.setenv("SIDA_TRAINJOB", json.dumps(target))
    there = run()
    assert [job["metadata"]["labels"]["sida/step"] for job in made] == [
        *("reference_statistics", "score_teacher", "distill", "score")
    ]
    assert not kube.objects["trainjobs"]  # each was removed when its result and log were in the store
    logs = sorted((place / "store").glob("jobs/*/*/1/log.txt"))
    assert len(logs) == 4
    assert {step["state"] for step in there["steps"]} == {"ran"}

    monkeypatch.setenv("SIDA_LAUNCHER", "local")
    monkeypatch.setenv("SIDA_STORE", f"file://{place / 'another'}")
    here = run()
    assert here["scores"] == there["scores"]
    assert Path(here["generator"]).name == Path(there["generator"]).name  # bit for bit
