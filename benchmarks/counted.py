"""What an iteration asks of a GPU, counted without one: `python -m benchmarks.counted [RECIPE...]`.

One round of both phases, at the recipe's micro-batch and full size, runs on the tests' fake accelerator: kernels launched
(operators that make or change a tensor; one for a list of tensors that they take together), bytes that those read and write (each
tensor once an operator, nothing kept in caches), FLOPs (2 per multiply-add). "draws": what of it random numbers and dropout masks
take. The last columns are the bound that follows on an H100: bytes at its memory's rate, FLOPs at its peak.
"""

from __future__ import annotations

import argparse
import sys
from unittest.mock import patch

from torch.utils.flop_counter import FlopCounterMode

from scripts import benchmarks
from sida import recipe
from sida.errors import SidaError
from sida.gpus import GPUS
from sida.numerics.networks import layers
from sida.numerics.networks.build import build_network
from sida.recipe import Network, Recipe
from sida.training.iteration import Distillation, Networks
from sida.worker.ranks import Processes
from tests.accelerator.device import device, shapes
from tests.accelerator.device import moved as on_device
from tests.accelerator.made import EmptyData, fused
from tests.accelerator.traffic import CountedDraws, Traffic

H100_BYTES = 3.35e12  # a second, of its memory (SXM5, NVIDIA's data sheet)


def count(loaded: Recipe, micro: int) -> tuple[Traffic, list[Traffic], int]:
    """One round of both phases, beyond the warm-ups: all that it asks for, what draws ask for of it, FLOPs."""
    network: Network = loaded.teacher.network
    method = loaded.method.model_copy(update={"batch": micro, "loss_group": min(micro, loaded.method.loss_group)})
    draws = CountedDraws()
    with shapes(), patch.object(layers, "scaled_dot_product_attention", fused):
        networks = Networks.start(on_device(build_network(network.model_dump(), method.dropout)))  # type: ignore[arg-type]
        job = Distillation(networks, method, draws, EmptyData(network), Processes(0, 1, device()), micro)
        with FlopCounterMode(display=False) as flops, Traffic() as traffic:
            job.run(method.warm_up + 1)
    return traffic, draws.all, flops.get_total_flops()


def line(loaded: Recipe) -> str:
    """A row of the table."""
    micro = loaded.execution.micro_batch or loaded.method.loss_group
    traffic, draws, flops = count(loaded, micro)
    cells = [
        f"`{loaded.name}`",
        f"{micro} x {loaded.method.batch // micro}",
        f"{len(traffic.kernels):,}",
        f"{sum(len(draw.kernels) for draw in draws):,}",
        f"{traffic.bytes / 1e9:,.0f}",
        f"{sum(draw.bytes for draw in draws) / traffic.bytes:.1%}",
        f"{flops / 1e12:,.1f}",
        f"{traffic.bytes / H100_BYTES * 1e3:,.0f}",
        f"{flops / GPUS['h100'].peak(loaded.method.precision) * 1e3:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Count and print, row by row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counted", description=__doc__)
    kinds = [row.name for row in benchmarks.rows() if benchmarks.kind(row) == row.name]
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: one of each kind of network")
    try:
        chosen = [recipe.load(name) for name in parser.parse_args().recipes or kinds]
    except SidaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(
        "| recipe | images x rounds | launches | of them draws | GB | of them draws | TFLOP | ms of bytes | ms of FLOPs |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for loaded in chosen:
        print(line(loaded), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
