"""How many processes share a copy of what ``execution.shard`` divides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sida.errors import UserError
from sida.recipe.batches import divisors

if TYPE_CHECKING:
    from sida.recipe.execution import Execution


def processes_of_copy(execution: Execution, world: int, of_a_machine: int) -> int:
    """Return how many of ``world`` processes hold one copy together; 1: each holds all.

    Where the recipe says nothing those of a machine do, or all, where a machine has one. Raises UserError when
    ``execution.shard_over`` does not divide them.
    """
    if execution.shard == "none" or world == 1:
        return 1
    over = execution.shard_over or (of_a_machine if of_a_machine > 1 else world)
    if over < 2 or world % over:
        possible = ", ".join(map(str, divisors(world)[1:]))
        raise UserError(
            f"{world} processes do not divide into groups of {over} that share a copy: set execution.shard_over to {possible}, or "
            f"execution.shard to none"
        )
    return over
