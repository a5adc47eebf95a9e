"""Requests to end a run, as they are recorded: ``runs/<run>/cancel.json``. ``sida.ending`` writes them."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal

from pydantic import Field

from sida import layout
from sida.errors import NotFound, SidaError
from sida.manifests import Part, read_record
from sida.patience import impatient
from sida.stores.base import ObjectStore


class Cancel(Part):
    """Record of a request to end a run."""

    schema_version: Literal[1] = 1
    run: Annotated[str, Field(pattern=f"^{layout.RUN_ID}$")]
    asked: str  # UTC, ISO 8601: when it was asked for, or first seen
    how: str  # in a few words


def cancel_of(store: ObjectStore, run: str) -> Cancel | None:
    """Return the request to end the run, if there is one."""
    with suppress(NotFound):
        return read_record(store, layout.cancel_key(run), Cancel)
    return None


def in_words(request: Cancel) -> str:
    """Return ``cancelled at 2026-11-28T14:26:03+00:00 (by `cancel`)``."""
    return f"cancelled at {request.asked} ({request.how})"


def asked_in_words(store: ObjectStore, run: str) -> str:
    """Return how the end of a run was asked for; empty where it was not, or a store that is away may know."""
    try:
        with impatient():
            request = cancel_of(store, run) if run else None
    except SidaError:
        return ""
    return in_words(request) if request is not None else ""
