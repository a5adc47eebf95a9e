"""Artifacts of a step that runs without Kubeflow: manifests are given, and told, by their addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.interface import Parameter
from sida.errors import NotFound, UserError
from sida.stores import read_address


@dataclass
class LocalArtifact:
    """An artifact as a component's body knows it: a file, and facts about it."""

    path: str
    schema_title: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """Keep a number, as kfp's Metrics do."""
        self.metadata[name] = value


def fetched(parameter: Parameter, address: str, folder: Path, number: int = 0) -> LocalArtifact:
    """Return the manifest at an address as a local file."""
    try:
        content = read_address(address if "/" in address else f"./{address}")
    except NotFound as error:
        flag = f"--{parameter.name.replace('_', '-')}"
        raise UserError(f"{flag} {address}: no such manifest: check the address") from error
    local = folder / f"input-{parameter.name}-{number}"
    local.write_bytes(content)
    return LocalArtifact(str(local), f"system.{parameter.artifact}", {"address": address})
