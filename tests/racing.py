"""Many processes at once, forked because a spawned one would first take seconds to import torch."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool


@contextmanager
def racers(count: int) -> Iterator[Pool]:
    """A pool of processes. Each dies of SIGTERM whatever the test process does with it: else a pool that ends waits for ever."""
    with multiprocessing.get_context("fork").Pool(count, signal.signal, (signal.SIGTERM, signal.SIG_DFL)) as pool:
        yield pool
        pool.close()
        pool.join()
