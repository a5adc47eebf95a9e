"""Settings of this machine. The only module that reads the environment.

A recipe says *what* is done, settings say *where*. Every setting has a default with which all runs on this machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from sida.addresses import checked, local_path
from sida.disk import check_file, check_folder
from sida.errors import UserError

VARIABLES = {
    "SIDA_STORE": "address of the object store: file:///folder or s3://bucket/prefix (default ./runs/store)",
    "SIDA_RUNS": "folder for logs and temporary files of local runs (default ./runs)",
    "SIDA_RUN": "id of the run that a step belongs to: its call is recorded under runs/<id>/ in the store (default: no record)",
    "SIDA_IMAGE": "the container image that a step runs in, by digest; set from a profile, recorded with each call",
    "SIDA_EVENTS": "file that steps append progress events to, - for stderr; set by `sida` and the launcher",
    "SIDA_LAUNCHER": "where heavy work runs: local (default) in processes of this machine, or trainjob on Kubernetes",
    "SIDA_TRAINJOB": "JSON: namespace, runtime, pod, nodes of the TrainJob; set from a profile (sida.launch.target)",
    "SIDA_WEBHOOK": "https address that is told of a score that got worse; a secret (a profile's webhook), never printed",
    "SIDA_WORKERS": "worker processes on this machine, in place of the recipe's execution.processes",
    "SIDA_NODES": "the machines that run together; set by `sida run --nodes`",
    "SIDA_TIMEOUT": "seconds, beside SIDA_PATIENCE, after which a job's process without a sign of life is given up (default 600)",
    "SIDA_PATIENCE": "how long to wait for a store or server that is away: seconds, 90s, 15m, 2h (default 1m; with a profile 15m)",
    "SIDA_GRACE": "seconds that workers have to write a checkpoint when asked to end (default 60; a pod of ours sets its own)",
    "SIDA_RESTART": "how often a TrainJob's pods were started again, which they set: workers pause before they begin, 60 s at most",
    "SIDA_CACHE": "folder that caches objects read from a remote store (default ~/.cache/sida; without a home, cache in SIDA_RUNS)",
    "SIDA_CACHE_BYTES": "size limit of that cache in bytes (default 10 GiB)",
    "SIDA_MIRROR": "folder or s3://bucket/prefix with copies of files that recipes name by https, as HOST/PATH; looked at first",
    "SIDA_S3_ENDPOINT": "address of the S3 server, https://host[:port] (default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS)",
    "SIDA_TRUST_DETECTOR": "sha256 of TorchScript detectors that may run besides the published Inception, separated by commas",
    "MLFLOW_TRACKING_URI": "where MLflow is: https://host or a database (default sqlite, mlflow.db in SIDA_RUNS); none: nowhere",
    "SIDA_SYSTEM_METRICS": "1: sample the load of a training's first machine, for MLflow's system metrics (default 0)",
    "SIDA_MLFLOW_UI": "address of MLflow's pages for people, where it is not MLFLOW_TRACKING_URI; for links in Kubeflow Pipelines",
    "MLFLOW_RUN_ID": "the MLflow run that ours are nested under; Kubeflow Pipelines' MLflow plugin sets it",
    "SIDA_LEASE_SECONDS": "life of a lease that is not renewed (default 30, at least 5)",
    "SIDA_LEASE_WAIT": "seconds to wait for a key that another process holds (default 0: say who holds it)",
}

LONGEST_SECONDS = 1e9  # thirty years: what a thread can wait for
SHORTEST_LEASE_SECONDS = 5.0  # renewals take their time; tests that need a shorter one set this


@dataclass(frozen=True)
class Settings:
    """One reading of the environment."""

    store: str
    runs: Path
    run: str
    image: str
    events: Path | None
    launcher: str
    trainjob: str
    webhook: str = field(repr=False)
    workers: int | None
    timeout: float
    patience: float
    grace: float
    restart: int
    nodes: str
    cache: Path
    cache_bytes: int
    mirror: str
    s3_endpoint: str | None
    s3_region: str
    trusted_detectors: tuple[str, ...]
    mlflow: str
    system_metrics: bool
    mlflow_ui: str
    mlflow_run: str
    lease_seconds: float
    lease_wait: float


def settings() -> Settings:
    """Read the environment now. Raises UserError naming a variable that is not the number it should be."""
    runs = _folder("SIDA_RUNS") or Path("runs").absolute()
    events, mirror = os.environ.get("SIDA_EVENTS"), os.environ.get("SIDA_MIRROR")
    return Settings(
        store=os.environ.get("SIDA_STORE") or f"file://{runs / 'store'}",
        runs=runs,
        run=os.environ.get("SIDA_RUN", ""),
        image=os.environ.get("SIDA_IMAGE", ""),
        events=Path(events) if events else None,
        launcher=_choice("SIDA_LAUNCHER", "local", "trainjob"),
        trainjob=os.environ.get("SIDA_TRAINJOB", ""),
        webhook=os.environ.get("SIDA_WEBHOOK", "").strip(),
        workers=_whole("SIDA_WORKERS", 0) or None,
        timeout=_number("SIDA_TIMEOUT", 600),
        patience=_duration("SIDA_PATIENCE", "1m"),
        grace=_number("SIDA_GRACE", 60),
        restart=_whole("SIDA_RESTART", 0),
        nodes=os.environ.get("SIDA_NODES", ""),
        cache=_folder("SIDA_CACHE") or _user_cache() or runs / "cache",
        cache_bytes=_whole("SIDA_CACHE_BYTES", 10 * 2**30),
        mirror=checked(mirror, "SIDA_MIRROR", ("file", "s3")) if mirror else "",
        s3_endpoint=_first("SIDA_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        s3_region=_first("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1",
        trusted_detectors=_digests("SIDA_TRUST_DETECTOR"),
        mlflow=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs / 'mlflow.db'}",
        system_metrics=_choice("SIDA_SYSTEM_METRICS", "0", "1") == "1",
        mlflow_ui=os.environ.get("SIDA_MLFLOW_UI", ""),
        mlflow_run=os.environ.get("MLFLOW_RUN_ID", ""),
        lease_seconds=min(_number("SIDA_LEASE_SECONDS", 30, SHORTEST_LEASE_SECONDS), LONGEST_SECONDS),
        lease_wait=_number("SIDA_LEASE_WAIT", 0),
    )


def check_places() -> None:
    """Raise UserError for a file or folder of our own output that the environment names and that cannot be written."""
    here = settings()
    for variable, folder in (("SIDA_RUNS", here.runs), ("SIDA_CACHE", here.cache)):
        if os.environ.get(variable):
            check_folder(folder, variable)
    if here.events is not None and str(here.events) != "-":
        check_file(here.events, "SIDA_EVENTS")


def _folder(variable: str) -> Path | None:
    """Return the folder that a variable names, if it is set."""
    text = os.environ.get(variable)
    return local_path(os.path.expanduser(text), variable).absolute() if text else None


def _user_cache() -> Path | None:
    """Return the folder in the user's cache; None for a user without a home, as in a container."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return None if folder.startswith("~") else Path(folder) / "sida"


