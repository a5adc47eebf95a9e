"""One writer per key: leases with fencing numbers, from nothing more than conditional creation.

``leases/<key>/<number>.json`` is created only if absent; its number is the fencing number: whoever created
the largest one is the holder. A holder renews its own object every third of its life; when it expires, is
released, or its process is gone from this machine, the next writer creates ``number + 1``. Whatever the old
holder believes, it finds the larger number at its next check and is fenced. Objects before the last two are
pruned, numbers never reused. While the store is away nobody can take over: when it is back, the key is still
the holder's unless another writer was faster.

No machine's clock decides: a lease has expired when the store's own clock says that its object was last written longer ago than
its life, or when one who waits has seen it unchanged for that long. A process that lives on this machine is not silent because a
clock was set: its lease expires in the second way only. An object that cannot be understood is somebody's lease like any other.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar

from sida import patience
from sida.errors import AlreadyExists, Fenced, LeaseHeld, NotFound, SidaError
from sida.layout import lease_at, lease_folder, lease_key
from sida.process.identity import Process, machine_id
from sida.stores.base import ObjectStore

SLACK_SECONDS = 5.0  # by which a holder may be late
UNKNOWN_SECONDS = 60.0  # life of a lease that does not say it
LEASE_BYTES = 1 << 16
LAST_SECOND = 1e11  # of a date that can be printed
POLL_SECONDS = 1.0
MOST_LOST = 8  # races lost without a pause

Result = TypeVar("Result")


@dataclass(frozen=True)
class Holder:
    """Content of a lease object; times in seconds since 1970, a fresh ``nonce`` is written each time."""

    host: str = "an unknown machine"
    machine: str = ""
    pid: int = 0
    process_started: str = ""
    user: str = "somebody unknown"
    run: str = ""
    created: float = 0.0
    expires: float = 0.0  # for people: by the holder's clock
    renewals: int = 0
    released: bool = False
    nonce: str = ""
    ttl: float = UNKNOWN_SECONDS  # seconds for which it holds after each renewal

    @classmethod
    def parse(cls, content: bytes) -> Holder:
        """Return what a lease object says, without fields of later versions; of one that makes no sense: somebody unknown."""
        try:
            said = json.loads(content)
            known: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
            if not isinstance(said.get("released", False), bool):
                raise ValueError("neither held nor released")
            given = {name: kind(said[name]) for name, kind in known.items() if name in said}
            if "ttl" not in given:  # of an earlier version, which moved ``expires`` on by a third of it each time
                given["ttl"] = (given["expires"] - given["created"]) / (1 + given["renewals"] / 3)
            if not (0 <= given["ttl"] < math.inf and 0 <= given["created"] < LAST_SECOND and given.get("pid", 1) > 0):
                raise ValueError("no such times, or no such process")
            return cls(**given)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
            return cls(nonce=sha256(content).hexdigest())

    @property
    def is_here(self) -> bool:
        """Whether it holds the key from this machine."""
        return self.machine == machine_id()

    def lives(self) -> bool:
        """Return whether its process is known to live: on this machine."""
        return self.is_here and Process(self.pid, self.process_started).alive()

    def silenced(self, seconds: float) -> bool:
        """Return whether the holder may have been unable to renew: the store was away until less than ``seconds`` ago."""
        if self.released or patience.settled_for() >= seconds:
            return False
        return not self.is_here or self.lives()

    def __str__(self) -> str:
        if not self.machine:
            return "somebody whose lease cannot be read"
        since = datetime.fromtimestamp(self.created).strftime("%Y-%m-%d %H:%M:%S")
        run = f", {self.run}" if self.run else ""
        return f"process {self.pid} of {self.user} on {self.host}{run}, since {since}"


class Lease(AbstractContextManager["Lease"]):
    """Held key; renews itself in the background until released."""

    def __init__(self, store: ObjectStore, key: str, number: int, holder: Holder, ttl: float) -> None:
        self.store, self.key, self.number, self.ttl = store, key, number, ttl
        self._holder = holder
        self._valid_until = _clock() + ttl
        self._fenced = ""
        self._checked = -math.inf
        self._writing = threading.Lock()
        self._stop = threading.Event()
        threading.Thread(target=self._renew_for_ever, name=f"lease {key}", daemon=True).start()

    def raise_if_lost(self) -> None:
        """Raise Fenced when a successor has been seen; asks no server, so it never waits. For every iteration of a loop."""
        if self._fenced:
            raise Fenced(f"{self._fenced}: stopped without publishing; run again to continue from the last checkpoint")

    def check(self) -> None:
        """Raise Fenced unless this is still the holder; asks the store, and waits for one that is away.

        Call before each publish, and again when that had to wait: ``guarded`` does.
        """
        asked = _clock()
        if not self._fenced:
            patience.as_one(self._ask)
        self.raise_if_lost()
        self._checked = asked

    def checked(self, seconds: float) -> bool:
        """Return whether ``check`` was passed less than ``seconds`` ago, this machine's sleep included."""
        return _clock() - self._checked < seconds

    def guarded(self, write: Callable[[], Result]) -> Result:
        """Return the result of ``write``, called only while this is the holder, however long the store is away. Raises Fenced."""

        def attempt() -> Result:
            self.check()
            return write()

        return patience.as_one(attempt)

    def _ask(self) -> None:
        if _clock() < self._valid_until:
            self._look_for_successor()
        else:
            self._renew()  # the machine slept, or the store was away: still ours unless another writer took over

    def release(self) -> None:
        """Let the next writer start at once. Harmless when fenced, or called twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        # A lease that cannot be released expires by itself; what it guarded is published already.
        with self._writing, suppress(SidaError), patience.impatient():
            self._write(released=True)

    def __exit__(self, *error: object) -> None:
        self.release()

    def _renew_for_ever(self) -> None:
        pause = self.ttl / 3
        while not self._stop.wait(pause) and not self._fenced:
            try:
                with patience.impatient():
                    self._renew()
                pause = self.ttl / 3
            except SidaError:
                pause = self.ttl / 10  # ask more often: every attempt may be the one that keeps the lease

    def _renew(self) -> None:
        """Extend our own object. Sets ``_fenced`` when a successor is there; raises the store's errors."""
        asked = _clock()
        with self._writing:
            if self._stop.is_set():
                return
            renewed = self._write(expires=time.time() + self.ttl, renewals=self._holder.renewals + 1)
            self._look_for_successor()
            self._holder = renewed
            self._valid_until = asked + self.ttl

    def _write(self, **changes: Any) -> Holder:
        """Write our own object with these changes, and return it."""
        holder = replace(self._holder, **changes, nonce=secrets.token_hex(8))
        self.store.put(lease_key(self.key, self.number), _encode(holder))
        return holder

    def _look_for_successor(self) -> None:
        newest = newest_number(self.store, self.key)
        if newest > self.number:
            self._fenced = f"{_who(self.store, self.key, newest)} took over {self.key}"


