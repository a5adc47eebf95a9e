"""MLflow's address, its health, and a client for it. Nothing here takes long when it does not answer."""

from __future__ import annotations

import importlib.util
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sida import patience
from sida.addresses import redact
from sida.errors import SidaError
from sida.layout import as_name
from sida.settings import give_home

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
PROJECTION = "sida.projection"  # the tag that is written last: the projection is whole
ANSWER_SECONDS = 5.0
WAIT_SECONDS = 15.0  # for a server that is away: tracking can be done at any time, so nothing waits for it long
EXPERIMENT = {  # tags of ours
    "mlflow.experimentKind": "custom_model_development",  # the pages for training open, not those for language models
    "mlflow.note.content": (
        "One-step generators of one benchmark. A run named after a recipe holds the comparison with its teacher; `distill:` below "
        "it the curves, whose step is images seen; `score:` the held-out seed ranges. The lower an fid or fd, the better."
    ),
}


class TrackingOff(SidaError):
    """Tracking is impossible now, and not needed: the store keeps everything. The message says why, and what completes it later."""


def check(address: str) -> None:
    """Raise TrackingOff for ``none``, a server that does not answer, or a database that this installation cannot open."""
    if address == "none":
        raise TrackingOff("MLFLOW_TRACKING_URI is none")
    if address.startswith(("http://", "https://")):
        _check_answers(address)
    elif importlib.util.find_spec("sqlalchemy") is None:
        raise TrackingOff(
            f"{redact(address)} needs the full mlflow (pip install 'sida[laptop]'), here is mlflow-skinny: "
            f"not written; `sida track` does so later"
        )
    if importlib.util.find_spec("mlflow") is None:
        raise TrackingOff("mlflow is not installed (pip install 'sida[pipeline]'): not written")


def _check_answers(address: str) -> None:
    until, pause = time.monotonic() + min(WAIT_SECONDS, patience.limit()), 0.5
    while reason := _silence(address):
        if time.monotonic() >= until:
            raise TrackingOff(
                f"MLflow at {redact(address)} does not answer ({reason}): not written; `sida track` does so later"
            )
        time.sleep(pause)
        pause *= 2


def _silence(address: str) -> str:
    """Return why the server is taken to be away; empty when it answers, even with a refusal, which the first write will report."""
    import urllib3

    url = f"{address.rstrip('/')}/health"
    try:
        status = urllib3.request("GET", url, timeout=ANSWER_SECONDS, retries=False).status
    except urllib3.exceptions.HTTPError as error:
        return type(error).__name__
    return f"status {status}" if status == 429 or status >= 500 else ""


def up_to_date(address: str, identity: str, digest: str) -> bool:
    """Return whether a SQLite file already holds all of a projection; False if that is not known. Does not import MLflow."""
    path = Path(address.removeprefix(SQLITE))
    if not address.startswith(SQLITE) or not path.is_file():
        return False
    query = (
        "select count(*) from tags a join tags b on a.run_uuid = b.run_uuid "
        "where a.key = ? and a.value = ? and b.key = ? and b.value = ?"
    )
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
            row = database.execute(query, ("sida.identity", identity, PROJECTION, digest)).fetchone()
    except sqlite3.Error:
        return False
    return bool(row[0])


@contextmanager
def connected(address: str) -> Iterator[MlflowClient]:
    """Yield a client. Any error of MLflow or the network inside becomes TrackingOff: the projection is completed another time."""
    check(address)
    patience.hush_retries()
    give_home()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if address.startswith(SQLITE):
        Path(address.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    try:
        mlflow.set_tracking_uri(address)
        yield mlflow.MlflowClient(address)
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TrackingOff(f"MLflow at {redact(address)}: {reason}: not complete; `sida track` completes it") from error


def artifact_location(address: str, experiment: str) -> str | None:
    """Return the folder beside a SQLite file; a server has a place of its own."""
    if not address.startswith(SQLITE):
        return None
    return (Path(address.removeprefix(SQLITE)).absolute().parent / "mlflow-artifacts" / as_name(experiment)).as_uri()
