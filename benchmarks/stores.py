"""Throughput of put and get against the bare client on the same S3 server, and memory over object size.

    python -m scripts.s3 /tmp/data python -m benchmarks.stores [MIB]

Bounds: at least 0.9 of the bare client; memory flat in object size. Both take turns, in either order, on the same machine.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sida.settings import settings
from sida.stores import fetch_object, open_store, put_object
from sida.stores.s3 import S3Store

MIB = 1 << 20
ROUNDS = 6  # an even number, for both orders


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Of the clock, and of this process's processors."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def bare_put(client: Any, bucket: str, key: str, path: Path) -> None:
    with path.open("rb") as file:
        client.put_object(Bucket=bucket, Key=key, Body=file)


def bare_get(client: Any, bucket: str, key: str, path: Path) -> None:
    with path.open("wb") as file:
        for block in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(MIB):
            file.write(block)


def speeds(mib: int, folder: Path) -> dict[str, float]:
    """MiB/s of ours and of the bare client: the median of the rounds, and the median of their ratios."""
    store = open_store(settings().store)
    assert isinstance(store, S3Store), "set SIDA_STORE to s3://..., or run under scripts.s3"
    client = store._client
    path, out, cache = folder / "file", folder / "out", folder / "cache"
    os.environ["SIDA_CACHE"] = str(cache)
    times: dict[str, list[tuple[float, float]]] = {"put": [], "bare put": [], "get": [], "bare get": []}
    for number in range(ROUNDS):
        path.write_bytes(os.urandom(mib * MIB))
        ref = put_object(store, path, "file.bin")
        work: dict[str, Callable[[], object]] = {
            "put": lambda k=f"bench/{number}": store.put(k, path.open("rb")),  # type: ignore[misc]
            "bare put": lambda k=f"bench-bare/{number}": bare_put(client, store.bucket, k, path),  # type: ignore[misc]
            "get": lambda r=ref: fetch_object(store, r),  # type: ignore[misc]
            "bare get": lambda r=ref: bare_get(client, store.bucket, r.key, out),  # type: ignore[misc]
        }
        # Whoever comes second meets other free memory and other dirty pages (up to half the speed): so they take turns.
        for what in list(work) if number % 2 else ("bare put", "put", "bare get", "get"):
            times[what].append(seconds(work[what]))
            out.unlink(missing_ok=True)
            shutil.rmtree(cache, ignore_errors=True)
    found: dict[str, float] = {}
    for what, spent in times.items():
        found[what] = round(mib / statistics.median(clock for clock, _ in spent), 1)
        found[f"{what}, processor seconds"] = round(statistics.median(used for _, used in spent), 2)
    for what in ("put", "get"):
        ratios = [bare[0] / own[0] for own, bare in zip(times[what], times[f"bare {what}"], strict=True)]
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
        os.environ["SIDA_CACHE"] = str(Path(temporary) / "cache")
        fetch_object(store, put_object(store, path, "file.bin"))
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
