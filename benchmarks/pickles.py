"""Opening a pickle of EDM2-XS's size against loading the same tensors from safetensors.

    python -m benchmarks.pickles [FOLDER]

Bound: at most 1.5 times safetensors' time plus the file's read time; like with like, tensors left in the file and tensors in memory
of their own. In seconds of processor time, which other processes disturb least. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sida.numerics.networks.build import build_network
from sida.teachers.formats import read_network, tensors_of
from tests.teachers import nvidia

EDM2_XS = {
    "architecture": "edm2",
    "resolution": 64,
    "channels": 4,
    "label_dim": 1000,
    "model_channels": 128,
    "channel_mult": [1, 2, 3, 4],
    "num_blocks": 3,
    "attn_resolutions": [16, 8],
    "logvar_channels": 128,
}
ROUNDS = 3


def best(work: Callable[[], object]) -> float:
    """Processor seconds of the fastest of some rounds: the others measure what else the machine does."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    state = {name: tensor.half() for name, tensor in build_network(EDM2_XS).state_dict().items()}
    ema = nvidia.module("Precond", state, (64, 4, 1000), model_channels=128)
    pickled = nvidia.write(folder / "xs.pkl", {"encoder": None, "ema": ema})
    safe = folder / "xs.safetensors"
    save_file(state, safe)

    def opened() -> dict[str, torch.Tensor]:
        return tensors_of(read_network(pickled, "xs"), pickled)

    assert all(torch.equal(tensor, state[name]) for name, tensor in opened().items())
    read = best(pickled.read_bytes)
    found: dict[str, object] = {"file_mib": round(pickled.stat().st_size / 2**20, 1), "tensors": len(state)}
    found["read_file_seconds"] = round(read, 3)
    for kind, ours, theirs in (
        ("left in the file", best(lambda: read_network(pickled, "xs")), best(lambda: load_file(safe))),
        ("in memory", best(opened), best(lambda: [tensor.clone() for tensor in load_file(safe).values()])),
    ):
        bound = 1.5 * theirs + read
        times = {"pickle": round(ours, 3), "safetensors": round(theirs, 3), "bound": round(bound, 3)}
        found[kind] = {**times, "within": ours <= bound}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
