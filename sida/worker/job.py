"""A worker's view of its job."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from sida.errors import Fenced, SidaError
from sida.launch.spec import JobFile, ManifestRef, Spec, parse_job
from sida.launch.worker_error import NAME, WorkerError, read_error, tell
from sida.manifests import Manifest, Part, of_kind, parse_manifest
from sida.patience import as_one, impatient
from sida.recipe import Recipe
from sida.settings import environment, settings
from sida.stores import ObjectStore
from sida.stores.base import ObjectRef
from sida.stores.lease import check_fence
from sida.stores.objects import put_object

if TYPE_CHECKING:
    from sida.worker.ranks import Processes


Result = TypeVar("Result")
R = TypeVar("R", bound=Part)
S = TypeVar("S", bound=Spec[Any], covariant=True)

ASKED_SECONDS = 0.2  # between two looks whether this process is asked to end
HEIR_SECONDS = 60.0  # how long a new launcher may take to write the spec after taking the lease


class Job(Generic[S]):
    """Spec, store and processes; everything is published under the launcher's fencing number."""

    def __init__(self, file: JobFile, recipe: Recipe, store: ObjectStore, processes: Processes) -> None:
        self.recipe, self.store, self.processes = recipe, store, processes
        self.spec: S = cast(S, file.spec)
        self.file, self.folder, self.step, self.lease = file, file.folder, file.step, file.lease

    def manifest(self, ref: ManifestRef, kind: type[R]) -> Manifest[R]:
        """Read an input's manifest. Raises SidaError when it is not the one that the launcher named."""
        where = self.store.address_of(ref.key)
        manifest = of_kind(parse_manifest(self.store.read(ref.key), where), kind, where)
        if manifest.digest != ref.digest:
            raise SidaError(f"{where}: is not the result that this job was started with: run again")
        return manifest

    @property
    def fence(self) -> int:
        """The fencing number under which this job writes now."""
        return self.lease.number

    def check(self) -> None:
        """Raises Fenced when another writer has taken over; a later launcher of this same TrainJob is its heir, and no other."""
        try:
            check_fence(self.store, self.lease.key, self.lease.number)
        except Fenced:
            if not self._inherited():
                raise
            check_fence(self.store, self.lease.key, self.lease.number)

    def _inherited(self) -> bool:
        """Return whether a new launcher of this job has left its lease in the spec; it needs a moment between the two."""
        until = time.monotonic() + HEIR_SECONDS
        while (launch := self.file.launch) is not None:
            key = f"{self.folder}/spec.json"
            newest = parse_job(self.store.read(key), self.store.address_of(key))
            if newest.launch is None or newest.launch.job != launch.job:
                return False
            if newest.lease.number > self.lease.number:
                self.lease = newest.lease
                return True
            if time.monotonic() > until:
                return False
            time.sleep(1.0)
        return False

    def guarded(self, write: Callable[[], Result]) -> Result:
        """Return what ``write`` returns, done only while nobody has taken over, however long the store is away. Raises Fenced."""

        def attempt() -> Result:
            self.check()
            return write()

        return as_one(attempt)

    def publish(self, name: str, content: bytes) -> None:
        """Write ``name`` in the job's folder."""
        self.guarded(lambda: self.store.put(f"{self.folder}/{name}", content))

    def fail(self, error: Exception, restart: int) -> None:
        """Say why this start of the job fails, and publish it, as far as no other process has."""
        if isinstance(error, Fenced):
            return
        told = WorkerError.of(error, restart)
        tell(told)
        with impatient(), suppress(SidaError):
            before = read_error(self.store, f"{self.folder}/spec.json")
            if before is None or before.restart < restart:
                self.publish(NAME, told.model_dump_json(indent=1).encode())

    def wait_for_the_asked(self, asked: Callable[[], bool]) -> None:
        """Wait until this process itself is asked to end, in a TrainJob of several nodes: which is when another has ended."""
        until = time.monotonic() + settings().grace
        while self.file.launch is not None and self.several_nodes and not asked() and time.monotonic() < until:
            time.sleep(ASKED_SECONDS)

    @property
    def several_nodes(self) -> bool:
        """Return whether its processes are on more than one machine."""
        return self.processes.world > int(environment().get("LOCAL_WORLD_SIZE", 1))

    def put(self, path: Path, name: str) -> ObjectRef:
        """Store a file under its digest."""
        return self.guarded(lambda: put_object(self.store, path, name))
