"""Run a recipe on Kubeflow Pipelines at fixed times, each time measuring its scores anew.

The same command again changes nothing; a changed one shows the difference, makes the schedule anew and removes the old one. Times
are those of the cluster, usually UTC. A schedule keeps the pipeline as it is now: give the command again after a change.

examples:
  sida schedule digits --profile ./mine.yaml --cron "0 3 * * 1"    Mondays at 3:00
  sida schedule digits --profile ./mine.yaml --pause
  sida schedule --profile ./mine.yaml --list
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from pipeline import output, profile, remote
from pipeline.arguments import PROFILE, RECIPE_TEXT, argument, flag, one_of
from pipeline.client import Client, Schedule
from pipeline.cron import fires_within, six_fields
from pipeline.profile import Profile
from sida import recipe
from sida.errors import SidaError, UserError
from sida.recipe.texts import check_texts
from sida.steps.execute import SCHEDULED

QUIET_ATTEMPTS = 10
ARGUMENTS = (
    argument("recipe", "RECIPE", RECIPE_TEXT, nargs="?"),  # --list needs none
    *remote.TO_COMPILE,
    PROFILE,
    argument("--name", "NAME", "name of the schedule (default: sida- and the recipe's name)"),
    one_of(
        argument("--cron", "FIELDS", "'minute hour day month weekday': make the schedule, or change it"),
        flag("--pause", "start no more runs until --cron is given again"),
        flag("--delete", "remove the schedule; its runs stay"),
        flag("--list", "show all schedules of the profile's experiment"),
        required=True,
    ),
)


def main(args: argparse.Namespace) -> int:
    """List, pause, delete, or create."""
    cluster = profile.load(args.profile)
    if args.list:
        return _list(args, cluster, Client(cluster))
    if args.recipe is None and args.name is None:
        raise UserError("which schedule? give RECIPE, or --name as `schedule --list` shows it")
    check_texts({"--name": args.name})
    name = args.name or f"sida-{recipe.load(args.recipe).name}"
    if args.cron:
        if args.recipe is None:
            raise UserError("which recipe? `schedule RECIPE --cron ...`")
        return _set(args, cluster, name, six_fields(args.cron))
    client = Client(cluster)
    schedules = client.schedules(name)
    if not schedules:
        raise UserError(f"no schedule {name!r}: `schedule --list` shows all")
    for schedule in schedules:
        if args.delete:
            client.delete_schedule(schedule.schedule_id)
        else:
            client.enable_schedule(schedule.schedule_id, False)
    if args.delete and _has_own_recipe(schedules):
        remote.forget_recipes_of(cluster, name)
    state = "deleted" if args.delete else "paused"
    output.result(args, f"{name}: {state}", schedule=name, state=state)
    return 0


def _list(args: argparse.Namespace, cluster: Profile, client: Client) -> int:
    schedules = client.schedules()
    lines = [
        f"{s.name}  {s.cron}  recipe {s.parameters.get('recipe', '?')}{'' if s.enabled else '  paused'}"
        for s in schedules
    ]
    none = f"no schedule in experiment {cluster.kfp.experiment}: `schedule RECIPE --cron ...` makes one"
    output.result(args, "\n".join(lines) or none, schedules=[dataclasses.asdict(schedule) for schedule in schedules])
    return 0


def _set(args: argparse.Namespace, cluster: Profile, name: str, cron: str) -> int:
    uploaded = remote.upload(args, cluster, SCHEDULED, schedule=name)
    client = uploaded.client
    schedule = Schedule(
        name,
        cron,
        uploaded.version.version_id,
        uploaded.parameters,
        pipeline_root=cluster.kfp.pipeline_root or "",
        service_account=cluster.kfp.service_account or "",
    )
    there = client.schedules(name)
    same = next((s for s in there if s.fields() == schedule.fields()), None)
    replace(client, schedule, there, same, uploaded.version.pipeline_id, uploaded.description)
    if same is None and _has_own_recipe(there):
        remote.forget_recipes_of(cluster, name, but=schedule.parameters["recipe"])
    state = ("unchanged" if same.enabled else "goes on") if same else "changed" if there else "created"
    changes = _changes(schedule, there, same)
    lines = [f"{name}: {state}" + ("" if changes else f", {cron}")]
    for field, (before, after) in changes.items():
        lines += [f"- {field}: {before}", f"+ {field}: {after}"]
    output.result(args, "\n".join(lines), schedule=name, state=state, cron=cron, changes=changes)
    return 0


def _has_own_recipe(schedules: list[Schedule]) -> bool:
    """Return whether one of them has a recipe that lies in the store."""
    return any("#sha256=" in schedule.parameters.get("recipe", "") for schedule in schedules)


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


def _changes(target: Schedule, there: list[Schedule], same: Schedule | None) -> dict[str, tuple[str, str]]:
    """Return field -> (before, now) of a schedule that was created anew."""
    if same is not None or not there:
        return {}
    before, after = there[0].fields(), target.fields()
    return {field: (before.get(field, ""), value) for field, value in after.items() if before.get(field) != value}
