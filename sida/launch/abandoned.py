"""A TrainJob's heartbeat: the launching step's lease. A job whose launcher stays away ends itself, after a checkpoint.

Kubeflow Pipelines ends a cancelled run's pods, not the TrainJobs that they started, and its SIGTERM may not reach a step. So long
as a launcher lives it renews its lease in the store; one that comes back takes over the lease and with it the job.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from sida import patience, progress
from sida.errors import SidaError
from sida.stores import ObjectStore
from sida.stores.lease import silent_for

LOOK_SECONDS = 30.0
SETTLE_SECONDS = 60.0  # after an outage of the store


def end_when_abandoned(store: ObjectStore, step: str, lease: str, seconds: float) -> None:
    """Send SIGTERM to this process when the lease has been over for ``seconds``; at once when it is already."""
    _look(store, step, lease, seconds)
    thread = threading.Thread(target=_watch, args=(store, step, lease, seconds), name="launcher watch", daemon=True)
    thread.start()


def _watch(store: ObjectStore, step: str, lease: str, seconds: float) -> None:
    while True:
        time.sleep(min(LOOK_SECONDS, seconds / 4))
        if _look(store, step, lease, seconds):
            return


def _look(store: ObjectStore, step: str, lease: str, seconds: float) -> bool:
    try:
        with patience.impatient():
            silent = silent_for(store, lease)
    except SidaError:
        return False  # the store is away, which says nothing about the launcher
    if silent is None or silent < seconds:
        return False
    if patience.settled_for() < min(seconds, SETTLE_SECONDS):
        return False  # the launcher has had no way to renew its lease
    progress.note(step, f"no launching step for {seconds:.0f} s: ending; run the step again to continue")
    os.kill(os.getpid(), signal.SIGTERM)
    return True
