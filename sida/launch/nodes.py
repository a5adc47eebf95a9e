"""Several machines without a cluster: one leads and runs the DAG, the others join its jobs. All share the store.

    leases/nodes/<host>-<port>/                       held by the leading run for as long as it lasts
    nodes/<host>-<port>/<lease>/terms.json            what all machines must have alike (``terms``), as node 0 has it
    nodes/<host>-<port>/<lease>/call.json             node 0's call, under an id of its own: first without a job, then with it
    nodes/<host>-<port>/<lease>/node-<rank>.json      the call that a node has answered: it is there, and has nothing else to do;
                                                      or, once, in what it differs from node 0
    nodes/<host>-<port>/<lease>/over.json             how the run ended

A node joins the job of a call that it has answered, and leaves it when there is another call; so none joins a job that has lost a
machine. When a machine or the network between them fails, each side notices by itself (SIDA_TIMEOUT), ends its workers and comes
back here; the job starts anew from its last checkpoint under a new call.

The ranks' store listens on the rendezvous alone, gloo and NCCL on the interface that leads there. Neither asks who connects: the
network between the machines must be trusted.
"""

from __future__ import annotations

import errno
import json
import secrets
import socket
import time
from importlib.metadata import version
from pathlib import Path

import psutil

import sida
from sida import progress
from sida.errors import Fenced, NotFound, SidaError, Unavailable, UserError
from sida.launch.base import Stopped, Work
from sida.launch.local import LocalLauncher
from sida.launch.worker_error import error_key
from sida.layout import checkpoint_at
from sida.manifests import Part
from sida.settings import environment, settings
from sida.stores import ObjectStore

