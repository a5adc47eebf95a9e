"""How a tensor is divided among processes, as the DTensor itself says (FSDP2): by rows, over one dimension of a mesh.

A mesh may have another dimension, over whose processes the same rows are repeated: replicas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, distributed

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_dtensor(tensor: Tensor) -> bool:
    """Return whether it is a DTensor; without the import of their module, which takes a second."""
    return hasattr(tensor, "device_mesh")


def divided(tensor: Tensor) -> bool:
    """Return whether each process holds some rows of it only. Raises ValueError for one that is divided in another way."""
    if not is_dtensor(tensor):
        return False
    placements = cast("DTensor", tensor).placements
    ways = [placement for placement in placements if not placement.is_replicate()]
    if ways and (len(ways) > 1 or not ways[0].is_shard(0)):
        raise ValueError(
            f"a tensor of shape {list(tensor.shape)} is divided as {placements}: expected rows over one dimension"
        )
    return bool(ways)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it, in the same memory; of a plain tensor all."""
    return cast("DTensor", tensor.detach()).to_local() if is_dtensor(tensor) else tensor.detach()


def own_rows(tensor: Tensor) -> range:
    """The rows of a divided tensor that this process holds; there may be none."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    it = cast("DTensor", tensor)
    shape, offset = compute_local_shape_and_global_offset(it.shape, it.device_mesh, it.placements)
    return range(offset[0], offset[0] + shape[0])


def mesh_dimension(tensor: Tensor) -> int:
    """The dimension of its mesh over which a divided tensor is."""
    return next(n for n, placement in enumerate(cast("DTensor", tensor).placements) if placement.is_shard())


def group_of(tensor: Tensor) -> distributed.ProcessGroup:
    """The processes that hold one copy of a divided tensor."""
    return cast("DTensor", tensor).device_mesh.get_group(mesh_dimension(tensor))


def first_replica(tensor: Tensor) -> list[int]:
    """Ranks of the processes that hold the first replica of a divided tensor, in the order of its rows."""
    mesh, dimension = cast("DTensor", tensor).device_mesh, mesh_dimension(tensor)
    ranks: list[int] = mesh.mesh.movedim(dimension, -1).reshape(-1, mesh.size(dimension))[0].tolist()
    return ranks
