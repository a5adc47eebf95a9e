"""Where things are on this machine. The only module that reads the environment.

A recipe says *what* is done, settings say *where*. Every setting has a default with which all runs on this machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from sida.errors import UserError

VARIABLES = {
    "SIDA_STORE": "address of the object store: file:///folder or s3://bucket/prefix (default ./runs/store)",
    "SIDA_RUNS": "folder for logs and temporary files of local runs (default ./runs)",
    "SIDA_RUN": "id of the run that a step belongs to: its call is recorded under runs/<id>/ in the store (default: no record)",
    "SIDA_IMAGE": "the container image that a step runs in, by digest; set from a profile, recorded with each call",
    "SIDA_EVENTS": "file that steps append progress events to, - for stderr; set by `python -m pipeline` and the launcher",
    "SIDA_LAUNCHER": "where heavy work runs: local (default) in processes of this machine, or trainjob on Kubernetes",
    "SIDA_TRAINJOB": "JSON: namespace, runtime, image, nodes of the TrainJob; set from a profile (sida.launch.target)",
    "SIDA_WEBHOOK": "https address that is told of a score that got worse; a secret (a profile's webhook), never printed",
    "SIDA_WORKERS": "worker processes on this machine, in place of the recipe's resources.processes",
    "SIDA_CACHE": "folder that caches objects read from a remote store (default ~/.cache/sida)",
    "SIDA_CACHE_BYTES": "size limit of that cache in bytes (default 10 GiB)",
    "SIDA_S3_ENDPOINT": "address of the S3 server, https://host[:port] (default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS)",
    "SIDA_LEASE_SECONDS": "life of a lease that is not renewed (default 30)",
    "SIDA_LEASE_WAIT": "seconds to wait for a key that another process holds (default 0: say who holds it)",
}


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
    cache: Path
    cache_bytes: int
    s3_endpoint: str | None
    s3_region: str
    lease_seconds: float
    lease_wait: float


def settings() -> Settings:
    """Read the environment now. Raises UserError naming a variable that is not the number it should be."""
    runs = Path(os.environ.get("SIDA_RUNS", "runs")).absolute()
    events = os.environ.get("SIDA_EVENTS")
    endpoint = next(
        (
            os.environ[name]
            for name in ("SIDA_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
            if os.environ.get(name)
        ),
        None,
    )
    cache = os.environ.get("SIDA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sida"
    return Settings(
        store=os.environ.get("SIDA_STORE") or f"file://{runs / 'store'}",
        runs=runs,
        run=os.environ.get("SIDA_RUN", ""),
        image=os.environ.get("SIDA_IMAGE", ""),
        events=Path(events) if events else None,
        launcher=_choice("SIDA_LAUNCHER", ("local", "trainjob")),
        trainjob=os.environ.get("SIDA_TRAINJOB", ""),
        webhook=os.environ.get("SIDA_WEBHOOK", "").strip(),
        workers=int(_number("SIDA_WORKERS", 0)) or None,
        cache=Path(cache).expanduser(),
        cache_bytes=int(_number("SIDA_CACHE_BYTES", 10 * 2**30)),
        s3_endpoint=endpoint,
        s3_region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        lease_seconds=_number("SIDA_LEASE_SECONDS", 30),
        lease_wait=_number("SIDA_LEASE_WAIT", 0),
    )


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{variable}={text!r} is not a number of 0 or more: correct or unset it")
    return value


def _choice(variable: str, known: tuple[str, ...]) -> str:
    """The variable's value, or the first of ``known`` when it is not set."""
    value = os.environ.get(variable) or known[0]
    if value not in known:
        raise UserError(f"{variable}={value!r}: write {' or '.join(known)}")
    return value


def environment() -> dict[str, str]:
    """A copy of the environment, for a child process."""
    return dict(os.environ)
