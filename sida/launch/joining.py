"""A node other than the first: it answers node 0's calls (``sida.launch.nodes``) and works on the jobs they name."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sida import patience, progress
from sida.errors import SidaError, StoreError, UserError
from sida.launch.base import Stopped, Work
from sida.launch.nodes import CALL, OVER, POLL_SECONDS, TERMS, MachineLauncher, Nodes, put, read, terms
from sida.launch.worker_error import failure, read_error
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.stores.lease import holder_of, live_number


class _Over(Exception):
    """The leading run has ended."""


class _Called(Exception):
    """Node 0 has given up the job that we work on."""


def follow(nodes: Nodes, processes: int, threads: int) -> int:
    """Join the jobs of the run that leads, until it ends; its exit status. A failure is node 0's to judge, except a user's mistake.

    Raises UserError when no run begins in SIDA_TIMEOUT, when node 0 has other terms, and with what a worker said of the user's
    mistake; another error when the run failed.
    """
    here, us = settings(), f"node {nodes.rank}"
    store = open_store(here.store)
    nodes.own_address()  # refuses an address that leads nowhere
    nodes = _find_leader(store, nodes, here.timeout)
    progress.note(us, f"joined the run at {nodes.host}:{nodes.port}")
    answered = done = ""
    agreed = False

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

    def still_wanted() -> None:
        still_led()
        with suppress(StoreError), patience.impatient():
            if read(store, nodes, CALL).get("id") != done:
                raise _Called

    try:
        while True:
            while "job" not in (call := read(store, nodes, CALL)) or call["id"] != answered or answered == done:
                agreed = agreed or _agree(store, nodes, processes)
                if call and "job" not in call and call["id"] != answered:
                    answered = call["id"]
                    put(store, nodes, f"node-{nodes.rank}", {"answered": answered})
                still_led()
                time.sleep(POLL_SECONDS)
            done, job = call["id"], call["job"]
            log = here.runs / "logs" / f"node-{nodes.rank}-{done}.log"
            progress.note(us, f"working on {job.split('/')[1]} (log: {log})")
            progress.log(us, log)
            try:
                _wait_for_route(nodes, still_wanted)
                error = partial(read_error, store, job)
                work = Work(us, job, processes=processes, threads=threads, log=log, check=still_wanted, error=error)
                MachineLauncher(log, nodes).run(work)
            except _Called:
                pass
            except Stopped:
                return 143
            except UserError:
                raise
            except SidaError as failed:
                progress.note(us, f"{failed}: waiting for node 0 to start again")
    except _Over:
        return _ending(store, nodes)


def _ending(store: ObjectStore, nodes: Nodes) -> int:
    """Return 0, or the status of a stopped run. Raises an error when the run failed or node 0 is gone."""
    last = holder_of(store, nodes.name, nodes.lease)
    over = read(store, nodes, OVER)
    if last is None or not last.released or not over:
        raise SidaError(
            f"node 0 at {nodes.host} is gone: run the same commands again to continue, or with fewer --nodes and "
            f"another machine as node 0"
        ) from None
    status = int(over["status"])
    if status and status <= 128:
        raise failure(
            f"the run that node 0 leads has failed with status {status}: see the error there", status
        ) from None
    return status


def _agree(store: ObjectStore, nodes: Nodes, processes: int) -> bool:
    """Return whether node 0 has said its terms, and they are ours. Raises UserError, and tells node 0, when they are not."""
    for name, theirs in (said := read(store, nodes, TERMS)).items():
        ours = terms(nodes, processes).get(name, "")
        if ours != theirs:
            words = f"{name}: node 0 has {theirs}, node {nodes.rank} has {ours or 'none'}: start both with the same"
            put(store, nodes, f"node-{nodes.rank}", {"differs": words})
            raise UserError(words)
    if said:
        put(store, nodes, f"node-{nodes.rank}", {})  # in place of what an earlier start differed in
    return bool(said)


def _wait_for_route(nodes: Nodes, still_wanted: Callable[[], None]) -> None:
    """Until there is a route to node 0, which was there when we joined: a link that is down takes it away for a while."""
    while True:
        try:
            nodes.own_address()
            return
        except UserError:
            still_wanted()
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
