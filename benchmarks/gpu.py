"""Speed and curves on a GPU, one command: `python -m benchmarks.gpu cifar10-uncond imagenet-512-edm2-xs --output gpu.json`.

For each recipe: its own network, micro-batch and iteration, in float32, TF32, bfloat16 and float16, each four ways: plain (the
baseline of benchmarks.iteration), eager, with the channels last in memory, and with compiled blocks. Images/s, against the authors'
settings (plain in the published precision, without TF32, with cuDNN's fastest kernels), share of the GPU's peak in that precision,
the peak of memory against what `plan` says; then the losses of the same iterations (not plain's: it draws other noise).
A table and, with --output, JSON. Weights are fresh (seeded) unless --teacher names a safetensors file of ours, data are unit normal
images: the curves compare precisions, not methods. --device cpu tries the script where no GPU is.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.iteration import TorchDraws, plain
from sida import devices, planning, recipe
from sida.errors import SidaError, UserError
from sida.gpus import GPUS, Machines
from sida.numerics.draws import Draws
from sida.numerics.networks.build import build_network
from sida.numerics.networks.precondition import Denoiser
from sida.recipe import Recipe
from sida.training.cost import IterationCost, iteration_cost
from sida.training.execution import apply_execution
from sida.training.iteration import Distillation, Networks
from sida.worker.ranks import Processes

MODES = ("float32", "tf32", "bfloat16", "float16")
WARM_UP = 3
WAYS = ("plain", "eager", "channels-last", "compiled")


@dataclass
class Row:
    """One mode of one recipe, run one way."""

    recipe: str
    mode: str
    way: str
    micro_batch: int
    images_per_second: float = 0.0
    times_authors: float | None = None
    share_of_peak: float | None = None
    memory_gib: float | None = None
    planned_gib: float | None = None
    losses: list[dict[str, float]] = field(default_factory=list)
    failed: str = ""


class Noise:
    """Unit normal images of the recipe's shape, one-hot labels; a function of the position."""

    def __init__(self, loaded: Recipe, device: torch.device) -> None:
        network = loaded.teacher.network
        self.shape, self.classes = (network.channels, network.resolution, network.resolution), network.label_dim
        self.device = device

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        images = Draws(7).normal("images", positions, self.shape).clamp(-1, 1)
        if not self.classes:
            return images, torch.zeros(len(positions), 0, device=self.device)
        return images, torch.nn.functional.one_hot(positions % self.classes, self.classes).float()


def fresh(loaded: Recipe, weights: Path | None) -> Denoiser:
    """The recipe's network: given weights, or seeded ones without silent layers."""
    if weights is not None:
        from sida.teachers.files import load_network

        return load_network(weights, loaded.teacher.network.model_dump(mode="json"), loaded.method.dropout)
    torch.manual_seed(0)
    network = build_network(loaded.teacher.network.model_dump(), loaded.method.dropout)
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return network


def measure(loaded: Recipe, teacher: Denoiser, cost: IterationCost, mode: str, way: str, args: Any) -> Row:
    """A few iterations in one mode, beyond the warm-ups; one process, one round."""
    device = torch.device(args.device)
    micro = args.micro_batch or loaded.execution.micro_batch or loaded.method.loss_group
    row = Row(loaded.name, mode, way, micro)
    settings = {
        "precision": mode,
        "batch": micro,
        "loss_group": min(micro, loaded.method.loss_group),
        "generator_from": 0,
        "adversarial_from": 0,
    }
    method = loaded.method.model_copy(update=settings)
    networks = Networks.start(copy.deepcopy(teacher).to(device))
    execution = loaded.execution.model_copy(
        update={"compile": way == "compiled", "channels_last": way == "channels-last"}
    )
    apply_execution(networks, execution)
    seen = method.ema_half_life
    spent = 0.0
    with plain() if way == "plain" else nullcontext():
        draws = TorchDraws() if way == "plain" else Draws(0)
        job = Distillation(networks, method, draws, Noise(loaded, device), Processes(0, 1, device))
        for number in range(WARM_UP + args.iterations):
            if number == WARM_UP and device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            losses = job.run(seen + number * micro)
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent += time.perf_counter() - started if number >= WARM_UP else 0.0
            row.losses.append({name: float(value) for name, value in losses.items()})
    row.images_per_second = micro * args.iterations / spent
    gpu = GPUS.get(args.gpu)
    if gpu is not None:
        row.share_of_peak = row.images_per_second * (cost.A.flops + cost.B.flops) / gpu.peak(mode)
    if device.type == "cuda":
        row.memory_gib = torch.cuda.max_memory_allocated() / planning.GIB
        planned = planning.plan(
            loaded.model_copy(update={"method": method}),
            iteration_cost(loaded.teacher.network, method, execution),
            Machines(1, 1, gpu or GPUS["h100"]),
            micro,
        )
        row.planned_gib = planned.memory_bytes / planning.GIB
    return row


