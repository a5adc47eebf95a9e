"""The lines of ``submit --wait``: each step's state when it changes, why one waits, and when waiting is no use."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.remote import task_line
from pipeline.standing import NOT_STARTED, WAITING
from sida.launch.looker import Unseen, in_a_line
from sida.launch.pod_state import Waiting
from sida.launch.words import remedy, waiting_in_words

if TYPE_CHECKING:
    from pipeline.engines.run_state import RunState
    from pipeline.observing import Observer
    from pipeline.standing import Standing, StepStanding

STARTING_SECONDS = 20.0  # how long a pod may take to start before it is reported
PROGRESS_SECONDS = 60.0  # between two lines that differ in their numbers alone: a TrainJob's progress


class Stuck(Exception):
    """A step has waited too long for what does not come by itself."""

    def __init__(self, step: str, waiting: Waiting, minutes: float) -> None:
        super().__init__(
            f"{step} has waited {minutes:g} minutes for what does not come by itself: {waiting_in_words(waiting)}: "
            f"{remedy(waiting)}"
        )


@dataclass
class _Wait:
    """A step's wait: since when for this reason, and since when for one that does not pass."""

    key: tuple[str, str]
    since: float
    stuck_since: float | None
    looks: int = 1


class Watch:
    """Printer of a run's states as they change; ``stuck_minutes`` 0 waits forever."""

    def __init__(
        self,
        observer: Observer,
        say: Callable[[str], None],
        stuck_minutes: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observer, self._say, self._stuck, self._clock = observer, say, stuck_minutes, clock
        self._said: dict[str, tuple[str, ...]] = {}
        self._said_at: dict[str, float] = {}
        self._waits: dict[str, _Wait] = {}
        self._unseen: list[Unseen] = []
        self._message = ""
        self.last: Standing | None = None

    def show(self, run: RunState) -> None:
        """Look at the run once and print what changed. Raises Stuck."""
        self.last = seen = self._observer.look(run)
        self.tell_unseen()
        if seen.message and not seen.over and seen.message != self._message:
            self._say(f"{seen.name}: {seen.state}: {seen.message}")
        self._message = seen.message
        for step in seen.steps:
            self._show(step)
        for step in seen.steps:
            self._judge(step)

    def tell_unseen(self) -> None:
        """Say what the last look could not look at, once."""
        if news := [unseen for unseen in self._observer.missing if unseen not in self._unseen]:
            self._unseen += news
            self._say(in_a_line(news))

    def _show(self, step: StepStanding) -> None:
        line = step.state, step.reason()
        key: tuple[str, ...] = line
        if step.waiting is None:
            self._waits.pop(step.name, None)
        elif self._is_worth_a_line(step.name, step.waiting):
            key = WAITING, *_key(step.waiting)
        elif self._said.get(step.name, ("",))[0] == WAITING:
            return  # it still waits, for something else: that is said when it has been seen twice
        else:
            key = line = "RUNNING", ""
        if step.state != NOT_STARTED and self._is_news(step.name, key):
            self._said[step.name], self._said_at[step.name] = key, self._clock()
            self._say(task_line(step.name, *line))

    def _is_news(self, step: str, key: tuple[str, ...]) -> bool:
        """Return whether this was not said yet; other numbers alone are told now and then."""
        before = self._said.get(step)
        if before is None or [*map(_without_numbers, before)] != [*map(_without_numbers, key)]:
            return True
        return before != key and self._clock() - self._said_at[step] >= PROGRESS_SECONDS

    def _is_worth_a_line(self, step: str, waiting: Waiting) -> bool:
        """Return True from the second look on: pods wait for a moment in the best of runs."""
        now, before = self._clock(), self._waits.get(step)
        if before is None or before.key != _key(waiting):
            since = before.stuck_since if before is not None else None
            stuck = None if waiting.passes else since if since is not None else now
            self._waits[step] = _Wait(_key(waiting), now, stuck)
            return False
        before.looks += 1
        return waiting.kind != "starting" or now - before.since >= STARTING_SECONDS

    def _judge(self, step: StepStanding) -> None:
        wait = self._waits.get(step.name)
        if step.waiting is None or wait is None or wait.stuck_since is None or not self._stuck or wait.looks < 2:
            return
        if self._clock() - wait.stuck_since >= 60 * self._stuck:
            raise Stuck(step.name, step.waiting, self._stuck)


def _key(waiting: Waiting) -> tuple[str, str]:
    """Return the waiting's identity: numbers change all the time, and new pods get other names."""
    return waiting.kind, re.sub(r"\d+", "#", waiting.detail)


def _without_numbers(text: str) -> str:
    return re.sub(r"\d[\d.,:]*", "#", text)