def acquire(
    store: ObjectStore,
    key: str,
    *,
    ttl: float = 30.0,
    wait: float = 0.0,
    owner: str = "",
    note: Callable[[str], None] | None = None,
) -> Lease:
    """Become the only writer of ``key``, waiting up to ``wait`` seconds while another one works.

    ``owner`` describes the run to others that find the key held; ``note`` receives a line about the holder. One whose
    lease expired while the store was away has a moment to renew it.
    Raises LeaseHeld, naming the holder and what to do, and the store's errors.
    """
    deadline = _clock() + wait
    watched: tuple[int, str] | None = None
    unchanged_since, announced, lost = _clock(), 0, 0
    while True:
        number = newest_number(store, key)
        holder = holder_of(store, key, number)
        if holder is not None and watched != (number, holder.nonce):
            watched, unchanged_since = (number, holder.nonce), _clock()
        silent = _clock() - unchanged_since > (holder.ttl if holder else 0) + SLACK_SECONDS
        if holder is not None and not silent and _holds(store, key, number, holder):
            if _clock() >= deadline:
                raise LeaseHeld(_held(store, key, holder))
            if note is not None and announced != number:
                announced = number
                note(f"waiting for {holder} to finish {key}")
            time.sleep(min(POLL_SECONDS, ttl / 10))
            continue
        if holder is not None and holder.silenced(ttl / 2):
            time.sleep(min(POLL_SECONDS, ttl / 10))
            continue
        mine = _new_holder(ttl, owner)
        if _create(store, key, number + 1, mine):
            _prune(store, key, number)
            return Lease(store, key, number + 1, mine, ttl)
        lost += 1  # another one was faster, or it looks so: look at it
        if lost >= MOST_LOST:
            if _clock() >= deadline:
                raise LeaseHeld(
                    f"{key} in {store.address}: {lost} times another process was faster, or the store shows what is not so: "
                    f"run again"
                )
            time.sleep(min(POLL_SECONDS, ttl / 10))


