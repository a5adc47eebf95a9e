"""Time and memory of divided training against undivided: ``python -m benchmarks.sharding``.

Two processes of one thread each, an EDM2 UNet whose weights outweigh its activations. Per layout, against ``none``
in the same run: seconds of an iteration (processor time, then wall-clock), MiB that a process keeps between iterations, and the
most that it had during them beyond what it had before its networks.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing, nn

from sida.recipe import Execution
from sida.training.division import local
from sida.training.iteration import Distillation
from sida.worker.ranks import Processes
from tests.training.tiny import distillation

NETWORK = {
    "architecture": "edm2",
    "resolution": 8,
    "channels": 1,
    "label_dim": 10,
    "model_channels": 96,
    "channel_mult": (1, 2, 3),
    "num_blocks": 2,
    "attn_resolutions": (4,),
}
BATCH, GROUP = 16, 2
SEEN = 10_000  # beyond both warm-ups
LAYOUTS = ("none", "optimizer", "full")


def kept(job: Distillation) -> int:
    """Bytes of weights, averages and moments in this process."""
    tensors: list[Tensor] = [
        local(tensor)
        for module in job.networks
        for tensor in (*nn.Module.parameters(module), *nn.Module.buffers(module))
    ]
    for updates in (job.psi_updates, job.theta_updates):
        tensors += [local(value) for moments in updates.adam.state.values() for value in moments.values()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _most_mib() -> float:
    """The most memory that this process had."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 2**10


def _measure(rank: int, layout: str, folder: str, iterations: int, rounds: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{layout}.meet", rank=rank, world_size=2)
    before = _most_mib()
    execution = Execution(shard=layout, checkpoint_every=1)  # type: ignore[arg-type]
    processes = Processes(rank, 2, torch.device("cpu"))
    micro = BATCH // 2 // rounds
    job = distillation(processes, micro, torch.float32, NETWORK, execution, batch=BATCH, loss_group=GROUP)
    job.run(SEEN)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the most counts from here
    cpu, wall = [], []
    for number in range(1, iterations + 1):
        started = time.process_time(), time.perf_counter()
        job.run(SEEN + number * BATCH)
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    most = _most_mib()
    for network in job.networks:
        if hasattr(network, "unshard"):
            network.state_dict()  # which gives back what is gathered
    found = {
        "cpu_seconds": statistics.median(cpu),
        "seconds": statistics.median(wall),
        "kept_mib": kept(job) / 2**20,
        "peak_mib": most - before,
    }
    if rank == 0:
        Path(folder, layout).write_text(json.dumps(found))
    distributed.destroy_process_group()


def main() -> int:
    """Print the measurements, and ratios against ``none``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharding", description=__doc__)
    parser.add_argument("--iterations", type=int, default=5, help="timed iterations of each layout")
    parser.add_argument("--rounds", type=int, default=2, help="micro-batches of an iteration")
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for layout in LAYOUTS:
            multiprocessing.spawn(_measure, (layout, folder, args.iterations, args.rounds), nprocs=2)
            found[layout] = json.loads(Path(folder, layout).read_text())
            against = {name: round(value / found["none"][name], 2) for name, value in found[layout].items()}
            shown = {name: round(value, 2) for name, value in found[layout].items()}
            print(f"{layout}: {json.dumps(shown)}, against none {json.dumps(against)}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
