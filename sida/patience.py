"""Wait for what is away: a store that restarts, a name that is not found for a moment, a proxy that answers 502.

Such errors (``Unavailable``) pass by themselves. The first seconds go by without a word. Then one line says what is away, since
when and how long we wait for it (SIDA_PATIENCE), and another one when it is back: once a process, however many threads wait. When
patience has ended, nothing waits for the same outage again.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sida import progress
from sida.errors import AlreadyExists, NotFound, Unavailable
from sida.settings import settings

QUICK_TRIES, QUICK_SECONDS = 4, 5.0  # tried without a word, whatever the patience
FIRST_PAUSE, LONGEST_PAUSE = 0.3, 20.0  # seconds between two tries: they double, and vary by half

Result = TypeVar("Result")


# --- trying again -------------------------------------------------------------------------------------------------


def keep_trying(what: str, attempt: Callable[[], Result]) -> Result:
    """Return the result of ``attempt``, repeated while ``what`` (as errors name it) is away. Raises Unavailable in the end."""
    wait = Wait()
    while True:
        try:
            result = attempt()
        except Unavailable as error:
            wait.out(error)
        except (NotFound, AlreadyExists):
            answered(what)
            raise
        else:
            answered(what)
            return result


def as_one(attempt: Callable[[], Result]) -> Result:
    """Repeat several requests as a whole: a lease is checked again before each write that it guards."""
    wait = Wait(quick_tries=1)
    while True:
        try:
            with impatient():
                return attempt()
        except Unavailable as error:
            wait.out(error)


def impatient() -> AbstractContextManager[None]:
    """Wait no longer than the first seconds for anything, in this thread, while the block lasts."""
    return _during(_impatient, True)


def ticking(tick: Callable[[], None]) -> AbstractContextManager[None]:
    """Call ``tick`` about once a second of any wait in this thread, while the block lasts; its exception ends the wait."""
    return _during(_tick, tick)


@contextmanager
def _during(variable: ContextVar[Result], value: Result) -> Iterator[None]:
    mark = variable.set(value)
    try:
        yield
    finally:
        variable.reset(mark)


_impatient: ContextVar[bool] = ContextVar("impatient", default=False)
_tick: ContextVar[Callable[[], None]] = ContextVar("tick", default=lambda: None)


def limit() -> float:
    """Return how many seconds this thread may wait for what is away."""
    return 0.0 if _impatient.get() else settings().patience


class Wait:
    """Pauses between the tries of one thing."""

    def __init__(self, quick_tries: int = QUICK_TRIES) -> None:
        self._began, self._tries, self._quick_tries = time.monotonic(), 0, quick_tries

    def out(self, error: Unavailable) -> None:
        """Pause after a try that failed. Raises Unavailable when it was the last one."""
        self._tries += 1
        outage = _outage(error.what, self._began)
        waited = time.monotonic() - self._began
        most = 0.0 if outage.given_up else limit()
        pause = min(FIRST_PAUSE * 2 ** min(self._tries - 1, 20), LONGEST_PAUSE) * (0.5 + random.random())
        if self._tries >= self._quick_tries or waited >= QUICK_SECONDS:
            if not most:
                raise error
            if waited >= most:
                raise gave_up(error, waited) from error
            say_away(error, f"waiting up to {in_words(most)} for it (SIDA_PATIENCE)")
            pause = min(pause, self._began + most - time.monotonic())
        _sleep(outage, pause)


def gave_up(error: Unavailable, waited: float) -> Unavailable:
    """Return the error that ends a wait of ``waited`` seconds; from then on there is no waiting for this outage."""
    _outage(error.what, time.monotonic() - waited).given_up = True
    return Unavailable(f"{error} (it stayed away for {in_words(waited)}, SIDA_PATIENCE)", error.what, error.reason)


def _sleep(outage: _Outage, seconds: float) -> None:
    """Sleep until it is time for another try, or another thread has got an answer."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        _tick.get()()
        if outage.over.wait(min(left, 1.0)):
            return


# --- outages -----------------------------------------------------------------------------------------------------


@dataclass
class _Outage:
    since: float  # on the monotonic clock
    over: threading.Event = field(default_factory=threading.Event)
    given_up: bool = False


_lock = threading.Lock()
_outages: dict[str, _Outage] = {}
_last_end = -math.inf


def _outage(what: str, since: float) -> _Outage:
    with _lock:
        return _outages.setdefault(what, _Outage(since))


def answered(what: str) -> None:
    """Note that ``what`` is there, or there again."""
    global _last_end
    if not _outages:
        return
    with _lock:
        outage = _outages.pop(what, None)
        if outage is None:
            return
        _last_end = time.monotonic()
    outage.over.set()
    _say(f"{what} is back after {in_words(_last_end - outage.since)}", back=what)


def settled_for() -> float:
    """Return seconds since the last outage that this process knows of; 0 in one.

    Right after an outage no lease has been renewed for as long as it lasted: a silent holder need not be gone.
    """
    return 0.0 if _outages else time.monotonic() - _last_end


# --- notes -------------------------------------------------------------------------------------------------------


class Told:
    """Outages that the reader has been told of, so that each is reported once, and its end once, however many processes wait."""

    def __init__(self) -> None:
        self._away: set[str] = set()

    def is_news(self, note: Mapping[str, Any]) -> bool:
        """Return whether a note of this or another process is to be passed on."""
        if away := note.get("away"):
            reported = away in self._away
            self._away.add(away)
            return not reported
        if back := note.get("back"):
            reported = back in self._away
            self._away.discard(back)
            return reported
        return True


told = Told()  # by this process, and by those whose words it passes on
_speaks = True


def be_silent() -> None:
    """Say nothing in this one of many processes that meet the same outage: another one speaks for all."""
    global _speaks
    _speaks = False


def say_away(error: Unavailable, action: str) -> None:
    """Report an outage, once."""
    now = time.monotonic()
    began = time.time() - (now - _outage(error.what, now).since)
    since = time.strftime("%H:%M:%S %Z", time.localtime(began)).rstrip()
    _say(f"{error.what} is away since {since} ({error.reason}): {action}", away=error.what)


def _say(text: str, **fields: str) -> None:
    with _lock:
        news = told.is_news(fields)
    if news and _speaks:
        progress.note(progress.at_work(), text, **fields)


def in_words(seconds: float) -> str:
    """Return seconds as words: to the second up to two minutes, to the minute above.

    >>> in_words(47), in_words(60), in_words(900), in_words(5400)
    ('47 s', '1 min', '15 min', '1 h 30 min')
    """
    if seconds < 120 and round(seconds) != 60:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join(filter(None, [f"{hours} h" if hours else "", f"{minutes} min" if minutes else ""]))


def hush_retries() -> None:
    """Silence urllib3, which warns of every attempt in long lines; we report each outage once."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)
