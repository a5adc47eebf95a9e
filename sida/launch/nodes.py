"""Several machines without a cluster: one leads and runs the DAG, the others join its jobs. All share the store.

    leases/nodes/<host>-<port>/                       held by the leading run for as long as it lasts
    nodes/<host>-<port>/<lease>/job.json              what is to be run now, under an id of its own
    nodes/<host>-<port>/<lease>/node-<rank>.json      a node is there, and has done with the job of that id

Each job is one torchrun per machine. When a machine or the network between them fails, each side notices by itself (SIDA_TIMEOUT),
ends its workers and comes back here; the job starts anew from its last checkpoint under a new id.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from sida import patience, progress
from sida.errors import Fenced, NotFound, SidaError, StoreError, Unavailable, UserError
from sida.launch.base import Stopped, Work
from sida.launch.local import LocalLauncher
from sida.launch.worker_error import error_key, read_error
from sida.manifests import Part
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.stores.lease import holder_of, live_number

RESTARTS = 3  # without a new checkpoint in between
POLL_SECONDS = 1.0


class Nodes(Part):
    """``count`` machines, of which this is number ``rank``; node 0 listens on ``host:port``. ``lease`` numbers the leading run."""

    count: int
    rank: int
    host: str
    port: int
    lease: int = 0

    @classmethod
    def parse(cls, text: str) -> Nodes | None:
        """Read what SIDA_NODES holds; None for nothing."""
        return cls.model_validate_json(text) if text else None

    @property
    def name(self) -> str:
        return f"nodes/{self.host}-{self.port}"

    def key(self, name: str) -> str:
        return f"{self.name}/{self.lease}/{name}.json"

    def share(self, processes: int) -> int:
        """Return the processes of each machine. Raises UserError when they cannot be shared out evenly."""
        if processes % self.count:
            raise UserError(
                f"{processes} processes (execution.processes of the recipe) cannot be shared out over {self.count} machines: "
                f"take another --nodes, or set SIDA_WORKERS to the processes of each machine"
            )
        return processes // self.count

    def own_address(self) -> str:
        """The address of this machine that node 0 sees. Raises UserError when there is no way to it."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((self.host, self.port))  # sends nothing
                return str(probe.getsockname()[0])
        except OSError as error:
            raise UserError(f"--rendezvous {self.host}:{self.port}: {error}: give an address of node 0") from error


class MachineLauncher(LocalLauncher):
    """This machine's share of a job that all machines know as ``job``; the log is of its own processes."""

    def __init__(self, log: Path, nodes: Nodes, job: str = "") -> None:
        super().__init__(log)
        self._nodes, self._job = nodes, job

    def _processes(self, work: Work) -> int:
        return self._nodes.share(work.processes)

    def _rendezvous(self) -> list[str]:
        nodes = self._nodes
        machines = [f"--nnodes={nodes.count}", f"--node-rank={nodes.rank}"]
        first = [f"--master-addr={nodes.host}", f"--master-port={nodes.port}", f"--local-addr={nodes.own_address()}"]
        wait = f"--rdzv-conf=timeout={int(settings().timeout)}"
        return [*machines, "--rdzv-backend=static", f"--rdzv-id={self._job}", *first, wait]

    def _interfaces(self) -> dict[str, str]:
        own, named = self._nodes.own_address(), psutil.net_if_addrs().items()
        names = [name for name, addresses in named if own in [one.address for one in addresses]][:1]
        return {variable: name for name in names for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}


# --- node 0 -------------------------------------------------------------------------------------------------------


class LeadingLauncher(MachineLauncher):
    """The machines of a run that this one leads."""

    def __init__(self, log: Path, nodes: Nodes, store: ObjectStore) -> None:
        super().__init__(log, nodes)
        self._store = store

    def run(self, work: Work) -> None:
        """Announce the job and run our share of it, again from the last checkpoint when a machine was lost.

        Raises UserError also when the others do not join within SIDA_TIMEOUT.
        """
        store, nodes = self._store, self._nodes
        reached, left = _progress(store, work.job), RESTARTS
        while True:
            _wait_for_all(store, nodes, _read(store, nodes, "job").get("id", ""))
            store.delete(error_key(work.job))  # of an earlier start
            self._job = secrets.token_hex(6)
            store.put(nodes.key("job"), json.dumps({"id": self._job, "job": work.job}).encode())
            try:
                return super().run(work)
            except (UserError, Fenced, Unavailable, Stopped):
                raise
            except SidaError as error:
                now = _progress(store, work.job)
                left = RESTARTS if now != reached else left - 1
                reached = now
                if left < 0:
                    raise
                progress.note(work.step, f"{error}: starting again from the last checkpoint")


