"""Call a function on SIGTERM, SIGINT and the like, before exiting."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_stop(stop: Callable[[int], object], numbers: Iterable[int] = (signal.SIGTERM, signal.SIGINT)) -> Iterator[None]:
    """Call ``stop(number)`` for each of these signals, in the main thread; Python allows no handler in others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        stop(number)

    before = {number: signal.signal(number, heard) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
