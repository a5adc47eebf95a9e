"""Speed and memory of training on this machine: ``python -m benchmarks`` (``make bench``).

Ratios of numbers measured in the same run, with their parts, as one JSON object: images per second in 1 and 2 processes, what
checkpoints and in-loop scores cost a run at its recipe's cadence, memory by part, and the drift of float32 between world sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from sida import recipe
from sida.training.execution import recompute_activations
from sida.training.iteration import Distillation
from sida.training.memory import phase_bytes
from sida.worker.ranks import Processes
from tests.training.tiny import distillation, largest_difference, run

CIFAR_SHAPED = {
    "architecture": "ddpmpp",
    "resolution": 32,
    "channels": 3,
    "label_dim": 10,
    "augment_dim": 9,
    "model_channels": 32,
    "channel_mult": (2, 2, 2),
    "num_blocks": 2,
    "attn_resolutions": (16,),
}
SEEN = 10_000  # beyond both warm-ups


class Noise:
    """CIFAR-10-shaped images; their content does not matter here."""

    def batch(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.nn.functional.one_hot(positions % 10, 10).float()
        return torch.sin(positions[:, None, None, None] + torch.linspace(0, 9, 3 * 32 * 32).view(3, 32, 32)), labels


def _job(processes: Processes) -> Distillation:
    job = distillation(processes, dtype=torch.float32, network=CIFAR_SHAPED, batch=32, loss_group=4)
    job.data = Noise()
    return job


def state_bytes(job: Distillation) -> dict[str, int]:
    """Bytes of each network and of both optimizers' moments."""
    networks = {"phi": job.networks.phi, "psi": job.networks.psi, "theta": job.networks.theta}
    networks["theta_ema"] = job.networks.theta_ema
    sizes = {name: _bytes((*network.parameters(), *network.buffers())) for name, network in networks.items()}
    moments = [state.values() for o in (job.psi_updates.adam, job.theta_updates.adam) for state in o.state.values()]
    sizes["optimizers"] = _bytes(value for values in moments for value in values)
    return sizes


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _timed(rank: int, world: int, folder: str, iterations: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        rendezvous = f"file://{folder}/rendezvous"
        distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    job = _job(Processes(rank, world, torch.device("cpu")))
    job.run(SEEN)
    started = time.perf_counter()
    for number in range(1, iterations + 1):
        job.run(SEEN + number * 32)
    if rank == 0:
        Path(folder, f"{world}").write_text(str(iterations * 32 / (time.perf_counter() - started)))
    if world > 1:
        distributed.destroy_process_group()


def speed(iterations: int) -> dict[str, Any]:
    """Images per second in 1 and in 2 processes of one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        for world in (1, 2):
            multiprocessing.spawn(_timed, (world, folder, iterations), nprocs=world)
        one, two = (float(Path(folder, str(world)).read_text()) for world in (1, 2))
    return {"images_per_second": {"1": round(one, 1), "2": round(two, 1)}, "speedup": round(two / one, 2)}


def loop_shares(images: int) -> dict[str, Any]:
    """A digits distillation at the recipe's cadence of checkpoints and scores: share of its wall time that each takes."""
    from tests.training.digits_job import bench

    changes = (
        f"method: {{images: {images}, batch: 128, loss_group: 32}}\n"
        "evaluation: {selection_images: 5_000, selection_every: 20_000}\n"
        "execution: {checkpoint_every: 20_000, sampling_batch: 500}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"SIDA_STORE": f"file://{folder}/store", "SIDA_CACHE": f"{folder}/cache"}
        from sida.training.distill_loop import distill

        made = bench(Path(folder))
        started = time.perf_counter()
        parts = distill(made.job(changes)).seconds
        total = time.perf_counter() - started - parts["start"]
    return {
        "seconds": round(total, 1),
        "checkpoint_stall_share": round(parts["checkpoints"] / total, 5),
        "selection_share": round(parts["selection"] / total, 4),
    }


@torch.no_grad()
def _sampling_seconds(job: Distillation, images: int) -> float:
    """This process's CPU seconds for one batch of the EMA generator."""
    network, sigma = job.networks.theta_ema, job.method.sigma_init
    labels = torch.nn.functional.one_hot(torch.arange(images) % 10, 10).float()
    started = time.process_time()
    network(sigma * torch.randn(images, 3, 32, 32), sigma, labels)
    return time.process_time() - started


def cifar_selection(rounds: int) -> dict[str, Any]:
    """In-loop sampling at the CIFAR-10 recipe's cadence: a CIFAR-10-shaped tiny network's CPU seconds per image, measured.

    The detector's own time is not in it (a tiny one would say nothing): `plan` counts it.
    """
    job, batch = _job(Processes(0, 1, torch.device("cpu"))), 64
    job.run(SEEN)
    _sampling_seconds(job, batch)
    trained, sampled = [], []
    for number in range(rounds):
        started = time.process_time()
        job.run(SEEN + number * 32)
        trained.append((time.process_time() - started) / 32)
        sampled.append(_sampling_seconds(job, batch) / batch)
    asked = recipe.load("cifar10-uncond").evaluation
    selecting = asked.selection_images * statistics.median(sampled)
    training = asked.selection_every * statistics.median(trained)
    return {
        "forwards_per_trained_image": round(statistics.median(trained) / statistics.median(sampled), 1),
        "sampling_share": round(selecting / (selecting + training), 4),
    }


def memory() -> dict[str, Any]:
    """MiB by part of a CIFAR-10-shaped run at a micro-batch of 32, and what recomputed activations save."""
    alone = Processes(0, 1, torch.device("cpu"))
    plain, saving = _job(alone), _job(alone)
    for network in (saving.networks.phi, saving.networks.psi, saving.networks.theta):
        recompute_activations(network)
    activations, recomputed = phase_bytes(plain, SEEN, alone.device), phase_bytes(saving, SEEN, alone.device)
    mib = {name: round(size / 2**20, 1) for name, size in state_bytes(plain).items()}
    mib |= {f"activations_{phase}": round(size / 2**20, 1) for phase, size in activations.items()}
    return {"mib": mib, "recomputed_share": round(max(recomputed.values()) / max(activations.values()), 3)}


def _drift(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/drift", rank=rank, world_size=2)
    tensors = run(distillation(Processes(rank, 2, torch.device("cpu")), dtype=torch.float32), 20)
    if rank == 0:
        torch.save(tensors, f"{folder}/tensors")
    distributed.destroy_process_group()


def drift() -> float:
    """Largest relative difference of any tensor between 1 and 2 processes after 20 iterations in float32."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_drift, (folder,), nprocs=2)
        two = torch.load(f"{folder}/tensors", weights_only=True)
    return float(f"{largest_difference(run(distillation(dtype=torch.float32), 20), two):.2g}")


def main() -> int:
    """Print the measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--iterations", type=int, default=10, help="timed iterations per process count")
    parser.add_argument("--images", type=int, default=60_000, help="length of the run whose shares are measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Any]] = {
        "speed": lambda: speed(args.iterations),
        "memory": memory,
        "float32_drift": drift,
        "cifar10_selection": lambda: cifar_selection(args.iterations),
        "loop": lambda: loop_shares(args.images),
    }
    found = {}
    for name, measure in parts.items():
        found[name] = measure()
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))
    return 0
