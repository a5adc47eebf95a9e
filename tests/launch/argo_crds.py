"""Argo's objects against the full CustomResourceDefinitions of Argo Workflows 4.0.5, unknown fields refused.

tests/golden/crds/argo.json holds the part of these schemas that our objects use, for the whole is 8 MB. After a change that uses
another field, ``SIDA_ARGO_CRDS=FOLDER python -m tests.launch.argo_crds`` checks our objects against the real files
(manifests/base/crds/full of Argo's sources, Apache-2.0) and writes it anew.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.launch.crds import GOLDEN, _strict, _without_descriptions

KINDS = {"Workflow": "workflows", "WorkflowTemplate": "workflowtemplates", "CronWorkflow": "cronworkflows"}
FILE = GOLDEN / "argo.json"


def errors(thing: dict[str, Any]) -> list[str]:
    """What is wrong with an object, each with its path."""
    return _errors(_strict(_golden()[thing["kind"]], top=True), thing)


@cache
def _golden() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def _errors(schema: dict[str, Any], thing: dict[str, Any]) -> list[str]:
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in Draft202012Validator(schema).iter_errors(thing)
    ]


def _used(schema: Any, things: list[Any]) -> Any:
    """The part of a schema that says something of these things."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    if isinstance(schema.get("properties"), dict):
        of = {
            name: [thing[name] for thing in things if isinstance(thing, dict) and name in thing]
            for name in schema["properties"]
        }
        made["properties"] = {name: _used(schema["properties"][name], values) for name, values in of.items() if values}
    if isinstance(schema.get("items"), dict):
        made["items"] = _used(schema["items"], [one for thing in things if isinstance(thing, list) for one in thing])
    if isinstance(schema.get("additionalProperties"), dict):
        values = [value for thing in things if isinstance(thing, dict) for value in thing.values()]
        made["additionalProperties"] = _used(schema["additionalProperties"], values)
    return made


def _write(folder: Path, things: list[dict[str, Any]]) -> None:
    made = {}
    for kind, plural in KINDS.items():
        crd = yaml.load((folder / f"argoproj.io_{plural}.yaml").read_text(), Loader=yaml.CSafeLoader)
        (version,) = crd["spec"]["versions"]
        assert version["name"] == "v1alpha1" and version["served"]
        schema = _without_descriptions(version["schema"]["openAPIV3Schema"])
        ours = [thing for thing in things if thing["kind"] == kind]
        for thing in ours:
            assert not (wrong := _errors(_strict(schema, top=True), thing)), wrong
        made[kind] = _used(schema, ours)
    FILE.write_text(json.dumps(made, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from tests.pipeline.test_argo_template import all_objects

    _write(Path(os.environ["SIDA_ARGO_CRDS"]), all_objects())
