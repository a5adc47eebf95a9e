"""A run and its tasks as an engine reports them. It gives no reasons: see ``pipeline.standing``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

UNSPECIFIED = "RUNTIME_STATE_UNSPECIFIED"  # Kubeflow's word for what has not begun
LONGEST = 300  # characters of a text that others wrote
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")


@dataclass(frozen=True)
class Task:
    """Task of a run, as its engine reports it."""

    name: str
    state: str  # empty: it has not begun
    error: str = ""  # Kubeflow 2.17 never says one
    ended: str = ""  # ISO 8601


@dataclass(frozen=True)
class RunState:
    """Run, as its engine reports it."""

    run_id: str
    name: str
    state: str
    error: str
    tasks: tuple[Task, ...]
    cancelled: str = ""  # when its end was asked for, ISO 8601: then the last state is FAILED, as of any other
    created: str = ""

    def __post_init__(self) -> None:
        """Make each text one line: whoever names a run may have written several."""
        for field in ("run_id", "name", "error", "cancelled", "created"):
            object.__setattr__(self, field, " ".join(getattr(self, field).split())[:LONGEST])

    @property
    def ended(self) -> bool:
        """True when nothing more will happen."""
        return self.state in ENDED


def run_state(run: Any) -> RunState:
    """Build the state from Kubeflow's own model."""
    tasks = []
    for detail in (run.run_details.task_details if run.run_details else None) or []:
        error = " ".join(detail.error.message.split()) if detail.error and detail.error.message else ""
        name = " ".join((detail.display_name or "").split())[:LONGEST]
        state = "" if detail.state in (None, UNSPECIFIED) else detail.state
        tasks.append(Task(name, state, error, _iso(detail.end_time)))
    error = run.error.message if run.error and run.error.message else ""
    cancelled = [then for then in run.state_history or [] if then.state in ("CANCELING", "CANCELED")]
    return RunState(
        run.run_id,
        run.display_name or "",
        run.state or "PENDING",
        error,
        tuple(tasks),
        _iso(cancelled[0].update_time) if cancelled else "",
        _iso(run.created_at),
    )


def _iso(time: datetime | None) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds") if time is not None else ""
