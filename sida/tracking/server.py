"""MLflow's address, its health, and a client for it. Nothing here takes long when it does not answer."""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sida import patience
from sida.addresses import nearly_one, redact, shown
from sida.deadline import within
from sida.errors import SidaError
from sida.layout import as_name
from sida.masking import masked
from sida.printing import one_line
from sida.settings import environment, give_home
from sida.tracking.bounded import bounded

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

SQLITE = "sqlite:///"
INSTALL = "pip install 'mlflow>=3.2,<3.18'"  # the full one
PROJECTION = "sida.projection"  # the tag that is written last: the projection is whole
ANSWER_SECONDS = 5.0
WAIT_SECONDS = 15.0  # for a server that is away: tracking can be done at any time, so nothing waits for it long
LOCKED_SECONDS = 5.0  # for a SQLite file that another program writes
TURN_SECONDS = 120.0  # for another process of ours that writes to the same SQLite file
OBJECT_STORES = ("s3", "gs", "abfs", "abfss", "wasb", "wasbs")  # reached with this machine's own keys
EXPERIMENT = {  # tags of ours
    "mlflow.experimentKind": "custom_model_development",  # the pages for training open, not those for language models
    "mlflow.note.content": (
        "Generators of one benchmark. A run named after a recipe holds the comparison with its teacher; `distill:` below "
        "it the curves, whose step is images seen; `score:` the held-out seed ranges. The lower an fid or fd, the better."
    ),
}


class TrackingOff(SidaError):
    """Tracking is impossible now, and not needed: the store keeps everything. The message says why, and what completes it later."""


def check(address: str) -> None:
    """Raise TrackingOff for ``none``, a server that does not answer, or a database that this installation cannot open."""
    if address == "none":
        raise TrackingOff("MLFLOW_TRACKING_URI is none: unset it, or name a server or a database")
    if "://" not in address and nearly_one(address):
        raise TrackingOff(f"MLFLOW_TRACKING_URI {shown(address)!r} is no address: write https://host or a database's")
    if address.startswith(("http://", "https://")):
        _check_answers(address)
    elif importlib.util.find_spec("sqlalchemy") is None:
        raise TrackingOff(
            f"{redact(address)} needs the full mlflow ({INSTALL}), here is mlflow-skinny: "
            f"not written; `sida track` does so later"
        )
    if importlib.util.find_spec("mlflow") is None:
        raise TrackingOff("mlflow is not installed (make setup): not written")


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

    def ask() -> int:
        answer = urllib3.request("GET", url, timeout=ANSWER_SECONDS, retries=False, preload_content=False)
        answer.close()  # whatever its body is, and however long
        return answer.status

    try:
        status = within(2 * ANSWER_SECONDS, ask)
    except Exception as error:  # urllib3 raises more than its own errors on what is no HTTP
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


def check_artifacts(address: str, place: str) -> None:
    """Raise TrackingOff unless files may go where a server says that those of a run lie: through itself, or to an object store.

    Whoever may create an experiment chooses its place: a path of this machine, or another server, which would get our login.
    """
    own, there = urlsplit(address), urlsplit(place)
    if own.scheme not in ("http", "https") or there.scheme in OBJECT_STORES:
        return
    through = there.scheme == "mlflow-artifacts" and not there.netloc
    if through or (
        there.scheme in ("mlflow-artifacts", own.scheme) and (there.hostname, there.port) == (own.hostname, own.port)
    ):
        return
    raise TrackingOff(
        f"MLflow says that files go to {one_line(shown(place), 100)}, neither through itself (`mlflow server --serve-artifacts`) "
        f"nor to an object store: not complete; `sida track` completes it once the experiment has another place"
    )


def artifacts_at(address: str, place: str) -> ArtifactRepository:
    """Return what writes files to a place that a server named. Raises TrackingOff as ``check_artifacts`` does.

    MLflow's client asks the server for the place again before it writes, and it may answer with another one.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    check_artifacts(address, place)
    return get_artifact_repository(place, tracking_uri=address)


@contextmanager
def connected(address: str) -> Iterator[MlflowClient]:
    """Yield a client. Any error inside but our own becomes TrackingOff: the projection is completed another time."""
    check(address)
    patience.hush_retries()
    give_home()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] = "false"  # parts go to addresses that the server names
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")  # it may ask for a day
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        with _only_writer(Path(address.removeprefix(SQLITE))) if address.startswith(SQLITE) else nullcontext():
            import mlflow

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # it logs a traceback of what we say in a line
            if address.startswith(SQLITE):
                _make(Path(address.removeprefix(SQLITE)))
            mlflow.set_tracking_uri(address)
            with bounded():
                yield mlflow.MlflowClient(address)
    except SidaError:
        raise
    except Exception as error:  # of MLflow, SQLAlchemy, alembic, SQLite, requests: whatever it is, no run fails for it
        raise TrackingOff(
            f"MLflow at {redact(address)}: {_reason(error, address)}: not complete; `sida track` completes it"
        ) from error


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Hold a lock beside a SQLite file, which two processes must not make or migrate at once; look whether it can be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + TURN_SECONDS
    with path.with_name(f"{path.name}.lock").open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise TimeoutError(f"another process has been writing to it for {TURN_SECONDS:.0f} s") from None
                time.sleep(0.1)
        # MLflow tries a file that is locked or damaged again for minutes.
        with closing(sqlite3.connect(path, timeout=LOCKED_SECONDS)) as database:
            database.execute("begin immediate")
            database.rollback()
        yield


def _make(path: Path) -> None:
    """Make a SQLite file that is missing or empty, whole or not at all: MLflow does not go on with half of its tables."""
    import mlflow

    if path.exists() and path.stat().st_size:
        return
    for left in path.parent.glob(f"{path.name}.*.new"):  # by one that was killed
        left.unlink(missing_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")  # MLflow keeps connections by name
    try:
        mlflow.MlflowClient(f"{SQLITE}{new}").search_experiments(max_results=1)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _reason(error: Exception, address: str) -> str:
    """Return an error's text in one line, without its SQL and without secrets."""
    text = " ".join(str(error).replace(address, redact(address)).partition("[SQL:")[0].split())
    return one_line(masked(text, environment()), 150) or type(error).__name__


def artifact_location(address: str, experiment: str) -> str | None:
    """Return the folder beside a SQLite file; a server has a place of its own."""
    if not address.startswith(SQLITE):
        return None
    return (Path(address.removeprefix(SQLITE)).absolute().parent / "mlflow-artifacts" / as_name(experiment)).as_uri()
