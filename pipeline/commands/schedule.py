"""Run a recipe on Kubeflow Pipelines at fixed times, each time measuring its scores anew.

The same command again changes nothing; a changed one shows the difference, makes the schedule anew and removes the old one. Times
are those of the cluster, usually UTC. A schedule keeps the pipeline as it is now: give the command again after a change.

examples:
  python -m pipeline schedule digits --profile ./mine.yaml --cron "0 3 * * 1"    Mondays at 3:00
  python -m pipeline schedule digits --profile ./mine.yaml --pause
  python -m pipeline schedule --profile ./mine.yaml --list
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.client import Client, Schedule
    from pipeline.profile import Profile

SCHEDULED_TIME = "[[ScheduledTime]]"  # KFP puts the time of the run in its place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, the cluster, and what to do."""
    from pipeline import remote

    remote.add_recipe(parser, required=False)  # --list needs none
    remote.add_profile(parser)
    parser.add_argument("--name", metavar="NAME", help="name of the schedule (default: sida- and the recipe's name)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--cron", metavar="FIELDS", help="'minute hour day month weekday': make the schedule, or change it"
    )
    what.add_argument("--pause", action="store_true", help="start no more runs until --cron is given again")
    what.add_argument("--delete", action="store_true", help="remove the schedule; its runs stay")
    what.add_argument("--list", action="store_true", help="show all schedules of the profile's experiment")


def main(args: argparse.Namespace) -> int:
    """List, pause, delete, or make."""
    from pipeline import profile
    from pipeline.client import Client
    from pipeline.cron import six_fields
    from sida import recipe
    from sida.errors import UserError

    where = profile.load(args.profile)
    if args.list:
        return _list(Client(where))
    if args.recipe is None and args.name is None:
        raise UserError("which schedule? give RECIPE, or --name as `schedule --list` shows it")
    name = args.name or f"sida-{recipe.load(args.recipe).name}"
    if args.cron:
        if args.recipe is None:
            raise UserError("which recipe? `schedule RECIPE --cron ...`")
        return _set(args, where, name, six_fields(args.cron))
    client = Client(where)
    found = client.schedules(name)
    if not found:
        raise UserError(f"no schedule {name!r}: `schedule --list` shows all")
    for schedule in found:
        if args.delete:
            client.delete_schedule(schedule.schedule_id)
        else:
            client.enable_schedule(schedule.schedule_id, False)
    print(f"{name}: {'deleted' if args.delete else 'paused'}")
    return 0


def _list(client: Client) -> int:
    for schedule in client.schedules():
        state = "" if schedule.enabled else "  paused"
        print(f"{schedule.name}  {schedule.cron}  recipe {schedule.parameters.get('recipe', '?')}{state}")
    return 0


def _set(args: argparse.Namespace, where: Profile, name: str, cron: str) -> int:
    from pipeline import launching, remote
    from pipeline.client import Client, Schedule
    from pipeline.dag import Plan

    recipe, made = remote.compile_for(args, where)
    launching.check_cluster(where, Plan.of(recipe, "").tasks())
    client = Client(where)
    parameters = {"recipe": remote.publish_recipe(args, recipe, where), "repeat": SCHEDULED_TIME}
    description = " ".join(recipe.description.split())
    pipeline_id, version_id, _ = client.upload(made, description)
    wanted = Schedule(
        name,
        cron,
        version_id,
        parameters,
        pipeline_root=where.kfp.pipeline_root or "",
        service_account=where.kfp.service_account or "",
    )
    there = client.schedules(name)
    same = next((s for s in there if s.fields() == wanted.fields()), None)
    if same and not same.enabled:
        client.enable_schedule(same.schedule_id, True)
    elif same is None:  # made before the old one goes: between the two there is always one
        client.create_schedule(wanted, pipeline_id, description)
    for old in there:
        if old is not same:
            client.delete_schedule(old.schedule_id)
    print("\n".join(_told(name, wanted, there, same)))
    return 0


def _told(name: str, wanted: Schedule, there: list[Schedule], same: Schedule | None) -> list[str]:
    if same is not None:
        return [f"{name}: unchanged, {same.cron}" if same.enabled else f"{name}: goes on, {same.cron}"]
    if not there:
        return [f"{name}: created, {wanted.cron}"]
    before, after = there[0].fields(), wanted.fields()
    changed = [field for field in after if before.get(field) != after[field]]
    lines = [f"{name}: changed"]
    for field in changed:
        lines += [f"- {field}: {before.get(field, '')}", f"+ {field}: {after[field]}"]
    return lines
