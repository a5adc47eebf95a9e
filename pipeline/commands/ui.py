"""Open MLflow's own pages on the runs of this machine, until Ctrl-C.

examples:
  sida ui                 http://127.0.0.1:5000
  sida ui --port 8080
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

from pipeline.arguments import argument, whole
from sida.addresses import redact
from sida.errors import UserError
from sida.printing import one_line
from sida.settings import environment, give_home, settings
from sida.tracking.links import TRAINING
from sida.tracking.server import INSTALL, SQLITE

ARGUMENTS = (argument("--port", "PORT", "port on 127.0.0.1 (default 5000)", type=whole(1, 65535), default=5000),)

HOST = "127.0.0.1"  # whatever MLFLOW_HOST says: the pages ask nobody who they are


def main(args: argparse.Namespace) -> int:
    """Start MLflow's server on the local database."""
    address = settings().mlflow
    if address.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI is a server: open {redact(address)} in a browser")
    if not address.startswith(SQLITE) or not Path(address.removeprefix(SQLITE)).is_file():
        raise UserError(f"{redact(address)}: no runs yet: `sida run digits`, or `track` to fill it again")
    if importlib.util.find_spec("sqlalchemy") is None:
        raise UserError(f"the pages need the full mlflow: {INSTALL}")
    _check_database(Path(address.removeprefix(SQLITE)))
    _check_port(args.port)
    give_home()
    command = ["mlflow", "ui", "--backend-store-uri", address, "--host", HOST, "--port", str(args.port)]
    print(f"http://{HOST}:{args.port}/#/experiments?{urlencode(TRAINING)} (Ctrl-C ends it)", flush=True)
    command += ["--workers", "1"]
    options = ("MLFLOW_UVICORN_OPTS", "MLFLOW_GUNICORN_OPTS", "GUNICORN_CMD_ARGS")  # may name another host
    inherited = {name: value for name, value in environment().items() if name not in options}
    variables = inherited | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.run([sys.executable, "-m", *command], env=variables, check=False).returncode


def _check_database(path: Path) -> None:
    """Raise UserError unless SQLite can read the file from end to end: MLflow tries a damaged one again for long."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            (said,) = database.execute("pragma quick_check(1)").fetchone()
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        raise UserError(
            f"{path}: cannot be read ({one_line(said, 80)}): move it away, then `sida track` fills a new one"
        )


def _check_port(port: int) -> None:
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise UserError(f"--port {port}: cannot be used ({os.strerror(error.errno or 0)}): name another one") from error
