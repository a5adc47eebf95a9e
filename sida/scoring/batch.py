"""Images at once: the recipe's number, or with ``execution.sampling_batch: auto`` the fastest that fits, tried out here.

Another batch rounds features otherwise (1e-6): a job tries once, and keeps the batch after a kill.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from sida import devices
from sida.data.shards import one_hot
from sida.errors import NotFound
from sida.scoring.protocol import MakeImages, pixels_of

if TYPE_CHECKING:
    from sida.scoring.detector import Detector
    from sida.worker.job import Job

SMALLEST = 8
NEAR = 1.05  # times the best time per image: the smallest batch so near is taken, it needs the least memory
RUNS = 3


def fastest_batch(
    work: Callable[[int], None],
    limit: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    release: Callable[[], None] = lambda: None,
) -> tuple[int, dict[int, float]]:
    """Return the batch, and seconds per image of each that was tried: doublings up to ``limit``, until memory ends or time is lost.

    ``work(batch)`` makes ``batch`` images and waits for them. A batch that does not fit raises torch.OutOfMemoryError;
    ``release`` then gives its memory back.
    """
    seconds: dict[int, float] = {}
    batch = min(SMALLEST, limit)
    try:
        work(batch)  # kernels are chosen and memory is taken at the first call
        while True:
            taken = []
            for _ in range(RUNS):
                started = clock()
                work(batch)
                taken.append(clock() - started)
            seconds[batch] = min(taken) / batch
            lost = len(seconds) > 2 and min(list(seconds.values())[-2:]) > NEAR * min(seconds.values())
            if batch == limit or lost:
                break
            batch = min(2 * batch, limit)
    except torch.OutOfMemoryError:
        release()
        if not seconds:
            return 1, {}
    best = min(seconds.values())
    return next(size for size, time_taken in seconds.items() if time_taken <= NEAR * best), seconds


def job_batch(job: Job, make: MakeImages, detectors: Sequence[Detector], classes: int) -> int:
    """Return the batch of a scoring job, the same on all its processes and after each of its starts."""
    execution = job.recipe.execution
    if execution.sampling_batch != "auto":
        return execution.sampling_batch
    key, processes = f"{job.folder}/batch.json", job.processes
    device = processes.device

    def work(batch: int) -> None:
        seeds = torch.arange(batch, device=device)
        with torch.no_grad():
            images = make(seeds, one_hot(torch.arange(batch) % max(classes, 1), classes).to(device))
            pixels = pixels_of(images, 0)
            for detector in detectors:
                detector(pixels).sum().item()  # waits for the device

    if processes.first:
        try:
            job.store.read(key)
        except NotFound:
            release = partial(devices.release_memory, device)
            batch, seconds = fastest_batch(work, execution.batch_limit, release=release)
            rates = {size: round(1 / max(taken, 1e-9), 1) for size, taken in seconds.items()}
            job.publish("batch.json", json.dumps({"batch": batch, "images_per_second": rates}).encode())
    processes.meet()
    return int(json.loads(job.store.read(key))["batch"])
