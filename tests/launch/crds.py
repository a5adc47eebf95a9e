"""Manifests against the real CustomResourceDefinitions, unknown fields refused.

SIDA_CRDS names a folder with the CRDs themselves; where it lacks some, schemas in tests/golden/crds are used, the same without
descriptions (`SIDA_CRDS=... python -m tests.launch.crds` writes them). From Kubeflow Trainer 2.3.0 and Kueue 0.19.0, Apache-2.0.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "crds"
TRAINER, KUEUE = ("trainer.kubeflow.org", "v1alpha1"), ("kueue.x-k8s.io", "v1beta2")
KINDS = {
    "TrainJob": ("trainjobs", *TRAINER),
    "TrainingRuntime": ("trainingruntimes", *TRAINER),
    "ClusterQueue": ("clusterqueues", *KUEUE),
    "LocalQueue": ("localqueues", *KUEUE),
    "ResourceFlavor": ("resourceflavors", *KUEUE),
    "WorkloadPriorityClass": ("workloadpriorityclasses", *KUEUE),
}


def errors(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest, each with its path; also the rules that stand in CEL and concern names."""
    schema = _schema(manifest["kind"])
    wrong = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in Draft202012Validator(schema).iter_errors(manifest)
    ]
    name = manifest["metadata"]["name"]
    if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 63:
        wrong.append(f"metadata.name: {name}")
    return wrong


@cache
def _schema(kind: str) -> dict[str, Any]:
    plural, group, version = KINDS[kind]
    folder = Path(os.environ.get("SIDA_CRDS") or GOLDEN)
    if (folder / f"{group}_{plural}.yaml").exists():
        schema = _without_descriptions(_of_crd(folder, plural, group, version))
    else:
        schema = json.loads((GOLDEN / f"{plural}.json").read_text())
    return _strict(schema, top=True)


def _of_crd(folder: Path, plural: str, group: str, name: str) -> dict[str, Any]:
    crd = yaml.load((folder / f"{group}_{plural}.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == name)
    assert version["served"]
    return dict(version["schema"]["openAPIV3Schema"])


def _without_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _without_descriptions(value)
            for key, value in node.items()
            if not (key == "description" and isinstance(value, str)) and not key.startswith("x-kubernetes-list")
        }
    return [_without_descriptions(item) for item in node] if isinstance(node, list) else node


def _strict(node: Any, top: bool = False) -> Any:
    """Unknown fields refused, as the server does with fieldValidation=Strict; int-or-string as JSON schema says it."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(value) for key, value in node.items() if not key.startswith("x-")}
    if node.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    closed = isinstance(node.get("properties"), dict) and node.get("type") == "object"
    if closed and "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    if top:
        made["properties"]["metadata"] = {"type": "object"}
    return made


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for _kind in KINDS.values():
        _made = _without_descriptions(_of_crd(Path(os.environ["SIDA_CRDS"]), *_kind))
        (GOLDEN / f"{_kind[0]}.json").write_text(json.dumps(_made, separators=(",", ":"), sort_keys=True) + "\n")
