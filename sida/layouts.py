"""How a training's states lie on GPUs: what each layout of ``execution.shard`` holds in memory, and what it sends.

A copy of what is divided lies on ``over`` processes, and there are as many copies as fit into the world. The weights of residual
blocks are divided; what lies outside of them (a few percent) stays whole.

* none: every process has all of it.
* optimizer: Adam's moments, the EMA, the best generator and the weights that Adam steps are divided. Fake score and generator are
  gathered once an iteration, and their gradients reduced once.
* full: the teacher is divided too, and of gathered weights there are those of a few blocks only. Every forward and every backward
  pass of a round gathers the network that it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sida.gpus import Machines
from sida.recipe import Recipe
from sida.recipe.copies import processes_of_copy

if TYPE_CHECKING:
    from sida.training.cost import IterationCost

FLOAT32 = 4
BUCKET_BYTES = 32 * 2**20  # of gradients on their way (sida.worker.ranks); a larger parameter travels alone
# Fitted to counts on a fake device (tests/accelerator/test_sharded_memory.py): more are gathered at once, but not at the peak.
GATHERED_BLOCKS = 1
REDUCED_BLOCKS = 2  # on their way; after several rounds they take the gradients' place
EXPOSED = 1 / 3  # allowance: the part of a message's time in which the GPU waits, though it has other work
PASSES_A, PASSES_B = (
    3,
    6,
)  # that gather: theta's and psi's two; two of each network. Two more of the encoder for real images; theta's further steps


@dataclass(frozen=True)
class Layout:
    """A layout on machines."""

    shard: str  # execution.shard; "none" where nobody is there to share with
    over: int  # processes that hold one copy
    machines: Machines

    @classmethod
    def of(cls, recipe: Recipe, machines: Machines) -> Layout:
        """Return the recipe's layout. Raises UserError when ``execution.shard_over`` does not divide the GPUs."""
        over = processes_of_copy(recipe.execution, machines.world, machines.gpus)
        return cls("none" if over == 1 else recipe.execution.shard, over, machines)

    @property
    def copies(self) -> int:
        """Copies of what is divided."""
        return self.machines.world // self.over

    def memory(self, cost: IterationCost, rounds: int) -> dict[str, float]:
        """Bytes on each GPU, beside activations."""
        network, divided = cost.parameters * FLOAT32, cost.blocks.all * FLOAT32
        part = network - divided + divided / self.over
        block = cost.blocks.largest * FLOAT32
        full = self.shard == "full"
        gathered = 2 * network + 2 * divided / self.over  # while a selection runs the EMA is, in place of gradients
        if self.over == 1:
            reduced = max(BUCKET_BYTES, cost.largest * FLOAT32)
        else:
            reduced = REDUCED_BLOCKS * block if rounds == 1 else BUCKET_BYTES
        return {
            "weights (fake score, generator)": gathered if self.shard == "optimizer" else 2 * part,
            "gathered weights of blocks": GATHERED_BLOCKS * block if full else 0,
            "teacher": part if full else network,
            "EMA, and the best so far": 2 * part,
            # They are reduced in the last round: with one round block by block, as they come.
            "gradients (one network at a time)": network if rounds > 1 or self.over == 1 else part,
            "Adam (two moments each)": 4 * part,
            "reduction between GPUs": reduced if self.machines.world > 1 else 0,
        }

    def activations(self, cost: IterationCost, micro: int) -> float:
        """Bytes that a round holds at its peak. What frozen networks keep of their weights cannot stay where those do not."""
        full = self.shard == "full"
        return max(phase.held_bytes(micro) - (phase.kept if full else 0) for phase in (cost.A, cost.B))

    def waits(
        self, cost: IterationCost, rounds: int, seconds: tuple[float, float], *, adversarial: bool, steps: int
    ) -> tuple[float, float]:
        """Seconds of an iteration in which GPUs wait for messages in phases A and B; ``seconds``: the work of a round of each.

        ``steps``: evaluations of the generator, all of which gather it.

        Messages run beside work: where weights stay gathered beside one round's, else beside that of all.
        """
        if self.machines.world == 1:
            return 0.0, 0.0
        encoder = 2 * cost.blocks.encoder / cost.blocks.all if adversarial else 0
        gather, reduce = self._gather(cost.blocks.all * FLOAT32), self._reduce(cost)
        waits = []
        for passes, work in zip((PASSES_A + encoder, PASSES_B), seconds, strict=True):
            gathers = {"none": 0, "optimizer": 1, "full": rounds * (passes + steps - 1)}[self.shard]
            spent = gathers * gather + reduce
            beside = work * (rounds if self.shard == "full" else 1)
            waits.append(max(EXPOSED * spent, spent - beside))
        return waits[0], waits[1]

    def _gather(self, size: float) -> float:
        """Seconds in which those that share a copy gather what they divided, or reduce what they are to divide."""
        across = self.over > self.machines.gpus or self.machines.gpus % self.over > 0
        return size * (self.over - 1) / self.over / self.machines.rate(across=across)

    def _reduce(self, cost: IterationCost) -> float:
        """Seconds in which a network's gradients are summed: among those that share a copy, then among copies."""
        divided = cost.blocks.all * FLOAT32
        whole, world, copies = cost.parameters * FLOAT32 - divided, self.machines.world, self.copies
        across = self.machines.nodes > 1
        among_copies = 2 * divided / self.over * (copies - 1) / copies
        seconds = self._gather(divided) + 2 * whole * (world - 1) / world / self.machines.rate(across=across)
        return seconds + among_copies / self.machines.rate(min(self.over, self.machines.gpus), across=across)
