"""Run a recipe on the profile's engine at fixed times, each time measuring its scores anew.

The same command again changes nothing; a changed one shows the difference and replaces the schedule. Times are those of the
cluster, usually UTC; on Argo of `argo.timezone`. A schedule keeps the pipeline as it is now: give the command again after a
change.

examples:
  sida schedule digits --profile ./mine.yaml --cron "0 3 * * 1"    Mondays at 3:00
  sida schedule cifar10-uncond --pipeline score_published --profile ./mine.yaml --cron "0 3 2 * *"
  sida schedule digits --profile ./mine.yaml --pause
  sida schedule --profile ./mine.yaml --list
"""

from __future__ import annotations

import argparse
import dataclasses

from pipeline import output, profile, remote
from pipeline.arguments import PROFILE, RECIPE_TEXT, argument, flag, one_of
from pipeline.compile import title_of
from pipeline.cron import five_fields
from pipeline.engines.base import Engine, Schedule, engine_of
from pipeline.profile import Profile
from sida import recipe
from sida.errors import UserError
from sida.printing import one_line
from sida.recipe.texts import check_texts
from sida.steps.execute import SCHEDULED

ARGUMENTS = (
    argument("recipe", "RECIPE", RECIPE_TEXT, nargs="?"),  # --list needs none
    *remote.TO_COMPILE,
    PROFILE,
    argument(
        "--name", "NAME", "name of the schedule (default: the pipeline's, sida-RECIPE or sida-RECIPE-score-published)"
    ),
    one_of(
        argument("--cron", "FIELDS", "'minute hour day month weekday': make the schedule, or change it"),
        flag("--pause", "start no more runs until --cron is given again"),
        flag("--delete", "remove the schedule; its runs stay"),
        flag("--list", "show all schedules of the profile's experiment or namespace"),
        required=True,
    ),
)


def main(args: argparse.Namespace) -> int:
    """List, pause, delete, or create."""
    cluster = profile.load(args.profile)
    if args.list:
        return _list(args, engine_of(cluster))
    if args.recipe is None and args.name is None:
        raise UserError("which schedule? give RECIPE, or --name as `schedule --list` shows it")
    check_texts({"--name": args.name})
    name = args.name or title_of(recipe.load(args.recipe), args.pipeline)
    if args.cron:
        if args.recipe is None:
            raise UserError("which recipe? `schedule RECIPE --cron ...`")
        five_fields(args.cron)  # before anything is uploaded
        return _set(args, cluster, name)
    engine = engine_of(cluster)
    schedules = engine.schedules(name)
    if not schedules:
        raise UserError(f"no schedule {name!r}: `schedule --list` shows all")
    for schedule in schedules:
        if args.delete:
            engine.delete_schedule(schedule.schedule_id)
        else:
            engine.enable_schedule(schedule.schedule_id, False)
    if args.delete and _has_own_recipe(schedules):
        remote.forget_recipes_of(cluster, name)
    state = "deleted" if args.delete else "paused"
    output.result(args, f"{name}: {state}", schedule=name, state=state)
    return 0


def _list(args: argparse.Namespace, engine: Engine) -> int:
    schedules = engine.schedules()
    lines = [
        "  ".join(one_line(part, 100) for part in (s.name, s.cron, f"recipe {s.parameters.get('recipe', '?')}"))
        + ("" if s.enabled else "  paused")
        for s in schedules
    ]
    none = f"no schedule in {engine.place}: `schedule RECIPE --cron ...` makes one"
    output.result(args, "\n".join(lines) or none, schedules=[dataclasses.asdict(schedule) for schedule in schedules])
    return 0


def _set(args: argparse.Namespace, cluster: Profile, name: str) -> int:
    uploaded = remote.upload(args, cluster, SCHEDULED, schedule=name)
    engine, version = uploaded.engine, uploaded.version
    schedule = engine.schedule(name, engine.cron(args.cron), version, uploaded.parameters)
    there = engine.schedules(name)
    same = next((s for s in there if s.fields() == schedule.fields()), None)
    engine.put_schedule(schedule, there, same, version, uploaded.description)
    if same is None and _has_own_recipe(there):
        remote.forget_recipes_of(cluster, name, but=schedule.parameters["recipe"])
    state = ("unchanged" if same.enabled else "goes on") if same else "changed" if there else "created"
    changes = _changes(schedule, there, same)
    lines = [f"{name}: {state}" + ("" if changes else f", {schedule.cron}")]
    for field, (before, after) in changes.items():
        lines += [one_line(f"- {field}: {before}", 300), f"+ {field}: {after}"]
    output.result(args, "\n".join(lines), schedule=name, state=state, cron=schedule.cron, changes=changes)
    return 0


def _has_own_recipe(schedules: list[Schedule]) -> bool:
    """Return whether one of them has a recipe that lies in the store."""
    return any("#sha256=" in schedule.parameters.get("recipe", "") for schedule in schedules)


def _changes(target: Schedule, there: list[Schedule], same: Schedule | None) -> dict[str, tuple[str, str]]:
    """Return field -> (before, now) of a schedule that was created anew."""
    if same is not None or not there:
        return {}
    before, after = there[0].fields(), target.fields()
    return {field: (before.get(field, ""), value) for field, value in after.items() if before.get(field) != value}