def measured(loaded: Recipe, args: Any) -> list[Row]:
    """All rows of a recipe, printed as they come, the authors' settings first."""
    published = (loaded.targets and loaded.targets.precision) or "float32"
    teacher, authors = fresh(loaded, args.teacher), 0.0
    cost = iteration_cost(loaded.teacher.network, loaded.method)  # the work that the method needs
    rows = []
    for mode in sorted(args.modes, key=lambda mode: mode != published):
        for way in WAYS[:3] if args.no_compile else WAYS:
            try:
                row = measure(loaded, teacher, cost, mode, way, args)
            except torch.OutOfMemoryError as error:  # news, not the end
                row = Row(loaded.name, mode, way, args.micro_batch or 0, failed=str(error).partition("\n")[0])
            if (mode, way) == (published, "plain"):
                authors = row.images_per_second
            if authors and not row.failed:
                row.times_authors = row.images_per_second / authors
            rows.append(row)
            print(_line(row), flush=True)
    return rows


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--gpu", default="", help="name in sida.gpus.GPUS, for the share of the peak")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--micro-batch", type=int, help="default: the recipe's")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--no-compile", action="store_true", help="leave compiled blocks out")
    parser.add_argument("--teacher", type=Path, help="safetensors of ours for the networks, in place of fresh weights")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--output", type=Path, help="write all rows there as JSON")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: no GPU here: run it where one is, or try the script with --device cpu", file=sys.stderr)
        return 2
    if args.device == "cuda":
        devices.claim()  # as the authors' runs: float32 without TF32, cuDNN's fastest kernels
    rows = []
    try:
        for loaded in map(recipe.load, args.recipes):
            if args.micro_batch and args.micro_batch % min(args.micro_batch, loaded.method.loss_group):
                raise UserError(f"--micro-batch {args.micro_batch}: give a multiple of {loaded.method.loss_group}")
            made = measured(loaded, args)
            _curves([row for row in made if row.way != "plain"])
            rows += made
    except SidaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if args.output:
        args.output.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


def _line(row: Row) -> str:
    name = f"{row.recipe:<24}{row.mode:<10}{row.way:<14}"
    if row.failed:
        return f"{name}{row.failed}"
    ratio = " " * 16 if row.times_authors is None else f"{row.times_authors:>6.2f} x authors'"
    share = "" if row.share_of_peak is None else f"{row.share_of_peak:>8.1%} of peak"
    memory = "" if row.memory_gib is None else f"{row.memory_gib:>8.1f} GiB (planned {row.planned_gib:.1f})"
    return f"{name}{row.images_per_second:>10.1f} images/s{ratio}{share}{memory}"


def _curves(rows: list[Row]) -> None:
    """Losses of the same iterations, a column per mode."""
    rows = [row for row in rows if row.losses]
    if not rows:
        return
    for loss in rows[0].losses[0]:
        print(f"\n{loss:<12}" + "".join(f"{row.mode + ' ' + row.way[:2]:>14}" for row in rows))
        for number in range(len(rows[0].losses)):
            print(f"{number:<12}" + "".join(f"{row.losses[number].get(loss, float('nan')):>14.5g}" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
