"""Samples of the first node's machine during a training, for MLflow's page "System metrics": off unless SIDA_SYSTEM_METRICS says 1.

MLflow's own sampling would look at whoever writes a run to MLflow, when the run is over (docs/tracking.md). So they are kept beside
the job, at the rate of the curve's points, under MLflow's names, and written with the curve. They enter no result.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import psutil

from sida import devices
from sida.errors import NotFound
from sida.layout import SYSTEM_METRICS
from sida.worker.job import Job

MIB = 2**20


class SystemMetrics:
    """The samples of a job, also of its earlier starts: ``{"images": 2048, "system/cpu_utilization_percentage": 93.1, ...}``."""

    def __init__(self, job: Job[Any]) -> None:
        self._points: list[dict[str, float]] = []
        with suppress(NotFound, ValueError):
            self._points = json.loads(job.store.read(f"{job.folder}/{SYSTEM_METRICS}"))
        psutil.cpu_percent()  # the next one tells of the time since this one

    def sampled(self, seen: int) -> bytes:
        """Take a sample; return the file with all of them."""
        self._points = [point for point in self._points if point["images"] < seen]
        self._points.append({"images": seen, **_machine(), **_gpus()})
        return json.dumps(self._points).encode()


def _machine() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": round(memory.used / MIB, 1),
        "system/system_memory_usage_percentage": memory.percent,
    }


def _gpus() -> dict[str, float]:
    samples: dict[str, float] = {}
    for index, (used, total, busy) in enumerate(devices.usage()):
        samples[f"system/gpu_{index}_memory_usage_megabytes"] = round(used / MIB, 1)
        samples[f"system/gpu_{index}_memory_usage_percentage"] = round(100 * used / total, 1)
        if busy is not None:
            samples[f"system/gpu_{index}_utilization_percentage"] = busy
    return samples
