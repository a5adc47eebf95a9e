"""What to set where a plan does not fit, or where another layout takes fewer GPU hours: first what keeps the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sida.gpus import GPUS, Machines
from sida.planning import FRAGMENTATION, GIB, ResourcePlan, plan, possible_micro_batches
from sida.recipe import Execution, Recipe

if TYPE_CHECKING:
    from sida.training.cost import IterationCost

Count = Callable[[Execution], "IterationCost"]

COUNTED_IMAGES = 8  # a smaller micro-batch says too little of larger ones
ALIKE = 1.01  # hours that differ by less do not decide
EXACT = 0.1  # of the memory that is planned: what a GPU may take more (tests/accelerator/test_memory.py)
MOST_TIMES = 8  # GPUs that advice goes up to, in those that were asked about


def alternatives(made: ResourcePlan, count: Count) -> list[ResourcePlan]:
    """Plan every layout that keeps the numbers, simple ones first, each with the micro-batch that suits it best."""
    recipe, machines = made.recipe, made.machines
    possible = possible_micro_batches(recipe, machines)
    counted = next(
        (micro for micro in possible if micro >= max(COUNTED_IMAGES, made.division.micro_batch)), possible[-1]
    )
    found = []
    for recomputed in (False, True):
        execution = recipe.execution.model_copy(update={"activation_checkpointing": recomputed, "micro_batch": counted})
        found += _of_layouts(recipe, execution, count(execution), machines, made.division.micro_batch)
    return found


def _of_layouts(
    recipe: Recipe, execution: Execution, cost: IterationCost, machines: Machines, micro: int
) -> list[ResourcePlan]:
    """Plan every layout that the machines can have, simple ones first, each with the micro-batch that suits it best."""
    possible, found = possible_micro_batches(recipe, machines), []
    for shard in ("none", "optimizer", "full"):
        set_so = recipe.model_copy(update={"execution": execution.model_copy(update={"shard": shard})})
        plans = [plan(set_so, cost, machines, each) for each in possible]
        if plans[0].layout.shard == shard:  # nobody to share with
            found.append(_suited(plans, micro))
    return found


def best(plans: Sequence[ResourcePlan]) -> ResourcePlan | None:
    """Return the plan that fits with the fewest GPU hours, of those that are alike the first with room. None where none fits."""
    fitting = [one for one in plans if one.fits]
    least = min((one.work.total for one in fitting), default=0.0)
    alike = [one for one in fitting if one.work.total <= ALIKE * least]
    return next((one for one in alike if _has_room(one)), alike[0] if alike else None)


def _has_room(made: ResourcePlan) -> bool:
    return (1 + EXACT) * made.memory_bytes <= made.machines.gpu.memory_gib * GIB


def _suited(plans: Sequence[ResourcePlan], micro: int) -> ResourcePlan:
    """Of plans that differ in their micro-batches: ``micro``, where it is as good as any that fits; the largest; the smallest."""
    fitting = [one for one in plans if one.fits]
    if not fitting:
        return plans[0]
    least = min(one.work.total for one in fitting)
    good = [one for one in fitting if one.work.total <= ALIKE * least]
    return next((one for one in good if one.division.micro_batch == micro), good[-1])


def better(made: ResourcePlan, others: Sequence[ResourcePlan]) -> ResourcePlan | None:
    """Return the plan to set in place of ``made``; None where that fits, and none takes noticeably fewer GPU hours."""
    chosen = best(others)
    if chosen is None or (made.fits and made.work.total <= ALIKE * chosen.work.total):
        return None
    return chosen


def settings_of(chosen: ResourcePlan, made: ResourcePlan) -> str:
    """Return what to set in the recipe, as fields and values: where ``chosen`` differs from ``made``."""
    fields = [
        (one.layout.shard, one.recipe.execution.activation_checkpointing, one.division.micro_batch)
        for one in (chosen, made)
    ]
    names = ("shard", "activation_checkpointing", "micro_batch")
    changed = [(name, new) for name, new, old in zip(names, *fields, strict=True) if new != old]
    return ", ".join(f"execution.{name}: {str(value).lower()}" for name, value in changed)


def advice(made: ResourcePlan, others: Sequence[ResourcePlan]) -> list[str]:
    """Return changes that may make a plan fit; the first that helps comes first."""
    method = made.recipe.method
    changes = []
    if chosen := best(others):
        changes.append(f"{settings_of(chosen, made)} (the numbers stay the same)")
    elif more := _more_gpus(made, others):
        changes.append(more)
    if larger := [key for key, other in GPUS.items() if other.memory_gib * GIB >= made.memory_bytes]:
        changes.append(f"--gpu {min(larger, key=lambda key: GPUS[key].memory_gib)}")
    if not method.half:
        changes.append("method.precision: bfloat16 halves most activations (the numbers change)")
    fixed = made.memory_bytes - _activations(made, made.division.micro_batch)
    room = made.machines.gpu.memory_gib * GIB - fixed
    divisors = (group for group in range(method.loss_group - 1, 0, -1) if method.loss_group % group == 0)
    smaller = next((group for group in divisors if _activations(made, group) <= room), None)
    if not chosen and smaller:
        group = "method.loss_group and execution.micro_batch"
        changes.append(f"{group}: {smaller} (a part of the method: the numbers change)")
    return changes or ["no GPU known here holds it, nor would more of them: take a smaller network"]


def _more_gpus(made: ResourcePlan, others: Sequence[ResourcePlan]) -> str:
    """Return how many GPUs a machine, and how set, would hold it; "" where it does not help, or cannot divide the batch."""
    machines, times = made.machines, 2
    counted = {one.recipe.execution.activation_checkpointing: one for one in others}
    while times <= MOST_TIMES and made.recipe.method.batch % (machines.world * times) == 0:
        wider = replace(machines, gpus=machines.gpus * times)
        found = []
        for one in counted.values():
            execution = one.recipe.execution.model_copy(update={"shard_over": None})
            found += _of_layouts(made.recipe, execution, one.cost, wider, made.division.micro_batch)
        if chosen := best(found):
            return f"--gpus {wider.gpus}, {settings_of(chosen, made)} (the numbers stay the same)"
        times *= 2
    return ""


def _activations(made: ResourcePlan, micro: int) -> float:
    return made.layout.activations(made.cost, micro) * (1 + FRAGMENTATION)
