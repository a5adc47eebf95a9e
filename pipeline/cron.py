"""Cron expressions: the usual five fields, and KFP's six. Both engines know less than cronsim."""

from __future__ import annotations

from datetime import datetime

from cronsim import CronSim, CronSimError

from sida.errors import UserError

_FIELDS = {"minute": "0-59", "hour": "0-23", "day of the month": "1-31", "month": "1-12", "day of the week": "0-6"}
_UNKNOWN = {"day of the month": "L", "day of the week": "7L#"}  # to KFP and Argo, though cronsim knows them


def six_fields(text: str) -> str:
    """Turn ``0 3 * * 1`` into ``0 0 3 * * 1``: KFP counts seconds first. Raises UserError that names the wrong field."""
    return f"0 {five_fields(text)}"


def five_fields(text: str) -> str:
    """Return ``0 3 * * 1`` with single spaces. Raises UserError that names the wrong field."""
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise UserError(
            f"--cron {text!r} has {len(fields)} field{'s' * (len(fields) != 1)}: write five, "
            f"'minute hour day month weekday', such as '0 3 * * 1' (Mondays at 3:00)"
        )
    for index, (name, accepted) in enumerate(_FIELDS.items()):
        for part in fields[index].split(","):
            _check(part, index, name, accepted, text)
    return " ".join(fields)


def fires_within(expression: str, now: datetime, minutes: int) -> bool:
    """Return whether six fields may fire in this or the next ``minutes`` minutes.

    Only their minutes are looked at: the cluster's time zone, which we do not know, shifts hours. Half-hour zones are allowed for.
    What cannot be read may fire in any minute.
    """
    coming = {(now.minute + ahead + zone) % 60 for ahead in range(minutes + 1) for zone in (0, 15, 30, 45)}
    try:
        return bool(_alone(expression.split()[1], 0).minutes & coming)
    except (CronSimError, ValueError):
        return True


def _alone(field: str, index: int) -> CronSim:
    """Return the expression in which all other fields are stars; KFP takes ? for a star. Raises CronSimError."""
    fields = ["*"] * len(_FIELDS)
    fields[index] = field.replace("?", "*")
    return CronSim(" ".join(fields), datetime(2000, 1, 1))


def _check(part: str, index: int, name: str, accepted: str, text: str) -> None:
    """Raise UserError for a part of a field that an engine would not understand."""
    span = part.partition("/")[0]
    if name == "day of the week" and span == "7":
        raise UserError(f"--cron {text!r}: write 0 for Sunday: engines know no weekday 7")
    try:
        _alone(part, index)
        valid = not set(_UNKNOWN.get(name, "")) & set(span.upper())
    except CronSimError:
        valid = False
    if not valid:
        raise UserError(f"--cron {text!r}: {part!r} is no {name}: write {accepted}, *, lists, ranges or */n")
