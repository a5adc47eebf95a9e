"""Checkpoints and pictures of a run, written to the store in the background: no iteration waits for a store that is away.

Meanwhile the newest checkpoint takes the place of the one before it. It lies in a file of this machine, so that the memory it was
copied to is free for the next.

Of tensors that are divided among processes each owner writes its own, and tells the first process through the store. That one
publishes the checkpoint once all parts are there. No iteration waits for that either: a checkpoint that lacks a part when the
next one comes is given up.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from sida import patience, progress
from sida.errors import Unavailable
from sida.settings import settings
from sida.stores.base import ObjectRef
from sida.training.checkpoint import Checkpoint, object_name, write_checkpoint
from sida.training.host_copy import HostCopy
from sida.training.owners import owned, owners_of
from sida.training.told import tell, told_parts
from sida.worker.job import Job

# How long a run that is asked to stop waits for a store that is away; then the checkpoint before counts.
STOP_SECONDS = 30.0
FIRST_PAUSE = 2.0  # seconds between two tries; doubles
FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0  # seconds between two looks for the others' parts; doubles
SMALL_FILES = 50  # that wait for the store; the oldest ones go first


@dataclass(frozen=True)
class Share:
    """What one process writes of a checkpoint, besides its tensors."""

    seen: int
    values: dict[str, Any]
    others: frozenset[int]  # ranks of the other owners
    saving: str  # names this call of ``save`` on all processes; empty where nothing is divided


class Writer:
    """Writes one process's part of its job's checkpoints, and small files.

    Where nothing is divided among processes, the first one's part is everything. ``save`` copies the tensors to the host and
    returns: only that (and waiting for the checkpoint before, should it still be on its way to a store that answers) holds up the
    training. What goes wrong is raised by the next ``save`` or by ``wait``.
    """

    def __init__(self, job: Job[Any], keep: int) -> None:
        self._job, self._keep = job, keep
        self._host = HostCopy()
        self._copies: dict[str, Tensor] = {}  # in its memory
        self._changed = threading.Condition()  # guards all that follows
        self._thread: threading.Thread | None = None
        self._copied: Share | None = None  # its tensors are in the copies
        self._filed: Share | None = None  # its tensors are in its file
        self._lacking: tuple[float, str] | None = None  # since when it waits for others' parts, and for whose
        self._to_file_seconds = 0.0  # of the newest
        self._small: dict[str, bytes] = {}
        self._away: Unavailable | None = None
        self._failure: Exception | None = None
        self._closed = False

    def save(self, checkpoint: Checkpoint) -> None:
        """Publish a checkpoint, then remove all but the newest ``keep`` and the best; all processes call it alike."""
        processes = self._job.processes
        owners = owners_of(checkpoint.tensors)
        everybody = frozenset(owners.values()) | {0}
        alone = everybody == {0}
        if alone and not processes.first:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._takes_another())
            self._raise_failure()
        saving = "" if alone else str(processes.from_first(secrets.token_hex(8)))  # all are here
        self._copies = {}  # views of memory that may be given back
        mine = {name: it for name, it in checkpoint.tensors.items() if owners[name] == processes.rank}
        copies = self._host.take(mine, owned(checkpoint.tensors, owners, processes.rank))
        if processes.rank not in everybody:
            return
        # Now: the training goes on to change what they are made of.
        values = json.loads(json.dumps(checkpoint.values)) if processes.first else {}
        with self._changed:
            self._copies = copies
            self._copied = Share(checkpoint.seen, values, everybody - {processes.rank}, saving)
            self._wake()

    def publish(self, name: str, content: bytes) -> None:
        """Write a small file to the job's folder."""
        with self._changed:
            self._small[name] = content
            while len(self._small) > SMALL_FILES:
                del self._small[next(iter(self._small))]
            self._wake()

    def wait(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Until all is in the store (for the first process others' parts too), old checkpoints are gone; raises what went wrong.

        For a store that is away as long as SIDA_PATIENCE says, or STOP_SECONDS once ``stop`` is true; then raises Unavailable.
        For others' parts SIDA_TIMEOUT longer, or SIDA_GRACE once ``stop`` is true.
        """
        began = time.monotonic()
        with self._changed:
            while not self._failure and (self._copied or self._filed or self._small):
                if (away := self._away) is not None:
                    limit = min(patience.limit(), STOP_SECONDS) if stop() else patience.limit()
                    if (waited := time.monotonic() - began) >= limit:
                        raise patience.gave_up(away, waited)
                elif (lacking := self._lacking) is not None:
                    limit = settings().timeout + patience.limit()  # the owner waits for its store so long at most
                    limit = min(limit, settings().grace) if stop() else limit
                    if (waited := time.monotonic() - max(began, lacking[0])) >= limit:
                        raise self._lacks(lacking[1], waited)
                self._changed.wait(0.2)
            self._raise_failure()

    def close(self) -> None:
        """Let a write in progress end; for a run that fails, whose own error matters more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # -- with the lock held

    def _takes_another(self) -> bool:
        waits = self._away is not None or self._lacking is not None
        return self._copied is None and (self._filed is None or waits)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _lacks(self, parts: str, waited: float) -> Unavailable:
        what = f"the checkpoint in {self._job.store.address_of(self._job.folder)}"
        reason = f"{parts} did not come for {patience.in_words(waited)} (SIDA_TIMEOUT)"
        return Unavailable(f"{what} is not whole: {reason}; run again to continue from the one before", what, reason)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    # -- in the thread

    def _work(self) -> None:
        pause = FIRST_PAUSE
        with tempfile.TemporaryDirectory() as folder:
            while self._has_work():
                try:
                    self._to_file(Path(folder))
                    with patience.impatient():
                        self._to_store(Path(folder))
                    pause = FIRST_PAUSE
                except Unavailable as error:
                    patience.say_away(error, "training goes on, its checkpoints wait")
                    with self._changed:
                        self._away = error
                        self._changed.notify_all()
                        self._changed.wait_for(lambda: self._closed or self._copied is not None, pause)
                    pause = min(2 * pause, patience.LONGEST_PAUSE)
                except Exception as error:  # whatever it is, the training is to hear of it
                    with self._changed:
                        self._failure = error
                        self._changed.notify_all()
                    return

    def _has_work(self) -> bool:
        """Waits for some; False when there will be none, or none that can be done in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._copied or self._filed or self._small)
            return not self._closed or (self._away is None and bool(self._copied or self._filed or self._small))

    def _to_file(self, folder: Path) -> None:
        with self._changed:
            copied, before = self._copied, self._filed
        if copied is None:
            return
        if before is not None:
            self._file(folder, before).unlink()
        began = time.monotonic()
        save_file(self._copies, self._file(folder, copied))
        self._to_file_seconds = time.monotonic() - began
        with self._changed:
            self._copied, self._filed = None, copied
            self._changed.notify_all()

    def _to_store(self, folder: Path) -> None:
        with self._changed:
            small, filed = dict(self._small), self._filed
        for name, content in small.items():
            self._job.publish(name, content)
        if filed is not None:
            path, began = self._file(folder, filed), time.monotonic()
            ref = self._job.put(path, path.name)
            seconds = self._to_file_seconds + time.monotonic() - began
            if filed.saving:
                tell(self._job, filed.seen, filed.saving, ref)
            if self._job.processes.first and (parts := self._others(filed)) is not None:
                began = time.monotonic()
                write_checkpoint(self._job, filed.seen, filed.values, (ref, *parts), self._keep)
                seconds = round(seconds + time.monotonic() - began, 1)
                progress.emit(
                    "checkpoint", self._job.step, seen=filed.seen, seconds=seconds
                )  # for who gives pods their time
            path.unlink()
        with self._changed:
            self._away, self._filed = None, None
            self._small = {name: content for name, content in self._small.items() if small.get(name) is not content}
            self._changed.notify_all()

    def _others(self, share: Share) -> tuple[ObjectRef, ...] | None:
        """The other owners' parts, once they are whole; None when before that another checkpoint came, or the run failed."""
        pause, since = FIRST_LOOK, time.monotonic()
        try:
            while True:
                # Before the look: whose store answers has told of its part before another checkpoint can come.
                with self._changed:
                    late = self._copied is not None
                    ending = self._closed and time.monotonic() - since > STOP_SECONDS
                parts = told_parts(self._job, share.seen, share.saving, share.others)
                if lacking := sorted(share.others - parts.keys()):
                    whose = f"the parts of processes {', '.join(map(str, lacking))}"
                    if late:
                        lost = (
                            f"the checkpoint at {share.seen:,} images is given up: {whose} did not come before the next"
                        )
                        progress.note(self._job.step, f"{lost}; training goes on")
                    if late or ending:
                        return None
                    with self._changed:
                        self._away = None
                        self._lacking = since, whose
                        self._changed.notify_all()
                        self._changed.wait_for(lambda: self._copied is not None, pause)
                    pause = min(2 * pause, LONGEST_LOOK)
                else:
                    return tuple(parts[rank] for rank in sorted(parts))
        finally:
            with self._changed:
                self._lacking = None

    def _file(self, folder: Path, share: Share) -> Path:
        return folder / object_name(share.seen, self._job.processes.rank)
