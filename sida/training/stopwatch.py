"""Where the time of a run went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by stage; those of ``start`` are this process's own, the others add up over all continuations."""

    def __init__(self, *stages: str) -> None:
        self.seconds = {"start": 0.0} | dict.fromkeys(stages, 0.0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes, unless it fails."""
        started = time.monotonic()
        yield
        self.seconds[stage] += time.monotonic() - started

    def state_dict(self) -> dict[str, float]:
        """Seconds of all stages but the start."""
        return {stage: seconds for stage, seconds in self.seconds.items() if stage != "start"}

    def load_state_dict(self, state: dict[str, float], /) -> None:
        """Go on counting from there."""
        self.seconds |= state
