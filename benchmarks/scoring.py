"""Speed and memory of scoring, each as a ratio against a peer in the same run.

    python -m benchmarks.scoring            all of it, minutes on two cores
    python -m benchmarks.scoring distance   the Frechet distance against scipy's sqrtm, d = 2048
    python -m benchmarks.scoring features   our pass against a plain loop over the same images and network
    python -m benchmarks.scoring memory     peak memory of 1,000 and of 50,000 images

torch-fidelity and clean-fid need torchvision, which the lock does not hold: where they are missing the peer is the plain loop.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WIDTH, SIZE = 2048, 32


def _timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """(wall seconds, CPU seconds, result): on a shared machine the second tells more."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def distance(d: int = WIDTH) -> dict[str, Any]:
    """Regular and singular covariances, of low rank and of a rank near d; sqrtm on the regular ones."""
    import scipy.linalg
    import torch

    from sida.numerics.frechet import frechet_distance

    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(1, 0.01, d, dtype=torch.float64)

    def covariance(samples: int) -> Any:
        x = torch.randn(samples, d, generator=generator, dtype=torch.float64) * scales
        return x.T @ x / samples

    mu, full, other, low = torch.zeros(d), covariance(2 * d), covariance(2 * d), covariance(d // 2)
    lower, near, nearer = covariance(d // 3), covariance(d - d // 100), covariance(d - 1)
    told: dict[str, Any] = {"d": d, "threads": torch.get_num_threads()}
    cases = {"regular": (full, other), "one singular": (low, full), "both singular": (low, lower)}
    cases |= {"one nearly regular": (near, full), "both nearly regular": (near, nearer)}
    for name, (one, two) in cases.items():
        wall, cpu, value = _timed(lambda one=one, two=two: frechet_distance(mu, one, mu, two))  # type: ignore[misc]
        told[name] = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "distance": value}
    wall, cpu, root = _timed(lambda: scipy.linalg.sqrtm((full @ other).numpy()))
    value = float(full.trace() + other.trace() - 2 * root.trace().real)
    told["sqrtm"] = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "distance": value}
    told["times faster than sqrtm (cpu)"] = round(cpu / told["regular"]["cpu_seconds"], 1)
    return told


def _detector() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 256, 3, 2), nn.ReLU())

        def forward(self, images: Any) -> Any:
            return self.layers(images.to(torch.float32) / 127.5 - 1).mean(dim=(2, 3))

    return Detector().eval().requires_grad_(False), 256


def _made(count: int, batch: int) -> Any:
    """Our pass: ``count`` drawn images, quantised, through the detector into sums."""
    import torch

    from sida.scoring.partial import Piece
    from sida.scoring.protocol import piece_sums, sampling_noise
    from sida.scoring.sums import Sums

    detector, width = _detector()
    return piece_sums(
        lambda seeds, labels: sampling_noise(seeds, (3, SIZE, SIZE)) * 0.3,
        detector,
        labels=torch.zeros(count, dtype=torch.int64),
        classes=0,
        first_seed=0,
        piece=Piece(0, 0, count),
        sums=Sums(width, count),
        batch=batch,
        device=torch.device("cpu"),
    )


def features(count: int = 2_000, batch: int = 100) -> dict[str, Any]:
    """A plain loop does the same draws and network, keeps all features and calls numpy's covariance."""
    import numpy as np
    import torch

    from sida.numerics.quantize import to_uint8
    from sida.scoring.protocol import sampling_noise

    def plain() -> Any:
        detector, _ = _detector()
        kept = []
        with torch.no_grad():
            for start in range(0, count, batch):
                images = sampling_noise(torch.arange(start, start + batch), (3, SIZE, SIZE)) * 0.3
                kept.append(detector(to_uint8(images)).numpy())
        everything = np.concatenate(kept).astype(np.float64)
        return everything.mean(0), np.cov(everything, rowvar=False)

    plain()
    theirs, ours = _timed(plain), _timed(lambda: _made(count, batch))
    mean, _ = ours[2].moments.mean_cov()
    assert np.allclose(mean.numpy(), theirs[2][0], atol=1e-6)
    return {
        "images": count,
        "ours_images_per_cpu_second": round(count / ours[1]),
        "plain_loop_images_per_cpu_second": round(count / theirs[1]),
        "ratio": round(theirs[1] / ours[1], 2),
    }


def memory() -> dict[str, Any]:
    """Peak resident memory in MiB of a process that scores so many images."""
    told = {}
    for count in (1_000, 50_000):
        command = [sys.executable, "-m", "benchmarks.scoring", "peak", str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        told[f"{count:,} images"] = round(float(done.stdout))
    return told | {"growth_mib": told["50,000 images"] - told["1,000 images"]}


def main(arguments: list[str]) -> None:
    """Print one JSON object."""
    if arguments[:1] == ["peak"]:
        from sida.scoring.partial import PART_IMAGES

        for start in range(0, int(arguments[1]), PART_IMAGES):  # piece by piece, as the worker does
            _made(min(PART_IMAGES, int(arguments[1]) - start), 100)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    known: dict[str, Callable[[], dict[str, Any]]] = {"distance": distance, "features": features, "memory": memory}
    chosen = arguments or list(known)
    load = os.getloadavg()[0]
    print(
        json.dumps(
            {"load": round(load, 1), "cores": os.cpu_count()} | {name: known[name]() for name in chosen}, indent=1
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
