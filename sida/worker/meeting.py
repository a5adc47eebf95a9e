"""Where processes wait for one another after unequal work, however long that takes: in torch's store, as long as all of them live.

A message between processes (gloo, NCCL) fails when a peer is late by the time limit, for nothing else would tell that it is gone.
That is right between equal shares of work, and wrong after pieces of a score, downloads or a first compilation. Here every process
gives a sign of life from a thread, and who waits gives up only on one that gives none for as long as the limit says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from torch import distributed

from sida.errors import Lost, SidaError

BEATS = 20  # signs of life within the limit
LONGEST_BEAT = 5.0  # seconds between two of them
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.2  # seconds between two looks at the store


class Meeting:
    """One process's view of a job's processes, which call ``meet`` and ``deal`` in the same order."""

    def __init__(self, store: distributed.Store, rank: int, world: int, limit: timedelta) -> None:
        """``limit``: how long a process may be silent. The store is theirs alone (a PrefixStore of the group's)."""
        self._store, self._rank, self._world, self._limit = store, rank, world, limit.total_seconds()
        self._met = self._dealt = 0
        self._left = threading.Event()
        self._give_sign(store, 0)
        own = store.clone()  # type: ignore[attr-defined]  # a store answers one question at a time
        self._thread = threading.Thread(target=self._beat, args=[own], name="sign of life", daemon=True)
        self._thread.start()

    def meet(self) -> None:
        """Wait until all processes are here. Raises SidaError when one of them is silent for too long, Lost without their store."""
        self._met += 1
        arrived, complete = f"met/{self._met}", f"complete/{self._met}"
        try:
            if self._store.add(arrived, 1) == self._world:
                self._store.set(complete, "")
                self._store.delete_key(f"met/{self._met - 1}")  # all have passed it
                self._store.delete_key(f"complete/{self._met - 1}")
            self._wait_for(complete)
        except distributed.DistError as error:
            raise Lost(f"torch's TCPStore, in which the job's processes meet, is gone: {error}") from error

    def deal(self, count: int) -> Iterator[int]:
        """Numbers 0 to ``count`` - 1, each to one process, whenever one is free for the next."""
        self._dealt += 1
        key = f"dealt/{self._dealt}"
        while (number := self._store.add(key, 1) - 1) < count:
            yield number

    def leave(self) -> None:
        """Part from the others, after the last meeting: the first process, which may keep the store, goes last."""
        try:
            left = self._store.add("left", 1)
            until = time.monotonic() + self._limit
            while self._rank == 0 and left < self._world and time.monotonic() < until:
                time.sleep(10 * FIRST_PAUSE)
                left = self._store.add("left", 0)
        except distributed.DistError:
            pass  # it was torchrun's, which has ended

    def close(self) -> None:
        """Give no more signs of life."""
        self._left.set()
        self._thread.join()

    def _wait_for(self, key: str) -> None:
        pause, signs = FIRST_PAUSE, Signs(self._world, self._limit)
        look = time.monotonic() + LONGEST_PAUSE
        while not self._store.check([key]):
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            if time.monotonic() >= look:
                signs.note(self._signs())
                look = time.monotonic() + self._limit / BEATS

    def _signs(self) -> list[bytes | None]:
        """Of each process its last sign, None before its first."""
        keys = [f"alive/{rank}" for rank in range(self._world)]
        if self._store.check(keys):
            return list(self._store.multi_get(keys))
        return [self._store.get(key) if self._store.check([key]) else None for key in keys]

    def _give_sign(self, store: distributed.Store, number: int) -> None:
        store.set(f"alive/{self._rank}", str(number))

    def _beat(self, store: distributed.Store) -> None:
        number = 0
        while not self._left.wait(min(LONGEST_BEAT, self._limit / BEATS)):
            number += 1
            try:
                self._give_sign(store, number)
            except distributed.DistError:
                return  # the store is gone; who waits for us will say so


class Signs:
    """When each process's sign last changed, by the clock of the one who looks."""

    def __init__(self, world: int, limit: float) -> None:
        self._limit, self._began = limit, time.monotonic()
        self._last: list[tuple[bytes | None, float]] = [(None, self._began)] * world

    def note(self, signs: list[bytes | None]) -> None:
        """Raises SidaError naming a process that has been silent for longer than the limit."""
        now = time.monotonic()
        for rank, sign in enumerate(signs):
            before, since = self._last[rank]
            if sign != before:
                self._last[rank] = sign, now
            elif now - since > self._limit:
                raise SidaError(
                    f"process {rank} of {len(signs)} has given no sign of life for {now - since:.0f} s (SIDA_TIMEOUT): it or its "
                    f"machine is gone; run again to continue from what is stored"
                )
