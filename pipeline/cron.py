"""Cron expressions: five fields as everybody writes them, six as KFP wants them."""

from __future__ import annotations

import re
from datetime import datetime

from sida.errors import UserError

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 6))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMES = {
    "month": {name: number + 1 for number, name in enumerate(_MONTHS)},
    "day of the week": {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))},
}


def six_fields(text: str) -> str:
    """``0 3 * * 1`` -> ``0 0 3 * * 1``: KFP counts seconds first. Raises UserError that names the wrong field."""
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise UserError(
            f"--cron {text!r} has {len(fields)} field{'s' * (len(fields) != 1)}: write five, "
            f"'minute hour day month weekday', such as '0 3 * * 1' (Mondays at 3:00)"
        )
    for field, (name, low, high) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            _check(part, name, low, high, text)
    return " ".join(["0", *fields])


def fires_within(expression: str, now: datetime, minutes: int) -> bool:
    """Whether six fields may fire in this or the next ``minutes`` minutes.

    Only their minutes are looked at: the cluster's time zone, which we do not know, shifts hours. Half-hour zones are allowed for.
    """
    wanted = _minutes(expression.split()[1])
    coming = {(now.minute + ahead + zone) % 60 for ahead in range(minutes + 1) for zone in (0, 15, 30, 45)}
    return bool(wanted & coming)


def _minutes(field: str) -> set[int]:
    """The minutes of an hour that a checked field names."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        first = 0 if low in ("*", "?") else int(low)
        last = int(high) if high else (59 if low in ("*", "?") or step else first)
        found |= set(range(first, last + 1, int(step or 1)))
    return found


def _check(part: str, name: str, low: int, high: int, text: str) -> None:
    wrong = UserError(f"--cron {text!r}: {part!r} is no {name}: write {low}-{high}, *, lists, ranges or */n")
    span, slash, step = part.partition("/")
    if slash and not (step.isdigit() and int(step) >= 1):
        raise wrong
    if span in ("*", "?"):
        return
    ends = [_number(end, name) for end in span.split("-")]
    if len(ends) > 2 or not all(low <= end <= high for end in ends) or ends != sorted(ends):
        if name == "day of the week" and span == "7":
            raise UserError(f"--cron {text!r}: write 0 for Sunday: KFP knows no weekday 7")
        raise wrong


def _number(text: str, name: str) -> int:
    if re.fullmatch(r"[0-9]{1,2}", text):
        return int(text)
    return _NAMES.get(name, {}).get(text.lower(), -1)
