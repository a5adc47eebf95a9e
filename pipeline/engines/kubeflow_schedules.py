"""Replace a schedule of Kubeflow Pipelines, which cannot change one and has no transactions."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from pipeline.cron import fires_within
from pipeline.engines.base import Schedule
from sida.errors import SidaError

if TYPE_CHECKING:
    from pipeline.engines.kubeflow import Client

QUIET_ATTEMPTS = 10


def replace(
    client: Client,
    target: Schedule,
    there: list[Schedule],
    same: Schedule | None,
    pipeline_id: str,
    description: str,
    pause: float = 20.0,
) -> None:
    """Have ``target`` enabled and all others of its name gone; whatever fails on the way, one of them is enabled.

    KFP cannot change a schedule, and has no transactions. The new one is made disabled, which may fail and take its time; then, in
    a minute in which none of them fires, it is enabled and the old ones are disabled; then these are deleted. If one of
    these calls fails, all is as it was before. A command that was killed in between is put right by giving it again.
    """
    old = [schedule for schedule in there if schedule is not same]
    undo: list[Callable[[], None]] = []
    if same is None:
        new_id = client.create_schedule(dataclasses.replace(target, enabled=not old), pipeline_id, description)
        undo.append(partial(client.delete_schedule, new_id))
    else:
        new_id = same.schedule_id
        undo += [] if same.enabled else [partial(client.enable_schedule, new_id, False)]
    firing = [schedule for schedule in old if schedule.enabled]
    if firing:
        _wait_for_a_quiet_minute([target, *firing], pause)
    try:
        if (not same.enabled) if same else old:
            client.enable_schedule(new_id, True)
        for schedule in firing:
            client.enable_schedule(schedule.schedule_id, False)
            undo.insert(0, partial(client.enable_schedule, schedule.schedule_id, True))
    except SidaError as error:
        try:
            for call in undo:
                call()
        except SidaError as another:
            raise SidaError(
                f"{error}; then the new one {new_id} could not be taken back ({another}): both may fire: "
                "give the same command again"
            ) from another
        raise
    for schedule in old:  # they fire no more: one that cannot be deleted now is deleted the next time
        client.delete_schedule(schedule.schedule_id)


def _wait_for_a_quiet_minute(schedules: list[Schedule], pause: float) -> None:
    """Wait until none of them fires now or in the next minute, except those that may fire in every minute."""
    for attempt in range(QUIET_ATTEMPTS):
        if not any(len(s.cron.split()) == 6 and fires_within(s.cron, datetime.now(UTC), 1) for s in schedules):
            return
        if attempt == 0:
            print("waiting for a minute in which neither schedule fires", file=sys.stderr)
        time.sleep(pause)
    if QUIET_ATTEMPTS:
        print(
            "note: they fire so often that one run may be started twice; it reuses what the first measures",
            file=sys.stderr,
        )
