"""A worker's view of its job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.lease import check_fence
from sida.manifests import Manifest, parse_manifest
from sida.recipe import Recipe
from sida.recipe import parse as parse_recipe
from sida.stores import ObjectStore
from sida.stores.base import ObjectRef, put_object

if TYPE_CHECKING:
    from sida.training.processes import Processes


class Job:
    """Spec, store and processes; everything is published under the launcher's fencing number."""

    def __init__(self, spec: dict[str, Any], store: ObjectStore, processes: Processes) -> None:
        self.spec, self.store, self.processes = spec, store, processes
        self.folder: str = spec["folder"]
        self.step: str = spec["step"]
        self.fence: int = spec["lease"]["number"]
        self.recipe: Recipe = parse_recipe(spec["recipe"], f"job {self.folder}")

    def manifest(self, name: str) -> Manifest:
        """An input's manifest, as the launcher put it into the spec."""
        return parse_manifest(self.spec["inputs"][name].encode(), name)

    def check(self) -> None:
        """Raises Fenced when another writer has taken over."""
        check_fence(self.store, self.spec["lease"]["key"], self.fence)

    def publish(self, name: str, content: bytes) -> None:
        """Write ``name`` in the job's folder."""
        self.check()
        self.store.put(f"{self.folder}/{name}", content)

    def put(self, path: Path, name: str) -> ObjectRef:
        """Store a file under its digest."""
        self.check()
        return put_object(self.store, path, name)