RESTARTS = 3  # without a new checkpoint in between
POLL_SECONDS = 1.0
TOLD_SECONDS = 10.0  # after so long a wait for other machines is told
TERMS, CALL, OVER = "terms", "call", "over"


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

    def address(self) -> str:
        """Return the IPv4 address of node 0. Raises UserError when the name has none."""
        try:
            return socket.gethostbyname(self.host)
        except OSError as error:
            raise self._unusable(f"{error}: give an address of node 0") from error

    def own_address(self) -> str:
        """The address of this machine that node 0 sees. Raises UserError when there is no way to it."""
        address = self.address()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((address, self.port))  # sends nothing
                return str(probe.getsockname()[0])
        except OSError as error:
            raise self._unusable(f"{error}: give an address of node 0") from error

    def listen(self) -> socket.socket:
        """Return a socket that listens on the rendezvous. Raises UserError when this machine cannot."""
        try:
            return socket.create_server((self.address(), self.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise self._unusable("the port is in use: take another") from error
            raise self._unusable(
                f"{error.strerror}: give an address of this machine, and a port that it may use"
            ) from error

    def _unusable(self, why: str) -> UserError:
        return UserError(f"--rendezvous {self.host}:{self.port}: {why}")


class MachineLauncher(LocalLauncher):
    """This machine's share of a job; the log is of its own processes."""

    def __init__(self, log: Path, nodes: Nodes) -> None:
        super().__init__(log)
        self._nodes = nodes

    def _place(self, work: Work) -> tuple[int, int, int]:
        own = settings().workers or self._nodes.share(work.processes)
        return self._nodes.rank * own, own, self._nodes.count * own

    def _meeting_place(self) -> tuple[str, int, socket.socket | None]:
        nodes = self._nodes
        return nodes.address(), nodes.port, nodes.listen() if nodes.rank == 0 else None

    def _interfaces(self) -> dict[str, str]:
        own, named, given = self._nodes.own_address(), psutil.net_if_addrs().items(), environment()
        names = [name for name, addresses in named if own in [one.address for one in addresses]][:1]
        variables = {variable: name for name in names for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
        return {variable: given.get(variable, name) for variable, name in variables.items()}


def terms(nodes: Nodes, processes: int) -> dict[str, str]:
    """Return what must be alike on all machines, or their processes wait for one another in vain; ``processes``: the recipe's.

    Raises UserError when these cannot be shared out.
    """
    return {
        "--nodes": str(nodes.count),
        "processes a machine (SIDA_WORKERS, or the recipe's)": str(settings().workers or nodes.share(processes)),
        "version of sida": sida.__version__,
        "version of torch": version("torch"),
    }


# --- node 0; the others are in joining.py ------------------------------------------------------------------------


class LeadingLauncher(MachineLauncher):
    """The machines of a run that this one leads."""

    def __init__(self, log: Path, nodes: Nodes, store: ObjectStore) -> None:
        super().__init__(log, nodes)
        self._store = store

    def run(self, work: Work) -> None:
        """Call the others to the job and run our share of it, again from the last checkpoint when a machine was lost.

        Raises UserError also when the others do not join within SIDA_TIMEOUT.
        """
        store, nodes = self._store, self._nodes
        reached, left = _progress(store, work.job), RESTARTS
        while True:
            call = {"id": secrets.token_hex(6)}
            put(store, nodes, CALL, call)
            _wait_for_all(store, nodes, call["id"], work)
            store.delete(error_key(work.job))  # of an earlier start
            put(store, nodes, CALL, call | {"job": work.job})
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
    """Return the job's checkpoints, without what is told of the parts of later ones."""
    folder = f"{job.rpartition('/')[0]}/"
    return [key for key in store.list(f"{folder}checkpoints/") if checkpoint_at(key.removeprefix(folder))]


def _wait_for_all(store: ObjectStore, nodes: Nodes, call: str, work: Work) -> None:
    """Until every other machine has answered. Raises UserError at once for one that differs from us."""
    seconds, began, told = settings().timeout, time.monotonic(), False
    waiting = list(range(1, nodes.count))
    while True:
        said = {rank: read(store, nodes, f"node-{rank}") for rank in waiting}
        if differs := next((one["differs"] for one in said.values() if "differs" in one), ""):
            raise UserError(differs)
        waiting = [rank for rank in waiting if said[rank].get("answered") != call]
        if not waiting:
            return
        waited = time.monotonic() - began
        if waited > seconds:
            raise UserError(_missing(nodes, waiting, store.address, work.processes))
        if waited > TOLD_SECONDS and not told:
            told = True
            progress.note(work.step, f"waiting for {_named(waiting)} to join, up to {seconds:g} s (SIDA_TIMEOUT)")
        time.sleep(POLL_SECONDS)


def _missing(nodes: Nodes, waiting: list[int], store: str, processes: int) -> str:
    """Say who has not joined, and how to go on with them or without them."""
    ranks = ", ".join(map(str, waiting))
    there = nodes.count - len(waiting)
    fits = [n for n in range(there, 0, -1) if settings().workers or processes % n == 0]
    fewer = f"--nodes {fits[0]}, ranks 0 to {fits[0] - 1}" if fits[0] > 1 else "no --nodes, on this machine alone"
    return (
        f"{_named(waiting)} of {nodes.count} did not join within {settings().timeout:g} s: run the same command there with "
        f"--node-rank {ranks} and the store {store}, or go on without: run it again with {fewer}, which continues from the "
        f"last checkpoint"
    )


def _named(ranks: list[int]) -> str:
    """``node 3``, ``nodes 1, 3``."""
    return f"node{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def say_over(store: ObjectStore, nodes: Nodes, status: int) -> None:
    """Tell the others how the run ended, before its lease is given back."""
    put(store, nodes, OVER, {"status": str(status)})


def read(store: ObjectStore, nodes: Nodes, name: str) -> dict[str, str]:
    """Return what the run has of this name; an empty dict where it has nothing."""
    try:
        return dict(json.loads(store.read(nodes.key(name))))
    except NotFound:
        return {}


def put(store: ObjectStore, nodes: Nodes, name: str, content: dict[str, str]) -> None:
    """Write what ``read`` returns."""
    store.put(nodes.key(name), json.dumps(content).encode())
