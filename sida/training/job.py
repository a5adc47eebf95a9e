"""A worker's view of its job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sida.errors import Fenced, SidaError
from sida.launch.worker_error import NAME, WorkerError, read_error
from sida.lease import check_fence
from sida.manifests import Manifest, parse_manifest
from sida.patience import as_one, impatient
from sida.recipe import Recipe
from sida.recipe import parse as parse_recipe
from sida.stores import ObjectStore
from sida.stores.base import ObjectRef, put_object

if TYPE_CHECKING:
    from sida.training.processes import Processes


Result = TypeVar("Result")

HEIR_SECONDS = 60.0  # so long may a new launcher take from its lease to the spec


class Job:
    """Spec, store and processes; everything is published under the launcher's fencing number."""

    def __init__(self, spec: dict[str, Any], store: ObjectStore, processes: Processes) -> None:
        self.spec, self.store, self.processes = spec, store, processes
        self.folder: str = spec["folder"]
        self.lease: dict[str, Any] = spec["lease"]
        self.step: str = spec["step"]
        self.recipe: Recipe = parse_recipe(spec["recipe"], f"job {self.folder}")

    def manifest(self, name: str) -> Manifest:
        """An input's manifest, as the launcher put it into the spec."""
        return parse_manifest(self.spec["inputs"][name].encode(), name)

    @property
    def fence(self) -> int:
        """The fencing number under which this job writes now."""
        return int(self.lease["number"])

    def check(self) -> None:
        """Raises Fenced when another writer has taken over; a later launcher of this same TrainJob is its heir, and no other."""
        try:
            check_fence(self.store, self.lease["key"], self.lease["number"])
        except Fenced:
            if not self._inherited():
                raise
            check_fence(self.store, self.lease["key"], self.lease["number"])

    def _inherited(self) -> bool:
        """Whether a new launcher of this job has left its lease in the spec; it needs a moment between the two."""
        launch = self.spec.get("launch")
        until = time.monotonic() + HEIR_SECONDS
        while launch is not None:
            there = json.loads(self.store.read(f"{self.folder}/spec.json"))
            if (there.get("launch") or {}).get("job") != launch["job"]:
                return False
            if there["lease"]["number"] > self.lease["number"]:
                self.lease = there["lease"]
                return True
            if time.monotonic() > until:
                return False
            time.sleep(1.0)
        return False

    def guarded(self, write: Callable[[], Result]) -> Result:
        """What ``write`` returns, done only while nobody has taken over, however long the store is away. Raises Fenced."""

        def attempt() -> Result:
            self.check()
            return write()

        return as_one(attempt)

    def publish(self, name: str, content: bytes | Path) -> None:
        """Write ``name`` in the job's folder."""
        self.guarded(lambda: self.store.put(f"{self.folder}/{name}", content))

    def fail(self, error: Exception, restart: int) -> None:
        """Publish why this start of the job fails, as far as no other process has; where that fails too, the log tells."""
        if isinstance(error, Fenced):
            return
        with impatient(), suppress(SidaError):
            before = read_error(self.store, f"{self.folder}/spec.json")
            if before is None or before.restart < restart:
                self.publish(NAME, WorkerError.of(error, restart).model_dump_json(indent=1).encode())

    def put(self, path: Path, name: str) -> ObjectRef:
        """Store a file under its digest."""
        return self.guarded(lambda: put_object(self.store, path, name))
