"""How long a pod has to end, from SIGTERM to SIGKILL: to finish an iteration, and to write a checkpoint to the store."""

from __future__ import annotations

import math

FLOOR_SECONDS = 120
LONGEST_SECONDS = 3600  # beyond it a drain would rather be forced
ITERATION_SECONDS = 60  # allowance: the iteration at work, and Python's and torch's own end
STORED_BYTES = 100e6  # a second: a checkpoint's way to disk and to a store, planned; what it really takes is told
CHECKPOINTS = 2  # the one before may still be on its way
SLACK_SECONDS = 10  # by which workers are to be done before the pod is killed


def planned(checkpoint_bytes: int) -> int:
    """Return the grace of pods whose checkpoints have this size."""
    return needed(checkpoint_bytes / STORED_BYTES)


def needed(checkpoint_seconds: float) -> int:
    """Return the grace of pods whose checkpoints take so long."""
    seconds = math.ceil(ITERATION_SECONDS + CHECKPOINTS * checkpoint_seconds)
    return min(max(FLOOR_SECONDS, seconds), LONGEST_SECONDS)


def of_workers(pod_seconds: int) -> int:
    """Return what workers are given of a pod's grace."""
    return max(pod_seconds - SLACK_SECONDS, pod_seconds // 2, 1)
