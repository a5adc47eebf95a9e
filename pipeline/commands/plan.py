"""Say what a recipe needs before anybody spends a GPU hour: memory, time, disk, storage, and whether it fits.

FLOPs and activations are counted on the recipe's own iteration (torch's meta device: nothing is allocated, no GPU is needed).
Hours follow from a share of the GPU's peak, --utilization, which you should measure: benchmarks/gpu.py does. The recipe's own
layout (execution.shard, activation_checkpointing, micro_batch) is planned; where it does not fit, or another takes fewer GPU hours,
all are listed, and which one to set. Exit status: 0 it fits, 1 it does not, 2 something for you to mend.

examples:
  sida plan cifar10-uncond
  sida plan imagenet-512-edm2-xxl --nodes 2 --gpus 8 --gpu h200
  sida plan ./mine.yaml --gpu a100-40 --json | jq .memory
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pipeline import output
from pipeline.arguments import MACHINES, RECIPE, argument, positive, share, whole
from sida import gpus, planning, recipe
from sida.advice import advice, alternatives, best, better, settings_of
from sida.errors import UserError
from sida.gpus import GPUS, Machines
from sida.planning import GIB, ResourcePlan
from sida.recipe import Execution

USUAL_BLOCKS = 32  # published networks have up to 15, which takes seconds
ARGUMENTS = (
    RECIPE,
    argument("--nodes", "N", "machines (default 1)", type=whole(1, MACHINES), default=1),
    argument("--gpus", "M", "GPUs per machine; default: the recipe's processes", type=whole(1, MACHINES)),
    argument("--gpu", "NAME", "h100 (default), h200, a100, a100-40, l40s, ...", default="h100"),
    argument("--micro-batch", "N", "images per GPU and round; default: the recipe's", type=whole(1, 2**24)),
    argument("--utilization", "SHARE", "of the GPU's peak; default: 0.35", type=share, default=gpus.UTILIZATION),
    argument(
        "--network",
        "GB/S",
        "between machines: what each sends in a second, in gigabytes; default: 50, a port of 400 Gbit/s",
        type=positive,
        default=gpus.NETWORK,
    ),
)


def main(args: argparse.Namespace) -> int:
    """Count, then print."""
    loaded = recipe.load(args.recipe, to_show=True)
    if args.gpu not in GPUS:
        raise UserError(f"--gpu {args.gpu}: not known: {', '.join(GPUS)}")
    each = args.gpus or -(-loaded.execution.processes // args.nodes)
    machines = Machines(args.nodes, each, GPUS[args.gpu], args.utilization, args.network)
    planning.check_division(loaded, machines, args.micro_batch)  # before the seconds that counting takes

    from sida.training.cost import IterationCost, iteration_cost  # torch

    counted: dict[tuple[bool, int | None], IterationCost] = {}

    def count(execution: Execution) -> IterationCost:
        key = execution.activation_checkpointing, execution.micro_batch
        if key not in counted:
            counted[key] = iteration_cost(loaded.teacher.network, loaded.method, execution, loaded.teacher.train)
        return counted[key]

    blocks = len(loaded.teacher.network.channel_mult) * loaded.teacher.network.num_blocks
    if blocks > USUAL_BLOCKS:
        print(
            f"counting the work of {blocks} blocks, layer by layer: this may take minutes", file=sys.stderr, flush=True
        )
    needs = planning.plan(loaded, count(loaded.execution), machines, args.micro_batch)
    others = [] if needs.fits and _is_plain(needs) else alternatives(needs, count)
    output.result(args, _as_text(needs, others), **_as_json(needs, others))
    return 0 if needs.fits else 1


def _is_plain(plan: ResourcePlan) -> bool:
    """Return whether no other layout takes fewer GPU hours."""
    return plan.layout.shard == "none" and not plan.recipe.execution.activation_checkpointing


def _as_json(plan: ResourcePlan, others: Sequence[ResourcePlan]) -> dict[str, Any]:
    cost, work = plan.cost, plan.work
    return {
        "recipe": plan.recipe.name,
        "gpu": plan.machines.gpu.title,
        "gpus": plan.machines.world,
        **_layout(plan),
        "shard_over": plan.layout.over,
        "rounds": plan.division.rounds,
        "gpus_per_loss_group": plan.division.span,
        "parameters": cost.parameters,
        "forward_gmac": round(cost.forward_gmac, 3),
        "encoder_share": round(cost.encoder_share, 4),
        "forwards": {
            phase: round(part.flops / cost.forward_flops, 3) for phase, part in (("A", cost.A), ("B", cost.B))
        },
        "gflop_per_image": {"A": cost.A.flops / 1e9, "B": cost.B.flops / 1e9},
        "mask_elements_per_image": {"A": cost.A.masks, "B": cost.B.masks},
        "memory": plan.memory,
        "memory_bytes": plan.memory_bytes,
        "gpu_bytes": plan.machines.gpu.memory_gib * 2**30,
        "fits": plan.fits,
        "advice": [] if plan.fits else advice(plan, others),
        "layouts": [_layout(one) | _needs(one) for one in others],
        "best": _layout(chosen) if (chosen := best(others)) else _layout(plan) if plan.fits else None,
        "utilization": plan.machines.utilization,
        "gpu_hours": work.__dict__ | {"total": work.total},
        "selecting_share": work.selecting_share,
        "hours": plan.hours,
        "storage": plan.storage,
        "host_memory": plan.host,
        "disk": plan.disk,
        "grace_seconds": plan.grace_seconds,
    }


def _layout(plan: ResourcePlan) -> dict[str, Any]:
    return {
        "shard": plan.layout.shard,
        "activation_checkpointing": plan.recipe.execution.activation_checkpointing,
        "micro_batch": plan.division.micro_batch,
    }


def _needs(plan: ResourcePlan) -> dict[str, Any]:
    total = plan.work.total
    return {"memory_bytes": plan.memory_bytes, "fits": plan.fits, "gpu_hours": total, "hours": plan.hours}


def _as_text(plan: ResourcePlan, others: Sequence[ResourcePlan]) -> str:
    cost, work, method, gpu = plan.cost, plan.work, plan.recipe.method, plan.machines.gpu
    division = plan.division
    a, b = cost.A.flops / cost.forward_flops, cost.B.flops / cost.forward_flops
    masked = (cost.A.masks + cost.B.masks) / 1e6
    masks = f"; dropout masks of {masked:,.3g} M elements" if masked else ""
    shared = f", each on {division.span} GPUs" if division.span > 1 else ""
    lines = [
        f"{plan.recipe.name}: {cost.parameters / 1e6:,.2f} M parameters, {cost.forward_gmac:,.1f} GMAC a forward "
        f"(encoder {cost.encoder_share:.1%}), {method.precision}",
        f"batch {method.batch} = {plan.machines.nodes} x {plan.machines.gpus} GPUs x {division.rounds} rounds x micro-batch "
        f"{division.micro_batch} (loss groups of {method.loss_group}{shared})",
        *_sharing(plan),
        "",
        f"per image: phase A {a:.2f} forwards ({cost.A.flops / 1e9:,.0f} GFLOP), "
        f"phase B {b:.2f} ({cost.B.flops / 1e9:,.0f} GFLOP), together {cost.forwards:.2f}{masks}",
        "",
        "memory per GPU",
        *(_line(name, f"{value / GIB:8.1f} GiB") for name, value in plan.memory.items() if value),
        _line("together", f"{plan.memory_bytes / GIB:8.1f} GiB"),
        "",
        f"GPU hours ({gpu.title} at {plan.machines.utilization:.0%} of its peak)",
        _line(f"distilling, {method.images / 1e6:,.3g} M images", f"{work.distilling:8,.1f}"),
        *([_line("waiting for other GPUs", f"{work.waiting:8,.1f}")] if work.waiting else []),
        _line("scoring in the loop", f"{work.selecting:8,.1f} ({work.selecting_share:.1%} of the step)"),
        _line("scoring the teacher", f"{work.scoring_teacher:8,.1f}"),
        _line("scoring the generator", f"{work.scoring:8,.1f}"),
        *([_line("training the teacher", f"{work.teaching:8,.1f}")] if work.teaching else []),
        *([_line("encoding latents", f"{work.encoding:8,.1f}")] if work.encoding else []),
        _line("together", f"{work.total:8,.1f} ({plan.hours:,.1f} hours on {plan.machines.world})"),
        "",
        "storage",
        *(_line(name, f"{value / GIB:8.1f} GiB") for name, value in plan.storage.items() if value),
        "",
        "the machine beside its GPUs (the first one: it writes the checkpoints)",
        *(_line(f"memory: {name}", f"{value / GIB:8.1f} GiB") for name, value in plan.host.items()),
        _line("memory together", f"{sum(plan.host.values()) / GIB:8.1f} GiB"),
        *(_line(f"disk: {name}", f"{value / GIB:8.1f} GiB") for name, value in plan.disk.items()),
        _line("a TrainJob's pods: time to end", f"{plan.grace_seconds:8,d} s"),
        *([] if plan.recipe.dataset.images else ["  (the data set's size is not known before it is prepared)"]),
        "",
    ]
    room = f"{plan.memory_bytes / GIB:.1f} of {gpu.memory_gib:g} GiB"
    chosen = better(plan, others)
    table = [*_table(others), ""] if chosen or not plan.fits else []
    if not plan.fits:
        changes = (f"  {word}" for word in advice(plan, others))
        return "\n".join([*lines, *table, f"It does not fit: {room}. What to change:", *changes])
    if chosen:
        table.append(f"Fewer GPU hours (the numbers stay the same): {settings_of(chosen, plan)}.")
    return "\n".join([*lines, *table, f"It fits: {room}."])


def _sharing(plan: ResourcePlan) -> list[str]:
    layout = plan.layout
    if layout.shard == "none":
        return []
    copies = f", {layout.copies} times" if layout.copies > 1 else ""
    return [f"execution.shard {layout.shard}: divided among {layout.over} GPUs{copies}"]


def _table(others: Sequence[ResourcePlan]) -> list[str]:
    lines = ["layouts", f"  {'shard':<12}{'activation_checkpointing':<26}micro_batch  GiB a GPU   GPU hours     hours"]
    for one in others:
        again = str(one.recipe.execution.activation_checkpointing).lower()
        needs = f"{one.memory_bytes / GIB:11.1f}{one.work.total:12,.1f}{one.hours:10,.1f}"
        row = f"  {one.layout.shard:<12}{again:<26}{one.division.micro_batch:11d}{needs}"
        lines.append(row if one.fits else f"{row}  does not fit")
    return lines


def _line(name: str, value: str) -> str:
    return f"  {name:<36}{value}"