def _first(*variables: str) -> str | None:
    """Return the value of the first variable that is set and not empty."""
    return next(filter(None, map(os.environ.get, variables)), None)


def _digests(variable: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in os.environ.get(variable, "").split(",") if part.strip())
    if bad := next((digest for digest in parts if not re.fullmatch("[0-9a-f]{64}", digest)), None):
        raise UserError(f"{variable}: {bad!r} is not a sha256: give 64 lower-case hex digits")
    return parts


def _number(variable: str, default: float, least: float = 0) -> float:
    text = os.environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value < float("inf"):
        raise UserError(f"{variable}={text!r} is not a number of {least:g} or more: correct or unset it")
    return value


def _whole(variable: str, default: int) -> int:
    value = _number(variable, default)
    if value != int(value):
        raise UserError(f"{variable}={os.environ[variable]!r} is not a whole number: correct or unset it")
    return int(value)


def _duration(variable: str, default: str) -> float:
    """Return a variable's duration in seconds."""
    text = os.environ.get(variable) or default
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smh]?)", text.strip())
    if match is None:
        raise UserError(f"{variable}={text!r} is not a duration: write seconds, or such as 90s, 15m, 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _choice(variable: str, *choices: str) -> str:
    """Return the variable's value, or the first of ``choices`` when it is not set."""
    value = os.environ.get(variable) or choices[0]
    if value not in choices:
        raise UserError(f"{variable}={value!r}: write {' or '.join(choices)}")
    return value


def give_home() -> None:
    """Let libraries that ask for a home find one where the user has none: the folder of runs, for it is the user's own."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(settings().runs)


def environment() -> dict[str, str]:
    """Return a copy of the environment, for a child process."""
    return dict(os.environ)
