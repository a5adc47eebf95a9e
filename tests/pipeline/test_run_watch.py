"""What `submit --wait` says of a TrainJob's progress: news at once, other numbers now and then."""

from __future__ import annotations

from typing import Any

from pipeline.run_watch import PROGRESS_SECONDS, Watch
from pipeline.standing import Standing, StepStanding


class Looking:
    """An observer whose only step has a TrainJob."""

    missing = ()

    def __init__(self) -> None:
        self.job = ""

    def look(self, run: Any) -> Standing:
        return Standing("run-1", "digits", "RUNNING", (StepStanding("distill", "RUNNING", job=self.job),))


def test_progress_is_told_once_a_minute_and_news_at_once() -> None:
    looking, said, now = Looking(), list[str](), 0.0
    watch = Watch(looking, said.append, 0, clock=lambda: now)  # type: ignore[arg-type]
    for second in range(0, 181, 10):
        now, looking.job = (
            float(second),
            f"TrainJob x: its pods run, {100 * second:,} of 18,000 images, 0:{180 - second} left",
        )
        watch.show(None)  # type: ignore[arg-type]
    assert PROGRESS_SECONDS == 60 and len(said) == 4
    assert "6,000 of 18,000 images" in said[1]
    looking.job += ", taken off a node once, last 2026-11-29T13:22:45Z: its pod was taken off the node"
    watch.show(None)  # type: ignore[arg-type]
    assert len(said) == 5 and "taken off the node" in said[-1]
