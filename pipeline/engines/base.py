"""Engines that run pipelines on a cluster, behind one seam: Kubeflow Pipelines, and Argo Workflows alone.

``engine`` of a profile names one. Steps, pods, records and the store are the same on both; an engine keeps versions, runs and
schedules, and names a run's pods.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.engines.run_state import RunState
from sida.errors import UserError

if TYPE_CHECKING:
    from pipeline.compile import Compiled, OnCluster
    from pipeline.profile import Profile
    from sida.records import StepCall

POLL_SECONDS = 5.0
PATIENCE = 12  # polls in a row that may fail while a run is followed


class Unreachable(UserError):
    """The engine could not be reached."""


class LoggedOut(UserError):
    """The engine takes our token or cookies no more."""


@dataclass(frozen=True)
class Version:
    """Version of a pipeline on the cluster."""

    version_id: str
    name: str
    new: bool  # it was uploaded just now
    pipeline_id: str = ""  # Kubeflow's


@dataclass(frozen=True)
class Schedule:
    """Runs at fixed times: the fields that decide whether it has to be made anew."""

    name: str
    cron: str  # as the engine writes it
    version_id: str
    parameters: dict[str, str]
    pipeline_root: str = ""
    service_account: str = ""
    enabled: bool = True
    schedule_id: str = ""

    def fields(self) -> dict[str, str]:
        """Return the fields that schedules are compared by."""
        values = {"cron": self.cron, "version": self.version_id} | self.parameters
        return values | {"pipeline root": self.pipeline_root, "service account": self.service_account}


class Engine(ABC):
    """Connection to one engine. Every method raises UserError for what the user can fix, SidaError otherwise."""

    place: str  # where its runs are, in words: "experiment sida", "namespace sida"

    # -- versions

    @abstractmethod
    def upload(self, compiled: Compiled, description: str) -> Version:
        """Return the version of a compiled pipeline; each digest is uploaded only once."""

    # -- runs

    @abstractmethod
    def start(self, name: str, version: Version, parameters: dict[str, str]) -> str:
        """Start a run of an uploaded version; return its id."""

    @abstractmethod
    def start_step(self, call: StepCall, title: str, arguments: list[str], cluster: OnCluster) -> str:
        """Start a run of one step alone, with these arguments; return its id."""

    @abstractmethod
    def run(self, run_id: str) -> RunState:
        """Return the state of a run. Raises UserError for one that the engine does not know."""

    @abstractmethod
    def runs(self, count: int) -> list[RunState]:
        """Return the newest runs, without their tasks."""

    @abstractmethod
    def terminate(self, run_id: str) -> None:
        """Ask the engine to end a run."""

    @abstractmethod
    def link(self, run_id: str) -> str:
        """Return where a run can be looked at: the address of a page, or a command."""

    def cancel(self, run_id: str) -> RunState:
        """Ask for the end of a run; return the state before. A run that has ended, or is being ended, is left alone."""
        before = self.run(run_id)
        if not before.ended and not before.cancelled:
            self.terminate(run_id)
        return before

    def follow(self, run_id: str, show: Callable[[RunState], None]) -> RunState:
        """Show every state until the run has ended; tolerate an engine that is away for a minute."""
        failures = 0
        while True:
            try:
                state = self.run(run_id)
            except (Unreachable, LoggedOut):  # the latter: a token that rotates may be a moment late
                failures += 1
                if failures >= PATIENCE:
                    raise
            else:
                failures = 0
                show(state)
                if state.ended:
                    return state
            time.sleep(POLL_SECONDS)

    # -- schedules

    @abstractmethod
    def cron(self, text: str) -> str:
        """Return five fields of cron as this engine writes them. Raises UserError for a wrong one."""

    @abstractmethod
    def schedule(self, name: str, cron: str, version: Version, parameters: dict[str, str]) -> Schedule:
        """Return the schedule that these make, not created yet."""

    @abstractmethod
    def schedules(self, name: str = "") -> list[Schedule]:
        """Return our schedules, or those called ``name`` (Kubeflow allows several)."""

    @abstractmethod
    def put_schedule(
        self, target: Schedule, there: list[Schedule], same: Schedule | None, version: Version, description: str
    ) -> None:
        """Have ``target`` enabled, and all others of its name gone. ``same``: the one of ``there`` that equals it."""

    @abstractmethod
    def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule; its past runs stay."""

    @abstractmethod
    def enable_schedule(self, schedule_id: str, enabled: bool) -> None:
        """Pause a schedule, or let it go on."""

    # -- for doctor

    @abstractmethod
    def found(self) -> str:
        """Return in a few words what answers, and where."""


def engine_of(profile: Profile) -> Engine:
    """Return the connection to a profile's engine. Raises UserError when it does not answer."""
    if profile.engine == "argo":
        from pipeline.engines.argo import ArgoClient

        return ArgoClient(profile)
    from pipeline.engines.kubeflow import Client

    return Client(profile)
