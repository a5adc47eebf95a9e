"""Throughput of put and get against the bare client on the same S3 server, and memory over object size.

    python -m scripts.s3 /tmp/data python -m benchmarks.stores [MIB]

Bounds: at least 0.9 of the bare client; memory flat in object size. Rounds alternate, so that both meet the same machine.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minio import Minio

from sida.settings import settings
from sida.stores import fetch_object, open_store, put_object
from sida.stores.s3 import S3Store

MIB = 1 << 20
ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def speeds(mib: int, folder: Path) -> dict[str, float]:
    """MiB/s of ours and of the bare client: the median of the rounds, and the median of their ratios."""
    store = open_store(settings().store)
    assert isinstance(store, S3Store), "set SIDA_STORE to s3://..., or run under scripts.s3"
    client: Minio = store._client
    path = folder / "file"
    times: dict[str, list[float]] = {"put": [], "bare put": [], "get": [], "bare get": []}
    for number in range(ROUNDS):
        path.write_bytes(os.urandom(mib * MIB))
        ours, bare = f"bench/{number}", f"bench-bare/{number}"
        times["put"].append(seconds(lambda k=ours: store.put(k, path)))  # type: ignore[misc]
        times["bare put"].append(seconds(lambda k=bare: client.fput_object(store.bucket, k, str(path))))  # type: ignore[misc]
        ref = put_object(store, path, "file.bin")
        times["bare get"].append(seconds(lambda k=bare: client.fget_object(store.bucket, k, str(folder / "out"))))  # type: ignore[misc]
        times["get"].append(seconds(lambda r=ref: fetch_object(store, r, folder / "cache")))  # type: ignore[misc]
    found = {name: round(mib / statistics.median(spent), 1) for name, spent in times.items()}
    for what in ("put", "get"):
        ratios = [bare / own for own, bare in zip(times[what], times[f"bare {what}"], strict=True)]
        found[f"{what} ratio"] = round(statistics.median(ratios), 2)
    return found


def peak_mib(mib: int) -> float:
    """Peak memory of a process that puts and fetches one object of this size, beyond its size at rest."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stores", "--peak", str(mib)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def measure_peak(mib: int) -> None:
    store = open_store(settings().store)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "file"
        with path.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
        store.put("peak-warm", b"1")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fetch_object(store, put_object(store, path, "file.bin"), Path(temporary) / "cache")
        print(round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        measure_peak(int(sys.argv[2]))
    else:
        size = int(sys.argv[1]) if len(sys.argv) > 1 else 128
        with tempfile.TemporaryDirectory() as temporary:
            result = speeds(size, Path(temporary))
        peaks = {str(mib): peak_mib(mib) for mib in (32, 256)}
        print(json.dumps({"mib": size, **result, "peak_mib_by_object_mib": peaks}, indent=1))
