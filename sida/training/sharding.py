"""What a training holds, divided among processes by torch's FSDP2: networks that no GPU could hold with all that belongs to them.

The parameters of a residual block are divided by rows (their first dimension) and gathered together, block by block; scalars, and
the few layers outside of blocks, stay whole in every process. Where a parameter is divided, so are its gradient, its average and
its moments. Where fewer than all processes share a copy (``execution.shard_over``), each group of so many holds one (HSDP), and
gradients are summed over groups too.

    optimizer   psi, theta and the average are divided; psi and theta are gathered when first used after a step, and stay so
                until the next one. phi is whole.
    full        all four are divided; each block is gathered where it is used, in the forward and the backward pass.

Numbers are those of undivided training but for the order of sums. All processes call all of this alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from sida.errors import UserError
from sida.numerics.networks.layers import UNetBlock
from sida.numerics.networks.magnitude import Block, MPConv, release_folded
from sida.recipe import Execution
from sida.recipe.copies import processes_of_copy
from sida.training.division import divided, group_of, local
from sida.training.owners import owned
from sida.worker.ranks import Processes

if TYPE_CHECKING:
    from sida.training.iteration import Networks


def divide(networks: Networks, execution: Execution, processes: Processes) -> None:
    """Divide the networks as ``execution.shard`` says; one process keeps all. Raises UserError where that cannot be."""
    over = processes_of_copy(execution, processes.world, processes.machine)
    if over == 1:
        return
    mesh = _mesh(over, processes)
    if execution.shard == "full":
        for network in (networks.phi, networks.psi, networks.theta):
            _divide(network, mesh, kept=False)
    else:
        for network in (networks.psi, networks.theta):
            _divide(network, mesh, kept=True)
    _divide(networks.theta_ema, mesh, kept=True)


def _mesh(over: int, processes: Processes) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    world, kind = processes.world, processes.device.type
    if over == world:
        return init_device_mesh(kind, (world,))
    return init_device_mesh(kind, (world // over, over), mesh_dim_names=("replicate", "shard"))


def _divide(network: nn.Module, mesh: Any, kept: bool) -> None:
    """``kept``: what was gathered stays, until it is given back."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UserError(
            f"execution.shard wants a newer torch than {torch.__version__} (2.9): install one, or set it to none"
        )
    blocks = [module for module in network.modules() if isinstance(module, UNetBlock | Block)]
    dealt = {parameter for block in blocks for parameter in block.parameters() if parameter.ndim}
    undealt = {parameter for parameter in network.parameters() if parameter not in dealt}
    for module in (*blocks, network):
        fully_shard(module, mesh=mesh, reshard_after_forward=not kept, ignored_params=undealt)
    for module in _groups(network):
        module.set_gradient_divide_factor(1.0)  # our losses are sums over the batch
        module.set_force_sum_reduction_for_comms(True)
        module.set_reshard_after_backward(not kept)
    if not kept:
        for module in network.modules():
            if isinstance(module, MPConv):
                module.keeps_folded = False  # it would be a copy of the whole


def _groups(network: nn.Module) -> Iterator[Any]:
    """Modules whose parameters are divided; none of a network that is whole."""
    if is_divided(network):
        yield from (module for module in network.modules() if is_divided(module))


def is_divided(network: nn.Module) -> bool:
    """Return whether FSDP2 has divided it."""
    return hasattr(network, "unshard")


def send_gradients(network: nn.Module, on: bool, more: bool = False) -> None:
    """Let the next backward pass sum the gradients of divided parameters over processes, or keep them for a later one.

    ``more``: there is another one of the same forward passes.
    """
    if is_divided(network):
        network.set_requires_gradient_sync(on)  # type: ignore[operator]
        network.set_is_last_backward(not more)  # type: ignore[operator]


def give_back(network: nn.Module) -> None:
    """Free what was gathered, so that the next use gathers what the parameters are then."""
    for module in _groups(network):
        module.reshard()
    if is_divided(network):
        release_folded(network)


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Hold a network whole, so that each process may use it by itself."""
    for module in _groups(network):
        module.unshard()
    try:
        yield
    finally:
        give_back(network)


def norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm, float32 [], of gradients that may be divided, over all that belongs to them."""
    together = list(gradients)
    parts = [gradient for gradient in together if divided(gradient)]
    here = [gradient for gradient in together if not divided(gradient)]
    if not parts:
        return _norm(here)
    squared = _norm([local(part) for part in parts]) ** 2
    distributed.all_reduce(squared, group=group_of(parts[0]))
    return ((_norm(here) ** 2 if here else 0) + squared).sqrt()


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)).float())


def whole(tensors: Mapping[str, Tensor], processes: Processes) -> dict[str, Tensor]:
    """The tensors whole, in the first process's memory, gathered one after the other; the others get nothing."""
    kept = ((name, tensor.detach().cpu()) for name, tensor in owned(tensors, dict.fromkeys(tensors, 0), processes.rank))
    return dict(kept)