def _progress(store: ObjectStore, job: str) -> list[str]:
    return list(store.list(f"{job.rpartition('/')[0]}/checkpoints/"))


def _wait_for_all(store: ObjectStore, nodes: Nodes, before: str) -> None:
    """Until every other machine has done with the job called ``before``."""
    seconds = settings().timeout
    deadline = time.monotonic() + seconds
    waiting = list(range(1, nodes.count))
    while waiting := [rank for rank in waiting if _read(store, nodes, f"node-{rank}").get("after") != before]:
        if time.monotonic() > deadline:
            raise UserError(
                f"node {waiting[0]} has not joined within {seconds:g} s: run the same command there with --node-rank "
                f"{waiting[0]} and the store {store.address}"
            )
        time.sleep(POLL_SECONDS)


def _read(store: ObjectStore, nodes: Nodes, name: str) -> dict[str, str]:
    try:
        return dict(json.loads(store.read(nodes.key(name))))
    except NotFound:
        return {}


# --- the others ---------------------------------------------------------------------------------------------------


class _Over(Exception):
    """The leading run has ended."""


def follow(nodes: Nodes, processes: int, threads: int) -> int:
    """Join the jobs of the run that leads, until it ends; the exit status. A failure is node 0's to judge, except a user's mistake.

    Raises UserError when no run begins in SIDA_TIMEOUT, and what a worker said of the user's mistake.
    """
    here, us = settings(), f"node {nodes.rank}"
    store = open_store(here.store)
    nodes.own_address()  # refuses an address that leads nowhere
    nodes = _find_leader(store, nodes, here.timeout)
    progress.note(us, f"joined the run at {nodes.host}:{nodes.port}")
    done = ""

    def still_led() -> None:
        try:
            with patience.impatient():
                number = live_number(store, nodes.name)
        except StoreError:
            return  # the store is away for a while: so it is for node 0
        if number is None and patience.settled_for() < here.lease_seconds:
            return  # node 0 has had no way to renew its lease
        if number != nodes.lease:
            raise _Over

    try:
        while True:
            store.put(nodes.key(f"node-{nodes.rank}"), json.dumps({"after": done}).encode())
            while (announced := _read(store, nodes, "job")).get("id", done) == done:
                still_led()
                time.sleep(POLL_SECONDS)
            done, job = announced["id"], announced["job"]
            log = here.runs / "logs" / f"node-{nodes.rank}-{done}.log"
            progress.note(us, f"working on {job.split('/')[1]} (log: {log})")
            progress.log(us, log)
            _wait_for_route(nodes, still_led)
            error = partial(read_error, store, job)
            work = Work(us, job, processes=processes, threads=threads, log=log, check=still_led, error=error)
            try:
                MachineLauncher(log, nodes, done).run(work)
            except Stopped:
                return 143
            except UserError:
                raise
            except SidaError as failure:
                progress.note(us, f"{failure}: waiting for node 0 to start again")
    except _Over:
        last = holder_of(store, nodes.name, nodes.lease)
        if last is not None and last.released:
            return 0  # node 0 ended in order
        raise SidaError(f"node 0 at {nodes.host} is gone: run the same commands again to continue") from None


def _wait_for_route(nodes: Nodes, still_led: Callable[[], None]) -> None:
    """Until there is a route to node 0, which was there when we joined: a link that is down takes it away for a while."""
    while True:
        try:
            nodes.own_address()
            return
        except UserError:
            still_led()
            time.sleep(POLL_SECONDS)


def _find_leader(store: ObjectStore, nodes: Nodes, seconds: float) -> Nodes:
    deadline = time.monotonic() + seconds
    while (number := live_number(store, nodes.name)) is None:
        if time.monotonic() > deadline:
            raise UserError(
                f"no run leads at {nodes.host}:{nodes.port} in {store.address} after {seconds:g} s: start node 0 with the same "
                f"--rendezvous and --store"
            )
        time.sleep(POLL_SECONDS)
    return nodes.model_copy(update={"lease": number})
