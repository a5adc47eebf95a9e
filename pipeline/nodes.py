"""One run on several machines: the same command on each, with its own --node-rank."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pipeline.arguments import MACHINES, argument, whole

if TYPE_CHECKING:
    from sida.launch.nodes import Nodes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --nodes, --node-rank, --rendezvous."""
    group = parser.add_argument_group("several machines (the same command on each, and a store that all can reach)")
    group.add_argument(
        "--nodes", metavar="N", type=whole(1, MACHINES), default=1, help="number of machines (default 1)"
    )
    group.add_argument(
        "--node-rank", metavar="R", type=whole(0, MACHINES), default=0, help="number of this one, from 0; 0 leads"
    )
    argument("--rendezvous", "HOST:PORT", "an address of node 0 and a free port there")(group)


def machines(args: argparse.Namespace) -> Nodes | None:
    """Return the machines that the options name; None for this one alone. Raises UserError if the options do not fit together."""
    from sida.errors import UserError
    from sida.launch.nodes import Nodes

    if args.nodes == 1 and args.node_rank == 0 and args.rendezvous is None:
        return None
    if args.nodes < 2:
        raise UserError(f"--nodes {args.nodes}: give 2 or more with --node-rank and --rendezvous")
    if not 0 <= args.node_rank < args.nodes:
        raise UserError(f"--node-rank {args.node_rank}: the nodes are numbered 0 to {args.nodes - 1}")
    if args.rendezvous is None:
        raise UserError(
            f"--nodes {args.nodes}: needs --rendezvous HOST:PORT of node 0, such as 10.0.0.1:29500, and --node-rank"
        )
    host, _, port = args.rendezvous.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise UserError(f"--rendezvous {args.rendezvous}: expected HOST:PORT of node 0, such as 10.0.0.1:29500")
    if ":" in host:
        raise UserError(
            f"--rendezvous {args.rendezvous}: IPv6 is not supported: give an IPv4 address of node 0, or a name that has one"
        )
    nodes = Nodes(count=args.nodes, rank=args.node_rank, host=host, port=int(port))
    nodes.own_address()
    return nodes


@contextmanager
def leading(args: argparse.Namespace, nodes: Nodes | None) -> Iterator[Callable[[int], object]]:
    """Announce the run as node 0: while it lasts, the others find it under its rendezvous in the store.

    Give what is yielded the run's exit status: the others end with it.
    """
    if nodes is None:
        yield lambda status: None
        return
    from sida import recipe
    from sida.errors import SidaError
    from sida.launch.nodes import TERMS, put, say_over, terms
    from sida.settings import settings
    from sida.stores import open_own_store
    from sida.stores.lease import acquire

    processes = recipe.load(args.recipe).execution.processes  # a mistake there is said before anything is written
    ours = terms(nodes, processes)
    nodes.listen().close()  # and a port in use
    here = settings()
    store = open_own_store(args.store or here.store)
    with acquire(store, nodes.name, ttl=here.lease_seconds, owner=f"run {args.recipe}") as lease:
        nodes = nodes.model_copy(update={"lease": lease.number})
        put(store, nodes, TERMS, ours)
        os.environ["SIDA_NODES"] = nodes.model_dump_json()
        statuses: list[int] = []
        try:
            yield statuses.append
        except SidaError as error:
            statuses.append(error.exit_code)
            raise
        finally:
            with suppress(SidaError):  # the store may be what failed: without a word the others end with 1
                say_over(store, nodes, statuses[-1] if statuses else 1)


def join(args: argparse.Namespace, nodes: Nodes) -> int:
    """Work as another node on what node 0 announces, until its run ends."""
    from pipeline.display import open_display
    from pipeline.following import drawn
    from sida import recipe
    from sida.launch.joining import follow
    from sida.settings import settings
    from sida.stores import open_own_store

    execution = recipe.load(args.recipe).execution
    if args.store:
        os.environ["SIDA_STORE"] = open_own_store(args.store).address
    with drawn(open_display(quiet=args.quiet, verbose=args.verbose)):
        return follow(nodes, settings().workers or execution.processes, execution.threads)
