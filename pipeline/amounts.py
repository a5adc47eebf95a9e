"""What a step asks of its node: requests that the scheduler adds up, limits that the node enforces.

CPU is requested and limited only where a profile says so: a step that may take what is idle is done sooner, and a limit throttles
it however idle the node is. Memory is limited to what is requested, for it cannot be taken back.
"""

from __future__ import annotations

from pipeline.profile import StepNeeds
from sida.recipe import Recipe
from sida.registry import STEPS

Amounts = dict[str, str]  # resource -> Kubernetes' quantity


def amounts(step: str, needs: StepNeeds, recipe: Recipe) -> tuple[Amounts, Amounts]:
    """(requests, limits) of a step's container; one accelerator for each of the recipe's processes."""
    processes = recipe.execution.processes if _parallel(step, recipe) else 1
    both = {"memory": needs.memory} if needs.memory else {}
    if needs.accelerator:
        both[needs.accelerator] = str(processes)
    limits = {"cpu": needs.cpu_limit} if needs.cpu_limit else {}
    return {"cpu": needs.cpu or str(processes * recipe.execution.threads)} | both, limits | both


def _parallel(step: str, recipe: Recipe) -> bool:
    """Whether the step starts the recipe's processes; prepare_data does where it encodes latents."""
    if step == "prepare_data":
        return recipe.dataset.latents is not None
    return step in STEPS and STEPS[step].launches
