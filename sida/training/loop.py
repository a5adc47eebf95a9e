"""The loop of every training: resume, iterate, report, checkpoint, stop when asked to."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sida import progress
from sida.errors import SidaError, UserError
from sida.foreign.boundary import reason
from sida.patience import ticking
from sida.progress import Progress
from sida.training.checkpoint import Checkpoint, newest, refuse_other
from sida.training.state import Parts, load_state, state_of
from sida.training.writer import Writer
from sida.worker.job import Job

REPORT_EVERY = 8  # iterations between readings of the losses, which wait for the device

Stop = Callable[[], bool]


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

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        """Go on counting from there."""
        self.seconds |= state


class TrainingRun(ABC):
    """One process's share of a training; all processes call each method alike."""

    def __init__(self, job: Job[Any], images: int, batch: int, identity: dict[str, Any] | None = None) -> None:
        """``images`` in all, ``batch`` in an iteration; ``identity``: a run continues from checkpoints of equal ones only."""
        self.job, self.images, self.batch, self.identity = job, images, batch, identity or {}
        self.seen = 0
        self.iteration = 0  # of this process
        self.checkpoint_due = False
        self.stopwatch = Stopwatch("iterations", "selection", "checkpoints")
        self.writer = Writer(job, job.recipe.execution.checkpoints_kept)

    # Where the kinds of training differ.

    @abstractmethod
    def parts(self) -> Parts:
        """Parts of a checkpoint, by name."""

    @abstractmethod
    def iterate(self) -> dict[str, Tensor]:
        """Do one iteration on the images after ``seen``; returns its losses without waiting for the device."""

    @abstractmethod
    def evaluate(self, stop: Stop) -> None:
        """Evaluate where that is due."""

    @property
    def finished(self) -> bool:
        """Whether all images were seen."""
        return self.seen >= self.images

    def report(self, losses: dict[str, Tensor], display: Progress | None, **numbers: float) -> None:
        """Show losses and ``numbers`` (the first process); waits for the device."""
        if display:
            means = {name: float(value) for name, value in losses.items()}
            display.update(min(self.seen, self.images), **means, **numbers)

    def checkpoint(self, losses: dict[str, Tensor]) -> None:
        """Publish a checkpoint, if the state is worth one."""
        self.save()

    # Where they are alike.

    def train(self, stop: Stop) -> None:
        """Iterate from here to the end. Raises SidaError when it is asked to stop, after a checkpoint."""
        processes = self.job.processes
        display = Progress(self.job.step, self.images, "images") if processes.first else None
        if display:
            display.update(self.seen)
        every = self.job.recipe.execution.checkpoint_every
        self.evaluate(stop)
        while not self.finished:
            before = self.seen
            with self.stopwatch.measure("iterations"):
                losses = self.iterate()
            self.seen += self.batch
            self.iteration += 1
            if self.iteration % REPORT_EVERY == 0:
                self.report(losses, display)
            self.evaluate(stop)
            self.checkpoint_due |= crossed(before, self.seen, every)
            stopping = processes.agree(stop())
            if self.finished or stopping or self.checkpoint_due:
                self.checkpoint(losses)
            if stopping and not self.finished:
                raise self.stopped(stop)
        self.writer.wait(stop)
        processes.meet()

    def save(self) -> None:
        """Publish a checkpoint: the first process, or each one its part of what is divided among them."""
        self.checkpoint_due = False
        values, tensors = state_of(self.parts())
        checkpoint = Checkpoint(self.seen, {"identity": self.identity, **values}, tensors)
        with self.stopwatch.measure("checkpoints"):
            self.writer.save(checkpoint)
        self.job.processes.meet()  # the checkpoint before may still be on its way

    def resume(self) -> None:
        """Continue from the newest checkpoint, if there is one. Raises UserError when it belongs to another recipe."""
        if saved := newest(self.job):
            refuse_other(saved.values["identity"], self.identity, self.job, saved.seen)
            self.seen = saved.seen
            try:
                load_state(self.parts(), saved.values, saved.tensors)
            except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and type(error) is not RuntimeError:  # of the device: out of memory
                    raise
                # Half of it is loaded: what one process has of it cannot be undone here.
                raise UserError(
                    f"the checkpoint at {self.seen:,} images in {self.job.store.address_of(self.job.folder)} is not one of this "
                    f"training ({reason(error)}): delete it to go on from the one before, or give --force {self.job.step}"
                ) from error
            if self.job.processes.first:
                progress.note(self.job.step, f"continuing from the checkpoint at {self.seen:,} images")
        self.job.processes.meet()  # each has fetched and read what it needs

    def stopped(self, stop: Stop) -> SidaError:
        """Return the error that ends a run which was asked to stop, once its checkpoint is in the store.

        Of a TrainJob's nodes the one that is taken away has to end first: were it another, Kubernetes would count a failure.
        """
        self.writer.wait(stop)
        self.job.wait_for_the_asked(stop)
        if self.checkpoint_due:  # this state was worth none
            return SidaError(
                f"stopped at {self.seen} images, where a loss is not finite: run again to continue from the checkpoint before"
            )
        return SidaError(f"stopped at {self.seen} images, after a checkpoint: run again to continue")


def crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of ``every`` images was passed."""
    return before // every != after // every


@contextmanager
def stop_on_sigterm() -> Iterator[Stop]:
    """A function that says whether SIGTERM has come; a wait for the store ends then."""
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        asked = True

    def wait_no_more() -> None:
        if asked:
            raise SidaError("stopped while the store was away: run again to continue from the last checkpoint")

    before = signal.signal(signal.SIGTERM, note)
    try:
        with ticking(wait_no_more):
            yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)