def _create(store: ObjectStore, key: str, number: int, mine: Holder) -> bool:
    """Return whether lease ``number`` is ours now. If not, nothing is left that looks like a lease of this process."""
    try:
        store.put_if_absent(lease_key(key, number), _encode(mine))
        if newest_number(store, key) == number:
            return True  # or we looked long ago: our number had been used and pruned meanwhile
    except AlreadyExists:
        return False
    except SidaError:
        _disown(store, key, number, mine)
        raise
    _disown(store, key, number, mine)
    return False


def _disown(store: ObjectStore, key: str, number: int, mine: Holder) -> None:
    with suppress(SidaError), patience.impatient():
        there = holder_of(store, key, number)
        if there is not None and there.nonce == mine.nonce:
            store.put(lease_key(key, number), _encode(replace(mine, released=True)))


def check_fence(store: ObjectStore, key: str, number: int) -> None:
    """Raise Fenced unless lease ``number`` is the newest; for a process that works under another's lease."""
    newest = newest_number(store, key)
    if newest != number:
        raise Fenced(
            f"{_who(store, key, newest)} took over {key} (lease {number} is over): stopped without publishing"
            if newest > number
            else f"lease {number} of {key} is gone from {store.address}: stopped without publishing"
        )


def live_number(store: ObjectStore, key: str) -> int | None:
    """Return the number of the live lease on the key; None if there is none."""
    number = newest_number(store, key)
    holder = holder_of(store, key, number)
    return number if holder is not None and _holds(store, key, number, holder) else None


def silent_for(store: ObjectStore, key: str) -> float | None:
    """Return for how many seconds the newest lease has been expired, by the store's clock; None if it has not, or there is none."""
    number = newest_number(store, key)
    holder = holder_of(store, key, number)
    if holder is None:
        return None
    try:
        over = store.age(lease_key(key, number)) - holder.ttl
    except NotFound:
        return None
    return over if over > 0 else None


def _holds(store: ObjectStore, key: str, number: int, holder: Holder) -> bool:
    """Return False if released, expired by the store's clock, or on this machine with its process gone."""
    if holder.released or (holder.is_here and not holder.lives()):
        return False
    try:
        return holder.is_here or store.age(lease_key(key, number)) <= holder.ttl + SLACK_SECONDS
    except NotFound:
        return False  # pruned meanwhile


# -- objects


def _numbers(store: ObjectStore, key: str) -> list[int]:
    leases = map(lease_at, store.list(lease_folder(key)))
    return sorted(lease[1] for lease in leases if lease and lease[0] == key)


def newest_number(store: ObjectStore, key: str) -> int:
    """Return the number of the newest lease, alive or not; 0 if there is none."""
    return max(_numbers(store, key), default=0)


def holder_of(store: ObjectStore, key: str, number: int) -> Holder | None:
    """Return what lease ``number`` says; None for number 0, and an object pruned meanwhile."""
    try:
        return Holder.parse(store.read(lease_key(key, number), 0, LEASE_BYTES)) if number else None
    except NotFound:
        return None


def _prune(store: ObjectStore, key: str, predecessor: int) -> None:
    """Delete leases older than our predecessor's, which explains how we came to hold the key."""
    for number in _numbers(store, key):
        if number < predecessor:
            store.delete(lease_key(key, number))


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()


def _new_holder(ttl: float, owner: str) -> Holder:
    me, now = Process.current(), time.time()
    return Holder(
        host=os.uname().nodename,
        machine=machine_id(),
        pid=me.pid,
        process_started=me.started,
        user=_user(),
        run=owner,
        created=now,
        expires=now + ttl,
        renewals=0,
        released=False,
        nonce=secrets.token_hex(8),
        ttl=ttl,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"  # a container may run as a number without a name


def _who(store: ObjectStore, key: str, number: int) -> str:
    holder = holder_of(store, key, number)
    return str(holder) if holder is not None else f"lease {number}"


def _held(store: ObjectStore, key: str, holder: Holder) -> str:
    how = "end it"
    if holder.is_here and holder.pid != os.getpid():
        how = f"end it (kill {holder.pid})"
    elif holder.machine and not holder.is_here:
        how = f"end it on {holder.host}"
    return (
        f"{key} in {store.address} is being made by {holder}: "
        f"wait for it (SIDA_LEASE_WAIT=3600), or {how} and run again"
    )


def _clock() -> float:
    """Return seconds on a clock that no one sets and that, if there is one, runs on while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
