"""The seam between a step's job and where its workers run: this machine, several bare machines, or a TrainJob."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sida.errors import SidaError
from sida.launch.worker_error import WorkerError

# In rank 0's environment: the descriptor of the bound socket on which it keeps the ranks' store
LISTENER = "SIDA_LISTENER"


class Stopped(SidaError):
    """The workers ended because somebody asked them to; what they did until then is kept."""

    def __init__(self, step: str) -> None:
        super().__init__(f"{step}: stopped on request; run again to continue from the last checkpoint")


@dataclass(frozen=True)
class Work:
    """The task of a job's workers, and how the launcher hears of it."""

    step: str
    job: str  # key of the job's spec in the store
    processes: int  # of all machines
    threads: int
    log: Path  # their output is appended to it
    check: Callable[[], None]  # called about once a second; what it raises ends the launcher
    error: Callable[[], WorkerError | None]  # what a worker published of its failure
    finished: Callable[[], bool] = lambda: False  # whether the result is in the store
    cancelled: Callable[[], str] = lambda: ""  # how the run's end was asked for, in words; empty where it was not
    keep_log: Callable[[], object] = lambda: None  # called at the end, where the workers' own machines keep none


class Launcher(ABC):
    """One job's workers, started by this process or found where another one has started them."""

    @abstractmethod
    def run(self, work: Work) -> None:
        """Run the workers to their end, or follow those that run already.

        Raises Stopped, UserError for a user's mistake, Unavailable when they waited in vain, SidaError when they failed otherwise.
        """

    @abstractmethod
    def settle(self, work: Work) -> None:
        """Clear away what is left of workers whose result is there, where anything of them outlives who started them."""

    @abstractmethod
    def stop(self) -> str:
        """End the workers, after a checkpoint; says what becomes of them."""

    @abstractmethod
    def log(self, *, follow: bool = False) -> Iterator[str] | None:
        """Return the lines of the workers' log; None where there is none."""
